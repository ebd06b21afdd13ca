"""Revocations that outlast workers.

Celery broadcasts a revocation to the workers that listen now; each keeps it in memory, for three hours. A
task delayed for longer, or a worker started later, does not know it. So what is broadcast is also written
down here, and a claim tells its worker which of the tasks it got are revoked, before they are handed out:
Celery then refuses them by itself, with the event and the REVOKED state.
"""

import json
import time
from typing import Any

from celery.worker import state
from redis import Redis

from seawall.delivery.scripts import Keys

KEPT_FOR = 30 * 86_400.0


def revoked_by(exchange: str, message: dict[str, Any]) -> list[str]:
    """The ids of the tasks that a broadcast revokes; mostly none."""
    body = message.get("body")
    if not exchange.endswith(".pidbox") or not isinstance(body, str) or '"revoke"' not in body:
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
        pipe.zadd(keys.revoked, dict.fromkeys(ids, now + KEPT_FOR))
        pipe.execute()


def tell_worker(ids: list[bytes]) -> None:
    """Let Celery, in this process, know that these are revoked."""
    for task_id in ids:
        state.revoked.add(task_id.decode())
