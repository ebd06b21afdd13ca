"""One circuit in one process: what a call goes through.

While all is calm a call compares one byte and counts one success: no lock, no clock, no round trip.
Everything else takes the careful way: `admit` decides, and the `Call` it returns says how it ended.

Two circuits decide together. The cluster's is read from the table; a `Machine` of this process sees every
call and trips by itself, which protects a process whose own road to the dependency is bad and is all there
is while Redis is away. A call passes if both let it.

A process that has a hub reports its failures itself, before the exception goes on: that is a round trip, and
what it learns holds for its next call. In an event loop and in a worker's children the hub's thread does it.
"""

import itertools
import math
import os
import random
import threading
import time
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from seawall import holdings, identity
from seawall.breaker import place as places
from seawall.breaker.calls import Call, is_admitted
from seawall.breaker.config import Config
from seawall.breaker.counting import NEVER, Counting, Ok
from seawall.breaker.machine import Machine, ProbeOutcome, State, ramp
from seawall.breaker.store import Shared
from seawall.breaker.table import UNKNOWN, Own, View, calm_flag
from seawall.errors import BreakerOpen

ASK_AGAIN: Final = 0.05
RAMPING_RETRY: Final = 1.0
LONGEST_WAIT: Final = 60.0
"""Seconds that a refusal names where nobody knows an end: callers sleep for them, and write them as JSON."""

LOOK_EVERY: Final = 1.0
"""Seconds after which it looks whether the hub still lives."""

