"""Notes of errors: what their messages end with."""


def add_note(error, text):
    """Add to an error what its message will end with; Python 3.10 has no method for it."""
    error.__notes__ = [*getattr(error, "__notes__", []), text]
