"""A worker consumes only once what it needs is there, and says from then on how it is.

Before it connects to its broker it waits for the database that the settings name, for its migrations, and for
the services that the application declares (`Seawall(..., services=[...])`): `startup.timeout` seconds, then
it ends with an error that names what is missing. The broker and Redis Celery waits for by itself, for ever.

What it loses later, tasks wait for (`seawall.worker.losses`). The cluster hears of it by its heartbeat
(`seawall.worker.heartbeat`).

Its loop beats once a second while it consumes. While it is connecting again there is no loop to watch, and an
outage of the broker is no reason to restart it. The solo pool runs tasks in the loop and so shows no beat.
"""

import contextlib
import functools
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from celery import bootsteps, signals
from celery.concurrency import solo
from celery.worker import state as worker_state

from seawall import admission, memory, servers, startup
from seawall.breaker import State, breakers
from seawall.config import settings
from seawall.errors import SeawallError
from seawall.health import Beat, Health, HealthServer, server_checks
from seawall.quantity import Whole
from seawall.runtime import Declaration, Runtime
from seawall.worker import losses
from seawall.worker.accounts import Parked
from seawall.worker.heartbeat import Heartbeat
from seawall.worker.names import Known
from seawall.worker.periodic import Periodic

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)
state: Any = worker_state  # celery-types lacks half of it

_TURN: Final = 1.0  # seconds between beats
_STALLED: Final = 60.0  # seconds without one after which the loop counts as hung
_RETURN_WITHIN: Final = 2.0  # seconds over which tasks return to a database that is back
_AS_TYPED: Final = {"thread": "threads"}  # Celery's module and what `-P` calls it
_WATCHDOG: Final = Whole(most=10**15)  # microseconds
_PER_DEADLINE: Final = 3  # how often the watchdog is told within the time it grants


class Watchdog(Periodic):
    """systemd's watchdog (sd_notify(3)), told every so many seconds that we live while `live` says so."""

    thread = "seawall-watchdog"

    def __init__(self, live: Callable[[], object], notify: Callable[[str], bool], every: float) -> None:
        super().__init__()
        self._live = live
        self._notify = notify
        self._every = every

    def turn(self) -> float:
        """Tell it."""
        if self._live():
            self._notify("WATCHDOG=1")
        return self._every


def watchdog_interval() -> float | None:
    """Seconds between words to the watchdog; None if nobody watches this process."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        granted = _WATCHDOG.read(os.environ.get("WATCHDOG_USEC", "0")) / 1e6
        return granted / _PER_DEADLINE if granted > 0 else None
    return None


class Readiness:
    """One worker's services and health. `worker` is Celery's."""

    def __init__(self, worker: Any, notify: Callable[[str], bool]) -> None:
        self._worker = worker
        self._app: Celery = worker.app
        self._notify = notify
        self._since = time.time()
        self._consumes = False
        self._leaving = False
        self._watch: losses.Watch | None = None
        self._account: losses.Account | None = None
        self._own = startup.service_checks(getattr(self._app, "services", ()))
        self._servers = server_checks(
            redis=servers.redis_url,
            broker=self._broker_url,
            database=servers.database_url if settings().database_url else None,
        )
        self.health = Health(
            [*self._servers, *self._own],
            started=lambda: self._consumes,
            ready=lambda: self.runtime.ready and getattr(getattr(self._worker, "pool", None), "able", True),
        )
        self.runtime = Runtime(self._services())

    def wait(self) -> None:
        """Return when every critical service is up.

        Raises:
            SystemExit: one is not, in time; the log names it.
        """
        try:
            with startup.told_while_waiting(self.runtime.report):
                report = self.runtime.start()
        except SeawallError as exc:
            logger.critical("this worker does not start: %s", exc)
            raise SystemExit(1) from exc
        for line in report.lines():
            logger.info(line)
        from seawall.database import close

        close()  # the children that are forked next have connections of their own

    def consumes(self) -> None:
        """The worker is ready, in Celery's sense."""
        self._consumes = True

    def leaves(self) -> None:
        """It was told to end, and drains."""
        self._leaving = True

    def stop(self) -> None:
        """Stop the services: the worker has ended. Safe to repeat."""
        self._consumes = False
        self.runtime.stop()
        if self._account is not None:
            admission.disuse(self._account)

    def describe(self) -> dict[str, Any]:
        """What the cluster hears of this worker: states by name, bytes, seconds since 1970."""
        used = memory.usage()
        states = {each.name: each.circuit.state for each in breakers()}
        missing = [] if self._watch is None else self._watch.missing
        return {
            "state": self._state(missing),
            **_load(self._worker),
            "used": used.workers,
            "budget": used.budget,
            "pressure": used.level.name.lower(),
            "breakers": {name: state.value for name, state in states.items() if state is not State.CLOSED},
            "lost": missing,
            "since": self._since,
            "pid": os.getpid(),
        }

    def _state(self, missing: list[str]) -> str:
        if self._leaving:
            return "stopping"
        if not self._consumes:
            return "starting"
        if losses.all_wait() or memory.pressure() is memory.Pressure.EXHAUSTED:
            return "paused"
        return "degraded" if missing or self.runtime.report().degraded else "ready"

    def _broker_url(self) -> str:
        url = self._app.conf.broker_url
        return url if isinstance(url, str) else ";".join(url)

    def _services(self) -> list[object]:
        services: list[object] = []
        if address := settings().health.address:
            services.append(Declaration(name="health", factory=lambda: HealthServer(self.health, address)))
        if every := watchdog_interval():
            watch = lambda: Watchdog(self.health.live, self._notify, every)  # noqa: E731
            services.append(Declaration(name="watchdog", factory=watch))
        if settings().database_url:
            services.append(startup.database())
            if migrations := startup.migrations(startup.DATABASE):
                services.append(migrations)
        if servers.redis_is_known():
            known = Known(self._app)
            beat = lambda: Heartbeat(self._worker.hostname, self.describe, known=known)  # noqa: E731
            services.append(Declaration(name="heartbeat", factory=beat, critical=False))
        if watched := self._watched():
            parked, lost = Parked(self._app), losses.open_page()
            self._account = losses.Account(lost, parks=parked.possible)
            admission.use(self._account)
            back = functools.partial(parked.let_all_go, losses.DEPENDENCY, _RETURN_WITHIN)
            services.append(self._watching(losses.Watch(watched, lost, back), watched))
        return [*services, *getattr(self._app, "services", ())]

    def _watching(self, watch: losses.Watch, watched: list[losses.Watched]) -> Declaration:
        """The watch as a service, after what it watches and the worker cannot do without."""
        self._watch = watch
        names = tuple(each.check.name for each in watched if each.critical)
        return Declaration(name="losses", factory=lambda: watch, requires=names)

    def _watched(self) -> list[losses.Watched]:
        """What may be lost: a database that tasks require, and services that can be asked."""
        required = any(
            losses.POSTGRES in policy.requires
            for task in self._app.tasks.values()
            if (policy := getattr(task, "policy", None))
        )
        database = [each for each in self._servers if each.name == startup.DATABASE and required]
        return [
            *(losses.Watched(each, critical=True, database=True) for each in database),
            *(losses.Watched(each, critical=each.critical) for each in self._own),
        ]


