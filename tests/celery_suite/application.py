"""The app of the worker under Celery's integration tests: plain, or with Seawall installed on it."""

import importlib
import os
from typing import Any

from celery import Celery

import seawall

# What these tests assume of an app and Seawall does otherwise; docs/celery-compatibility.md names the reasons.
ASSUMED = {
    "accept_content": ["json", "pickle"],
    "result_extended": True,
    "task_acks_late": False,
    "task_soft_time_limit": None,
    "task_time_limit": None,
}


def furnish(app: Celery) -> Celery:
    """Make it what SUITE_POOL asks for."""
    if os.environ["SUITE_POOL"] == "cells":
        app = seawall.install(app)
        app.conf.update(ASSUMED)
    return app


app: Any = furnish(
    Celery(
        "suite",
        broker=os.environ["TEST_BROKER"],
        backend=os.environ["TEST_BACKEND"],
        include=["t.integration.tasks"],
    )
)
app.conf.result_extended = True
app.conf.task_create_missing_queues = False


def _register(sender: Celery, **_: Any) -> None:
    tasks: Any = importlib.import_module("t.integration.tasks")
    sender.register_task(tasks.ClassBasedAutoRetryTask())


app.on_after_finalize.connect(_register)
