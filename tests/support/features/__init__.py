"""Celery's features, as its documentation names them, each a small function that says what came of it.

The application runs plain (`FEATURES_PLAIN`) or with Seawall; `run.py` puts all features to its workers and
prints what came of each.
"""
