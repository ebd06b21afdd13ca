"""What a signal asks of a worker from outside: a traceback of stuck code, a core dump, new code.

SIGUSR2 writes what every thread of a cell is doing into the log, even while C code holds the interpreter's
lock; sent to the supervisor it reaches all cells. SIGHUP replaces the supervisor by a fresh one: what runs
ends first, what waits stays in the broker, and the process keeps its id, so that whoever watches it sees no
end. A core is dumped only if the settings say so.
"""

import atexit
import faulthandler
import logging
import os
import resource
import signal
import sys
from typing import IO, TYPE_CHECKING, Any, Final

from celery.worker import state as worker_state

from seawall.config import settings

if TYPE_CHECKING:
    from seawall.worker.cells.pool import Pool
    from seawall.worker.cells.seat import Seat

logger = logging.getLogger(__name__)
state: Any = worker_state

_APART: Final = (
    0.1  # seconds from one cell's traceback to the next: they share a log and would mix their lines
)


def prepare_cell() -> None:
    """In a cell, after the fork."""
    faulthandler.register(signal.SIGUSR2, file=_log(), all_threads=True)
    _, most = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (most if settings().worker.core_dumps else 0, most))


def prepare_supervisor(pool: "Pool") -> None:
    """In the supervisor, once Celery has installed its own handlers."""

    def pass_on(*_: Any) -> None:
        for place, (seat, cell) in enumerate(list(pool.cells.items())):
            pool.later(place * _APART, ask, seat, cell)

    def ask(seat: int, cell: "Seat") -> None:
        if cell is pool.cells.get(seat):
            os.kill(cell.pid, signal.SIGUSR2)

    signal.signal(signal.SIGUSR2, pass_on)
    if signal.getsignal(signal.SIGHUP) not in (signal.SIG_IGN, signal.SIG_DFL):
        signal.signal(signal.SIGHUP, _reload)


def _reload(*_: Any) -> None:
    """Warm shutdown, then the same command line in the same process."""
    if state.should_stop is None:
        logger.warning("SIGHUP: what runs ends, then this worker starts afresh with the code as it is now")
        atexit.register(_start_afresh)
        state.should_stop = os.EX_OK


def _start_afresh() -> None:
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - no shell


def _log() -> IO[Any]:
    """The log file, as far as there is one."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream:
            return handler.stream
    return sys.__stderr__ or sys.stderr
