"""What submits, and no worker imports: the doctor reads it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from support.moving.tasks import plain

FAST = "fast"


def submit(task: Any, client: Any) -> None:
    task.apply_async(priority=9)
    task.apply_async(priority=255)
    task.apply_async(countdown=24 * 60 * 60)
    task.apply_async(eta=datetime.now(UTC) + timedelta(days=2))
    task.apply_async(countdown=60, serializer="pickle")
    plain.apply()
    client.llen("celery")
    client.lrange(FAST, 0, -1)
    client.llen("a list of its own")
