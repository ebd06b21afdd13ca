"""`bootstrap()`: one line that makes a web process, a script or a producer ready, and `System`, what it gave.

Settings, logging, servers, a migrated database and the application's own services, in order, side by side
where they can be; or one error that names what is missing, with nothing left running.

    servers ──► redis, broker, database ──► migrations ──► your services
    memory, health, errors: from the start
"""

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seawall import boundary, logs, memory, servers, startup
from seawall.config import settings
from seawall.errors import ConfigError
from seawall.health import Beat, Health, HealthReport, HealthServer, Question, server_checks
from seawall.memory.process import ProcessWatch
from seawall.quantity import shown
from seawall.runtime import Declaration, Runtime, StartReport, declaration_of

if TYPE_CHECKING:
    from celery import Celery

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """What `bootstrap` sets up; everything that is not switched off.

    Attributes:
        logging: structured lines on stderr (docs/logging.md), unless the root logger has a handler.
        errors: what nobody catches, in any thread or asyncio task, is logged once and counted
            (docs/failures.md), now and in processes that are forked; `shutdown` leaves it so.
        redis: wait until Redis answers.
        broker: wait until the broker answers, where that is another server.
        database: wait until PostgreSQL executes a statement.
        migrations: look whether the database is migrated; see `startup.migrations`.
        health: answer at `health.address`, if that is set.
        memory: watch what this process and those it starts hold, so that `seawall.memory` has a level and
            calls what `on_pressure` registered (docs/memory.md). A worker in this process does that itself.
        sigterm: SIGTERM ends the process as `sys.exit(143)` in its main thread does, so that services are
            stopped; a second one ends it at once. A handler that the process has or sets stays.
    """

    logging: bool = True
    errors: bool = True
    redis: bool = True
    broker: bool = True
    database: bool = True
    migrations: bool = True
    health: bool = True
    memory: bool = True
    sigterm: bool = True


class System:
    """What a process was made ready with. Get one from `bootstrap()`."""

    def __init__(self, app: "Celery | None", services: Iterable[Declaration], features: Features) -> None:
        self.app = app
        self.features = features
        self._services = tuple(services)
        self._since = time.monotonic()
        self._health = Health(
            server_checks(
                redis=servers.redis_url if features.redis else None,
                broker=self._broker_url if features.broker else None,
                database=servers.database_url if features.database else None,
            )
            + startup.service_checks(self._services),
            started=lambda: self._runtime.started,
            ready=lambda: self._runtime.ready,
        )
        self._runtime = Runtime([*self._platform(), *self._services])
        self._memory = ProcessWatch(settings().memory) if features.memory else None

    def __getitem__(self, name: str) -> object:
        """What the service `name` returned or yielded; KeyError if it is not up."""
        return self._runtime[name]

    def health(self, question: Question = Question.READY) -> HealthReport:
        """Whether this process is ready (or live, or has started), within 50 ms whatever its servers do."""
        return self._health.ask(question)

    def beat(self, name: str, *, within: float = 60.0) -> Beat:
        """A loop of yours on which liveness rests: call `touch()` on it at least every `within` seconds."""
        return self._health.beat(name, within=within)

    def report(self) -> StartReport:
        """What the start took, service by service."""
        return self._runtime.report()

    def metrics(self) -> dict[str, float]:
        """Numbers by name: times in seconds, sizes in bytes, states as 1 or 0, errors since it began."""
        health = self._health.ready()
        numbers = {"uptime_seconds": time.monotonic() - self._since, "ready": float(health.ok)}
        numbers |= {f"errors.{category}": float(count) for category, count in boundary.counts().items()}
        if self._memory is not None:
            numbers |= _memory_numbers()
        for each in self._runtime.report().services:
            numbers[f"service_start_seconds.{each.name}"] = each.seconds
            numbers[f"service_start_attempts.{each.name}"] = float(each.attempts)
        for check in health.checks:
            numbers[f"check_up.{check.name}"] = float(check.ok)
            if check.seconds is not None:
                numbers[f"check_seconds.{check.name}"] = check.seconds
        if self.features.database and self._runtime.started:
            from seawall.database import database

            numbers |= {f"database_{name}": float(value) for name, value in database().stats().items()}
        return numbers

    def shutdown(self) -> None:
        """Stop every service in reverse; safe to repeat. A forked child touches nothing of its parent's."""
        _forget(self)
        self._runtime.stop()
        if self._memory is not None:
            self._memory.stop()

    def serves(self, app: "Celery | None", services: tuple[Declaration, ...], features: Features) -> bool:
        """Whether another `bootstrap` with these arguments asks for what there is already."""
        return (
            (app is None or app == self.app)  # equal also by a proxy, such as `celery.current_app`
            and set(services) <= set(self._services)
            and features == self.features
        )

    def _start(self) -> None:
        if self._memory is not None:
            self._memory.start()  # before the services, which may register for pressure
        try:
            with startup.told_while_waiting(self._runtime.report):
                report = self._runtime.start()
        except BaseException:
            if self._memory is not None:
                self._memory.stop()
            raise
        for line in report.lines():
            logger.info(line)

    def _broker_url(self) -> str:
        url = servers.broker_url() if self.app is None else self.app.conf.broker_url
        return url if isinstance(url, str) else ";".join(url)

    def _platform(self) -> list[Declaration]:
        """The declarations of what is switched on."""
        features, servers_of_ours = self.features, startup.embedded_servers()
        ground = servers_of_ours.name
        declared: list[Declaration] = []
        if features.redis or features.broker or features.database:
            declared.append(servers_of_ours)
        if features.health and (address := settings().health.address):
            # Several processes may share one environment: the others do without.
            declared.append(
                Declaration(
                    name="health",
                    factory=lambda: HealthServer(self._health, address),
                    critical=False,
                    attempts=1,
                )
            )
        if features.redis:
            declared.append(startup.redis(ground))
        if features.broker:
            declared.append(startup.broker(self._broker_url, ground))
        if features.database:
            declared.append(startup.database(ground))
            if features.migrations and (migrations := startup.migrations(startup.DATABASE)):
                declared.append(migrations)
        return declared


