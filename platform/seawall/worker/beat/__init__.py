"""Beat's turns: `schedules` says who sends which schedule, `turn` has one beat of a cluster send at a time.

`seawall status` reads this package, so that here nothing of Celery is imported.
"""

from typing import Any, Final

from redis import Redis

from seawall.cluster import MICROSECONDS

ROOT: Final = "seawall:{beat}"
"""What the keys of beats begin with."""


def schedules(client: "Redis") -> list[dict[str, Any]]:
    """Each schedule with the beat that sends it, when it last sent something, and those that wait."""
    seconds, micro = client.time()
    now = seconds * MICROSECONDS + micro
    found: Any = client.zrangebyscore(f"{ROOT}:names", now, "+inf")
    rows = []
    for name in sorted(each.decode() for each in found):
        who: Any = client.hget(f"{ROOT}:lease:{name}", "who")
        latest: Any = client.zrange(f"{ROOT}:sent:{name}", -1, -1, withscores=True)
        waiting: Any = client.zrangebyscore(f"{ROOT}:waiting:{name}", now, "+inf")
        rows.append(
            {
                "schedule": name,
                "sent by": (who or b"").decode(),
                "last sent": latest[0][1] / MICROSECONDS if latest else None,
                "waiting": ", ".join(each.decode() for each in waiting),
            }
        )
    return rows