def _load(worker: Any) -> dict[str, Any]:
    """How busy its pool is. Before there is one, and in pools that cannot say, as much as is known."""
    pool = getattr(worker, "pool", None)
    module = worker.pool_cls if isinstance(worker.pool_cls, str) else worker.pool_cls.__module__
    kind = module.rpartition(".")[2]
    cells = hasattr(pool, "running")
    return {
        "pool": "cells" if cells else _AS_TYPED.get(kind, kind),
        "slots": getattr(pool, "wanted", None) or worker.concurrency or 0,
        "busy": len(pool.running()) if pool is not None and cells else len(state.active_requests),
        "done": pool.processed if pool is not None and cells else state.all_total_count[0],
    }


class LoopBeat(bootsteps.StartStopStep):
    """A consumer's step: its loop beats from each connection to the next loss."""

    # What is required is taken in: with Celery's Tasks a supervisor would consume.
    requires = ("celery.worker.consumer.connection:Connection",)

    def __init__(self, parent: Any, **kwargs: Any) -> None:
        super().__init__(parent, **kwargs)
        self._beat: Beat | None = None
        self._timer: Any = None

    def start(self, parent: Any) -> None:
        """The consumer is connected and about to turn."""
        if not _current or parent.hub is None or isinstance(parent.pool, solo.TaskPool):
            return
        self._beat = _current[0].health.beat("consumer", within=_STALLED)
        self._timer = parent.timer.call_repeatedly(_TURN, self._beat.touch)

    def stop(self, parent: Any) -> None:
        """It turns no more, and should not."""
        del parent
        if self._timer is not None:
            self._timer.cancel()
        if self._beat is not None and _current:
            _current[0].health.forget(self._beat)
        self._beat = self._timer = None


_current: list[Readiness] = []


def connect(notify: Callable[[str], bool]) -> None:
    """Have workers of this process wait before they consume. Safe to repeat."""

    def begin(sender: Any = None, **_: Any) -> None:
        readiness = Readiness(sender, notify)
        _current[:] = [readiness]
        readiness.wait()

    uid = "seawall.readiness"
    signals.worker_init.connect(begin, weak=False, dispatch_uid=uid)
    signals.worker_ready.connect(_on_ready, dispatch_uid=uid)
    signals.worker_shutting_down.connect(_on_shutting_down, dispatch_uid=uid)


def _on_ready(**_: Any) -> None:
    for readiness in _current:
        readiness.consumes()


def _on_shutting_down(**_: Any) -> None:
    for readiness in _current:
        readiness.leaves()


def end(**_: Any) -> None:
    """The worker has ended: its services stop. Safe to repeat."""
    for readiness in _current:
        readiness.stop()


def _after_fork() -> None:
    """A child of the pool is no worker: it has neither health nor services."""
    _current.clear()


os.register_at_fork(after_in_child=_after_fork)
