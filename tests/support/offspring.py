"""Tasks that start processes, each in a way of its own, and say how those ended.

A worker is started with `celery -A support.offspring worker`; a test submits through `create()`.
"""

import functools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import psutil
from celery import Celery, Task, signals

from seawall import Retry, Seawall, limit, policy
from seawall.limits import shares
from support.shop import note, store

FOREVER = 600.0
_fork: Any = multiprocessing.get_context("fork")
_spawn: Any = multiprocessing.get_context("spawn")


def status(pid: int) -> int:
    """As a shell would say it, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def exits(_task: "Task[Any, Any]") -> object:
    if (pid := os.fork()) == 0:
        sys.exit(3)
    return status(pid)


def exits_without_a_word(_task: "Task[Any, Any]") -> object:
    if (pid := os.fork()) == 0:
        os._exit(4)
    return status(pid)


def exits_saying_why(_task: "Task[Any, Any]") -> object:
    if (pid := os.fork()) == 0:
        sys.exit("the child's last words")
    return status(pid)


def returns(_task: "Task[Any, Any]") -> object:
    if (pid := os.fork()) == 0:
        return "the child's"
    return status(pid)


def raises(_task: "Task[Any, Any]") -> object:
    if (pid := os.fork()) == 0:
        raise LookupError("the child's own")
    return status(pid)


def within_a_limit(_task: "Task[Any, Any]") -> object:
    """What the parent holds, the child does not give back."""
    with limit("offspring", 1):
        if (pid := os.fork()) == 0:
            sys.exit(0)
        return status(pid), shares().held("offspring")


def takes_a_share(_task: "Task[Any, Any]") -> object:
    with limit("other", 2):
        if (pid := os.fork()) == 0:
            with limit("other", 2):
                held = shares().held("other")
            sys.exit(held)
        return status(pid), shares().held("other")


def submits(task: "Task[Any, Any]") -> object:
    if (pid := os.fork()) == 0:
        task.app.tasks["offspring.add"].delay(1, 1).forget()
        return None
    return status(pid)


def obeys_signals(_task: "Task[Any, Any]") -> object:
    """Each of these ends a plain script."""
    ended = []
    for signum in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGRTMIN + 1):
        ready, told = os.pipe()
        if (pid := os.fork()) == 0:
            os.write(told, b".")
            time.sleep(FOREVER)
        os.read(ready, 1)
        os.kill(pid, signum)
        ended.append(-status(pid) == signum)
    return ended


def has_sockets(_task: "Task[Any, Any]") -> object:
    """How many of its parent's connections a child has."""
    mine, yours = os.pipe()
    before = {each.laddr for each in psutil.Process().net_connections("tcp")}
    if (pid := os.fork()) == 0:
        os.write(yours, bytes([len(psutil.Process().net_connections("tcp"))]))
        os._exit(0)
    return len(before) > 0, os.read(mine, 1)[0], status(pid)


def forks_in_a_thread(_task: "Task[Any, Any]") -> object:
    ended = []

    def work() -> None:
        if (pid := os.fork()) == 0:
            sys.exit(0)
        ended.append(status(pid))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return ended


def _seven() -> None:
    sys.exit(7)


def _sleep(seconds: float = FOREVER) -> None:
    time.sleep(seconds)


def _double(number: int) -> int:
    return 2 * number


def _process(context: Any) -> object:
    process = context.Process(target=_seven)
    process.start()
    process.join()
    return process.exitcode


def process(_task: "Task[Any, Any]") -> object:
    return _process(_fork)


def spawned(_task: "Task[Any, Any]") -> object:
    return _process(_spawn)


def terminated(_task: "Task[Any, Any]") -> object:
    process = _fork.Process(target=_sleep)
    process.start()
    process.terminate()
    process.join()
    return process.exitcode


def pool(_task: "Task[Any, Any]") -> object:
    with _fork.Pool(2) as workers:
        return workers.map(_double, range(3))


def executor(_task: "Task[Any, Any]") -> object:
    with ProcessPoolExecutor(2, mp_context=_fork) as workers:
        return list(workers.map(_double, range(3)))


def command(_task: "Task[Any, Any]") -> object:
    code = "import signal, sys; sys.exit(5 + (signal.getsignal(signal.SIGTERM) != signal.SIG_DFL))"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as sleeper:
        sleeper.terminate()
    return done.returncode, sleeper.returncode


