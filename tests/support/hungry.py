"""An application whose tasks use memory in every way there is. Sizes are arguments, in MiB."""

import functools
import itertools
import operator
import os
import time

from celery import Celery
from redis import Redis

from seawall import MemoryBudgetExceeded, Seawall, policy

app = Seawall("hungry", set_as_current=False)
MB = 1 << 20


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


@app.task(name="hungry.hold", shared=False, bind=True)
def hold(self: object, megabytes: int, seconds: float) -> int:
    """Hold so much for so long; submitted with a policy of its own as `hungry.hold_N`."""
    note(self, "hold")
    block = filled(megabytes)
    time.sleep(seconds)
    return len(block)


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
    block = filled(40)
    try:
        time.sleep(30)
    except MemoryBudgetExceeded:
        block.clear()
        time.sleep(0.3)
        return "cleaned up"
    return "never told"


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


_kept: list[bytearray] = []
