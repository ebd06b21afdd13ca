"""The application that worker nodes run: tasks that succeed, fail, wait, and kill what runs them.

Tasks write what they do into a Redis list, the journal: its order is the order in which they really ran.
A worker is started with `celery -A support.shop worker`; a test submits through `create()`, which makes the
same application again.
"""

import logging
import os
import signal
import sys
import threading
import time
from typing import Any, cast

import celery
from celery import Celery
from celery.exceptions import Reject, SoftTimeLimitExceeded
from redis import Redis

from seawall import Limit, Priority, Retry, Seawall, error_boundary, policy
from support import secret_forms

logger = logging.getLogger(__name__)

JOURNAL = "journal"
EAGER_RETRY = Retry(max_attempts=3, base=0.05, cap=0.1)


def store(app: Celery) -> "Redis":
    """The Redis behind the app's results, which keeps the journal and the switches too."""
    return cast("Redis", cast("Any", app.backend).client)


def journal(app: Celery, task_id: str | None = None) -> list[str]:
    """The lines that tasks wrote, oldest first; with `task_id` those of one task alone.

    A process may write its last line after its task's result is there, so a test that compares whole journals
    reads each task's own: a late line of the task before never turns up in it.
    """
    lines = cast("list[bytes]", store(app).lrange(f"{JOURNAL} of {task_id}" if task_id else JOURNAL, 0, -1))
    return [line.decode() for line in lines]


def note(task: "celery.Task[Any, Any]", line: str, task_id: str | None = None) -> None:
    """Write one line; the task's id is looked up where it runs, and given elsewhere."""
    client = store(task.app)
    client.rpush(JOURNAL, line)
    client.rpush(f"{JOURNAL} of {task_id or task.request.id}", line)


def create(broker_url: str | None = None, result_url: str | None = None) -> Seawall:
    """The application, of its own, with the URLs given or those of the settings."""
    app = Seawall("shop", set_as_current=False, autofinalize=True)
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=result_url or broker_url)
    for function, options in TASKS:
        app.task(**{"shared": False, "bind": True, "name": f"shop.{function.__name__}", **options})(function)
    return app


@policy(priority=Priority.LOW)
def low(self: "celery.Task[Any, Any]", label: str) -> str:
    note(self, label)
    return label


@policy(limit=Limit("tenant:{tenant}", 1))
def limited(self: "celery.Task[Any, Any]", tenant: str) -> str:
    return "done"


def unreadable(self: "celery.Task[Any, Any]", path: str) -> None:
    raise ValueError(f"cannot parse {path}")


def add(self: "celery.Task[Any, Any]", left: int, right: int) -> int:
    return left + right


def total(self: "celery.Task[Any, Any]", numbers: list[int]) -> int:
    return sum(numbers)


def echo(_self: "celery.Task[Any, Any]", value: Any) -> Any:
    return value


def echo_early(_self: "celery.Task[Any, Any]", value: Any) -> Any:
    """Acknowledged when it starts."""
    return value


def record(self: "celery.Task[Any, Any]", label: str) -> str:
    note(self, label)
    return label


def unseen(_self: "celery.Task[Any, Any]", label: str) -> str:
    """Sends no events."""
    return label


def record_failure(request: Any, exc: BaseException, traceback: str) -> None:
    """An errback: `link_error` calls it with what went wrong; unbound, or Celery would pass the id alone."""
    note(celery.current_task, f"errback {type(exc).__name__}")


def wait_for(self: "celery.Task[Any, Any]", switch: str, label: str) -> str:
    """Run until the test sets the key `switch`."""
    note(self, f"started {label}")
    while not store(self.app).exists(switch):
        time.sleep(0.02)
    note(self, f"finished {label}")
    return label


def tell_process(self: "celery.Task[Any, Any]") -> int:
    return os.getpid()


@policy(retry=EAGER_RETRY)
def unreachable(self: "celery.Task[Any, Any]") -> None:
    note(self, f"attempt {self.request.retries} at {time.time()}")
    raise ConnectionError("the dependency is away")


class ThrottledError(ConnectionError):
    retry_after = 1.0


@policy(retry=Retry(max_attempts=2, base=0.01, cap=0.02))
def told_to_wait(self: "celery.Task[Any, Any]") -> None:
    note(self, f"at {time.time()}")
    raise ThrottledError


@policy(redact=["card"])
def leaky(self: "celery.Task[Any, Any]", api_token: str, card: str) -> None:
    raise ValueError(f"cannot log in to postgresql://u:{api_token}@db with token={card}")


class GatewayError(ConnectionError):
    """What a client library raises that puts all it knows into its message."""


@policy(redact=["card"], retry=Retry(max_attempts=2, base=0.05, cap=0.1))
def outspoken(self: "celery.Task[Any, Any]", api_token: str, card: str, order: dict[str, Any]) -> None:
    logger.warning("charging %s with %s for %s", card, api_token, order)
    logger.warning("as fields", extra={"card_used": card, "password": "planted-by-name"})
    sys.stdout.write(f"on stdout: {card} {api_token}\n")
    forms = [*secret_forms.printed("planted-9182736455")]
    for form in forms:
        logger.warning("form: %s", form)
    headers = {
        "Authorization": "Bearer planted-in-header",
        "Cookie": "sid=planted-in-cookie; a=planted-second",
    }
    url = f"https://u:planted-in-url@gateway/pay?api_key=planted-in-query&card={card}"
    try:
        said = "\n\n".join(forms)
        raise ValueError(f"{headers} {order}\n{said}")  # noqa: TRY301 - one place plants
    except ValueError as exc:
        raise GatewayError(
            f"cannot reach {url} with {headers} for {card}", {"token": "planted-in-args"}
        ) from exc


