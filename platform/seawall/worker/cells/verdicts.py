"""What is known about tasks whose process died, for brokers that cannot be told: RabbitMQ.

RabbitMQ delivers the messages of a dead process again at once, to anybody. So the supervisor leaves in the
cluster's Redis what whoever receives such a message must know: that the task is over (a limit, a revocation,
its last strike), or how many processes it has killed. One hash for each attempt, forgotten after a day:

    seawall:verdict:<task id>:<retries>   strikes: count, over: present once it must not run again

A message can be faster than the verdict about it. Then a task that kills its process runs once more than the
limit says, never for ever. Limits and revocations are written down before the process is killed.
"""

import logging
from typing import Any, Final

from redis.exceptions import RedisError

from seawall import cluster

logger = logging.getLogger(__name__)

_KEPT_FOR: Final = 86_400


def _key(task_id: str, retries: int) -> str:
    return f"seawall:verdict:{task_id}:{retries}"


def is_over(request: Any) -> bool:
    """Whether a message that was delivered before must not run again."""
    try:
        return bool(
            cluster.client().hexists(_key(request.id, request.request_dict.get("retries") or 0), "over")
        )
    except RedisError as exc:
        logger.warning("nobody can say whether %s has run before, so it runs: %s", request.id, exc)
        return False


def declare_over(task_id: str, retries: int) -> None:
    """It must not run again."""
    _write(task_id, retries, "over")


def strike(task_id: str, retries: int) -> int:
    """It has killed a process; how many by now."""
    return _write(task_id, retries, "strikes")


def _write(task_id: str, retries: int, field: str) -> int:
    key = _key(task_id, retries)
    try:
        with cluster.client().pipeline() as pipe:
            cluster.let_through(pipe, "HINCRBY", key, field, 1)
            pipe.expire(key, _KEPT_FOR)
            return int(pipe.execute()[0])
    except RedisError as exc:
        logger.warning("the end of %s's process cannot be written down: %s", task_id, exc)
        return 0
