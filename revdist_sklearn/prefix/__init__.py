"""Which prefix: ridge on every prefix at once, searches, the selector and the picture.

Kernel, free of scikit-learn: ``_ridge_path``. ``_scores`` of many predictions; ``_search`` is
shared by ``_ridge_cv`` and ``_ridge_classifier_cv``; ``_selector`` for any other model;
``_curve_display``. May import base.
"""
