"""Its tasks: `celery -A support.features.app worker`."""

import os
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from support.features.application import app, note, store


class Hooked(Task):  # type: ignore[type-arg]
    """Every hook of a task class."""

    abstract = True

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        note(task_id, f"before_start {list(args)} {kwargs}")

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        note(task_id, f"on_success {retval} {list(args)} {kwargs}")

    def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(task_id, f"on_failure {exc!r} {list(args)} {kwargs} {type(einfo).__name__}")

    def on_retry(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        note(task_id, f"on_retry {exc!r} {list(args)} {kwargs} {type(einfo).__name__}")

    def after_return(self, status: str, retval: Any, task_id: str, *more: Any) -> None:
        args, kwargs, einfo = more
        note(task_id, f"after_return {status} {retval!r} {list(args)} {kwargs} {type(einfo).__name__}")


def task(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """A task that is called look.<function>."""

    def decorate(function: Callable[..., Any]) -> Any:
        return app.task(**{"name": f"look.{function.__name__}", **options})(function)

    return decorate


SHOWN = (
    "retries", "is_eager", "called_directly", "timelimit", "shadow",
    "argsrepr", "kwargsrepr", "callbacks", "errbacks", "chain", "chord", "group_index", "utc", "loglevel",
    "ignore_result", "stamped_headers", "stamps", "correlation_id", "replaced_task_nesting",
)  # fmt: skip
IDS = ("id", "root_id", "parent_id", "group", "eta", "expires", "origin", "hostname")


@task(bind=True)
def tell(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What a task sees of its request."""
    request = self.request
    place = request.delivery_info or {}
    shown = {name: getattr(request, name, "-") for name in SHOWN}
    shown["correlation_id"] = request.correlation_id == request.id
    own = sorted(set(request.headers or {}) & {"tenant", "trace"})
    return {
        **shown,
        "args": list(args),
        "kwargs": kwargs,
        "reply_to": request.reply_to and ("a client" if len(request.reply_to) == 36 else request.reply_to),
        "headers": own,
        "tenant": getattr(request, "tenant", None),
        **{name: getattr(request, name, None) is not None for name in IDS},
        "is root": request.root_id == request.id,
        "place": {name: place.get(name) for name in ("exchange", "routing_key", "redelivered")},
        "priority": place.get("priority"),
    }


@task()
def echo(value: Any = None) -> Any:
    return value


@task()
def add(left: Any, right: Any) -> Any:
    return left + right


@task()
def total(numbers: Any) -> Any:
    return sum(numbers)


@task()
def fail(text: str = "failed") -> None:
    raise ValueError(text)


@task()
def noted(key: str, line: Any = "ran") -> Any:
    note(key, line)
    return line


@task()
def told(value: Any, key: str) -> Any:
    """A callback: notes what it was given."""
    note(key, f"told {value}")
    return value


@task()
def errback(request: Any, exc: Any, traceback: Any, key: str = "") -> None:
    note(key, f"errback {request.task} {exc!r} {bool(traceback)}")


@task(bind=True)
def old_errback(self: Any, parent: str, key: str = "") -> None:
    note(key, f"old errback {self.request.root_id == parent}")


@task(bind=True, max_retries=3)
def again(self: Any, key: str, times: int = 1, **options: Any) -> Any:
    """Retry `times` times with the arguments given."""
    note(key, f"{self.request.retries} {options.get('note', '')}".strip())
    if self.request.retries < times:
        if (error := options.pop("error", None)) is not None:
            options["exc"] = KeyError(error)
        if (seconds := options.pop("eta", None)) is not None:
            options["eta"] = datetime.now(UTC) + timedelta(seconds=seconds)
        options.pop("note", None)
        if options.pop("swallow", False):
            return str(type(self.retry(throw=False, countdown=0.5, **options)).__name__)
        raise self.retry(**{"countdown": 0, **options})
    return [
        self.request.retries,
        self.request.timelimit,
        (self.request.delivery_info or {}).get("routing_key"),
    ]


@task(bind=True, autoretry_for=(KeyError,), retry_backoff=False, default_retry_delay=0, max_retries=2)
def auto(self: Any, key: str, error: str = "KeyError") -> None:
    note(key, self.request.retries)
    raise {"KeyError": KeyError, "ValueError": ValueError}[error](error)


@task(
    bind=True,
    autoretry_for=(Exception,),
    dont_autoretry_for=(LookupError,),
    retry_kwargs={"max_retries": 1, "countdown": 0},
)
def auto_but(self: Any, key: str, error: str) -> None:
    note(key, self.request.retries)
    raise {"KeyError": KeyError, "ValueError": ValueError}[error](error)


@task(
    bind=True,
    autoretry_for=(KeyError,),
    retry_backoff=1,
    retry_backoff_max=0,
    retry_jitter=False,
    max_retries=2,
)
def backing_off(self: Any, key: str) -> None:
    note(key, self.request.retries)
    raise KeyError(key)


@task(bind=True, base=Hooked, max_retries=1)
def hooked(self: Any, how: str, more: int = 0) -> Any:
    if how == "retry" and not self.request.retries:
        raise self.retry(exc=KeyError(how), countdown=0.5)
    if how == "fail":
        raise ValueError(how)
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject("no", requeue=False)
    return more


@task(bind=True, acks_late=True)
def rejecting(self: Any, key: str, requeue: bool = False) -> str:  # noqa: FBT002 - a task's argument
    again = bool((self.request.delivery_info or {}).get("redelivered"))
    note(key, f"redelivered {again}")
    if not again:
        raise Reject("not now", requeue=requeue)
    return "taken"


def _die_once(task: Any, key: str) -> str:
    note(key, "starts")
    if store.incr(f"deaths {key}") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"


@task(bind=True, acks_late=True, reject_on_worker_lost=True)
def dying_late(self: Any, key: str) -> str:
    return _die_once(self, key)


@task(bind=True, acks_late=True, reject_on_worker_lost=False)
def dying_unrepeated(self: Any, key: str) -> str:
    return _die_once(self, key)


@task(bind=True, acks_late=False)
def dying_early(self: Any, key: str) -> str:
    return _die_once(self, key)


@task(bind=True)
def dying(self: Any, key: str) -> str:
    """Says nothing of acknowledgements."""
    return _die_once(self, key)


@task(bind=True)
def stating(self: Any, key: str) -> str:
    """A state of its own, until the test has seen it."""
    self.update_state(state="HALFWAY", meta={"done": 1})
    _wait(key)
    return "done"


@task(bind=True)
def stating_for_good(self: Any) -> None:
    self.update_state(state="KEPT", meta={"done": 2})
    raise Ignore


@task(track_started=True)
def tracked(key: str) -> str:
    _wait(key)
    return "done"


@task()
def waits(key: str) -> str:
    note(key, "waits")
    _wait(key)
    return "done"


def _wait(key: str) -> None:
    ends = time.monotonic() + 60
    while not store.exists(f"go {key}") and time.monotonic() < ends:
        time.sleep(0.01)


@task(soft_time_limit=0.4, time_limit=30)
def soft(key: str, *, caught: bool = False) -> str:
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        note(key, "soft")
        if not caught:
            raise
    return "tidied"


@task(time_limit=1)
def hard() -> None:
    time.sleep(30)


@task()
def naps(seconds: float = 30) -> str:
    time.sleep(seconds)
    return "rested"


@task()
def pid() -> int:
    return os.getpid()


@task(throws=(KeyError,))
def throwing() -> None:
    raise KeyError("expected")


@task(ignore_result=True)
def ignored(key: str) -> str:
    note(key, "ran")
    return "ignored"


@task(ignore_result=True, store_errors_even_if_ignored=True)
def ignored_but_errors() -> None:
    raise ValueError("kept")


@task(typing=False)
def untyped(one: int) -> int:
    return one


@task(send_events=False)
def unseen() -> str:
    return "unseen"


@task(priority=3, expires=600, compression="gzip", queue="first")
def optioned() -> str:
    return "optioned"


@task(bind=True, default_retry_delay=0)
def annotated(self: Any) -> int:
    note(self.request.id, f"max_retries {self.max_retries}")
    raise ValueError("annotated")


@task(rate_limit="2/s")
def rated() -> float:
    return time.time()


class OwnError(Exception):
    """With arguments of its own."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


@task(acks_late=False, max_retries=0)
def raising(what: str) -> Any:
    """End in unusual ways."""
    if what == "own":
        raise OwnError(7, "own")
    if what == "cause":
        raise ValueError("outer") from KeyError("inner")
    if what == "exit":
        raise SystemExit(3)
    if what == "unserializable":
        return object()
    if what == "group":
        raise ExceptionGroup("both", [ValueError("one"), KeyError("two")])
    if what == "bytes":
        return b"bytes"
    return {1: datetime(2030, 1, 2, tzinfo=UTC)}


@task(bind=True)
def replacing(self: Any, how: str, value: int = 1) -> Any:
    if how == "chord":
        raise self.replace(app.signature("look.echo", (value,)) | app.signature("look.add", (10,)))
    if how == "group":
        from celery import group

        raise self.replace(group(add.s(value, each) for each in (1, 2)))
    raise self.replace(add.s(value, 100))


@task(bind=True)
def growing(self: Any, value: int) -> int:
    """Adds one more to its chord."""
    self.add_to_chord(add.s(value, 100))
    return value


@task(bind=True)
def parental(self: Any, depth: int = 1, trailed: bool = True) -> str:  # noqa: FBT002 - a task's argument
    """Submits others, which become its children."""
    for number in range(2):
        add.apply_async((depth, number), add_to_parent=trailed)
    return "parent"


@task(trail=False)
def trackless() -> str:
    add.delay(1, 1)
    return "no trail"


@task(bind=True)
def asking(self: Any, *, allowed: bool = False) -> Any:
    """Waits for another task's result within a task."""
    result = add.delay(1, 2)
    if allowed:
        from celery.result import allow_join_result

        with allow_join_result():
            return result.get(timeout=20)
    return result.get(timeout=20)


@task(bind=True)
def about(self: Any) -> dict[str, Any]:
    """What a task knows of itself."""
    return {
        "name": self.name,
        "app": self.app.main,
        "max_retries": self.max_retries,
        "delay": self.default_retry_delay,
        "current": app.current_task is not None and app.current_task.name,
        "worker": bool(self.request.hostname),
        "ignores": self.ignore_result,
        "tracks": self.track_started,
        "serializer": self.serializer,
        "backend": type(self.backend).__mro__[-2].__name__ if self.backend else None,
    }


class Classy(Task):  # type: ignore[type-arg]
    """A task made of a class."""

    name = "look.classy"
    calls = 0

    def run(self, value: int) -> list[Any]:
        self.calls += 1
        return [value, self.calls > 0, type(self).__name__]


app.register_task(Classy())


def where(self: Any) -> Any:
    return (self.request.delivery_info or {}).get("routing_key")


for _name in ("routed.exactly", "glob.one", "team.one", "routed.function", "routed.not"):
    app.task(bind=True, name=_name)(where)


def named_by_its_module() -> str:
    return "named"


app.task(named_by_its_module)