@policy(redact=["card"])
def hesitant(self: "celery.Task[Any, Any]", api_token: str, card: str) -> None:
    """Goes back once, with a reason that shows what it was given."""
    if store(self.app).incr("deliveries of hesitant") == 1:
        raise Reject(f"not now, {api_token} and {card}", requeue=True)


def nesting(self: "celery.Task[Any, Any]", *, within: bool = False) -> None:
    """One line before, one in and one after another task that it runs itself."""
    logger.warning("before", extra={"within": within})
    if not within:
        self.apply(kwargs={"within": True}, task_id="inner")
    logger.warning("after", extra={"within": within})


@policy(retry=EAGER_RETRY)
def mistaken(self: "celery.Task[Any, Any]") -> None:
    note(self, f"attempt {self.request.retries}")
    raise ValueError("trying again would not help")


@policy(retry=Retry(max_attempts=2, base=0.05, cap=0.1, on=KeyError))
def picky(self: "celery.Task[Any, Any]", kind: str) -> None:
    note(self, f"{kind} {self.request.retries}")
    raise {"listed": KeyError, "unlisted": ConnectionError}[kind](kind)


@policy(retry=EAGER_RETRY)
def recovering(self: "celery.Task[Any, Any]") -> int:
    if self.request.retries < 2:
        raise ConnectionError("not yet")
    return self.request.retries


def retries_by_hand(self: "celery.Task[Any, Any]") -> None:
    note(self, f"attempt {self.request.retries}")
    raise self.retry(exc=ValueError("by hand"), countdown=0.05, max_retries=1)


WRONG_RETRIES: dict[str, dict[str, Any]] = {
    "countdown": {"countdown": "5m"},
    "eta": {"eta": 5.0},
    "time_limit": {"time_limit": float("nan")},
    "args": {"args": (object(),)},
}


def retries_wrongly(self: "celery.Task[Any, Any]", kind: str) -> None:
    raise self.retry(exc=LookupError("the task's own"), **WRONG_RETRIES[kind])


def retries_by_celery(self: "celery.Task[Any, Any]") -> None:
    note(self, f"attempt {self.request.retries}")
    raise ValueError("by autoretry_for")


@policy(timeout=0.5)
def patient(self: "celery.Task[Any, Any]") -> str:
    """Longer than its soft limit, which it handles."""
    try:
        time.sleep(30)
    except SoftTimeLimitExceeded:
        return "tidied up"
    return "never interrupted"


def stubborn(self: "celery.Task[Any, Any]") -> None:
    """Longer than both limits, and deaf to the soft one."""
    for _ in range(100):
        try:
            time.sleep(30)
        except SoftTimeLimitExceeded:
            note(self, "soft limit ignored")


def lets_escape(self: "celery.Task[Any, Any]") -> None:
    """One error in a thread that nobody looks after, and one at a boundary."""

    def fail() -> None:
        raise LookupError("in a thread")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    with error_boundary("here", stop=True):
        raise LookupError("at a boundary")


def quits(self: "celery.Task[Any, Any]") -> None:
    sys.exit("enough")


def greedy(self: "celery.Task[Any, Any]") -> None:
    raise MemoryError("no 12 GiB left")


@policy(retry=Retry(max_attempts=2))
def suicidal(self: "celery.Task[Any, Any]", padding: str = "") -> None:
    note(self, f"suicidal, retries {self.request.retries}")
    os.kill(os.getpid(), signal.SIGKILL)


def refuses_once(self: "celery.Task[Any, Any]", label: str) -> str:
    """Kills its process at its first delivery, and runs at the second."""
    note(self, label)
    if store(self.app).incr(f"deliveries of {label}") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return label


TASKS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (low, {}),
    (limited, {}),
    (unreadable, {}),
    (add, {}),
    (total, {}),
    (echo, {}),
    (echo_early, {"acks_late": False}),
    (record, {}),
    (unseen, {"send_events": False}),
    (record_failure, {"bind": False}),
    (wait_for, {}),
    (tell_process, {}),
    (unreachable, {}),
    (told_to_wait, {}),
    (leaky, {}),
    (outspoken, {}),
    (hesitant, {}),
    (nesting, {}),
    (mistaken, {}),
    (picky, {}),
    (recovering, {}),
    (retries_by_hand, {}),
    (retries_wrongly, {}),
    (
        retries_by_celery,
        {
            "autoretry_for": (ValueError,),
            "max_retries": 1,
            "retry_backoff": False,
            "default_retry_delay": 0.05,
        },
    ),
    (patient, {}),
    (stubborn, {"soft_time_limit": 0.5, "time_limit": 1.5}),
    (lets_escape, {}),
    (quits, {}),
    (greedy, {}),
    (suicidal, {}),
    (refuses_once, {}),
)

app = create()
