"""The method of the paper: moments of rows, the chain, the distiller.

Kernels, free of scikit-learn: ``_chain`` (the paper's equations), ``_stage_figures`` (what its
stages add), ``_level`` and the products ``_products_numpy`` and ``_products_torch``. Beside them
``_moments`` (one pass over rows), ``_distiller`` (the estimator) and their files, and
``_stage_report`` with its picture. May import base, and knows nothing of models.
"""
