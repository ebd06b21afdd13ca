"""Workers whose cells are born while other threads read files slowly, work things out, log and burn the CPU.

Whatever lock such a thread holds when a cell is forked is held in that cell for ever, unless somebody saw to
it: the cell is deaf from its birth. `python -m support.slow_starts 60` starts so many workers, has every cell
of each of them take a task, twice, with a new process for each task, and says how many births that were.

This module is also the application: in a worker it gets in the way before anything else is imported.
"""

import builtins
import functools
import gc
import io
import itertools
import logging
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.suspects import Fleet

CELLS = 8
_SEED = os.environ.get("SLOW_STARTS")
_DISTURBED_FOR = 8.0  # seconds from the start of a worker
_SLOW = 0.25  # seconds at most for what a thread beside the main one reads or works out
_BURNERS = 2

_until = time.monotonic() + _DISTURBED_FOR
_dice = random.Random(_SEED)  # noqa: S311
_supervisor = os.getpid()


def _in_the_way() -> bool:
    """Whether this thread is one beside that which forks."""
    return (
        os.getpid() == _supervisor
        and threading.current_thread() is not threading.main_thread()
        and time.monotonic() < _until
    )


def _delayed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def slow(*args: Any, **kwargs: Any) -> Any:
        if _in_the_way():
            time.sleep(_dice.uniform(0, _SLOW))
        return function(*args, **kwargs)

    return slow


def _delay_files() -> None:
    for place, name in ((builtins, "open"), (io, "open"), (Path, "read_text"), (Path, "read_bytes")):
        setattr(place, name, _delayed(getattr(place, name)))


def _delay_properties() -> None:
    """Before Python 3.12 they are worked out under a lock of their class, and kombu's always are."""
    for each in gc.get_objects():
        if isinstance(each, functools.cached_property):
            each.func = _delayed(each.func)


def _burn() -> None:
    while time.monotonic() < _until:
        sum(range(10_000))


def _read_on(app: Any) -> None:
    """What cells use first, over and over, of applications and connections of their own."""
    from seawall.cluster import Script

    scripts = [each for each in gc.get_objects() if isinstance(each, Script)]
    while time.monotonic() < _until:
        logging.getLogger("slow").warning("and on")
        with app.connection_for_write() as connection:
            _touch(connection)
        _touch(app.backend)
        for each in scripts:
            vars(each).pop("text", None)
            vars(each).pop("digest", None)
            _touch(each)


def _touch(owner: Any) -> None:
    for kind in type(owner).__mro__:
        for name, each in vars(kind).items():
            if isinstance(each, functools.cached_property):
                try:
                    getattr(owner, name)
                except Exception:  # noqa: BLE001, S112 - it is the attempt that counts
                    continue


def _disturb(app: Any) -> None:
    """From the worker's start on, a moment before its first fork."""
    _delay_properties()
    calls: list[Callable[[], None]] = [*[_burn] * _BURNERS, *[functools.partial(_read_on, app)] * 2]
    for call in calls:
        threading.Thread(target=call, daemon=True).start()


if _SEED is not None:
    _delay_files()
    from celery import signals

    from support.marked import app

    def _begin(**_: Any) -> None:
        _disturb(app)

    signals.worker_init.connect(_begin, weak=False)


# Who starts such workers


def start_and_meet(fleet: "Fleet", serial: int) -> int:
    """Start a worker; all of its cells, and all of those in their place, take a task. Returns the births."""
    from support.delivery import ROOT
    from support.processes import Proc

    site = fleet.place
    argv = [sys.executable, "-m", "seawall.worker", "-A", "support.slow_starts", "worker", "-c", str(CELLS)]
    argv += ["-l", "INFO", "-n", f"slow{serial}@test", "--without-gossip", "--without-mingle"]
    argv += ["--max-tasks-per-child", "1"]
    environment = {**site.environment, "SLOW_STARTS": str(serial)}
    worker = Proc(argv, log=site.folder / f"slow-{serial}.log", env=environment, cwd=ROOT)
    site.workers.append(worker)
    born: set[int] = set()
    for round_ in ("first", "second"):
        gate, prefix = site.folder / f"gate-{serial}-{round_}", f"{serial}-{round_}-"
        fleet.submit("hold", [(f"{prefix}{number}", str(gate)) for number in range(CELLS)])
        try:
            fleet.until(lambda prefix=prefix: len(fleet.pids(prefix)) == CELLS, "all cells to hear", 30)  # type: ignore[misc]
        except AssertionError as exc:
            raise AssertionError(f"{exc}, seed {serial}: {worker.output[-4000:]}") from None
        born |= fleet.pids(prefix)
        gate.touch()
        fleet.until(lambda prefix=prefix: fleet.ended(prefix) == CELLS, "their ends")  # type: ignore[misc]
    assert "hears nothing" not in worker.output, worker.output
    site.stop(worker)
    return len(born)


def starts(folder: Path, many: int, *, seed: int = 0) -> int:
    """So many workers, one after another. Returns the cells that were born, all of which took a task."""
    from support.suspects import own_fleet

    born = 0
    with own_fleet(folder) as fleet:
        for serial in itertools.islice(itertools.count(seed), many):
            begun = time.monotonic()
            born += start_and_meet(fleet, serial)
            print(  # noqa: T201 - the account is the point
                f"start {serial}: {born} cells born, none deaf, {time.monotonic() - begun:.1f} s", flush=True
            )
    return born


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="slow-starts-") as _folder:
        starts(Path(_folder), int(sys.argv[1]), seed=int((sys.argv[2:] or ["0"])[0]))
