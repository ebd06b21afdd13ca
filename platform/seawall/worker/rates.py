"""Rate limits of tasks: a request that has to wait for its turn keeps nobody else waiting.

Celery keeps such a request in the worker, where it takes one of the few places that messages are fetched
for: behind two of them nothing else runs. Here those that run within the next second wait in the worker, each
beside the prefetch window, and all others go back to the broker until their turn: one for each token that
the bucket of this worker (of this cell, which has its share) is going to give. That costs neither a retry nor
a strike. One that is back and finds no token, because another worker has come first, waits for a turn among
its like and not behind all that came later.

The rate is the bucket's, as in Celery: no request starts without a token.
"""

import math
import time
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakKeyDictionary

from celery import bootsteps

from seawall.worker.deferral import give_back, set_aside
from seawall.worker.gate import MOST_HELD

_WAIT_HERE: Final = 1.0  # seconds


class Rates(bootsteps.StartStopStep):
    """The consumer's step: stands before Celery's buckets. Everything runs in the consumer's thread."""

    label = "Rates"

    def __init__(self, c: Any, clock: Callable[[], float] = time.monotonic, **options: Any) -> None:
        super().__init__(c, **options)
        self._consumer = c
        self._clock = clock
        self._waiting: set[Any] = set()
        # When the next turn is that nobody was sent away for: of new requests, of those that came back.
        self._turns: dict[bool, WeakKeyDictionary[Any, float]] = {
            False: WeakKeyDictionary(),
            True: WeakKeyDictionary(),
        }
        self._start: Callable[[Any], None] = c._limit_move_to_pool  # noqa: SLF001 - Celery's
        c.rates = self
        c._limit_task = self.take  # noqa: SLF001
        c._limit_post_eta = self._take_after_eta  # noqa: SLF001
        c._limit_move_to_pool = self._let_go  # noqa: SLF001

    def include_if(self, c: Any) -> bool:
        """Where requests are consumed; a supervisor consumes none."""
        return bool(getattr(c, "runs_tasks", True))

    def start(self, c: Any) -> None:
        """A connection is there."""

    def stop(self, c: Any) -> None:  # noqa: ARG002 - Celery's signature
        """It is gone, and with it what waited: Celery empties the buckets, and the messages go back."""
        self._waiting.clear()

    @property
    def waiting(self) -> int:
        """Requests that wait here."""
        return len(self._waiting)

    def take(self, request: Any, bucket: Any, tokens: int) -> None:
        """A request of a task that has a rate has come: run it, keep it, or send it back until its turn."""
        ahead = len(bucket.contents)
        if ahead >= min(max(math.ceil(bucket.fill_rate * _WAIT_HERE), 1), MOST_HELD):
            self._send_back(request, bucket, ahead)
            return
        bucket.add((request, tokens))
        if not ahead:  # otherwise the timer of the first one sees to it
            self._consumer._schedule_bucket_request(bucket)  # noqa: SLF001
        if bucket.contents:
            self._waiting.add(request)
            self._consumer.qos.increment_eventually()

    def give_back(self) -> None:
        """Give back what waits here: this process has no time for it."""
        for bucket in self._consumer.task_buckets.values():
            while bucket is not None and bucket.contents:
                request, _ = bucket.pop()
                self._forget(request)
                give_back(request)

    def _take_after_eta(self, request: Any, bucket: Any, tokens: int) -> None:
        self._consumer.qos.decrement_eventually()  # its place while it waited for its moment, as in Celery
        self.take(request, bucket, tokens)

    def _let_go(self, request: Any) -> None:
        self._forget(request)
        self._start(request)

    def _forget(self, request: Any) -> None:
        if request in self._waiting:
            self._waiting.discard(request)
            self._consumer.qos.decrement_eventually()

    def _send_back(self, request: Any, bucket: Any, ahead: int) -> None:
        now, rate = self._clock(), bucket.fill_rate
        turns = self._turns[getattr(request, "came_back", False)]
        turn = max(turns.get(bucket, 0.0), now + ahead / rate)
        turns[bucket] = turn + 1 / rate
        set_aside(request, turn - now, reason=f"rate limit {request.task.rate_limit} of {request.name}")
