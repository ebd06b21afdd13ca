"""Memory in a worker: the watch of its main process, and what surrounds a task where it runs.

The main process (in a worker of cells, the supervisor) samples the processes that run tasks, tells or kills
what goes too far, keeps the records in Redis and publishes what they say to the board. A task's process
reports its runs and cleans up between them. Both sides are set up before the first fork.

Where a process runs one task at a time (cells, prefork) all of it holds. With threads, gevent or solo there
is admission and the level of pressure, and no memory that is one task's.
"""

import contextlib
import gc
import logging
import os
import signal
import time
from collections.abc import Callable, Collection
from typing import Any, Final

from celery import bootsteps, signals
from celery.app.base import Celery
from redis.exceptions import RedisError

from seawall import admission, cluster, events, memory, servers
from seawall.config import settings
from seawall.memory import Pressure
from seawall.memory.account import MemoryAccount
from seawall.memory.board import Board, Busy
from seawall.memory.budget import ControlGroup
from seawall.memory.cleanup import CLEANER, release
from seawall.memory.events import BudgetFarOff, CellRecycled, LeakCleared, LeakSuspected
from seawall.memory.guard import Guard, Overrun, act
from seawall.memory.learned import Judged, Learned, Record, Sample
from seawall.memory.process import group_of, make_board, marks_of, stand_down
from seawall.memory.recycling import Recycling
from seawall.memory.runs import SIGNAL, Arguments, Reports, Runs, exceeded
from seawall.policies import policy_of
from seawall.quantity import format_bytes
from seawall.sections import MemorySettings
from seawall.worker import losses, unbegun

logger = logging.getLogger(__name__)

_WRITE_EVERY: Final = 2.0
_READ_EVERY: Final = 10.0
_FAR_OFF: Final = 4
_LOOK_FIRST: Final = 0.02
_FLOW_EVERY: Final = 0.05
_KEPT_VERDICTS: Final = 100
_SAMPLES_KEPT: Final = 10_000


class Watch:
    """The main process's side. `forks`: tasks run in processes of their own, one at a time in each."""

    def __init__(self, app: Celery, *, slots: int, forks: bool) -> None:
        stand_down()  # of a process that called `bootstrap()` before it became a worker
        chosen = settings().memory
        self.marks = marks_of(chosen)
        self.board, group = board_of(chosen)
        self.account = MemoryAccount(self.board, self.marks, unknown=chosen.unknown_task)
        self.reports = Reports()
        self.runs = Runs(self.board, self.reports.send) if forks else None
        self._app = app
        self._forks = forks
        self._recycles_leaks = chosen.recycle_leaks
        self._guard = Guard(self.board, marks=self.marks, slots=slots, group=group)
        self._records = _Records(app, self.board, self.reports)
        self._verdicts: dict[int, Overrun] = {}
        self._level = Pressure.NORMAL
        self._look_at = self._write_at = 0.0
        self._recycling = Recycling()
        now = time.monotonic()
        self._guard.expect(slots if forks else 0, now)
        self._guard.look((), now)  # a worker that starts under pressure knows it before it takes a task
        memory.attach(self.board)
        admission.use(self.account)

    def tick(self, now: float, pids: Collection[int], kill: Callable[[Overrun], bool]) -> None:
        """Look, if it is time to: `pids` run the tasks, and `kill` ends one that may have to be ended."""
        if now < self._look_at:
            return
        for overrun in self._guard.look(pids, now) if self._forks else self._look_at_pressure(now):
            if act(overrun, kill if overrun.hard else _tell) and overrun.hard:
                self._remember(overrun)
        self._look_at = now + self._guard.interval
        if self.board.level > self._level:
            self._clean_up()
        self._level = self.board.level
        self._records.collect()
        if now >= self._write_at:
            self._write_at = now + _WRITE_EVERY
            self._records.keep(now)

    def wait(self, now: float) -> float:
        """Seconds until the next look."""
        return max(_LOOK_FIRST, self._look_at - now)

    def _look_at_pressure(self, now: float) -> list[Overrun]:
        self._guard.look((), now)
        return []

    def _clean_up(self) -> None:
        """In the main process callbacks would stop the heartbeat, unless tasks run here too."""
        if self._forks:
            release()
        else:
            CLEANER.react(self.board.level)

    def recycle(self, now: float, idle: Collection[int], unused: Collection[int]) -> int | None:
        """The idle process that is worth replacing: under pressure, or because tasks leak, the largest.

        `unused` are those of the idle ones that have run nothing yet.
        """
        leaking = self._recycles_leaks and self._records.leaking
        pressed = self.board.level >= Pressure.CRITICAL
        if not self._recycling.due(now, pressed=pressed) or not (leaking or pressed):
            return None
        held = self._guard.retained(set(idle).difference(unused))
        fresh = self._guard.retained(unused)
        if (pid := self._recycling.choose(now, held, fresh, used=self.board.used())) is None:
            return None
        reason = "pressure" if pressed else "leaks"
        logger.info("replacing process %d, which retains %s: %s", pid, format_bytes(held[pid]), reason)
        events.emit(CellRecycled(pid=pid, retained=held[pid], reason=reason))
        return pid

    def grow(self, slots: int) -> None:
        """The pool is about to run so many tasks at a time."""
        self._guard.grow(slots)

    def died(self, pid: int) -> None:
        """A process that ran tasks is gone, and so are its shares."""
        with contextlib.suppress(Busy):
            self.board.forget(pid)

    def _remember(self, overrun: Overrun) -> None:
        self._verdicts[overrun.pid] = overrun
        if len(self._verdicts) > _KEPT_VERDICTS:
            del self._verdicts[next(iter(self._verdicts))]

    def verdict(self, pid: int | None, request: str) -> Overrun | None:
        """Why the process of a request was killed, if that was for memory."""
        overrun = self._verdicts.get(pid or 0)
        return overrun if overrun is not None and overrun.id == request[:63] else None

    def close(self) -> None:
        """The worker stops: its last samples are written, its row given up."""
        admission.disuse(self.account)
        self._records.collect()
        self._records.keep(float("inf"))
        with contextlib.suppress(Busy):
            self._guard.close()
        self.reports.close()
        memory.attach(None)


