"""Results on their way to Redis: one round trip each, and in a cell one for those of a few milliseconds.

Celery asks what is stored for a task and then stores its result: two round trips, which cost more than the
rest of a short task. Here a script does both, for any number of results. A cell collects the results of tasks
that succeeded (`Batch`) and sends them

- when nothing else waits to be run, so a result that somebody waits for is not held up,
- when the oldest has waited for `_WAIT` seconds, also while the next task runs: a thread looks after that,
- before any settlement is sent: a message is acknowledged only when its result is stored,
- before the cell's own code asks the backend for anything: a result, a chord that is counted.

Until they are stored they stand in the table as well, so that a cell which is killed loses none: its
supervisor stores them. A result is stored at once, in a round trip of its own, if a hook of the task
(`on_success`, `after_return`) or a receiver of `task_success` or `task_postrun` may tell others about it, if
it is large, and wherever there is no table: in Celery's own pools and in producers.
"""

import functools
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

from celery import Task, signals, states
from celery.app.task import Context
from celery.backends.base import BaseKeyValueStoreBackend
from celery.backends.redis import RedisBackend, SentinelBackend
from celery.exceptions import BackendStoreError
from redis.exceptions import OutOfMemoryError, RedisError

from seawall import silence
from seawall.cluster import Argument, Script, away, makes_room
from seawall.delivery.refusal import is_outage
from seawall.text import to_bytes
from seawall.worker import late_endings, repeats, result_clients

logger = logging.getLogger(__name__)
_Backend: Any = RedisBackend
_Base: Any = BaseKeyValueStoreBackend

_store = Script(__package__, "store")
_store_large = Script(__package__, "store", fills=True)

_WAIT: Final = 0.003
_MOST: Final = 64
_LARGE: Final = 8192
_SMALL: Final = 1024
"""Bytes of a result that a server is given although it has reached its maxmemory."""

_IDLE_ROUNDS: Final = 4  # waking the thread costs as much as these
_TRY_AGAIN_AFTER: Final = 1.0
_AT_ONCE: Final = 0.001  # seconds; to Celery, 0 means without end
_HOOKS: Final = ("on_success", "after_return")
_OURS: Final = ("seawall.", "celery.")
_STATES_OF_RUNS: Final = states.READY_STATES | {states.STARTED, states.RETRY}
_OF_CHORDS: Final = ("id", "group", "group_index", "chord", "root_id", "parent_id", "delivery_info")
"""What a chord is counted by, of a request."""

_TOLD: Final = (signals.task_success, signals.task_postrun)


class Result(NamedTuple):
    """One result as it is stored; `lifetime` in seconds, 0 for ever."""

    key: bytes
    lifetime: int
    value: bytes


class Shelf(Protocol):
    """Where a batch outlives its process: a row of the table."""

    def keep_result(self, key: bytes, lifetime: int, value: bytes) -> bool:
        """Keep one more; False if there is no room."""

    def results_stored(self) -> None:
        """All that was kept is stored."""


