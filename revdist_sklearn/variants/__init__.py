"""What the models themselves say of variants: scores, and the landscape of substitutions.

``_substitutions`` where sequences differ, and scores from a table (kernel); ``_head_run`` one
model with its head over many sequences; ``_scorer`` the transformer; ``_landscape`` all single
substitutions as a frame, ``_landscape_display`` as a picture. May import base, models and
embedding.
"""
