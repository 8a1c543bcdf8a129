"""The method of the paper: moments of rows, the chain, the distiller.

Kernels, free of scikit-learn: ``_chain`` (the paper's equations), ``_level`` and the products
``_products_numpy`` and ``_products_torch``. Beside them ``_moments`` (one pass over rows),
``_distiller`` (the estimator) and their files. May import base, and knows nothing of models.
"""
