"""The gate: every request passes it before it runs, in whichever process consumes.

It asks the accounts in use (`seawall.admission`), each of which owns one scarce thing, and does what they
say: run the request, hold it here, park it in the broker, or fail it. With no account in use it costs one
comparison.

Held requests wait in order of priority, then of arrival, and are asked about again when a share is given
back, when their account said so, and at least every `_LOOK_EVERY` seconds. They stay what Celery calls
reserved: `inspect reserved` shows them, `revoke` and `expires` end them, and a connection that is lost takes
them along, because their messages go back. Each makes room for one more message, so that what is held does
not keep what could run; beyond `MOST_HELD` a request waits in the broker instead.

A request is admitted only while the pool has a free slot. Otherwise the order would be that of the pool's own
queue, and shares would be taken by requests that do not run.

A share is given back when Celery has forgotten the request. That covers every ending there is: success,
failure, retry, limits, a lost process, revocation, expiry, shutdown.
"""

import logging
import threading
import time
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from celery import bootsteps
from celery.concurrency.prefork import TaskPool as Processes
from celery.concurrency.solo import TaskPool as Solo
from celery.worker import state

from seawall.admission import Account, Admit, Candidate, Hold, Park, Refuse, Verdict, accounts
from seawall.delivery.refusal import is_outage
from seawall.delivery.transport import Doorbell
from seawall.policies import DEFAULT
from seawall.priority import Priority
from seawall.worker import forks, late_endings
from seawall.worker.deferral import fail, give_back, set_aside
from seawall.worker.entry import give_up, reported
from seawall.worker.strays import bury

logger = logging.getLogger(__name__)

MOST_HELD: Final = 32
_LOOK_EVERY: Final = 0.25
_IN_TURN_AFTER: Final = 2.0
_TELL_EVERY: Final = 1.0
_REASONS_TOLD: Final = 3
_ENDINGS: Final = ("on_success", "on_failure", "on_timeout")


@dataclass(order=True)
class Held:
    """A request that waits. The first fields give its rank."""

    urgency: int
    arrival: int
    request: Any = field(compare=False)
    candidate: Candidate = field(compare=False)
    since: float = field(compare=False)
    ask_at: float = field(default=0.0, compare=False)
    widened: bool = field(default=False, compare=False)