class _Records:
    """What the watch knows of tasks, kept in Redis and on the board."""

    def __init__(self, app: Celery, board: Board, reports: Reports) -> None:
        self._app = app
        self._board = board
        self._reports = reports
        self._samples: list[Sample] = []
        self._read_at = self._away_until = 0.0
        self._reported: set[str] = set()
        self.leaking: set[str] = set()

    def collect(self) -> None:
        """Take what was reported."""
        self._samples += self._reports.received()
        del self._samples[:-_SAMPLES_KEPT]

    def keep(self, now: float) -> None:
        """Write what was reported, read what is known; while Redis is away, nothing."""
        if not servers.redis_is_known():
            return  # asking for it would start the embedded one
        if now < self._away_until:
            return
        try:
            learned = Learned(cluster.client())
            if self._samples:
                for judged in learned.add(self._samples):
                    self._judge(judged, learned)
                self._samples.clear()
            if now >= self._read_at:
                self._read_at = now + _READ_EVERY
                self._publish(learned.records())
        except (RedisError, Busy) as exc:
            self._away_until = now + _READ_EVERY
            logger.debug("records of memory are kept later: %s", exc)

    def _judge(self, judged: Judged, learned: Learned) -> None:
        if judged.leaking and not judged.before:
            growth = learned.record(judged.name).growth or 0
            logger.warning(
                "%s seems to leak %s a run: `seawall memory profile %s` finds the line",
                judged.name, format_bytes(growth), judged.name,
            )  # fmt: skip
            events.emit(LeakSuspected(task=judged.name, growth=growth))
        elif judged.before and not judged.leaking:
            logger.info("%s does not seem to leak any more", judged.name)
            events.emit(LeakCleared(task=judged.name))

    def _publish(self, records: list[Record]) -> None:
        self.leaking = {record.name for record in records if record.leaking}
        for record in records:
            if (peak := record.peak()) is None:
                continue
            self._board.learn(record.name, peak)
            task: Any = self._app.tasks.get(record.name)
            declared = policy_of(task.run).memory if task is not None else None
            if declared and record.name not in self._reported and self._is_far_off(declared, peak):
                self._reported.add(record.name)
                logger.warning(
                    "%s declares memory=%s and was seen to need %s (p95 of %d runs): correct its policy",
                    record.name, format_bytes(declared), format_bytes(peak), record.runs,
                )  # fmt: skip
                events.emit(BudgetFarOff(task=record.name, declared=declared, learned=peak))

    def _is_far_off(self, declared: int, learned: int) -> bool:
        """Too small, or several times too large; within a fair share of the budget that delays nobody."""
        fair = self._board.budget // max(1, self._board.slots)
        return learned > declared or (learned * _FAR_OFF < declared and declared > fair)


def _tell(overrun: Overrun) -> bool:
    if SIGNAL is None:
        return False
    try:
        os.kill(overrun.pid, SIGNAL)
    except ProcessLookupError:
        return False
    return True


def board_of(chosen: MemorySettings) -> tuple[Board, ControlGroup | None]:
    """The fleet's board, or one of this worker's, with the group whose limit is the budget."""
    if chosen.board is None:
        return make_board(chosen)
    board = Board.open(chosen.board)
    logger.debug("memory budget %s, shared by the workers of the fleet", format_bytes(board.budget))
    return board, group_of(chosen)


# One worker a process

_watch: Watch | None = None


def watch() -> Watch | None:
    """The watch of this worker: in its main process, and as it was before the fork in its others."""
    return _watch


