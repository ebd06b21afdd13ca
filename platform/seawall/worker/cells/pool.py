"""The supervisor's pool: it forks cells, buries and replaces the dead, and is what Celery sees of them.

What cells are held to while they live is in `enforcement`. All of it runs on the worker's event loop and,
while the worker stops, on a loop of its own. A cell is never waited for.
"""

import gc
import logging
import os
import select
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from billiard.common import human_status
from celery import signals
from celery.concurrency.base import BasePool

from seawall import identity
from seawall.backoff import equal_jitter, exponential
from seawall.worker import fork_locks, memory
from seawall.worker.cells.cell import run_cell
from seawall.worker.cells.channel import Channel
from seawall.worker.cells.deaths import Death, Deaths, signal_number
from seawall.worker.cells.enforcement import Enforcement
from seawall.worker.cells.seat import Seat
from seawall.worker.cells.table import Killed, Running, State, Table
from seawall.worker.cells.vitals import RUINED
from seawall.worker.request import stopping
from seawall.worker.results import Result

logger = logging.getLogger(__name__)

_TICK: Final = 0.025
_SEATS_TO_SPARE: Final = 64  # for pool_grow and autoscale: a row not used costs address space alone
_FIRST_REFORK: Final = 0.25
_LONGEST_REFORK: Final = 30.0
_SCALE_EVERY: Final = 1.0
_LAST_SETTLEMENTS: Final = 1.0
_MOST_PASSES: Final = 4 * _TICK  # of the seconds since the last look; more is this process standing still