class Gate(bootsteps.StartStopStep):
    """Celery's consumer step. Everything but `_on_end` runs in the consumer's thread."""

    label = "Gate"

    def __init__(self, c: Any, clock: Callable[[], float] = time.monotonic, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._consumer = c
        self._clock = clock
        self._run: Callable[[Any], Any] = c.on_task_request
        self._waits = isinstance(c.pool, Solo)  # what it runs has ended when it returns
        forks.end_children_of(c.pool)
        if not isinstance(c.pool, Processes):
            c.pool.on_apply = reported(c.pool.on_apply)
        self._held: list[Held] = []
        self._running: dict[int, tuple[Any, Candidate]] = {}
        self._ended: deque[Any] = deque()
        self._parked: Counter[str] = Counter()  # by reason, since the last line about them
        self._told_at = float("-inf")
        self._arrivals = 0
        self._pumping = threading.Lock()
        self._pumper = 0  # the thread that holds it
        self._open = True
        self._timers: list[Any] = []
        self._doorbell: Doorbell | None = None
        c.gate = self
        c.on_task_request = self.enter

    def include_if(self, c: Any) -> bool:
        """Where requests are run; a supervisor runs none."""
        return bool(getattr(c, "runs_tasks", True))

    def start(self, c: Any) -> None:
        """A connection is there."""
        self._open = True
        processes: Any = getattr(c.pool, "_pool", None)
        if hasattr(processes, "soft_timeout"):
            processes.soft_timeout = None  # billiard takes a soft limit of 0 for unset, and fills this in
        self._timers = [
            c.timer.call_repeatedly(_LOOK_EVERY, self._look),
            c.timer.call_repeatedly(late_endings.COME_EVERY, late_endings.come),
        ]

    def register_with_event_loop(self, c: Any, hub: Any) -> None:  # noqa: ARG002 - Celery's signature
        """Endings that other threads report make the loop look again."""
        self._doorbell = self._doorbell or Doorbell()
        hub.add_reader(self._doorbell.fileno(), self._rung)

    def stop(self, c: Any) -> None:
        """It is gone, and with it what was held: the messages go back by themselves."""
        self._open = False
        self._held.clear()
        for timer in self._timers:
            c.timer.cancel(timer)
        self._timers.clear()

    def close(self, c: Any) -> None:  # noqa: ARG002 - Celery's signature
        """The worker is leaving: nothing more begins."""
        self._open = False

    @property
    def held(self) -> list[Any]:
        """The requests that wait here, in their order."""
        return [entry.request for entry in self._held]

    @property
    def waiting(self) -> int:
        """How many these are."""
        return len(self._held)

    def enter(self, request: Any) -> None:
        """A request has come."""
        if not accounts:
            self._run(request)
            return
        candidate = _candidate(request)
        self._arrivals += 1
        insort(self._held, Held(-candidate.priority, self._arrivals, request, candidate, self._clock()))
        self.pump()

    def give_back(self) -> None:
        """Give back what is held: this process has no time for it, and others may have taken it."""
        for entry in list(self._held):
            self._drop(entry)
            give_back(entry.request)

    def pump(self) -> None:
        """Let through what may pass now."""
        if not self._open or not self._pumping.acquire(blocking=False):
            return  # a pool that runs tasks in our thread comes back here; whoever pumps goes on
        self._pumper = threading.get_ident()
        try:
            while self._pass_one():
                pass
        finally:
            self._pumper = 0
            self._pumping.release()

    def _pass_one(self) -> bool:
        """Admit, park or fail the first request that can be; False if none can."""
        self._collect()
        now = self._clock()
        if not self._open or len(self._running) >= max(self._consumer.pool.num_processes or 1, 1):
            return False
        for entry in self._held:
            if self._is_over(entry):
                return True
            if entry.ask_at > now:
                continue
            verdict = self._let_in(entry)
            if not isinstance(verdict, Hold):
                return True
            entry.ask_at = now + min(verdict.retry_after, _LOOK_EVERY)
            if self._overflows(entry, verdict):
                return True
            if verdict.in_turn and now - entry.since > _IN_TURN_AFTER:
                return False
        return False

    def _let_in(self, entry: Held) -> Verdict | None:
        """Ask, and do as answered unless it is held; None if it was given up."""
        try:
            verdict = self._ask(entry.candidate)
            if not isinstance(verdict, Hold):
                self._drop(entry)
                self._obey(entry, verdict)
        except Exception as exc:
            if is_outage(exc, self._consumer.connection_errors):
                raise
            self._give_up(entry, exc)  # it ends this message, never the consumer
            return None
        return verdict

    def _is_over(self, entry: Held) -> bool:
        """Whether it has ended while it waited: revoked, expired, or given up as that cannot be found out."""
        request = entry.request
        try:
            over = (request.expires or state.revoked or state.revoked_stamps) and request.revoked()
        except Exception as exc:
            if is_outage(exc, self._consumer.connection_errors):
                raise
            self._give_up(entry, exc)  # else whoever comes next would be blamed for it
            return True
        if over:
            self._drop(entry)
        return bool(over)

    def _give_up(self, entry: Held, error: Exception) -> None:
        if entry in self._held:
            self._drop(entry)
        self._release(entry.request)
        give_up(entry.request, error, bury)

    def _ask(self, candidate: Candidate) -> Verdict:
        """All accounts in turn; what the first ones reserved goes back if a later one does not admit."""
        asked: list[Account] = []
        for account in accounts:
            try:
                verdict = account.ask(candidate)
            except BaseException:
                for earlier in asked:
                    earlier.release(candidate)
                raise
            if not isinstance(verdict, Admit):
                for earlier in asked:
                    earlier.release(candidate)
                return verdict
            asked.append(account)
        return Admit()

    def _obey(self, entry: Held, verdict: Verdict) -> None:
        request = entry.request
        if isinstance(verdict, Admit):
            self._admit(request, entry.candidate)
        elif isinstance(verdict, Park):
            logger.debug("%s[%s] is parked: %s", request.name, request.id, verdict.reason)
            self._parked[verdict.reason] += 1
            self._tell_parked()
            set_aside(request, verdict.retry_after, dependency=verdict.dependency, reason=verdict.reason)
        elif isinstance(verdict, Refuse):
            fail(request, verdict.error)

    def _tell_parked(self) -> None:
        """One line now and then: an outage parks thousands."""
        now = self._clock()
        if self._parked and now - self._told_at >= _TELL_EVERY:
            reasons = (f"{reason} ({many})" for reason, many in self._parked.most_common(_REASONS_TOLD))
            logger.info("%d parked: %s", self._parked.total(), ", ".join(reasons))
            self._parked.clear()
            self._told_at = now

    def _admit(self, request: Any, candidate: Candidate) -> None:
        self._running[id(request)] = request, candidate
        if not self._waits:
            for name in _ENDINGS:
                setattr(request, name, self._then(getattr(request, name), request))
        self._run(request)
        if state.requests.get(request.id) is not request:
            self._on_end(request)  # also one that was refused on the last step, without an ending

    def _then(self, ending: Callable[..., Any], request: Any) -> Callable[..., Any]:
        """Celery's ending, and a look at what it changes here; it may come from any thread."""

        def ended(*args: Any, **kwargs: Any) -> Any:
            try:
                return ending(*args, **kwargs)
            except Exception as exc:
                if is_outage(exc, self._consumer.connection_errors):
                    raise
                return give_up(request, exc, bury)  # in its pool nobody would hear of it
            finally:
                if state.requests.get(request.id) is not request:
                    self._on_end(request)

        return ended

    def _on_end(self, request: Any) -> None:
        self._ended.append(request)
        if self._pumper == threading.get_ident():
            return  # it ran in our own thread, and we go on from there
        if self._doorbell is not None:
            self._doorbell.ring()
        else:
            self._consumer.timer.call_after(0, self.pump)

    def _rung(self) -> None:
        if self._doorbell is not None:
            self._doorbell.answer()
        self.pump()

    def _collect(self) -> None:
        """Give back the shares of requests that have ended."""
        while self._ended:
            self._release(self._ended.popleft())

    def _look(self) -> None:
        """Whatever ended without a word, and whatever may be asked for again."""
        for request, _ in list(self._running.values()):
            if state.requests.get(request.id) is not request:
                self._release(request)
        if self._held or self._ended:
            self.pump()
        self._tell_parked()

    def _release(self, request: Any) -> None:
        _, candidate = self._running.pop(id(request), (None, None))
        if candidate is not None:
            for account in accounts:
                account.release(candidate)

    def _overflows(self, entry: Held, verdict: Hold) -> bool:
        """Make room for another message beside a held one, or send it back when too many are held."""
        if entry.widened:
            return False
        if sum(other.widened for other in self._held) >= MOST_HELD:
            self._drop(entry)
            set_aside(entry.request, max(verdict.retry_after, _LOOK_EVERY), reason=verdict.reason)
            return True
        entry.widened = True
        self._consumer.qos.increment_eventually()
        return False

    def _drop(self, entry: Held) -> None:
        self._held.remove(entry)
        if entry.widened:
            self._consumer.qos.decrement_eventually()


def _candidate(request: Any) -> Candidate:
    place = request.delivery_info
    priority = place.get("priority")
    return Candidate(
        id=request.id,
        name=request.task.name,
        queue=place.get("routing_key") or "",
        priority=int(Priority.NORMAL) if priority is None else int(priority),
        policy=getattr(request.task, "policy", DEFAULT),
        arguments=lambda: (tuple(request.args or ()), dict(request.kwargs or {})),
    )
