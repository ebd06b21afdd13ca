"""Its configuration, in the namespace CELERY_ as Django applications have it."""

from datetime import timedelta

from kombu import Queue

CELERY_BROKER_URL = "redis://cache.example:6379/0"
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "visibility_timeout": 7200,
    "priority_steps": [0, 5],
    "sep": ":",
    "queue_order_strategy": "priority",
    "fanout_prefix": True,
}
CELERY_RESULT_BACKEND = "db+postgresql://mart:secret@db.example/mart"
CELERY_ACCEPT_CONTENT = ["json", "pickle"]
CELERY_RESULT_SERIALIZER = "pickle"
CELERY_TASK_ALWAYS_EAGER = True
CELERY_TASK_DEFAULT_RATE_LIMIT = "100/s"
CELERY_TASK_QUEUES = [
    Queue("fast", max_priority=10),
    Queue("safe", queue_arguments={"x-queue-type": "quorum"}),
]
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_TASK_ROUTES = {"mart.urgent": {"queue": "fast", "priority": 0}}
CELERY_TIMEZONE = "Europe/Vienna"
CELERY_WORKER_MAX_MEMORY_PER_CHILD = 200_000
CELERY_WORKER_MAX_TASKS_PER_CHILD = 100
CELERY_WORKER_POOL_RESTARTS = True
CELERY_WORKER_PREFETCH_MULTIPLER = 4  # misspelt
CELERY_WORKER_PREFETCH_MULTIPLIER = 8
CELERY_WORKER_STATE_DB = "/var/run/mart.db"
CELERY_BEAT_SCHEDULE = {
    "nightly": {"task": "mart.report", "schedule": timedelta(days=1)},
    "forgotten": {"task": "mart.renamed", "schedule": timedelta(hours=1)},
}
