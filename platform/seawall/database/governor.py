"""The fleet's connections to one PostgreSQL server stay within one budget.

Every process leases a share in Redis and renews it every second. A share is fair (modest wishes in full, the
rest evenly) and never more than what the others neither hold nor were granted: a process shrinks at once when
others come, and grows only into what they have closed. A killed process's lease ends after `LEASE` seconds,
by when the server has ended its sessions (`client_connection_check_interval`). While Redis is away everybody
keeps the last grant; a process that never got one takes a single connection. One Lua script decides
(`lua/lease.lua`); `decide` is the same decision for the tests and for readers.
"""

import logging
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from redis.exceptions import RedisError

from seawall import events
from seawall.cluster import Argument, Script, micros
from seawall.database import label
from seawall.database.events import ConnectionsGranted
from seawall.errors import SeawallError
from seawall.silence import Misses

if TYPE_CHECKING:
    from redis import Redis

logger = logging.getLogger(__name__)

LEASE: Final = 10.0
"""Seconds a share outlives its last renewal."""

RENEW: Final = 1.0
_HURRY: Final = 0.1  # seconds between questions while others are closing what is to be ours
_FADING: Final = 1.0  # seconds until the server has forgotten the connections of a process that left
_REMEMBERED: Final = 30.0  # seconds until a process says the budget again, before Redis forgets it

_lease = Script(__package__, "lease")
_list = Script(__package__, "list")


@dataclass(frozen=True, slots=True)
class Lease:
    """One process's share of the budget."""

    process: str
    held: int
    grant: int
    want: int
    label: str = ""


def decide(budget: int, process: str, want: int, others: Sequence[Lease]) -> tuple[int, int]:
    """What `process` is granted now, and its fair share, which it gets as the others shrink to theirs."""
    wishes = sorted([(want, process), *((other.want, other.process) for other in others)])
    left, fair = budget, 0
    for place, (wish, who) in enumerate(wishes):
        share = min(wish, left // (len(wishes) - place))
        left -= share
        if who == process:
            fair = share
    taken = sum(max(other.held, other.grant) for other in others)
    return max(0, min(fair, budget - taken)), fair


class Governor:
    """This process's lease. Called by one thread.

    `redis` gives the client, `ask_server` reads the budget from the server when none is configured.
    """

    def __init__(
        self, redis: Callable[[], "Redis"], base: str, budget: int | None, ask_server: Callable[[], int]
    ) -> None:
        self._redis = redis
        self._base = base
        self._budget = budget or 0
        self._ask_server = ask_server
        self._said_at = float("-inf")
        self._process = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        self._misses = Misses()
        self.grant: int | None = None

    def renew(self, now: float, want: int, held: int) -> tuple[int, float]:
        """The connections this process may hold now, and when to ask again, in seconds."""
        try:
            grant, fair, budget = self._ask(now, want, held)
        except (RedisError, SeawallError) as exc:
            if self._misses.count():
                logger.warning("the connection budget cannot be asked for, keeping the last grant: %s", exc)
            return (1 if self.grant is None else self.grant), RENEW
        self._misses.end()
        if grant != self.grant:
            events.emit(ConnectionsGranted(grant=grant, budget=budget))
        self.grant = grant
        return grant, _HURRY if grant < fair else RENEW

    def leave(self, held: int) -> None:
        """Give the share back; it is free when the server has seen the connections close."""
        try:
            self._run(0, held, 0, _FADING)
        except (RedisError, SeawallError):
            logger.info("the share of the connection budget was not given back; it ends by itself")

    def _ask(self, now: float, want: int, held: int) -> tuple[int, int, int]:
        say = self._budget if now - self._said_at > _REMEMBERED else 0
        answer = self._run(want, held, say, LEASE)
        if answer[0] < 0:
            say = self._budget = self._budget or self._ask_server()
            answer = self._run(want, held, say, LEASE)
        if say:
            self._said_at = now
        return answer

    def _run(self, want: int, held: int, budget: int, seconds: float) -> tuple[int, int, int]:
        arguments: list[Argument] = [self._process, want, held, budget, micros(seconds), label.current()]
        grant, fair, known = _lease(self._redis(), [self._base], arguments)
        return int(grant), int(fair), int(known)


def base_of(server: str) -> str:
    """What the keys of a server, `host:port`, begin with."""
    return f"seawall:connections:{{{server}}}"


def leases(redis: "Redis", server: str) -> tuple[int, list[Lease]]:
    """The budget (0: unknown) and all shares of it, largest first."""
    budget, *rest = _list(redis, [base_of(server)], [])
    found = [
        Lease(process.decode(), int(held), int(grant), int(want), label_.decode())
        for process, held, grant, want, label_ in zip(*(rest[n::5] for n in range(5)), strict=True)
    ]
    return int(budget), sorted(found, key=lambda lease: (-lease.held, lease.process))
