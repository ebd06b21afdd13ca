"""A plain Celery application with one instance of all that `seawall doctor -A` knows; it never runs."""
