"""Measured variants: what is in tables of them, and how well the family predicts them.

``_cells``, ``_mutations``, ``_targets``, ``_table`` read; ``_splits`` training and test rows;
``_metrics``; ``_rows`` what is compared, ``_fit`` ridge of it on a split, ``_run`` all of it in
all splits; ``_data_set`` from a table to its figures, ``_files`` many of them; ``_summary``,
``_verdict``, ``_pictures``, ``_page`` what is made of figures; ``_predict`` the ranking. May
import base, models, embedding, method, prefix, variants and the modules on top.
"""