class Pool(BasePool):
    """Celery's pool interface over cells. The supervisor's consumer gives it no task to run."""

    signal_safe = False
    controller: Any = None  # the Celery worker; set by the supervisor's consumer before anything starts

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.table = Table(max(self.limit, 1) + _SEATS_TO_SPARE)
        self.cells: dict[int, Seat] = {}  # by seat
        self.past_totals: dict[str, int] = {}  # of cells that are gone
        self._hub: Any = None
        self._wanted = self.limit
        self._past_done = 0
        self._failed_starts = 0
        self._fork_at = 0.0
        self._ticking = False
        self._looked_at = time.monotonic()
        self._scale_at = 0.0
        self._queues_ever: set[str] = set()
        self.deaths = Deaths(self.app, self.queue_names)
        self.enforcement = Enforcement(self)

    # The life of the pool

    def on_start(self) -> None:
        """Fork the cells, from a heap that no collection will touch again."""
        self.deaths.hostname = self.controller.hostname
        with self.enforcement.broker_may_be_away():
            self.deaths.guardian  # noqa: B018 - what it looks at and imports, no cell has to
        fork_locks.find()
        gc.collect()
        gc.freeze()
        self._fill()

    def register_with_event_loop(self, hub: Any) -> None:
        """Watch the cells from the worker's loop."""
        self._hub = hub
        for cell in self.cells.values():
            self._watch(cell)
        hub.call_repeatedly(_TICK, self.tick)

    def later(self, seconds: float, call: Callable[..., object], *args: object) -> None:
        """Call from the worker's loop in so many seconds; at once if it has none."""
        if self._hub is None:
            call(*args)
        else:
            self._hub.call_later(seconds, call, *args)

    def on_close(self) -> None:
        """Take nothing more."""
        self.tell("stop")

    def on_stop(self) -> None:
        """Let what runs end, under its limits; after a cold shutdown end it."""
        self._state = self.CLOSE  # a cold shutdown comes here without closing first: nothing is replaced now
        if stopping():
            self.on_terminate()
            return
        self.tell("stop")
        self._outlast()
        self._settle_up()

    def on_terminate(self) -> None:
        """End all cells now. What they ran goes back to the broker, at no charge."""
        self._state = self.CLOSE
        for cell in list(self.cells.values()):
            self.enforcement.kill(cell, Killed.SHUTDOWN, cell.row.task())
        self._outlast()
        self._settle_up()

    def drain(self, seconds: float) -> None:
        """Take nothing more, and give what runs so many seconds."""
        self.tell("stop")
        self._state = self.CLOSE
        self._outlast(seconds)

    def _outlast(self, seconds: float = float("inf")) -> None:
        give_up_at = time.monotonic() + seconds
        while self.cells and time.monotonic() < give_up_at:
            watched = {cell.pidfd: cell for cell in self.cells.values()}
            ready, _, _ = select.select(list(watched), [], [], _TICK)
            for pidfd in ready:
                self._on_death(watched[pidfd])
            self.tick()

    def _settle_up(self) -> None:
        give_up_at = time.monotonic() + _LAST_SETTLEMENTS
        while len(self.deaths) and time.monotonic() < give_up_at:
            self.deaths.settle()
            time.sleep(_TICK)
        self.deaths.close()
        gc.unfreeze()  # the worker may live in another program, as in tests

    # One cell

    def _fill(self) -> None:
        while self.num_processes < self._wanted and time.monotonic() >= self._fork_at:
            self._fork()

    def _fork(self) -> None:
        seat = next(seat for seat in range(self.table.seats) if seat not in self.cells)
        row = self.table.rows[seat]
        row.clear()
        row.state = State.STARTING
        ours, theirs = Channel.pair()
        supervisor, worker, token = os.getpid(), identity.current().worker, identity.token()
        signals.worker_before_create_process.send(sender=self)
        pid = os.fork()
        if not pid:
            run_cell(
                self, seat=seat, row=row, channel=theirs, supervisor=supervisor, worker=worker, token=token
            )
        theirs.close()
        row.pid = pid
        cell = Seat(row, pid, token, os.pidfd_open(pid), ours, time.monotonic())
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
        """What a cell says: totals (counts: tasks ended by name)."""
        if message["say"] == "totals":
            cell.totals = message["counts"]

    def _on_death(self, cell: Seat) -> None:
        """A cell has ended. Safe to repeat: a signal handler of Celery's may come in between.

        Or it has not: among the events of one poll, one may be meant for a descriptor that was closed
        meanwhile, and whose number is this cell's now.
        """
        seat = cell.row.seat
        if self.cells.get(seat) is not cell or (status := _reap(cell.pid)) is None:
            return
        self._on_channel(cell)
        del self.cells[seat]
        overwritten = not cell.row.sound
        if overwritten:
            cell.row.clear()
        if self._hub is not None:
            self._hub.remove(cell.pidfd)
            self._hub.remove(cell.channel.fileno())
        os.close(cell.pidfd)
        cell.channel.close()
        for name, count in cell.totals.items():
            self.past_totals[name] = self.past_totals.get(name, 0) + count
        self._past_done += cell.row.done
        task = cell.row.task()
        death = Death(
            pid=cell.pid,
            token=cell.token,
            status=status,
            killed=cell.killed,
            signum=cell.signum,
            task=task,
            batch=cell.row.batch(task) if task else [],
            in_hand=cell.row.in_hand(),
            described=cell.row.description if task else b"",
            acks=cell.row.recent_acks(),
            results=[Result(*each) for each in cell.row.unstored_results()],
            events=cell.row.unsent_events(),
            overwritten=overwritten,
        )
        if (watch := memory.watch()) is not None:
            watch.died(cell.pid)
        if status == RUINED:
            logger.error("cell %d is replaced: %s", cell.pid, cell.row.description.decode(errors="replace"))
        self._judge_start(cell, death)
        if self.in_service:
            self._fill()  # before anything that may wait for the broker
        if status or task or death.results or death.events:
            self.deaths.eventer = (
                self.controller.consumer.event_dispatcher if self.controller.consumer else None
            )
            self.deaths.add(death)

    def _judge_start(self, cell: Seat, death: Death) -> None:
        """Cells that die again and again with nothing in their hands are forked more and more slowly.

        What kills them is no message, which would be charged and given up, but an import or a hook.
        """
        row = cell.row
        if cell.killed or not self.in_service:
            return
        if row.done or death.task or death.in_hand or not (death.status or row.state == State.STARTING):
            self._failed_starts = 0
            return
        self._failed_starts += 1
        if self._failed_starts == 1:
            return  # once is an accident
        wait = equal_jitter(exponential(self._failed_starts - 1, base=_FIRST_REFORK, cap=_LONGEST_REFORK))
        self._fork_at = time.monotonic() + wait
        logger.error(
            "cell %d ended at its start (%s), %d in a row: its log says why; next attempt in %.1f s",
            *(cell.pid, human_status(death.status), self._failed_starts, wait),
        )

    # The look at all of it

    def tick(self) -> None:
        """What is due every `_TICK` seconds; nothing within itself.

        Celery stops the pool in the handler of a signal, which may come in the middle.
        """
        if self._ticking:
            return
        self._ticking = True
        try:
            self._tick()
        finally:
            self._ticking = False

    def _tick(self) -> None:
        now = time.monotonic()
        passed, self._looked_at = min(now - self._looked_at, _MOST_PASSES), now
        self.enforcement.look(now, passed)
        self.deaths.settle()
        if self.in_service:
            self._fill()
            if now >= self._scale_at and getattr(self.controller, "autoscaler", None):
                self._scale_at = now + _SCALE_EVERY
                self.controller.autoscaler.maybe_scale()

    def queue_names(self) -> list[str]:
        """Every queue that cells have consumed."""
        self._queues_ever.update(queue.name for queue in self.app.amqp.queues.consume_from.values())
        return sorted(self._queues_ever)

    # What Celery asks of a pool

    def tell(self, message: str, **fields: Any) -> None:
        """Say something to every cell; it is heard before the next task starts there."""
        for cell in self.cells.values():
            if message == "stop":
                cell.dismiss()
            else:
                cell.channel.say(message, **fields)
        self.table.bump()

    def running(self) -> list[tuple[Seat, Running]]:
        """What runs now, and where."""
        found = ((cell, cell.row.task()) for cell in list(self.cells.values()))
        return [(cell, task) for cell, task in found if task is not None]

    def terminate_job(self, pid: int, signal: Any = None) -> None:
        """End what a cell runs, by a signal; the task is revoked."""
        for cell, task in self.running():
            if cell.pid == pid:
                self.enforcement.terminate(cell, task, signal_number(signal))

    def grow(self, n: int = 1) -> None:
        """So many cells more."""
        self._wanted = min(self._wanted + n, self.table.seats)
        if (watch := memory.watch()) is not None:
            watch.grow(self._wanted)
        self._fill()
        self.tell("share", cells=self._wanted)

    def shrink(self, n: int = 1) -> None:
        """So many cells fewer: idle ones first, others when their task has ended."""
        by_work = sorted(self.cells.values(), key=lambda cell: cell.row.state == State.RUNNING)
        for cell in [cell for cell in by_work if not cell.leaving][: min(n, self._wanted - 1)]:
            self._wanted -= 1
            cell.leaving = True
            cell.dismiss()
        self.tell("share", cells=self._wanted)

    def restart(self) -> None:
        """Replace every cell by a fresh one when its task has ended."""
        self.tell("stop")

    @property
    def in_service(self) -> bool:
        """Whether the worker is not about to end."""
        return bool(self._state == self.RUN)

    @property
    def able(self) -> bool:
        """Whether there is a cell that hears."""
        return any(not cell.deaf for cell in self.cells.values())

    @property
    def wanted(self) -> int:
        """Cells there should be."""
        wanted: int = self._wanted
        return wanted

    @property
    def processed(self) -> int:
        """Tasks ended in cells, ever."""
        done: int = self._past_done + sum(cell.row.done for cell in self.cells.values())
        return done

    def totals(self) -> dict[str, int]:
        """Tasks started, by name; those of the last second may be missing."""
        found = Counter(self.past_totals)
        for cell in self.cells.values():
            found.update(cell.totals)
        found.update(task.name for _, task in self.running())
        return dict(found)

    def did_start_ok(self) -> bool:
        """Cells that cannot start are forked again, and reported."""
        return True

    def maintain_pool(self, *_args: Any, **_kwargs: Any) -> None:
        """The tick does."""

    @property
    def num_processes(self) -> int:
        """Cells that take tasks."""
        return sum(not cell.leaving for cell in self.cells.values())

    def _get_info(self) -> dict[str, Any]:
        return {
            **super()._get_info(),  # type: ignore[misc]
            "max-concurrency": self._wanted,
            "processes": [cell.pid for cell in self.cells.values()],
            "max-tasks-per-child": self.options.get("maxtasksperchild") or "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": [self.options.get("soft_timeout") or 0, self.options.get("timeout") or 0],
            "writes": "N/A",
        }


def _reap(pid: int) -> int | None:
    """The exit code, negative for a signal; None if it has not ended, which is never waited for."""
    try:
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:  # somebody else waited for it
        return 1
    return os.waitstatus_to_exitcode(status) if ended else None
