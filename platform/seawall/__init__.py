"""Seawall: Celery that survives production."""
