"""The shell: ``revdist demo | fit | embed | evaluate | info | cache``.

One file a command, with ``HELP``, ``EXAMPLE``, ``add_arguments(parser)`` and
``run(arguments)``, and an entry in ``COMMANDS`` of ``_main``, which ``_start`` imports after it
has seen to ``_signals``; what they share is in ``_options``, ``_readers``, ``_outputs`` (files to
write), ``_messages`` and ``_stages``. May import everything; nothing but ``__main__`` imports it.
"""
