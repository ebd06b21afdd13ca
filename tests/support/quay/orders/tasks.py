"""Its tasks, which know nothing of the application that runs them."""

import os
import time
from typing import Any

from celery import shared_task
from django.db import connection, transaction

from support.quay.orders.models import Order


def _backend() -> int:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return int(cursor.fetchone()[0])


def _note(number: int) -> None:
    Order.objects.create(number=number, process=os.getpid(), backend=_backend())


@shared_task
def record(number: int) -> int:
    """One row."""
    _note(number)
    return number


@shared_task
def where() -> list[int]:
    """This process, and the process of PostgreSQL that it talks to."""
    time.sleep(0.2)
    return [os.getpid(), _backend()]


@shared_task
def place(number: int, fail: str = "") -> int:
    """A row, and another task once it is committed; neither if it fails."""
    with transaction.atomic():
        _note(number)
        follow: Any = record
        follow.delay_on_commit(number + 1)
        follow.apply_async_on_commit((number + 2,))
        if fail:
            raise ValueError("rolled back")
    return number


@shared_task
def sever() -> None:
    """Have PostgreSQL end this connection; the next task of this process needs another one."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(pg_backend_pid())")


@shared_task
def leave_a_transaction_open() -> None:
    """No `atomic`, no commit: what this task wrote is not there for the next one."""
    transaction.set_autocommit(False)
    _note(99)


@shared_task
def count(number: int) -> int:
    """How many rows have it."""
    return int(Order.objects.filter(number=number).count())


@shared_task(bind=True, max_retries=2)
def retried(self: Any) -> int:
    """Succeeds at its third attempt."""
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return int(self.request.retries)


@shared_task(time_limit=1)
def hangs() -> None:
    """For ever."""
    time.sleep(600)


@shared_task
def context() -> dict[str, Any]:
    """What django-structlog has bound for the lines of this task."""
    import structlog

    bound = structlog.contextvars.get_contextvars()
    return {name: value if name in {"request_id", "user_id"} else "..." for name, value in bound.items()}