def _memory_numbers() -> dict[str, float]:
    used = memory.usage()
    return {
        "memory_process_bytes": float(used.process),
        "memory_used_bytes": float(used.workers),
        "memory_budget_bytes": float(used.budget),
        "memory_pressure": float(used.level),
    }


def bootstrap(
    app: "Celery | None" = None, *, services: Iterable[object] = (), features: Features | None = None
) -> System:
    """Make this process ready, or raise with nothing left running. Repeated, it returns the same `System`.

    With `app`, that application is given Seawall's defaults first, as `seawall.install` does. A forked child
    that wants one calls it again and gets its own. It is shut down when the process ends, if not before.

    Raises:
        ConfigError: an argument or a setting is wrong, or an earlier call in this process asked for other
            services or features.
        StartupError: something critical could not be started in time; it names it.
    """
    features, declared = _checked(services, features)
    with _lock:
        if _current:
            if not _current[0].serves(app, declared, features):
                raise ConfigError(
                    "bootstrap() was called before with another app, other services or features: call it "
                    "once with all of them, or shutdown() the first System"
                )
            return _current[0]
        settings()  # a wrong one is told before anything is started
        if features.logging:
            logs.setup()
        if features.errors:
            boundary.install()
        if app is not None:
            from seawall.worker.app import install

            app = install(app)
            declared = tuple(dict.fromkeys((*vars(app).get("services", ()), *declared)))
        system = System(app, declared, features)
        _beginning.append(system)
        try:
            system._start()  # noqa: SLF001 - only a started one is given away
        finally:
            _beginning.remove(system)
        _current.append(system)
        if features.sigterm:
            _exchange_sigterm(signal.SIG_DFL, _exit_on_sigterm)
        return system


def _checked(services: Any, features: Any) -> tuple[Features, tuple[Declaration, ...]]:
    """The arguments of `bootstrap`.

    Raises:
        ConfigError: they are none, or a service that it starts has called it.
    """
    if not isinstance(features, Features | None):
        raise ConfigError(f"features={shown(features)} is no Features: write Features(health=False)")
    if isinstance(services, str) or not isinstance(services, Iterable):
        raise ConfigError(f"services={shown(services)} is no list: write services=[...]")
    if any(each._runtime.calls_here for each in _beginning):  # noqa: SLF001 - of this module
        raise ConfigError(
            "bootstrap() was called by a service that it starts, for which it waits: give a service what it "
            "needs by `requires`, and ask for the System once bootstrap() has returned"
        )
    return features or Features(), tuple(declaration_of(each) for each in services)


def _forget(system: System) -> None:
    if system in _current:
        _current.remove(system)
        _exchange_sigterm(_exit_on_sigterm, signal.SIG_DFL)


def _exchange_sigterm(present: object, wanted: Any) -> None:
    """Handle SIGTERM by `wanted` if it is `present` that handles it: a server's or an application's stays."""
    if signal.getsignal(signal.SIGTERM) is present:
        with contextlib.suppress(ValueError):  # a thread that is not the main one may not
            signal.signal(signal.SIGTERM, wanted)


def _exit_on_sigterm(number: int, _frame: object) -> None:
    """Leave as the end of the script would, with the status that a shell gives a process that it killed."""
    _exchange_sigterm(_exit_on_sigterm, signal.SIG_DFL)
    raise SystemExit(128 + number)


_current: list[System] = []
_beginning: list[System] = []
"""The one that is being started, if one is."""

_lock = threading.Lock()


def _after_fork() -> None:
    """A child has no System until it asks for one: its parent's threads and services are not here."""
    global _lock  # noqa: PLW0603 - another thread may have held it
    _lock = threading.Lock()
    _inherited.extend(_current)
    _current.clear()
    _beginning.clear()
    _exchange_sigterm(_exit_on_sigterm, signal.SIG_DFL)


def _at_exit() -> None:
    for system in _current:
        system.shutdown()


_inherited: list[System] = []
os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
