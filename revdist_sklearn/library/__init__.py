"""Embeddings of many proteins as files that other tools read.

``_fasta`` reads sequences; ``_records`` checks them as they come, with
``_names`` for identifiers that occur twice; ``_shards`` is the file of one
block and the folder of them; ``_embed_to`` the run; ``_formats`` one file of the shards, for
other tools, by ``_write_*`` and ``_open_*`` of each, with ``_facts`` that it tells of itself and
``_patient_disk`` under HDF5; ``_load`` opens what was written, as a ``_store``. May import base,
models, embedding, method, and the modules on top of the package.
"""
