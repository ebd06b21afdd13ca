"""What the supervisor holds living cells to: limits of time and memory, turns of the loop, leases.

Each look takes its decisions from the table alone, some forty times a second; a cell is never waited for.
"""

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from seawall.delivery.refusal import is_outage
from seawall.memory.guard import Overrun
from seawall.worker import accounts, memory
from seawall.worker.cells import remedies
from seawall.worker.cells.seat import Seat
from seawall.worker.cells.table import Killed, Running, State

if TYPE_CHECKING:
    from seawall.worker.cells.pool import Pool

logger = logging.getLogger(__name__)

_RECALL_AFTER: Final = (
    0.075  # seconds and a round trip that a task may keep waiting what its cell has claimed
)
_KILL_AFTER: Final = 2.0  # seconds a terminated task has to heed the signal it was sent
_STORE_WITHIN: Final = 10.0


class Enforcement:
    """Looks at the cells of a pool, interrupts, recalls, kills, and keeps the leases of those that work."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._renew_at = 0.0

    def look(self, now: float, passed: float) -> None:
        """Do what is due; `passed`: seconds since the last look in which this process did not stand still."""
        for cell in list(self._pool.cells.values()):
            self._look_at(cell, now, passed)
        self._watch_memory(now)
        if now >= self._renew_at:
            self._renew(now)

    def _look_at(self, cell: Seat, now: float, passed: float) -> None:
        cell.channel.flush()
        if cell.distrusted(now):
            remedies.end_overwritten(cell, now)
            return
        task = cell.row.task()
        if task is not None:
            self._hold_to_limits(cell, task, now)
        if now > cell.kill_at:
            remedies.send(cell.pid, signal.SIGKILL)
        cell.look(passed)
        if cell.deaf:
            remedies.replace_deaf(cell, now)
        if cell.stuck:
            remedies.continue_stopped(cell, task)
            self._pool.table.bump()
        if cell.overdue(now) and not cell.killed:
            logger.error("cell %d was told to end and did not: it is killed", cell.pid)
            self.kill(cell, Killed.SHUTDOWN, None)

    def _hold_to_limits(self, cell: Seat, task: Running, now: float) -> None:
        running = now - task.started
        row = cell.row
        # Once its own code has ended, a task is given time to store what came of it.
        hard = task.hard + _STORE_WITHIN if row.returned == task.generation else task.hard
        if task.hard and running > hard and not cell.killed:
            self.kill(cell, Killed.HARD_LIMIT, task)
        elif task.soft and running > task.soft and row.inside and row.soft_asked != task.generation:
            self._interrupt(cell, task)
            if row.soft_asked == task.generation:
                logger.warning(
                    "Soft time limit (%ss) exceeded for %s[%s]", task.soft, task.name, task.task_id
                )
        if row.ahead and running > _RECALL_AFTER + row.distance and row.recalled != task.generation:
            self._recall(cell, task)

    def _watch_memory(self, now: float) -> None:
        if (watch := memory.watch()) is None:
            return
        watch.tick(now, [cell.pid for cell in self._pool.cells.values()], self._kill_for_memory)
        idle = {cell.pid: cell for cell in self._pool.cells.values() if cell.row.state == State.IDLE}
        unused = [pid for pid, cell in idle.items() if not cell.row.done]
        if self._pool.in_service and (pid := watch.recycle(now, idle, unused)) is not None:
            idle[pid].dismiss()
            self._pool.table.bump()

    def _kill_for_memory(self, overrun: Overrun) -> bool:
        for cell, task in self._pool.running():
            if cell.pid == overrun.pid and task.task_id[:63] == overrun.id and not cell.killed:
                self.kill(cell, Killed.MEMORY, task)
                return bool(cell.killed)
        return False

    def _interrupt(self, cell: Seat, task: Running) -> None:
        cell.row.soft_asked = task.generation
        remedies.send(cell.pid, signal.SIGUSR1)

    def kill(self, cell: Seat, why: Killed, task: Running | None, signum: int = signal.SIGKILL) -> None:
        """Kill a cell for the task it runs, or whatever it does if `task` is None."""
        row = cell.row
        if task is not None:
            row.doomed = task.generation
            if row.generation != task.generation or row.state != State.RUNNING:
                row.doomed = 0  # it has ended in this moment
                if why is not Killed.SHUTDOWN:
                    return
        if why in {Killed.HARD_LIMIT, Killed.TERMINATED, Killed.MEMORY}:
            self._pool.deaths.foretell(row.description)
        cell.killed, cell.signum = why, signum
        row.killed = why
        remedies.send(cell.pid, signum)

    def _recall(self, cell: Seat, task: Running) -> None:
        """Give back what a cell has claimed and not started: its task turned out long."""
        row = cell.row
        row.recalled = task.generation
        if row.generation != task.generation or row.state != State.RUNNING:
            return
        done = [tag for tag, _ in row.recent_acks()]  # on their way, for as long as a round trip takes
        done += [tag for tag, _, _ in row.gathered()]  # no message of its own waits behind this task
        with self.broker_may_be_away():
            if (guardian := self._pool.deaths.guardian) is not None:
                queues = self._pool.queue_names()
                guardian.recall(queues, cell.token, queue=task.queue, tag=task.tag, done=done)

    def _renew(self, now: float) -> None:
        """Keep the leases of cells inside a task: whatever it does to its interpreter, it lives."""
        self._renew_at = now + 1.0
        with self.broker_may_be_away():
            guardian = self._pool.deaths.guardian
            if guardian is None:
                self._renew_at = float("inf")
                return
            self._renew_at = now + guardian.lease / 3
            running = [cell for cell in self._pool.cells.values() if cell.row.state == State.RUNNING]
            if running:
                tokens = [cell.token for cell in running]
                guardian.renew(self._pool.queue_names(), tokens)
                accounts.renew(tokens)

    @contextlib.contextmanager
    def broker_may_be_away(self) -> Iterator[None]:
        """Go on without it; leases are renewed a second later."""
        try:
            yield
        except Exception as exc:
            if not is_outage(exc, self._pool.app.connection_for_write().connection_errors):
                logger.exception("the broker could not be told what cells hold")
            else:
                logger.debug("the broker is away: %s", exc)
            self._renew_at = time.monotonic() + 1.0

    def terminate(self, cell: Seat, task: Running, signum: int) -> None:
        """End one task by a signal; SIGUSR1 raises SoftTimeLimitExceeded in it, as in Celery's pool."""
        if signum == signal.SIGUSR1:
            self._interrupt(cell, task)
        else:
            # Keyboard signals are ignored by cells: they reach every process of a terminal.
            deaf = signum in (signal.SIGINT, signal.SIGQUIT)
            self.kill(cell, Killed.TERMINATED, task, signal.SIGKILL if deaf else signum)
            if cell.killed:
                cell.kill_at = time.monotonic() + _KILL_AFTER
