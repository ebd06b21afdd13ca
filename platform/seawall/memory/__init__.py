"""Memory of a worker: its budget, who may start, who goes too far, and what tasks leave behind.

`pressure`, `usage` and `on_pressure` are for tasks and applications; they answer in any process, and say
NORMAL where no worker is. What measures and decides stands in the modules beside: `budget` and `levels` (how
much there is), `meter` (readings), `board` (what a machine's workers share), `account` (admission), `runs`
and `guard` (the two sides of a limit), `learned`, `quantiles` and `leaks` (what is known of tasks),
`cleanup`, `profile`. The only owner of psutil.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from seawall.memory.levels import Marks, Pressure

if TYPE_CHECKING:
    from seawall.memory.board import Board

__all__ = ["Marks", "Pressure", "Usage", "on_pressure", "pressure", "usage"]

_board: "Board | None" = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Bytes: of this process, and of all workers of this machine beside their budget (0 without a worker)."""

    process: int
    workers: int
    promised: int
    budget: int
    level: Pressure


def pressure() -> Pressure:
    """How near the workers of this machine are to their budget. Costs less than a microsecond."""
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

    It runs in a thread of its own between tasks, and is waited for `timeout` seconds. Registered before a
    worker forks (at import), it is called in each of its processes. Returns the way to stop.

    Raises:
        ConfigError: an argument is wrong.
    """
    from seawall.memory.cleanup import CLEANER

    return CLEANER.register(function, level, timeout)


def attach(board: "Board | None") -> None:
    """Name the board that this process and those it forks belong to."""
    global _board  # noqa: PLW0603 - one per process, set once when a worker starts
    _board = board
