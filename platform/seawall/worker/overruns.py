"""Tasks that outlast their limits where nothing can stop them: in threads, solo, gevent and eventlet.

Python has no safe way to end a thread, and an exception that is raised in one from outside may arrive in
the middle of our own code. So the worker is replaced instead of the task. A thread looks at what runs:

- Beyond its soft limit a task is named, once.
- Beyond its hard limit it is named again (`TaskOverran`), and the worker takes nothing new. What else runs
  may end, under its own limits. A task that overran and ends meanwhile keeps its outcome.
- When only tasks are left that overran, they fail with `TimeLimitExceeded` as in any other pool, everything
  else that the worker holds goes back to the broker at no charge, and the process exits, so that whoever
  supervises it starts the next one. After SIGTERM it is the same.

A task that keeps the interpreter's lock in C code, or a greenlet that never yields, stops this thread too.
For that case a timer that needs no lock (`faulthandler`) ends the process some seconds after the last hard
limit of what runs, with a traceback. Its messages come back when its lease ends, and are counted as after
any other lost worker.

All this is done where the worker is the program. One in a thread of another program, as in tests, only says
what overran.
"""

import faulthandler
import functools
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakKeyDictionary

from celery import bootsteps, signals
from celery.worker import state as worker_state

from seawall import events
from seawall.delivery.keeper import keeper
from seawall.worker import ending, forks, late_endings, unkept
from seawall.worker.periodic import Periodic
from seawall.worker.time_limits import limits_of

logger = logging.getLogger(__name__)
state: Any = worker_state  # celery-types lacks half of it

_LOOK_EVERY: Final = 0.25
_GRACE: Final = 1.0  # seconds for a pool that raises the hard limit itself
_LOCKED_OUT: Final = 3.0  # seconds beyond the last hard limit until a process that cannot look is ended
_CLOSE_ENOUGH: Final = 0.5  # seconds by which that timer may be off: not every quick task sets it
_FEW: Final = 50  # running tasks that are looked at whenever one begins
_LAST_WORDS: Final = 4.0  # seconds to settle, give back and say goodbye
_FAILED: Final = 1
_UID: Final = "seawall.overruns"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskOverran(events.Event):
    """A task outlasted its hard limit (seconds), and its pool cannot stop it: the worker is replaced."""

    task: str
    id: str
    limit: float


@dataclass
class Run:
    """One running request: the moment it began (monotonic) and its limits in seconds, 0 for none."""

    began: float
    soft: float
    hard: float
    told: bool = False
    overran: bool = False


