"""The project's Celery application, as Celery's documentation has it, and the line that adopts Seawall."""

import os
from typing import Any

from celery import Celery, signals

import seawall

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "support.quay.settings")

app = Celery("quay")
if "QUAY_PLAIN" not in os.environ:
    app = seawall.install(app)
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


def backend_pid() -> int:
    """The process of PostgreSQL behind this process's connection."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


@signals.celeryd_after_setup.connect
def _use_the_database_before_the_fork(**_: Any) -> None:
    print(f"supervisor: {backend_pid()}", flush=True)


@signals.worker_shutting_down.connect
def _use_it_again(**_: Any) -> None:
    print(f"supervisor at the end: {backend_pid()}", flush=True)
