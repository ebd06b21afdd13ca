"""A Django project as they are written: settings, a Celery application beside them, models and tasks.

It is run with `celery -A support.quay.celery worker`: with Seawall, or with plain Celery where `QUAY_PLAIN`
is set.
"""
