"""Delivery: a kombu transport for Redis and Valkey that loses nothing and repeats nothing.

Messages are leased, not popped. A claim moves a message and its lease in one step on the server, carries
the settlements of earlier ones, and takes only what the worker can start soon. Leases are renewed for as
long as the worker lives, so a task of any length is delivered once; a dead worker's messages are back
within one lease. docs/delivery.md says which guarantee holds where.

Each name is imported when it is first used: the operator's view of the queues needs no kombu.
"""

from typing import TYPE_CHECKING, Any, Final

from seawall.lazily import imported

if TYPE_CHECKING:
    from seawall.delivery.bulk import submit_many
    from seawall.delivery.events import poisoned, unreadable
    from seawall.delivery.guardian import Guardian
    from seawall.delivery.hooks import (
        bury,
        came_back,
        counts,
        defer,
        delay,
        gathered,
        give_back,
        gives_way,
        let_go,
        limit_of,
        may_begin,
        park,
        server_time,
        started,
        strike,
        waited,
    )
    from seawall.delivery.options import Options
    from seawall.delivery.queues import Counts, DeadLetter, ParkedFor, Queues
    from seawall.delivery.transport import SecureTransport, SentinelTransport, Transport, transport_for

__all__ = [
    "Counts",
    "DeadLetter",
    "Guardian",
    "Options",
    "ParkedFor",
    "Queues",
    "SecureTransport",
    "SentinelTransport",
    "Transport",
    "bury",
    "came_back",
    "counts",
    "defer",
    "delay",
    "gathered",
    "give_back",
    "gives_way",
    "let_go",
    "limit_of",
    "may_begin",
    "park",
    "poisoned",
    "server_time",
    "started",
    "strike",
    "submit_many",
    "transport_for",
    "unreadable",
    "waited",
]

_MODULES: Final = {
    **dict.fromkeys(("poisoned", "unreadable"), "events"),
    **dict.fromkeys(("Counts", "DeadLetter", "ParkedFor", "Queues"), "queues"),
    **dict.fromkeys(("SecureTransport", "SentinelTransport", "Transport", "transport_for"), "transport"),
    "Guardian": "guardian",
    "Options": "options",
    "submit_many": "bulk",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'seawall.delivery' has no attribute {name!r}")
    found = globals()[name] = imported(f"{__name__}.{_MODULES.get(name, 'hooks')}", name)
    return found
