"""The Celery side: the app, its tasks and requests, and the life of a worker."""