class Watch(Periodic):
    """The thread that looks. `grace`: seconds that the pool has to stop a task itself."""

    thread = "seawall-overruns"

    def __init__(self, worker: Any, *, grace: float = 0.0, in_charge: bool = True) -> None:
        super().__init__()
        self._worker = worker
        self._grace = grace
        self._in_charge = in_charge
        self._runs: WeakKeyDictionary[Any, Run] = WeakKeyDictionary()
        self._armed_until: float | None = None
        self._leaving = False
        self._alone = 0  # looks in a row at which only tasks were left that overran

    def stop(self, **_: Any) -> None:
        """Look no more: the worker has ended. Safe to repeat, and in this thread."""
        self._ended.set()
        signals.task_prerun.disconnect(dispatch_uid=_UID)
        if self._in_charge and state.should_terminate:
            self._leaving = (
                True  # after a cold shutdown, threads that were left running would keep the process
            )
            self._arm_for(_LAST_WORDS)
        if not self._leaving:
            self._disarm()

    def began(self, task_id: str = "", **_: Any) -> None:
        """A task is about to run in this thread, which may be the last to act: the timer knows before."""
        now, request = time.monotonic(), state.requests.get(task_id)
        if request is None:
            return
        run, active = self._run_of(request, now), _active()
        if len(active) <= _FEW:
            self._arm([self._run_of(each, now) for each in active], now)
        elif self._armed_until is not None and run.hard:
            self._arm_until(max(self._armed_until, run.began + run.hard + self._grace + _LOCKED_OUT), now)

    def turn(self) -> float:
        """Look at what runs."""
        now = time.monotonic()
        running = [(request, self._run_of(request, now)) for request in _active()]
        for request, run in running:
            self._look(request, run, now - run.began)
        if self._in_charge:
            self._arm([run for _, run in running], now)
            overran = [request for request, run in running if run.overran]
            if overran and state.should_stop is None:
                self._replace()
            if overran and len(overran) == len(running):
                self._alone += 1
                if self._alone > 1:  # an ending that was under way a moment ago is settled by now
                    self._leave(overran)
            else:
                self._alone = 0
        return _LOOK_EVERY

    def _run_of(self, request: Any, now: float) -> Run:
        run = self._runs.get(request)
        if run is None:
            options = self._worker.pool.options
            hard, soft = request.time_limits
            soft, hard = limits_of(request.task, (soft, hard))
            if hard is None and soft is None:
                hard, soft = options.get("timeout"), options.get("soft_timeout")
            began = now - max(time.time() - (request.time_start or time.time()), 0.0)
            run = self._runs[request] = Run(began, float(soft or 0), float(hard or 0))
        return run

    def _look(self, request: Any, run: Run, ran: float) -> None:
        if run.hard and ran > run.hard + self._grace and not run.overran:
            run.overran = run.told = True
            logger.error(
                "Hard time limit (%ss) exceeded for %s[%s], which this pool cannot stop",
                *(run.hard, request.name, request.id),
            )
            events.emit(TaskOverran(task=request.name, id=request.id, limit=run.hard))
        elif run.soft and ran > run.soft and not run.told:
            run.told = True
            logger.warning(
                "Soft time limit (%ss) exceeded for %s[%s], which this pool cannot interrupt",
                *(run.soft, request.name, request.id),
            )

    def _replace(self) -> None:
        """Take nothing more, as after SIGTERM, and end with a failure."""
        logger.warning("this worker takes nothing new and ends when what else runs has, to be started again")
        signals.worker_shutting_down.send(
            sender=self._worker.hostname, sig="overrun", how="Warm", exitcode=_FAILED
        )
        state.should_stop = _FAILED

    def _leave(self, overran: list[Any]) -> None:
        """Fail what overran, give back what did not start, and end the process."""
        self._leaving = True
        self._arm_for(_LAST_WORDS)
        for request in overran:
            try:
                request.on_timeout(False, self._runs[request].hard)  # noqa: FBT003 - Celery's signature
            except Exception:
                logger.exception("%s[%s] could not be settled and comes again", request.name, request.id)
        if (hub := getattr(self._worker, "hub", None)) is not None:
            for settle in hub._pop_ready():  # noqa: SLF001 - what other threads left to a loop that turns no more
                settle()
        for claimant in keeper.claimants:
            claimant.leave()
        ending.ended.send(sender=self._worker)
        logger.warning("the worker ends with %d tasks that do not", len(overran))
        logging.shutdown()
        os._exit(state.should_stop or 0)

    # The timer that needs no lock

    def _arm(self, runs: list[Run], now: float) -> None:
        if runs and all(run.hard for run in runs):
            last = max(now, *(run.began + run.hard + self._grace for run in runs))
            self._arm_until(last + _LOCKED_OUT, now)  # who looks is not locked out, however late it is
        else:
            self._disarm()

    def _arm_for(self, seconds: float) -> None:
        now = time.monotonic()
        self._arm_until(now + seconds, now)

    def _arm_until(self, moment: float, now: float) -> None:
        if self._armed_until is not None and abs(moment - self._armed_until) < _CLOSE_ENOUGH:
            return
        if (output := sys.__stderr__) is not None:
            faulthandler.dump_traceback_later(max(moment - now, _CLOSE_ENOUGH), exit=True, file=output)
            self._armed_until = moment

    def _disarm(self) -> None:
        if self._armed_until is not None:
            faulthandler.cancel_dump_traceback_later()
            self._armed_until = None


def _active() -> list[Any]:
    """What runs now; other threads change the set meanwhile."""
    while True:
        try:
            active = list(state.active_requests)
        except RuntimeError:
            continue
        ended = late_endings.have_ended()
        return [request for request in active if request not in ended] if ended else active


class Step(bootsteps.StartStopStep):
    """The worker's step: says what the pool does not keep, and looks until the worker has ended."""

    label = "Overruns"
    requires = ("celery.worker.components:Pool",)

    def __init__(self, worker: Any, **options: Any) -> None:
        super().__init__(worker, **options)
        self._watch: Watch | None = None

    def create(self, worker: Any) -> None:
        """Before anything has started."""
        forks.end_second_worker()
        worker.ready_callback = functools.partial(forks.alone, worker.ready_callback)
        unkept.check(worker)

    def start(self, worker: Any) -> None:
        """Look from now on, where tasks run in this process."""
        pool = unkept.pool_name(worker.pool_cls)
        if unkept.SOFT in unkept.kept_by(pool):
            return
        grace = _GRACE if unkept.HARD in unkept.kept_by(pool) else 0.0
        in_charge = threading.current_thread() is threading.main_thread()
        self._watch = Watch(worker, grace=grace, in_charge=in_charge)
        if in_charge:
            signals.task_prerun.connect(self._watch.began, dispatch_uid=_UID)
        ending.ended.connect(self._watch.stop)
        self._watch.start()
