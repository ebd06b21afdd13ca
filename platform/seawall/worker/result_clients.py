"""How Celery's Redis backend reaches its server: bounded, with no wait for what nobody wants any more."""

import contextlib
import functools
import logging
import threading
from collections.abc import Iterator
from typing import Any, Final

from celery.backends.redis import RedisBackend
from redis import Connection
from redis.client import Pipeline
from redis.sentinel import SentinelManagedConnection

from seawall import silence
from seawall.cluster import let_through

logger = logging.getLogger(__name__)

_LET_GO_WITHIN: Final = 0.5  # seconds

COUNTS_WITH_SCRIPTS: Final = hasattr(RedisBackend, "_chord_part_return_script")
"""Whether Celery's Redis backend counts a chord's results with scripts; Celery 5.6 does with a pipeline."""


class _CountingPipeline(Pipeline):
    """Counts a result of a chord also where the server has reached its maxmemory."""

    def zadd(self, name: Any, mapping: Any, **_: Any) -> Any:  # type: ignore[override] # as it is called
        """One result with its place in the chord."""
        [(member, place)] = mapping.items()
        return let_through(self, "ZADD", name, place, member)

    def rpush(self, name: Any, *values: Any) -> Any:
        """One result, in the order of their ends."""
        return let_through(self, "RPUSH", name, *values)


def counting(kind: Any) -> Any:
    """The class of a Redis backend's client, whose pipelines, used for chords alone, are those above."""

    class Client(kind):  # type: ignore[misc]
        def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:  # noqa: FBT001, FBT002
            return _CountingPipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)

    return Client


class _LettingGo:
    """Mixed into Celery's consumer of results: to let go of one waits for no server.

    That happens when the last reference to an `AsyncResult` goes, wherever a program is then. Celery connects
    anew for it, and tries for 20 s.
    """

    _leaving = threading.local()

    def cancel_for(self, task_id: Any) -> None:
        """As Celery's."""
        self._leaving.now = True
        try:
            with silence.within(silence.Deadline(_LET_GO_WITHIN)):
                super().cancel_for(task_id)  # type: ignore[misc]
        finally:
            self._leaving.now = False

    @contextlib.contextmanager
    def reconnect_on_error(self) -> Iterator[None]:
        """As Celery's; who lets go needs no connection."""
        if not getattr(self._leaving, "now", False):
            with super().reconnect_on_error():  # type: ignore[misc]
                yield
            return
        try:
            yield
        except self._connection_errors as exc:  # type: ignore[attr-defined]
            logger.debug("the subscription to a result is left to its connection's end: %s", exc)


def bound(parameters: dict[str, Any], *, managed: bool) -> None:
    """Let no connection with these parameters wait for ever, also one that Sentinel manages."""
    parameters |= silence.parameters(parameters)
    kind = parameters.get("connection_class", SentinelManagedConnection if managed else Connection)
    parameters["connection_class"] = silence.bounded(kind)


@functools.cache
def letting_go(kind: type) -> type:
    """A class of Celery's consumers of results, which lets go of one at once."""
    return type(kind.__name__, (_LettingGo, kind), {"__module__": kind.__module__})
