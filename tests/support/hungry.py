"""An application whose tasks use memory in every way there is. Sizes are arguments, in MiB.

With HUNGRY=plain in the environment it is a plain Celery application, to compare with; with
HUNGRY=bootstrapped it is made ready where it is imported, as that of a web server may be.
"""

import functools
import itertools
import mmap
import multiprocessing
import operator
import os
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from typing import Any

from celery import Celery
from redis import Redis

from seawall import Features, MemoryBudgetExceeded, Seawall, bootstrap, memory, policy

MB = 1 << 20
SIZES = (40, 60, 80, 100, 120, 140)

_kept: list[bytearray] = []


def create() -> Celery:
    if os.environ.get("HUNGRY") != "plain":
        return Seawall("hungry", set_as_current=False)
    url = os.environ["SEAWALL_REDIS_URL"]
    plain = Celery("hungry", broker=url, backend=url, set_as_current=False)
    plain.conf.update(task_acks_late=True, worker_prefetch_multiplier=1)
    return plain


app = create()
if os.environ.get("HUNGRY") == "bootstrapped":
    bootstrap(app, features=Features(database=False))


def register(function: Callable[..., object], name: str, *, bind: bool = False) -> None:
    options: dict[str, Any] = {"name": name, "bind": bind, "shared": False}
    app.task(**options)(function)


def note(task: object, line: str) -> None:
    """Into the list `ran` of the backend's Redis, with the process that says it."""
    store(task.app).rpush("ran", f"{line} {os.getpid()}")  # type: ignore[attr-defined]


def store(celery: Celery) -> "Redis":
    client: Redis = celery.backend.client  # type: ignore[attr-defined]
    return client


def filled(megabytes: int) -> bytearray:
    block = bytearray(megabytes * MB)
    block[::4096] = b"x" * len(block[::4096])
    return block


def hold(self: object, megabytes: int, seconds: float) -> int:
    """Hold so much for so long."""
    note(self, f"hold {megabytes}")
    block = filled(megabytes)
    time.sleep(seconds)
    return len(block)


for size in SIZES:  # tasks by what they declare: 10 MiB more than they hold
    declared = policy(memory=f"{size + 10}MiB")(types.FunctionType(hold.__code__, globals(), f"hold_{size}"))
    register(declared, f"hungry.hold_{size}", bind=True)


@app.task(name="hungry.unknown", shared=False)
def unknown(megabytes: int, seconds: float) -> int:
    """What is learned is all that is known of it."""
    block = filled(megabytes)
    time.sleep(seconds)
    return len(block)


def _clean(number: int) -> Callable[[], int]:
    def clean() -> int:
        return sum(len(str(value)) for value in range(number * 1000))

    return clean


for number in range(1, 10):
    register(_clean(number), f"hungry.clean_{number}")


