"""Memory of a worker: its budget, who may start, who goes too far, and what tasks leave behind.

`pressure`, `usage` and `on_pressure` are for tasks and applications: in workers, and in any process that has
called `seawall.bootstrap()`. Elsewhere nobody watches, and the level is NORMAL. What measures and decides
stands in the modules beside: `budget` and `levels` (how much there is), `meter` (readings), `descendants`
(what tasks start), `board` (what a machine's workers share), `account` (admission), `runs` and `guard` (the
two sides of a limit), `process` (the watch where no worker is), `learned`, `quantiles` and `leaks` (what is
known of tasks), `cleanup`, `profile`. The only owner of psutil.
"""

import inspect
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seawall.memory.levels import Marks, Pressure

if TYPE_CHECKING:
    from seawall.memory.board import Board

__all__ = ["Marks", "Pressure", "Usage", "on_pressure", "pressure", "usage"]

logger = logging.getLogger(__name__)

_board: "Board | None" = None
_only = 0
_warned = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Bytes: of this process, and of all that share its budget, beside that (0 where nobody watches)."""

    process: int
    workers: int
    promised: int
    budget: int
    level: Pressure


def pressure() -> Pressure:
    """How near this process and all that share its budget are to it. Costs less than a microsecond."""
    return Pressure.NORMAL if _board is None else _board.level


def usage() -> Usage:
    """What is used now, as last measured."""
    from seawall.memory.meter import Own

    own = Own()
    process = own.held()
    own.close()
    if _board is None:
        return Usage(process=process, workers=0, promised=0, budget=0, level=Pressure.NORMAL)
    return Usage(
        process=process,
        workers=_board.used(),
        promised=_board.promised,
        budget=_board.budget,
        level=_board.level,
    )


def on_pressure(
    function: Callable[[], object], *, level: Pressure = Pressure.WARNING, timeout: float | str = 1.0
) -> Callable[[], None]:
    """Call `function` in this process when pressure rises to `level` or above, to drop a cache, say.

    It runs in a thread of its own, in a worker between tasks, and is waited for `timeout` seconds. Registered
    before a worker forks (at import), it is called in each of its processes. Returns the way to stop.

    Workers and processes that have called `seawall.bootstrap()` watch their memory. Where nobody does, and
    the caller is no module that is being imported, that is logged as a warning, once.

    Raises:
        ConfigError: an argument is wrong.
    """
    from seawall.memory.cleanup import CLEANER

    stop = CLEANER.register(function, level, timeout)
    if not is_watched() and not _importing():
        _warn(getattr(function, "__qualname__", repr(function)))
    return stop


def attach(board: "Board | None", *, only: int = 0) -> None:
    """Name the board that this process and those it forks belong to; the process `only` alone is watched."""
    global _board, _only
    _board, _only = board, only


def attached() -> "Board | None":
    """The board of this process, or of the one that forked it."""
    return _board


def is_watched() -> bool:
    """Whether this process cleans up when pressure rises."""
    return _board is not None and _only in {0, os.getpid()}


def _warn(name: str) -> None:
    global _warned  # noqa: PLW0603 - said once
    if not _warned:
        _warned = True
        logger.warning(
            "on_pressure(%s) is not called as long as nobody watches the memory of this process: call "
            "seawall.bootstrap() first, in a forked process again, or run it in a worker",
            name,
        )


def _importing() -> bool:
    """Whether a module is being imported, which may be for a process that is not watched yet."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == "importlib._bootstrap":
            return True
        frame = frame.f_back
    return False