def outlives_its_soft_limit(_task: "Task[Any, Any]") -> object:
    """A child that has ended changes nothing about its parent's limits."""
    ended = exits(_task)
    try:
        time.sleep(FOREVER)
    except Exception as exc:  # noqa: BLE001 - Celery's or billiard's, by the pool
        return ended, type(exc).__name__
    return ended


FORMS: dict[Callable[..., object], object] = {
    exits: 3,
    exits_without_a_word: 4,
    exits_saying_why: 1,
    returns: 0,
    raises: 1,
    within_a_limit: [0, 1],
    takes_a_share: [2, 1],
    submits: 0,
    obeys_signals: [True] * 5,
    has_sockets: [True, 0, 0],
    forks_in_a_thread: [0],
    process: 7,
    spawned: 7,
    terminated: -signal.SIGTERM,
    pool: [0, 2, 4],
    executor: [0, 2, 4],
    command: [5, -signal.SIGTERM],
    outlives_its_soft_limit: [3, "SoftTimeLimitExceeded"],
}
"""What each says where all is well: what a plain script would."""


@policy(retry=Retry(max_attempts=1))
def start(self: "Task[Any, Any]", form: str) -> object:
    note(self, form)
    body = next(each for each in FORMS if each.__name__ == form)
    return body(self)


def add(self: "Task[Any, Any]", left: int, right: int) -> int:
    store(self.app).rpush("added", left + right)
    return left + right


class Plain(Task):  # type: ignore[type-arg]
    """A class of Celery's own, which knows nothing of policies."""

    name = "offspring.plain"

    def run(self, form: str) -> object:
        """As `start`."""
        note(self, form)
        return next(each for each in FORMS if each.__name__ == form)(self)


def fork_and_wait(*, returns: bool) -> None:
    """A child that leaves by `sys.exit`, or goes on where it was forked; it is waited for."""
    if (pid := os.fork()) == 0:
        if returns:
            return
        sys.exit(0)
    os.waitpid(pid, 0)  # for ever, if it goes on as a second worker


def fork_in(where: str, said: Any) -> None:
    if list(said) in ([where], [f"{where} returns"]):
        fork_and_wait(returns="returns" in said[0])


class Hooking(Task):  # type: ignore[type-arg]
    """A hook of it forks, which its argument names, or a receiver of a signal."""

    abstract = True

    def before_start(self, *said: Any) -> None:
        fork_in("before_start", said[1])

    def after_return(self, *said: Any) -> None:
        fork_in("after_return", said[3])


class Hooked(Hooking):
    """One of Celery's own classes."""

    name = "offspring.hooked"

    def run(self, where: str) -> str:
        note(self, where)
        return where


def hooked(self: "Task[Any, Any]", where: str) -> str:
    note(self, where)
    return where


@signals.task_prerun.connect(weak=False)
def fork_before(sender: Any = None, args: Any = None, **_: Any) -> None:
    if isinstance(sender, Hooking):
        fork_in("task_prerun", args)


@signals.task_postrun.connect(weak=False)
def fork_after(sender: Any = None, args: Any = None, **_: Any) -> None:
    if isinstance(sender, Hooking):
        fork_in("task_postrun", args)


STARTS = ("worker_init", "worker_process_init", "worker_ready")


def fork_at_start(name: str, **_: Any) -> None:
    """Where OFFSPRING_STARTS names this signal, or that and "returns"."""
    wanted = os.environ.get("OFFSPRING_STARTS", "").split()
    if wanted[:1] == [name]:
        fork_and_wait(returns="returns" in wanted)


for _name in STARTS:
    getattr(signals, _name).connect(functools.partial(fork_at_start, _name), weak=False)


def create(broker_url: str | None = None) -> Celery:
    """The application, of its own."""
    app = Seawall("offspring", set_as_current=False, autofinalize=True)
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=broker_url)
    for function in (start, add):
        app.task(bind=True, shared=False, name=f"offspring.{function.__name__}")(function)
    app.register_task(Plain())
    app.register_task(Hooked())
    app.task(bind=True, shared=False, base=Hooking, name="offspring.hooked_too")(hooked)
    return app


app = create()