class Step(bootsteps.StartStopStep):
    """The worker's step: sets the watch up before the pool forks, and looks on the worker's timer.

    A pool of cells looks itself: it goes on while the worker drains.
    """

    label = "Memory"

    def create(self, worker: Any) -> None:
        """Before anything has started."""
        global _watch  # noqa: PLW0603 - one worker a process
        close()  # of a worker that is still in this process, as in tests: the last one counts
        prefork = _is_prefork(worker.pool_cls)
        forks = prefork or _is_cells(worker.pool_cls)
        if prefork:  # a cell calls by itself, when the task is settled
            signals.task_postrun.connect(ended, dispatch_uid="seawall.memory")
        most, _ = worker.autoscale or (0, 0)
        slots = max(most, worker.concurrency or os.cpu_count() or 1)
        _watch = Watch(worker.app, slots=slots, forks=forks)

    def start(self, worker: Any) -> None:
        """Look from now on."""
        if not _is_cells(type(worker.pool)):
            worker.timer.call_after(_LOOK_FIRST, self._look, (worker, _watch))

    def _look(self, worker: Any, mine: Watch | None) -> None:
        if mine is None or mine is not _watch:
            return
        mine.tick(time.monotonic(), _children(worker), _kill)
        worker.timer.call_after(mine.wait(time.monotonic()), self._look, (worker, mine))


def freeze(**_: Any) -> None:
    """Before prefork forks: no collection in a child touches what all share, which would copy it."""
    if _watch is not None and not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def close(**_: Any) -> None:
    """The worker has stopped."""
    global _watch
    mine, _watch = _watch, None
    if mine is not None:
        mine.close()
        gc.unfreeze()


def _is_cells(pool: type) -> bool:
    return pool.__module__.startswith("seawall.worker.cells")


def _is_prefork(pool: type) -> bool:
    return pool.__module__ == "celery.concurrency.prefork"


def _children(worker: Any) -> list[int]:
    pool = getattr(getattr(worker.pool, "_pool", None), "_pool", None)
    return [process.pid for process in pool or () if getattr(process, "pid", None)]


def _kill(overrun: Overrun) -> bool:
    try:
        os.kill(overrun.pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True


def install(app: Celery) -> None:
    """Give the app's workers the steps. Safe to repeat."""
    app.steps["worker"].add(Step)
    app.steps["consumer"].add(Flow)


# Where requests are consumed


class Flow(bootsteps.StartStopStep):
    """The consumer's step: pauses under EXHAUSTED, and asks for what is held once memory was freed elsewhere.

    It also pauses while a critical service is lost (`seawall.worker.losses`). What was taken and not begun
    goes back: another machine may run it. The pause belongs to one connection; the next one is paused anew.
    """

    label = "Flow"

    def __init__(self, c: Any, **options: Any) -> None:
        super().__init__(c, **options)
        self._timer: Any = None
        self._paused = False

    def include_if(self, c: Any) -> bool:
        """Where requests are consumed; a supervisor consumes none."""
        return bool(getattr(c, "runs_tasks", True))

    def start(self, c: Any) -> None:
        """A connection is there, and is consumed from."""
        self._paused = False
        self._look(c)
        self._timer = c.timer.call_repeatedly(_FLOW_EVERY, self._look, (c,))

    def stop(self, c: Any) -> None:
        """It is gone."""
        if self._timer is not None:
            c.timer.cancel(self._timer)
            self._timer = None

    def _look(self, c: Any) -> None:
        if _watch is None or c.task_consumer is None:
            return
        _watch.account.rest()
        paused = _watch.account.paused() or losses.all_wait()
        if paused and any(map(c.task_consumer.consuming_from, c.task_consumer.queues)):
            c.task_consumer.cancel()  # not only once: Celery's loop consumes as it begins, and what is added
            unbegun.give_back(c)
        elif self._paused and not paused:
            c.task_consumer.consume()
        self._paused = paused
        if _watch.account.worth_asking():
            c.gate.pump()


# Where a task runs


def around(task: Any, request: Any, arguments: Arguments) -> contextlib.AbstractContextManager[None]:
    """What a task's own code runs in."""
    if _watch is None or _watch.runs is None:
        return contextlib.nullcontext()
    account, identity = _watch.account, request.id or ""
    reserved = account.promised_to(identity)  # not known where another process asked
    if reserved is None:
        reserved = account.reservation(task.name, task.policy)
    return _watch.runs.run(identity, task.name, task.policy, reserved, arguments)


def ended(**_: Any) -> None:
    """A task has ended and is settled, in a process that runs one at a time."""
    if _watch is not None and _watch.runs is not None:
        _watch.runs.after()


def peak_kib() -> int | None:
    """What the process had at most during its last run; None if it is not the one that runs tasks."""
    if _watch is None or _watch.runs is None:
        return None
    return _watch.runs.highest // 1024 or None


def idle() -> None:
    """Now and then, in a process without a task."""
    if _watch is not None and _watch.runs is not None:
        _watch.runs.heed()


def why(pid: Any, request: str, arguments: Arguments) -> str | None:
    """Why the process of a request was killed, in words, if that was for memory."""
    overrun = None if _watch is None else _watch.verdict(pid, request)
    if overrun is None:
        return None
    return "its process was killed: " + exceeded(overrun.name, overrun.limit, overrun.used, arguments)
