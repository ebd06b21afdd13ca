"""Blows at the way to a server: each is one thing that a network or a peer does."""

import random
import time
from collections import Counter
from collections.abc import Callable

from redis import Redis

from seawall.cluster import Script
from seawall.delivery import scripts
from seawall.limits import _give, _renew, _take
from seawall.worker.results import _store
from support.proxy import Proxy
from support.waiting import wait_until

LONGEST_FREEZE = 4.0  # seconds: a lease outlives it, so nothing has a reason to run again
ROUND_TRIP = 0.2

VERBS = {
    "submit": (scripts.submit,),
    "claim": (scripts.claim,),
    "settle": (scripts.settle,),
    "results": (_store,),
    "limits": (_take, _give, _renew),
    "breakers": tuple(Script("seawall.breaker", name) for name in ("report", "sync", "ask")),
}
"""Whose answers are lost."""


class Strikes:
    """Strikes several ways at once, `random` deciding; `effective` counts the blows that hit something."""

    def __init__(self, ways: list[Proxy], generator: random.Random) -> None:
        self._ways = ways
        self._random = generator
        self.effective: Counter[str] = Counter()
        self._kinds: list[Callable[[Proxy], None]] = [
            self._freeze, self._slow, self._cut, self._black_hole, *([self._lose_answers] * 3)
        ]  # fmt: skip

    def strike(self) -> None:
        """One blow; it is over when this returns."""
        self._random.choice(self._kinds)(self._random.choice(self._ways))

    def _count(self, kind: str, way: Proxy, before: int) -> None:
        if way.pieces > before:
            self.effective[kind] += 1

    def _freeze(self, way: Proxy) -> None:
        held = way.held
        way.go_deaf()
        _pass(self._random.uniform(0.2, LONGEST_FREEZE))
        self.effective["frozen"] += way.held > held
        way.hear_again()

    def _slow(self, way: Proxy) -> None:
        before, way.delay = way.pieces, ROUND_TRIP / 2
        _pass(2.0)
        way.delay = 0.0
        self._count("200 ms", way, before)

    def _cut(self, way: Proxy) -> None:
        self.effective["cut"] += way.busy
        way.cut()

    def _black_hole(self, way: Proxy) -> None:
        self.effective["black hole"] += way.busy
        way.black_hole()

    def _lose_answers(self, way: Proxy) -> None:
        name = self._random.choice(list(VERBS))
        marks = (
            [verb.digest.encode() for verb in VERBS[name]] if way is self._ways[0] else [b"INSERT", b"COPY"]
        )
        left = self._random.randint(1, 3)

        def lost() -> None:
            nonlocal left
            left -= 1
            self.effective[f"answer to {name if way is self._ways[0] else 'ledger'} lost"] += 1

        way.lost = lost
        way.loses_answer = lambda piece: left > 0 and any(mark in piece for mark in marks)
        _pass(1.5)
        way.loses_answer = None


def _pass(seconds: float) -> None:
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() >= until, timeout=seconds + 10, what="the blow to end")


def answers(url: str) -> bool:
    """Whether the server itself is well."""
    with Redis.from_url(url) as client:
        return bool(client.ping())