class Batch:
    """The results of a cell that are not stored yet. `put` is called by the thread that made it alone."""

    def __init__(
        self, shelf: Shelf, *, stopping: Callable[[], bool], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._shelf = shelf
        self._stopping = stopping
        self._clock = clock
        self._owner = threading.get_ident()
        self._lock = threading.Lock()  # never held over a round trip
        self._sending = threading.RLock()  # held while some of `_waiting` is on its way
        self._waiting: list[Result] = []
        self._since = 0.0
        self._backend: Any = None
        self._awake = threading.Event()
        self._task: Any = None
        self._tells_nobody: dict[type, bool] = {}

    # The task that runs

    def begin(self, task: Any) -> None:
        """A task starts whose message is acknowledged through us, so that its result may wait."""
        self._task = task

    def end(self, *, more: bool, aside: bool = False) -> None:
        """It has ended; `more` says whether another one is here to be run.

        With `aside`, as it takes long to store them, results are left to the thread in any case.
        """
        self._task = None
        if self._waiting and not aside and (not more or self._due()):
            try:
                self.flush()
            except (RedisError, OSError) as exc:
                logger.warning("results stay on the table while the worker stops: %s", exc)

    def put(self, backend: Any, result: Result) -> bool:
        """Take a result of the task that runs; False if it must be stored at once."""
        if not self._may_wait(result):
            return False
        if self._keep(backend, result):
            return True
        self.flush()
        return self._keep(backend, result)

    def _keep(self, backend: Any, result: Result) -> bool:
        with self._lock:
            if len(self._waiting) >= _MOST or not self._shelf.keep_result(*result):
                return False
            if not self._waiting:
                self._since = self._clock()
            self._backend = backend
            self._waiting.append(result)
        if not self._awake.is_set():
            self._awake.set()
        return True

    def _may_wait(self, result: Result) -> bool:
        task = self._task
        if task is None or len(result.value) > _LARGE or threading.get_ident() != self._owner:
            return False
        kind = type(task)
        quiet = self._tells_nobody.get(kind)
        if quiet is None:
            quiet = self._tells_nobody[kind] = all(
                getattr(kind, hook) is getattr(Task, hook) for hook in _HOOKS
            )
        return quiet and not any(_tells(signal) for signal in _TOLD)

    # Storing

    def _due(self) -> bool:
        return bool(self._waiting) and self._clock() - self._since >= _WAIT

    def flush(self) -> None:
        """Store what waits. In the thread of the tasks this waits for the server as long as it takes.

        What another thread is storing is stored as well when this returns. The table keeps all of it until
        nothing waits: to be stored once more changes nothing. What the server refuses for what it is, it
        would refuse for ever: that is said, and not stored.

        Raises:
            RedisError, OSError: not now, in another thread or while the worker stops; it is kept.
        """
        self.insist(self._send)

    def insist(self, store: Callable[[], None]) -> None:
        """Call `store` until its server is there. See `flush` for who waits, and what it raises."""
        for attempt in itertools.count(1):
            try:
                return store()
            except (RedisError, OSError) as exc:
                if threading.get_ident() != self._owner or self._stopping() or not is_outage(exc):
                    raise
                if attempt.bit_count() == 1:  # 1, 2, 4, 8: each cell would say it every second
                    logger.error("results cannot be stored, attempt %d: %s", attempt, exc)  # noqa: TRY400
                time.sleep(_TRY_AGAIN_AFTER)
        return None

    def _send(self) -> None:
        with self._sending:
            with self._lock:
                sent = list(self._waiting)
            if not sent:
                return
            self._store(sent)
            with self._lock:
                del self._waiting[: len(sent)]
                self._since = self._clock()  # what came meanwhile waits a moment for others again
                if not self._waiting:
                    self._shelf.results_stored()

    def _store(self, results: list[Result]) -> None:
        if self._stores(results):
            return
        for each in results:
            if not self._stores([each]):
                logger.error("the result %s is refused for what it is, and not stored", each.key)

    def _stores(self, found: list[Result]) -> bool:
        try:
            self._backend.store(found)
        except RedisError as exc:
            if away(exc):
                raise
            logger.debug("results are refused: %s", exc)
            return False
        return True

    def start(self) -> None:
        """Look after what waits behind a task that takes longer.

        Before the first task: one that leaves too little memory for a thread would hang who starts one.
        """
        threading.Thread(target=self._look_after, name="seawall-results", daemon=True).start()

    def _look_after(self) -> None:
        idle = 0
        while True:
            self._awake.wait()
            time.sleep(_WAIT)
            idle = 0 if self._waiting else idle + 1
            if idle > _IDLE_ROUNDS:
                self._awake.clear()
                idle = 0
            if self._due():
                try:
                    self.flush()
                except (RedisError, OSError) as exc:
                    logger.debug("results wait for the backend: %s", exc)
                    time.sleep(_TRY_AGAIN_AFTER)


def _tells(signal: Any) -> bool:
    """Whether a receiver of the application hears of the end of a task."""
    for _, kept in signal.receivers:
        receiver = kept() if isinstance(kept, weakref.ReferenceType) else kept
        if receiver is not None and not _module_of(receiver).startswith(_OURS):
            return True
    return False


def _module_of(receiver: Any) -> str:
    return str(getattr(receiver, "__module__", ""))


batch: Batch | None = None
"""Of this process, if it is a cell."""


class Stored:
    """In front of the class of a Redis backend."""

    # Celery's own.
    client: Any
    connection_errors: tuple[type[Exception], ...]
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]
    decode_result: Callable[[Any], Any]
    prepare_exception: Callable[..., Any]
    connparams: dict[str, Any]
    expires: int | None
    get_key_for_task: Callable[[str], bytes]
    _get_result_meta: Callable[..., dict[str, Any]]
    _MAX_STR_VALUE_SIZE: int

    def _store_result(
        self,
        task_id: Any,
        result: Any,
        state: str,
        traceback: Any = None,
        request: Any = None,
        **_: Any,
    ) -> Any:
        """As Celery's, in one round trip or with others."""
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = task_id.decode() if isinstance(task_id, bytes) else task_id
        value = self.encode(meta)
        if isinstance(value, str):
            if len(value) > self._MAX_STR_VALUE_SIZE:
                too_large: Any = BackendStoreError  # the stubs know none of its arguments
                raise too_large("value too large for Redis backend", state=state, task_id=task_id)
            value = to_bytes(value)
        lifetime = getattr(self, "failure_expires", None) if state == states.FAILURE else None
        if lifetime is None:
            lifetime = self.expires
        stored = Result(self.get_key_for_task(task_id), int(lifetime or 0), value)
        if state != states.SUCCESS or batch is None or not batch.put(self, stored):
            self._store_at_once(stored, state)
        return result

    def _store_at_once(self, stored: Result, state: str) -> None:
        """Or owe it, in a pool that stores it later; what is said before the end is done without."""
        if state not in _STATES_OF_RUNS:
            self.ensure(self.store, ([stored],))
            return
        try:
            if batch is not None and state in states.READY_STATES:
                batch.insist(partial(self.store, [stored]))
                return
            with late_endings.briefly():
                self.ensure(self.store, ([stored],))
        except Exception as exc:
            if not is_outage(exc):
                raise
            if state in states.READY_STATES:
                if not late_endings.owe("store", [stored]):
                    raise
                return
            logger.warning("that %s is %s cannot be stored: %s", stored.key, state, exc)

    def store(self, results: Sequence[Result]) -> None:
        """Store results; what has succeeded already is left alone, as in Celery.

        Raises:
            RedisError, OSError: the server is away, or refuses.
        """
        found = self._send(results, replace=False)
        again = [
            result
            for result, known in zip(results, found, strict=True)
            if known is not None and self.decode_result(known)["status"] != states.SUCCESS
        ]
        if again:
            self._send(again, replace=True)

    def _send(self, results: Sequence[Result], *, replace: bool) -> list[Any]:
        if all(len(result.value) <= _SMALL for result in results):
            return self._run(_store, results, replace=replace)
        try:
            return self._run(_store_large, results, replace=replace)
        except OutOfMemoryError as exc:
            logger.warning("the result backend is full, results above %d bytes are refused: %s", _SMALL, exc)
        return self._run(_store, [self._cut(result) for result in results], replace=replace)

    def _run(self, script: Script, results: Sequence[Result], *, replace: bool) -> list[Any]:
        arguments: list[Argument] = [int(replace)]
        for result in results:
            arguments += (result.lifetime, result.value)
        keys: list[Any] = [result.key for result in results]
        found: list[Any] = script(self.client, keys, arguments)
        return found

    def _cut(self, result: Result) -> Result:
        """What a full server keeps of a result: of a failure what it was, of a value that it is not there."""
        if len(result.value) <= _SMALL:
            return result
        meta = self.decode(result.value)
        found = meta["result"]
        if meta["status"] == states.SUCCESS:
            size = len(result.value)
            refused = f"the task has succeeded; its result takes {size} bytes and its backend was full"
            found = self.prepare_exception(BackendStoreError(refused), serializer="json")
            meta["status"] = states.FAILURE
        elif isinstance(found, dict) and "exc_type" in found:
            said = found.get("exc_message")
            text = " ".join(map(str, said)) if isinstance(said, list) else str(said)
            found = {**found, "exc_message": [text[: _SMALL // 4]]}
        else:
            found = None
        kept = {"task_id": meta["task_id"], "status": meta["status"], "result": found, "traceback": None}
        value = self.encode({**kept, "children": [], "date_done": meta.get("date_done")})
        return result._replace(value=to_bytes(value) if isinstance(value, str) else value)

    @property
    def _transport_options(self) -> dict[str, Any]:
        # Celery's connections to sentinels have no timeout.
        return {"sentinel_kwargs": silence.parameters({}), **super()._transport_options}  # type: ignore[misc]

    def ensure(self, fun: Any, args: Any, **policy: Any) -> Any:
        """As Celery's, which tries again for 20 s; for whoever has a deadline, until that one."""
        if (deadline := silence.current()) is not None:
            policy["timeout"] = max(deadline.left, _AT_ONCE)
        return super().ensure(fun, args, **policy)  # type: ignore[misc]

    # Who asks finds what was stored before.

    def get_task_meta(self, task_id: Any, cache: bool = True) -> Any:  # noqa: FBT001, FBT002 - Celery's
        """As Celery's; the tracer, which asks before a task has begun, is told of no outage."""
        if not repeats.under_way():
            return super().get_task_meta(task_id, cache=cache)  # type: ignore[misc]
        try:
            with silence.within(silence.Allowance(repeats.ASKED_FOR)):
                return super().get_task_meta(task_id, cache=cache)  # type: ignore[misc]
        except Exception as exc:
            if not is_outage(exc):
                raise
            raise repeats.unknown(task_id) from exc

    def get(self, key: Any) -> Any:
        """As Celery's."""
        _flush()
        return super().get(key)  # type: ignore[misc]

    def mget(self, keys: Any) -> Any:
        """As Celery's."""
        _flush()
        return super().mget(keys)  # type: ignore[misc]

    def delete(self, key: Any) -> None:
        """As Celery's."""
        _flush()
        super().delete(key)  # type: ignore[misc]

    # What counts a chord goes on with accepted work.

    def _get_client(self) -> Any:
        kind = super()._get_client()  # type: ignore[misc]
        return kind if result_clients.COUNTS_WITH_SCRIPTS else result_clients.counting(kind)

    @property
    def _chord_part_return_script(self) -> Any:
        return makes_room(super()._chord_part_return_script)  # type: ignore[misc]

    @property
    def _chord_claim_extend_script(self) -> Any:
        return makes_room(super()._chord_claim_extend_script)  # type: ignore[misc]

    @property
    def _chord_cleanup_script(self) -> Any:
        return makes_room(super()._chord_cleanup_script)  # type: ignore[misc]

    def on_chord_part_return(self, request: Any, state: str, result: Any, *args: Any, **kwargs: Any) -> Any:
        """As Celery's: a result is stored before it is counted. It may be counted later too."""
        _flush()
        try:
            with late_endings.briefly():
                return super().on_chord_part_return(request, state, result, *args, **kwargs)  # type: ignore[misc]
        except Exception as exc:
            part = Context({name: getattr(request, name, None) for name in _OF_CHORDS})
            if not is_outage(exc) or not late_endings.owe("on_chord_part_return", part, state, result):
                raise
            return None


def _forget() -> None:
    """In a child that a task forks: what waits is its parent's to store."""
    global batch  # noqa: PLW0603 - one per process
    if batch is not None:
        batch._waiting = []  # noqa: SLF001 - one module
        batch = None


os.register_at_fork(after_in_child=_forget)


def _flush() -> None:
    if batch is not None:
        batch.flush()


def stored(backend: Any) -> Any:
    """`backend`, the same object, which stores with fewer round trips if it is Celery's for Redis."""
    kind: Any = type(backend)
    if _stores_as_celery(kind):
        backend.__class__ = _stored(kind)
        backend.result_consumer._ensure = backend.ensure  # noqa: SLF001 - bound before, to Celery's
    if isinstance(backend, RedisBackend):
        consumer: Any = vars(backend)["result_consumer"]
        kind = type(consumer)
        consumer.__class__ = result_clients.letting_go(kind)
        result_clients.bound(vars(backend)["connparams"], managed=isinstance(backend, SentinelBackend))
    return backend


def _stores_as_celery(kind: Any) -> bool:
    """Whether an application's own backend has left alone what we do instead of it."""
    return (
        issubclass(kind, RedisBackend)
        and kind._store_result is _Base._store_result  # noqa: SLF001
        and all(getattr(kind, name) is getattr(_Backend, name) for name in ("set", "_set", "_set_with_state"))
    )


@functools.cache
def _stored(kind: type) -> type:
    return type(kind.__name__, (Stored, kind), {"__module__": kind.__module__})
