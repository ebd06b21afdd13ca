"""What a supervisor does about a cell that is there and does not work: name it, help it, at last end it."""

import contextlib
import logging
import os
import signal
from typing import Final

from seawall.worker.cells.seat import Seat
from seawall.worker.cells.table import Running, State

logger = logging.getLogger(__name__)

_SPEAK_WITHIN: Final = 1.0  # seconds in which a cell that is deaf writes where it stands


def send(pid: int, signum: int) -> None:
    """Send a signal, to nobody who is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def replace_deaf(cell: Seat, now: float) -> None:
    """Have a cell that is deaf say where it stands, and end it."""
    if now > cell.answer_by:
        send(cell.pid, signal.SIGKILL)
    if cell.answer_by < float("inf"):
        return
    logger.error(
        "cell %d (%s) hears nothing, its loop stands still for %.0f s: it is replaced; the log says where"
        " it stands",
        *(cell.pid, State(cell.row.state).name.lower(), cell.still),
    )
    cell.answer_by = now + _SPEAK_WITHIN
    send(cell.pid, signal.SIGUSR2)


def end_overwritten(cell: Seat, now: float) -> None:
    """End a cell whose row says nothing any more, unless its task ends in time and it notices that itself."""
    if now > cell.distrusted_by:
        logger.error("cell %d is killed: a task has overwritten its row of the table", cell.pid)
        cell.distrusted_by = float("inf")
        send(cell.pid, signal.SIGKILL)


def continue_stopped(cell: Seat, task: Running | None) -> None:
    """Continue a process that was stopped inside a task; one that is stopped again is killed."""
    named = f"{task.name}[{task.task_id}]" if task else "its task"
    remedy = "killed" if cell.continued else "continued, and replaced when its task has ended"
    logger.error("cell %d is stopped inside %s: it is %s", cell.pid, named, remedy)
    cell.stopped = 0.0
    if cell.continued:
        send(cell.pid, signal.SIGKILL)
        return
    cell.continued = True
    send(cell.pid, signal.SIGCONT)
    cell.dismiss()
