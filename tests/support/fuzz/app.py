"""The application that workers under the fuzzer run. It writes down each end of a run that it hears of.

Configured by the environment: FUZZ_OUTCOMES is the file for these, FUZZ_ARCS a directory for the branches
that were reached (`arcs`; none are counted without it), FUZZ_DEAD_LETTERS a queue of RabbitMQ for what is
rejected.
"""

import faulthandler
import json
import os
import signal
import time
from pathlib import Path
from typing import Any, cast

import psycopg
from celery import Celery, signals
from celery.exceptions import Reject, SoftTimeLimitExceeded
from kombu import Exchange, Queue
from redis import Redis
from redis.exceptions import OutOfMemoryError
from redis.exceptions import TimeoutError as RedisTimeout

from seawall import Limit, Poisoned, Priority, Retry, Seawall, breaker, policy
from seawall.events import subscribe
from seawall.worker.outcomes import OutcomeSettled
from support.fuzz import arcs

NEIGHBOURS = "fuzz:neighbours"
"""A hash: how often each neighbour ran."""

OPEN = "fuzz-open"
"""The breaker that is forced open: what requires it is parked."""

WHERE = signal.SIGRTMAX
"""Sent to a process, it makes it write down where each of its threads is."""

dependency = breaker(OPEN)
flaky_dependency = breaker(
    "fuzz-flaky", min_calls=5, open_for=0.2, window=2.0, slow_call=0.02, call_timeout=0.5, ramp_for=0.2
)

_FAILURES: tuple[BaseException, ...] = (
    *(TimeoutError(), ConnectionRefusedError(111, "refused"), PermissionError(13, "no"), BrokenPipeError()),
    *(KeyError("planted"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), MemoryError(), EOFError()),
    *(OSError(28, "No space left on device"), OSError(24, "Too many open files"), SystemExit(3)),
    *(ExceptionGroup("several", [ValueError(1), ConnectionError("two")]), AssertionError(), StopIteration()),
    *(psycopg.OperationalError("server closed"), psycopg.errors.DeadlockDetected("again"), RecursionError()),
    *(psycopg.errors.UniqueViolation("twice"), psycopg.errors.UndefinedColumn("which"), Poisoned("twice")),
    *(
        RedisTimeout("silent"),
        OutOfMemoryError("full"),
        SoftTimeLimitExceeded(1),
        Reject("no", requeue=False),
    ),
)


def create(broker_url: str | None = None, *, dead_letters: str | None = None) -> Seawall:
    """The application, with the broker given or that of the settings, and RabbitMQ's queue for rejections."""
    app = Seawall("fuzz", set_as_current=False, autofinalize=True)
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=broker_url)
    if dead_letters is not None:
        rejected = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead_letters}
        app.conf.task_queues = [Queue("celery", Exchange("celery"), "celery", queue_arguments=rejected)]
    for function, options in TASKS:
        app.task(**{"shared": False, "bind": True, "name": f"fuzz.{function.__name__}", **options})(function)
    return app


def neighbour(self: Any, name: str, seconds: float = 0.0) -> None:
    """A healthy task of so many seconds: it says that it ran."""
    time.sleep(seconds)
    cast("Redis", self.app.backend.client).hincrby(NEIGHBOURS, name, 1)


def echo(_self: Any, *args: Any, **kwargs: Any) -> Any:
    """Returns what it is given."""
    return [args, kwargs]


@policy(priority=Priority.HIGH, retry=Retry(max_attempts=2, base=0.01, cap=0.02))
def fail(_self: Any, *args: Any, **kwargs: Any) -> None:
    """Fails with what it is given."""
    raise ConnectionError(f"cannot use {args} {kwargs}")


def again(self: Any, *args: Any, wait: float = 0.01, **kwargs: Any) -> Any:
    """Retries by hand, once."""
    if not self.request.retries:
        raise self.retry(countdown=wait, max_retries=1)
    return [args, kwargs]


@policy(limit=Limit("fuzz:{key}", 2))
def limited(_self: Any, key: Any = None) -> Any:
    """Two at a time for each key."""
    return key


@policy(requires=[OPEN])
def require(_self: Any, *args: Any) -> Any:
    """Waits for a breaker that stays open."""
    return args


@policy(timeout=5)
def brief(_self: Any, *args: Any) -> None:
    """Has limits of its own, and ends well within them."""
    time.sleep(0.002)


@policy(memory="64MiB", redact=["secret"])
def budgeted(_self: Any, *args: Any, secret: Any = None) -> int:
    """Has a memory budget, and secrets."""
    return len(args)


def kill(_self: Any, *_args: Any) -> None:
    """Kills the process that runs it."""
    os.kill(os.getpid(), signal.SIGKILL)


def flaky(_self: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a service that fails, is slow, or answers, as its arguments have it."""
    chosen = len(repr((args, kwargs))) % 5
    with flaky_dependency:
        time.sleep(0.03 if chosen == 1 else 0.0)
        if chosen > 1:
            raise ConnectionError("the service is away")
    return flaky_dependency.call(len, args) if chosen else None


@policy(retry=Retry(max_attempts=2, base=0.01, cap=0.02))
def fails_somehow(_self: Any, *args: Any, **kwargs: Any) -> None:
    """Fails in one of the ways of the libraries that it uses, as its arguments have it."""
    failure = _FAILURES[len(repr((args, kwargs))) % len(_FAILURES)]
    try:
        raise failure
    finally:
        failure.__traceback__ = None


def on_error(*_args: Any, **_kwargs: Any) -> None:
    """What `link_error` calls."""


TASKS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (neighbour, {"ignore_result": True}),
    (echo, {}),
    (fail, {}),
    (again, {}),
    (limited, {}),
    (require, {}),
    (brief, {}),
    (budgeted, {}),
    (kill, {}),
    (flaky, {}),
    (fails_somehow, {}),
    (on_error, {"bind": False}),
    (echo, {"name": "fuzz.early", "acks_late": False}),
    (echo, {"name": "fuzz.quiet", "ignore_result": True}),
    (echo, {"name": "fuzz.paced", "rate_limit": "1000/s"}),
    (echo, {"name": "fuzz.tracked", "track_started": True}),
)


def _write_down(path: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def heard(event: OutcomeSettled) -> None:
        os.write(descriptor, f"{json.dumps([event.task_id, event.state, os.getpid()])}\n".encode())

    def forked() -> None:
        os.write(descriptor, f"{json.dumps([None, 'forked', os.getpid()])}\n".encode())

    def stop_dependants(**_: Any) -> None:
        dependency.force_open("nothing that requires it may run")

    if "FUZZ_DEAD_LETTERS" not in os.environ:  # RabbitMQ parks nothing: they would go round and round
        signals.worker_init.connect(stop_dependants, weak=False)
    subscribe(OutcomeSettled, heard)
    os.register_at_fork(after_in_child=forked)


app: Celery = create(dead_letters=os.environ.get("FUZZ_DEAD_LETTERS"))
faulthandler.register(WHERE)
if "FUZZ_OUTCOMES" in os.environ:
    _write_down(os.environ["FUZZ_OUTCOMES"])
if "FUZZ_ARCS" in os.environ:
    arcs.collect(Path(os.environ["FUZZ_ARCS"]))