@app.task(name="hungry.greedy", shared=False, bind=True)
@policy(memory="40MiB")
def greedy(self: object, way: str, megabytes: int) -> None:
    """Take more and more until stopped: in Python, in numpy, in C that does not return."""
    note(self, f"greedy {way}")
    if way == "python":
        blocks = []
        for _ in range(megabytes):
            blocks.append(filled(1))
            time.sleep(0.005)
        time.sleep(60)  # whoever looks seldom finds it still
    elif way == "numpy":
        import numpy as np

        arrays = []
        for _ in range(megabytes // 8):
            arrays.append(np.ones(MB))  # 8 MiB
            time.sleep(0.02)
    else:  # all in C, which lets Python see no signal, and does not return
        pieces = itertools.chain([bytearray()], itertools.repeat(bytes(MB), megabytes), itertools.repeat(b""))
        functools.reduce(operator.iadd, pieces)


@app.task(name="hungry.careful", shared=False, bind=True)
@policy(memory="20MiB", memory_limit="1GiB")
def careful(self: object) -> str:
    """Is told, lets go, and goes on."""
    blocks = []
    try:
        blocks.append(filled(40))
        time.sleep(30)
    except MemoryBudgetExceeded:
        blocks.clear()
        time.sleep(0.3)
        return "cleaned up"
    return "never told"


@app.task(name="hungry.budget", shared=False)
def budget() -> int:
    """Of the workers, by the board that this process reads."""
    return memory.usage().budget


@app.task(name="hungry.exhaust", shared=False)
def exhaust() -> None:
    raise MemoryError("cannot allocate")


@app.task(name="hungry.leak", shared=False)
def leak() -> None:
    _kept.append(filled(1)[:200_000])


@app.task(name="hungry.small", shared=False, bind=True)
@policy(memory="1MiB")
def small(self: object, number: int) -> int:
    note(self, f"small {number}")
    return number


@app.task(name="hungry.timed", shared=False, bind=True)
def timed(self: object, _number: int) -> None:
    """When it starts, on the clock of the machine."""
    store(self.app).rpush("starts", time.monotonic())  # type: ignore[attr-defined]
    time.sleep(0.02)


# Tasks that start processes, and let those take it

_helpers: list["subprocess.Popen[bytes]"] = []


def program(megabytes: int) -> "subprocess.Popen[bytes]":
    """Another program that holds so much until it is ended."""
    takes = f"import sys; block = b'x' * {megabytes * MB}; print(flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", takes]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def _takes(megabytes: int, seconds: float) -> None:
    block = filled(megabytes)
    time.sleep(seconds)
    del block


def _forks(megabytes: int, seconds: float) -> int:
    child = multiprocessing.get_context("fork").Process(target=_takes, args=(megabytes, seconds))
    child.start()
    return child.pid or 0


@app.task(name="hungry.parent", shared=False, bind=True)
@policy(memory_limit="120MiB")
def parent(self: object, way: str, megabytes: int) -> None:
    """Have a child take it, and wait."""
    if way == "program":
        pid = program(megabytes).pid
    elif way == "program of a shell":
        shell = subprocess.Popen(
            ["sh", "-c", '"$0" -c "$1" & echo $!; wait', sys.executable,
             f"import time; block = b'x' * {megabytes * MB}; time.sleep(60)"], stdout=subprocess.PIPE,
        )  # fmt: skip
        assert shell.stdout is not None
        pid = int(shell.stdout.readline())
    else:
        pid = _forks(megabytes, 60)
    store(self.app).rpush("ran", f"child {pid}")  # type: ignore[attr-defined]
    time.sleep(60)


@app.task(name="hungry.told", shared=False)
@policy(memory="60MiB", memory_limit="2GiB")
def told() -> str:
    """A child takes more than the budget."""
    with program(100) as child:
        try:
            time.sleep(60)
        except MemoryBudgetExceeded:
            child.kill()
            return "cleaned up"
    return "never told"


@app.task(name="hungry.shares", shared=False)
@policy(memory_limit="160MiB")
def shares(megabytes: int) -> int:
    """Three children look at what it holds."""
    block = filled(megabytes)
    for _ in range(3):
        _forks(1, 1.5)
    for child in multiprocessing.active_children():
        child.join()
    return len(block) // MB


@app.task(name="hungry.helper", shared=False)
def helper(megabytes: int) -> None:
    """Start a program that stays."""
    child = program(megabytes)
    assert child.stdout is not None
    child.stdout.readline()
    _helpers.append(child)


@app.task(name="hungry.beside", shared=False)
@policy(memory_limit="120MiB")
def beside() -> str:
    """Run beside what an earlier one has started."""
    time.sleep(1.5)
    return "done"


@app.task(name="hungry.maps", shared=False)
@policy(memory_limit="120MiB")
def maps(megabytes: int) -> int:
    """Read a file through mmap, which the kernel keeps while it has room."""
    with tempfile.TemporaryFile(dir=".") as file:
        for _ in range(megabytes):
            file.write(bytes(MB))
        file.flush()
        with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            seen = sum(mapped[at] + 1 for at in range(0, len(mapped), mmap.PAGESIZE))
            time.sleep(1.0)
    return seen * mmap.PAGESIZE // MB
