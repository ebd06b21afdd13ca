"""The supervisor's pool: it forks cells, watches them, and settles what a dead one leaves behind."""

import contextlib
import gc
import logging
import os
import select
import signal
import time
from dataclasses import dataclass, field
from typing import Any, Final

from celery.concurrency.base import BasePool

from seawall.worker.cells.cell import run_cell
from seawall.worker.cells.channel import Channel
from seawall.worker.cells.table import Row, State, Table

logger = logging.getLogger(__name__)

_TICK: Final = 0.05
_SEATS_TO_SPARE: Final = 64  # for pool_grow and autoscale: a row not used costs address space alone


@dataclass
class Seat:
    """One cell as the supervisor knows it."""

    row: Row
    pid: int
    pidfd: int
    channel: Channel
    born: float
    leaving: bool = False
    ready: bool = False
    totals: dict[str, int] = field(default_factory=dict)


class Pool(BasePool):
    """Celery's pool interface over cells. The supervisor's consumer gives it no task to run."""

    signal_safe = False
    controller: Any = None  # the Celery worker, told by `supervisor.prepare`

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = Table(max(self.limit, 1) + _SEATS_TO_SPARE)
        self.cells: dict[int, Seat] = {}  # by seat
        self._hub: Any = None

    # The life of the pool

    def on_start(self) -> None:
        """Fork the cells, from a heap that no collection will touch again."""
        gc.collect()
        gc.freeze()
        for _ in range(self.limit):
            self._fork()

    def register_with_event_loop(self, hub: Any) -> None:
        """Watch the cells from the worker's loop."""
        self._hub = hub
        for cell in self.cells.values():
            self._watch(cell)
        hub.call_repeatedly(_TICK, self.tick)

    def on_stop(self) -> None:
        """Let what runs end, and wait for it."""
        self.tell("stop")
        while self.cells:
            self._wait(_TICK)
            self.tick()

    def on_terminate(self) -> None:
        """End all cells now."""
        for cell in list(self.cells.values()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(cell.pid, signal.SIGKILL)
        while self.cells:
            self._wait(_TICK)

    def _wait(self, seconds: float) -> None:
        watched = {cell.pidfd: cell for cell in self.cells.values()}
        ready, _, _ = select.select(list(watched), [], [], seconds)
        for pidfd in ready:
            self._on_death(watched[pidfd])

    # One cell

    def _fork(self) -> None:
        seat = next(seat for seat in range(self.table.seats) if seat not in self.cells)
        row = self.table.rows[seat]
        row.clear()
        row.state = State.STARTING
        ours, theirs = Channel.pair()
        supervisor = os.getpid()
        pid = os.fork()
        if not pid:
            run_cell(self, seat=seat, row=row, channel=theirs, supervisor=supervisor)
        theirs.close()
        row.pid = pid
        cell = Seat(row, pid, os.pidfd_open(pid), ours, time.monotonic())
        self.cells[seat] = cell
        if self._hub is not None:
            self._watch(cell)

    def _watch(self, cell: Seat) -> None:
        self._hub.add_reader(cell.pidfd, self._on_death, cell)
        self._hub.add_reader(cell.channel.fileno(), self._on_channel, cell)

    def _on_channel(self, cell: Seat) -> None:
        for message in cell.channel.heard():
            self.hear(cell, message)

    def hear(self, cell: Seat, message: dict[str, Any]) -> None:
        """What a cell says: ready; totals (counts: tasks ended by name)."""
        if message["say"] == "ready":
            cell.ready = True
        elif message["say"] == "totals":
            cell.totals = message["counts"]

    def _on_death(self, cell: Seat) -> None:
        with contextlib.suppress(ChildProcessError):
            _, status = os.waitpid(cell.pid, 0)
            logger.debug("cell %d ended with status %d", cell.pid, status)
        if self._hub is not None:
            self._hub.remove(cell.pidfd)
            self._hub.remove(cell.channel.fileno())
        os.close(cell.pidfd)
        cell.channel.close()
        del self.cells[cell.row.seat]
        cell.row.clear()
        if self._state == self.RUN and not cell.leaving:
            self._fork()

    # What Celery asks of a pool

    def tell(self, message: str, **fields: Any) -> None:
        """Say something to every cell; it is heard before the next task starts there."""
        for cell in self.cells.values():
            cell.channel.say(message, **fields)
        self.table.bump()

    def tick(self) -> None:
        """What is due every `_TICK` seconds."""
        for cell in list(self.cells.values()):
            cell.channel.flush()

    @property
    def num_processes(self) -> int:
        """Cells that take tasks."""
        return sum(not cell.leaving for cell in self.cells.values())

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),
            "max-concurrency": self.num_processes,
            "processes": [cell.pid for cell in self.cells.values()],
            "max-tasks-per-child": self.options.get("maxtasksperchild") or "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": [self.options.get("soft_timeout") or 0, self.options.get("timeout") or 0],
            "writes": "N/A",
        }