_UNBOUND: Final = memoryview(b"\0")
_leases = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A breaker at one moment, as this process sees it.

    `state` is what calls meet: the cluster's and this process's own together. `retry_after` is in seconds,
    and None where calls pass or where it is held open until somebody resets it. The counts are this
    process's, in the window; `refused` since it started.
    """

    name: str
    state: State
    cluster: State
    local: State
    cause: str
    retry_after: float | None
    trips: int
    calls: int
    failed: int
    slow: int
    refused: int
    cut_off: bool


class Probe(NamedTuple):
    """One that an attempt may have been granted."""

    circuit: "Circuit"
    lease: str

    def give_back(self) -> None:
        """Somebody else may make it."""
        self.circuit.give_back(self.lease)


class Circuit(Counting):
    """A name's circuit in this process. Made by `Breaker`; `calm`, `flag` and `ok` are read at each call."""

    __slots__ = (
        "_ask_at",
        "_ignored_epoch",
        "_look_at",
        "_message",
        "_offered",
        "_refuse_flag",
        "_refuse_until",
        "_refused_for",
        "_sequence",
        "_shared",
        "flag",
        "refused",
    )

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self.rules = config.rules
        self.refused = 0
        self._message = f"{name} is open: its calls are refused"
        self.unbind()

    def unbind(self) -> None:
        """Forget what this process knew; after a fork nothing of it is true. The next call starts anew."""
        self._lock = threading.RLock()  # so that a thread that was interrupted in it may leave it
        self.local = Machine(replace(self.rules, probes=1, quorum=1))
        self._offered: Call | None = None
        self._leave()

    def _leave(self) -> None:
        self._place = None
        self.slot = 0
        self.flag = _UNBOUND
        self._shared: Shared | None = None
        self._view = None
        self._sequence = -1
        self._ask_at = self._look_at = self._refuse_until = self._refused_for = 0.0
        self._refuse_flag = UNKNOWN
        self._ignored_epoch = NEVER
        self._begin_epoch()

    def _bind(self) -> places.Place:
        place = places.current()
        slot = place.enter(self.name, self.rules)
        self._place = place
        if slot is not None:
            self.slot, self.flag = slot, place.table.flag(slot)
            if self.flag[0] == UNKNOWN:
                place.first_look(slot)
        return place

    # Before a call

    @holdings.sheltered
    def admit(self) -> Call:
        """Let a call pass.

        Raises:
            BreakerOpen: not now.
        """
        if (offered := self._offered) is not None:
            probe = Probe(self, offered.lease or offered.local_lease)
            holdings.note(probe)
            if self.take_back(offered):
                return offered
            holdings.forget(probe)
        if (refusal := self.refusal()) is not None:
            try:
                raise refusal
            finally:
                del refusal  # as in `Breaker.__call__`
        now = time.monotonic()
        decided = self.decide(now)
        if decided is None:
            decided = self.ask()
        if isinstance(decided, Call):
            return decided
        if self.config.mode != "observe" and not self._ramping_now(now):
            self._refuse_until, self._refuse_flag = min(now + decided, now + LOOK_EVERY), self.flag[0]
            self._refused_for = now + _finite(decided)
        return self.refuse(decided)

    def refusal(self) -> BreakerOpen | None:
        """What the refusal before this one still says, counted; None: the call has to be decided."""
        now = time.monotonic()
        if now >= self._refuse_until or self.flag[0] != self._refuse_flag or self._offered is not None:
            return None
        self.refused += 1
        left = self._refused_for - now
        # A third of what its __init__ takes.
        refusal = BreakerOpen.__new__(BreakerOpen, self._message, self.name, left)
        refusal.name, refusal.retry_after, refusal.made_at = self.name, left, now
        return refusal

    def offer(self, call: Call) -> None:
        """The next call of this process is this one, which was admitted already."""
        self._offered = call

    def take_back(self, call: Call) -> bool:
        """Undo `offer`; False if the call was made, or another is offered."""
        with self._lock:
            if self._offered is not call:
                return False
            self._offered = None
            return True

    def refuse(self, retry_after: float) -> Call:
        """Count a refusal, and raise it; a breaker that only observes lets the call pass.

        Raises:
            BreakerOpen: not now.
        """
        self.refused += 1
        if self.config.mode == "observe":
            return Call(self)
        refusal = BreakerOpen(self._message, name=self.name, retry_after=_finite(retry_after))
        refusal.made_at = time.monotonic()
        try:
            raise refusal
        finally:
            del refusal  # as in `Breaker.__call__`

    def decide(self, now: float) -> Call | float | None:
        """A call, or the seconds after which to try again, or None: `ask` has to ask Redis."""
        view = self._look(now)
        if view is None or view.epoch == self._ignored_epoch:
            return self._decide_locally(now, view)
        state = view.state
        if state is State.FORCED_CLOSED:
            return Call(self)
        if state is State.CLOSED:
            return self._decide_locally(now, view)
        if now < view.until and (state is not State.HALF_OPEN or view.free < 1):
            return view.until - now
        return None if now >= self._ask_at else self._ask_at - now

    def _look(self, now: float) -> View | None:
        """The cluster's view, read again if it changed; None if nobody knows it."""
        place = self._place or self._bind()
        if now >= self._look_at:
            self._look_at = now + LOOK_EVERY
            if place.lost:
                places.leave(place)
                self._leave()
                return self._look(now)
            if not place.cut_off:
                self._ignored_epoch = NEVER
        flag = self.flag[0]
        if flag == UNKNOWN:
            return None
        sequence = place.table.sequence(self.slot)
        if sequence != self._sequence:
            view = place.table.view(self.slot)
            with self._lock:
                if self._view is None:
                    self._ask_at = 0.0  # what is under way began in this epoch, though nobody knew it yet
                elif view.epoch != self._view.epoch:
                    self._count_calm(now)  # this process's own circuit goes on
                    self._begin_epoch()
                    self._ask_at = 0.0
                self._view, self._sequence = view, sequence
        if self.calm == NEVER and self.local.state is State.CLOSED and self.local.admitted_share(now) >= 1.0:
            self.calm = calm_flag(self._view.epoch) if self._view else NEVER
        return self._view

    def _decide_locally(self, now: float, view: View | None) -> Call | float:
        if view is not None and view.ramp_for:
            share = ramp(now - view.since, view.ramp_for)
            if self._left_out(share):
                return RAMPING_RETRY
        local = self.local
        if local.state is State.CLOSED and not local.ramping:
            return Call(self)
        lease = self._lease()
        probe = Probe(self, lease)
        holdings.note(probe)
        with self._lock:
            before = local.state
            answer = local.ask(now, lease)
            share = local.admitted_share(now)
            until = local.until
        self._tell(before)
        if answer != "granted":
            holdings.forget(probe)
        if answer == "refused":
            return ASK_AGAIN if until is None else max(0.0, until - now)
        if answer == "closed" and self._left_out(share):
            return RAMPING_RETRY
        return Call(self, local_lease=lease if answer == "granted" else "")

    def _left_out(self, share: float) -> bool:
        """Whether this call is not among those that a ramp lets through; one of an admitted task is."""
        if share >= 1.0 or is_admitted(self.name):
            return False
        return random.random() > share  # noqa: S311 - spreads load, keeps no secret

    def ask(self) -> Call | float:
        """Ask Redis for a probe: a round trip."""
        place, lease, now = self.place, self._lease(), time.monotonic()
        probe = Probe(self, lease)
        holdings.note(probe)
        answer = None if place.cut_off else place.ask(self, lease)
        if answer != "granted":
            holdings.forget(probe)
        if answer is None:  # Redis is away and the time is over: this process finds out for itself
            self._go_by_ourselves(now)
            return self._decide_locally(now, None)
        if answer == "granted":
            shared = self._shared
            return Call(self, lease=lease, epoch=shared.epoch if shared else 0)
        if answer == "closed":
            return Call(self)
        self._ask_at = max(self._ask_at, now + ASK_AGAIN)
        return self._ask_at - now

    def answered(self, shared: Shared) -> None:
        """What Redis said when it was asked, which may be newer than the table of a child."""
        self._shared = shared
        left = math.inf if shared.left is None else shared.left
        wait = left if shared.free < 1 and left > 0 else ASK_AGAIN
        self._ask_at = time.monotonic() + min(max(wait, ASK_AGAIN), 1.0)

    def known(self) -> str:
        """What a server that lost its state learns from us."""
        view, now = self._view, time.monotonic()
        if view is None or not view.epoch:
            return ""
        return Shared(
            name=self.name,
            state=view.state,
            cause=view.cause,
            epoch=view.epoch,
            trips=view.trips,
            passed=now - view.since,
            left=None if view.until == math.inf else max(0.0, view.until - now),
            open_time=view.until - view.since if view.state is State.OPEN else 0.0,
            ramping=view.ramp_for > 0,
        ).text(older=0.0)

    def _go_by_ourselves(self, now: float) -> None:
        with self._lock:
            view = self._view
            if view is None or self._ignored_epoch == view.epoch:
                return
            self._ignored_epoch = view.epoch
            if self.local.state is State.CLOSED:
                self.local.take_over(now)

    def _ramping_now(self, now: float) -> bool:
        """Whether a refusal was a matter of chance, so that the next call may pass."""
        view = self._view
        shared = view is not None and view.state is State.CLOSED and now < view.since + view.ramp_for
        return shared or self.local.admitted_share(now) < 1.0

    def _lease(self) -> str:
        return lease_name(places.current().host, os.getpid(), next(_leases))

    # After a call

    def settle(self, ok: Ok) -> None:
        """A round of calm successes is over: hand it on, and those before it; every 20 ms is enough."""
        now = time.monotonic()
        if self._hand_on(ok, now) and now >= self._look_at:
            self._look(now)

    def failed(self, exc: BaseException, ok: Ok) -> None:
        """A call of the calm way raised."""
        verdict = self.config.failed(exc)
        if verdict:
            self.note(ok, failed=True)
        elif verdict is False and not next(ok):
            self.settle(ok)

    def lasted(self, seconds: float) -> tuple[bool, bool]:
        """Whether a call of so many seconds was slow, and whether it was too late to be of use."""
        config = self.config
        slow = config.slow_call is not None and seconds >= config.slow_call
        return slow, config.call_timeout is not None and seconds > config.call_timeout

    def finish(self, lease: str, epoch: int, outcome: ProbeOutcome) -> None:
        """A probe of the cluster ended: a round trip."""
        if self._place is not None:
            self._place.finish(self, lease, epoch, outcome)
        holdings.forget(Probe(self, lease))

    def finish_locally(self, lease: str, outcome: ProbeOutcome) -> None:
        """A probe of this process ended."""
        with self._lock:
            before = self.local.state
            self.local.finish(time.monotonic(), lease, self.local.epoch, outcome)
        self._tell(before)
        holdings.forget(Probe(self, lease))

    def give_back(self, lease: str) -> None:
        """After an interruption: a probe that may have been granted, here or in the cluster, is not made."""
        holdings.unlock(self._lock)
        if self._place is not None:
            self._place.unlock()
        shared = self._shared
        self.finish_locally(lease, "released")
        self.finish(lease, shared.epoch if shared else 0, "released")

    def _tell(self, before: State) -> None:
        """Also to the hub, for who looks at the fleet: this process refuses calls by itself, or no longer.

        A circuit that probes after its time needs no word: what was told ends with that time.
        """
        super()._tell(before)
        place, local = self._place, self.local
        if place is None or self.flag is _UNBOUND or local.state is before:
            return
        if local.state is State.OPEN:
            place.table.send_own(Own(self.slot, os.getpid(), local.since, local.until or math.inf))
        elif before is State.OPEN and local.state is State.CLOSED:
            place.table.send_own(Own(self.slot, os.getpid(), local.since, 0.0))

    # Looking and operating

    @property
    def state(self) -> State:
        """What calls meet now: the cluster's state, or where that lets them pass, this process's own."""
        shared = self.shared_state
        return self.local.state if shared is State.CLOSED else shared

    @property
    def shared_state(self) -> State:
        """The cluster's; closed if nobody knows it, or if it was given up because Redis is away."""
        view = self.look()
        return State.CLOSED if view is None or view.epoch == self._ignored_epoch else view.state

    @property
    def shut_for(self) -> float | None:
        """Seconds for which the cluster's circuit lets no call through, `inf` without an end, or None."""
        view, now = self.look(), time.monotonic()
        if view is None or self.shared_state in (State.CLOSED, State.FORCED_CLOSED):
            return None
        return max(0.0, view.until - now)

    @property
    def bound(self) -> bool:
        """Whether this process has looked at it yet; the first look may be a round trip."""
        return self._place is not None

    def look(self) -> View | None:
        """The cluster's view, as fresh as the table has it."""
        return self._look(time.monotonic())

    @property
    def place(self) -> places.Place:
        """Where it lives."""
        return self._place or self._bind()

    def snapshot(self) -> Snapshot:
        """What this process knows about it."""
        now = time.monotonic()
        view, cut_off = self._look(now) or View(), self.place.cut_off
        with self._lock:
            self._count_calm(now)
            local, counts = self.local, self.local.counts(now)
        cluster = self.shared_state
        decisive = cluster is not State.CLOSED
        until = view.until if decisive else local.until
        state = cluster if decisive else local.state
        if until == math.inf:
            until = None
        passes = state in (State.CLOSED, State.FORCED_CLOSED) or self.config.mode != "on"
        return Snapshot(
            name=self.name,
            state=state,
            cluster=view.state,
            local=local.state,
            cause=view.cause if decisive or local.state is State.CLOSED else local.cause,
            retry_after=None if passes or until is None else max(0.0, until - now),
            trips=max(view.trips, local.trips),
            calls=counts.calls,
            failed=counts.failed,
            slow=counts.slow,
            refused=self.refused,
            cut_off=cut_off,
        )

    def reset_locally(self) -> None:
        """Close this process's own circuit too."""
        with self._lock:
            before = self.local.state
            self.local.reset(time.monotonic())
            self._refuse_until = 0.0
        self._tell(before)


def _finite(seconds: float) -> float:
    return seconds if seconds < math.inf else LONGEST_WAIT


def lease_name(host: str, pid: int, number: int) -> str:
    """A probe's lease; `Hub` finds its holder by it."""
    return f"{host}/{pid}:{number}@{identity.machine()}"
