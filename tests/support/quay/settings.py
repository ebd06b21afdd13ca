"""The project's settings; Celery's are among them, with a prefix."""

import importlib.util
import os
from typing import Any
from urllib.parse import unquote, urlsplit

STRUCTLOG = importlib.util.find_spec("django_structlog") is not None
RESULTS = importlib.util.find_spec("django_celery_results") is not None
BEAT = importlib.util.find_spec("django_celery_beat") is not None

_database = urlsplit(os.environ.get("QUAY_POSTGRES", "postgresql://nobody@localhost/none"))

SECRET_KEY = "of a test"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "support.quay.orders",
    *(["django_structlog"] if STRUCTLOG else []),
    *(["django_celery_results"] if RESULTS else []),
    *(["django_celery_beat"] if BEAT else []),
]
DATABASES: dict[str, Any] = {
    "default": {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": _database.hostname,
        "PORT": _database.port,
        "USER": unquote(_database.username or ""),
        "PASSWORD": unquote(_database.password or ""),
        "NAME": _database.path.lstrip("/"),
        "CONN_MAX_AGE": None if "QUAY_PERSISTENT" in os.environ else 0,
        "OPTIONS": {"pool": {"min_size": 1, "max_size": 2}} if "QUAY_POOL" in os.environ else {},
    }
}
DJANGO_STRUCTLOG_CELERY_ENABLED = STRUCTLOG

CELERY_BROKER_URL = os.environ.get("QUAY_BROKER", "memory://")
CELERY_RESULT_BACKEND = os.environ.get("QUAY_RESULTS") or os.environ.get("QUAY_BROKER", "cache+memory://")
CELERY_TASK_ALWAYS_EAGER = "QUAY_EAGER" in os.environ
CELERY_TASK_EAGER_PROPAGATES = True
CELERY_TASK_ACKS_LATE = True
CELERY_RESULT_EXTENDED = True
CELERY_BEAT_SCHEDULER = (
    "django_celery_beat.schedulers:DatabaseScheduler" if BEAT else "celery.beat:PersistentScheduler"
)
CELERY_BEAT_MAX_LOOP_INTERVAL = 1
