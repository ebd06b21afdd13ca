"""An application that tells all that happens to its tasks: hooks, signals, accounts of the gate.

Everything goes into the journal of `support.shop`, in order. A worker is started with
`celery -A support.reef worker`; a test submits through `create()`.
"""

import ctypes
import functools
import itertools
import logging
import operator
import os
import signal
import threading
import time
from typing import Any

from celery import Celery, Task, signals
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded

from seawall import Seawall, admission, policy
from seawall.admission import ADMIT, Candidate, Hold, Park, Refuse, Verdict
from seawall.errors import MemoryBudgetExceeded
from seawall.memory.board import Board
from seawall.worker.task import Postponed
from support.shop import note, store


class Telltale(Task):  # type: ignore[type-arg]
    """A base class of the application's own, with every hook."""

    abstract = True

    def on_success(self, retval: Any, task_id: str, *_: Any) -> None:
        note(self, f"on_success {retval}", task_id)

    def on_failure(self, exc: Exception, task_id: str, args: Any, *_: Any) -> None:
        note(self, f"on_failure {type(exc).__name__} {list(args)}", task_id)

    def on_retry(self, exc: Exception, task_id: str, *_: Any) -> None:
        note(self, f"on_retry {type(exc).__name__}", task_id)

    def after_return(self, status: str, _retval: Any, task_id: str, *_: Any) -> None:
        note(self, f"after_return {status}", task_id)


def act(self: Telltale, how: str) -> str:
    """End in one of many ways."""
    if how == "fail":
        raise ValueError(how)
    if how == "retry" and not self.request.retries:
        raise self.retry(exc=ValueError(how), countdown=0.01, max_retries=1)
    if how == "ignore":
        raise Ignore
    if how == "reject":
        raise Reject("no", requeue=False)
    if how == "requeue" and not (self.request.delivery_info or {})["redelivered"]:
        raise Reject("not now", requeue=True)
    if how == "eta":
        return str(self.request.eta)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "exit":
        raise SystemExit(3)
    if how == "state":
        self.update_state(state="HALFWAY", meta={"done": 1})
        raise Ignore
    return how


def postponed(self: Telltale) -> None:
    """Put aside by itself, once."""
    if not store(self.app).getset("postponed", 1):
        raise Postponed(0.1)


def nap(self: Telltale, seconds: float) -> str:
    """Sleep, in steps that a soft limit interrupts."""
    note(self, f"nap of {os.getpid()}")
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        note(self, "soft")
        raise
    return "rested"


def grip(self: Telltale, seconds: float) -> None:
    """Keep the interpreter's lock in C code, as a bad extension does."""
    note(self, "grip")
    ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))


@policy(memory="40MiB", memory_limit="60MiB")
def gorge(self: Telltale) -> None:
    """More than its hard limit of memory, in C code that hears of no signal."""
    pieces = itertools.chain([bytearray()], itertools.repeat(bytes(1 << 20), 300))
    functools.reduce(operator.iadd, pieces)
    time.sleep(60)


def mark(self: Telltale, label: str) -> str:
    note(self, label)
    return label


def through(self: Telltale, label: str, seconds: float = 0.2) -> str:
    """One at a time, by `OneAtATime`; says so if that is not so."""
    here = store(self.app).incr("inside")
    note(self, f"{label} beside {int(here) - 1}")
    time.sleep(seconds)
    store(self.app).decr("inside")
    return label


def early(self: Telltale) -> None:
    """Acknowledged before it runs."""
    note(self, "early")
    time.sleep(30)


class OneAtATime:
    """Lets one `through` run at a time, counted where all processes see it."""

    name = "one"

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._holds: set[str] = set()

    def ask(self, candidate: Candidate) -> Verdict:
        if candidate.name != "reef.through":
            return ADMIT
        if not store(self._app).set("through", candidate.id, nx=True):
            return Hold("one at a time", 0.05)
        self._holds.add(candidate.id)
        return ADMIT

    def release(self, candidate: Candidate) -> None:
        if candidate.id in self._holds:
            self._holds.discard(candidate.id)
            store(self._app).delete("through")


class Moods:
    """Decides by a task's argument: parked until the key `open` exists, refused, or admitted."""

    name = "moods"

    def __init__(self, app: Celery) -> None:
        self._app = app

    def ask(self, candidate: Candidate) -> Verdict:
        arguments, _ = candidate.arguments()
        if candidate.name != "reef.mark" or store(self._app).exists("open"):
            return ADMIT
        if arguments[0] == "parked":
            return Park("harbour", "it is closed", 0.3)
        if arguments[0] == "parked until released":
            return Park("harbour", "it is closed", 60)
        if arguments[0] == "refused":
            return Refuse(MemoryBudgetExceeded("not here and not anywhere"))
        if arguments[0] == "held":
            return Hold("not yet", 0.05)
        return ADMIT

    def release(self, candidate: Candidate) -> None:
        """Nothing was reserved."""


def create(broker_url: str | None = None) -> Seawall:
    """The application, of its own."""
    if os.environ.get("REEF_QUIET"):  # as with -l WARNING, but saying that it is ready
        logging.getLogger("celery.worker.strategy").setLevel(logging.WARNING)
    app = Seawall("reef", set_as_current=False, autofinalize=True)
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=broker_url)
    for function, options in TASKS:
        name = f"reef.{function.__name__}"
        app.task(**{"bind": True, "base": Telltale, "shared": False, "name": name, **options})(function)
    return app


TASKS: tuple[tuple[Any, dict[str, Any]], ...] = (
    (act, {}),
    (postponed, {}),
    (nap, {"soft_time_limit": None, "time_limit": None}),
    (grip, {}),
    (gorge, {}),
    (mark, {}),
    (through, {}),
    (early, {"acks_late": False}),
)

app = create()


def tell_signal(name: str) -> Any:
    def tell(sender: Any = None, task_id: str | None = None, request: Any = None, **_: Any) -> None:
        note(sender, f"signal {name}", task_id or getattr(request, "id", None))

    return tell


if os.environ.get("REEF_SIGNALS"):
    for signal_name in (
        "task_prerun",
        "task_postrun",
        "task_success",
        "task_failure",
        "task_retry",
        "task_revoked",
    ):
        getattr(signals, signal_name).connect(tell_signal(signal_name), weak=False)
if os.environ.get("REEF_ACCOUNTS"):
    admission.use(OneAtATime(app))
    admission.use(Moods(app))
if lease := os.environ.get("REEF_LEASE"):
    app.conf.broker_transport_options = {"delivery": {"lease": float(lease)}}
if seconds := os.environ.get("REEF_SOFT_SHUTDOWN"):
    app.conf.worker_soft_shutdown_timeout = float(seconds)
if os.environ.get("REEF_SLOW_BOARD"):
    used = Board.used

    def slowly(self: Board) -> int:
        """Once asked to, whoever looks at memory holds the board's lock while a signal falls into it."""
        if store(app).getdel("look"):
            store(app).set("looking", 1)
            time.sleep(2.0)
        return used(self)

    Board.used = slowly  # type: ignore[method-assign]
if os.environ.get("REEF_STILLBORN"):

    @signals.worker_process_init.connect(weak=False)
    def die(**_: Any) -> None:
        if os.environ["REEF_STILLBORN"] == "later":  # in a thread, when the cell is ready and idle
            threading.Timer(0.2, os._exit, (7,)).start()
        else:
            os._exit(7)
