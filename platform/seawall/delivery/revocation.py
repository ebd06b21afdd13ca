"""Revocations that outlast workers.

Celery broadcasts a revocation to the workers that listen now; each keeps it in memory, for three hours. A
task delayed for longer, or a worker started later, does not know it. So what is broadcast is also written
down here: by who sends it, or by who hears it, as a client of the stock transport writes nothing down. A
claim tells its worker which of the tasks it got are revoked, before they are handed out: Celery then refuses
them by itself, with the event and the REVOKED state.
"""

import base64
import json
import time
from itertools import chain
from typing import Any

from redis import Redis

from seawall.cluster import let_through
from seawall.delivery.scripts import Keys

KEPT_FOR = 30 * 86_400.0

_AT_ONCE = 1000


def revoked_by(exchange: str, message: dict[str, Any]) -> list[str]:
    """The ids of the tasks that a broadcast revokes; mostly none, and none of what makes no sense."""
    try:
        return [each for each in _revoked_by(exchange, message) if isinstance(each, str)]
    except (ValueError, TypeError, AttributeError, RecursionError):  # a stranger wrote it
        return []


def _revoked_by(exchange: str, message: dict[str, Any]) -> list[Any]:
    body = message.get("body")
    if not exchange.endswith(".pidbox") or not isinstance(body, str):
        return []
    if (message.get("properties") or {}).get("body_encoding") == "base64":  # from the stock transport
        body = base64.b64decode(body).decode()
    if '"revoke"' not in body:
        return []
    call = json.loads(body)
    if not isinstance(call, dict) or call.get("method") != "revoke" or call.get("destination"):
        return []
    ids = call.get("arguments", {}).get("task_id") or []
    return [ids] if isinstance(ids, str) else list(ids)


def write_down(client: "Redis", keys: Keys, ids: list[str]) -> None:
    """Remember that these tasks are revoked. The clock only decides when that is forgotten."""
    now = time.time()
    with client.pipeline(transaction=False) as pipe:
        pipe.zremrangebyscore(keys.revoked, "-inf", now)
        for start in range(0, len(ids), _AT_ONCE):
            entries: Any = ((now + KEPT_FOR, each) for each in ids[start : start + _AT_ONCE])
            let_through(pipe, "ZADD", keys.revoked, *chain.from_iterable(entries))
        pipe.expire(keys.revoked, round(KEPT_FOR))
        pipe.execute()


def tell_worker(ids: list[bytes]) -> None:
    """Let Celery, in this process, know that these are revoked."""
    from celery.worker import state  # who only submits needs nothing of it

    for task_id in ids:
        state.revoked.add(task_id.decode(errors="replace"))
