"""The circuit as a pure state machine: no clock, no lock, no server.

It stands behind two things. Each process feeds one with its own calls: the local breaker, always on and all
there is while Redis is away. And it is the model of the state that the fleet shares: the scripts in `lua/`
do the same in the same order, and a test compares the two on random histories.

    closed ──trip──► open ──first probe asked for──► half_open ──every probe succeeded──► closed, ramping up
                      ▲                                  │
                      └───── a probe failed, or none ────┘
    forced_open, forced_closed: from anywhere, by an operator; they end at their time or by a reset

Two detectors trip it. The slow one compares the failures (or slow calls) of a sliding window with a rate. The
fast one is a CUSUM over the calls as they come, `score = max(0, score - 2 * succeeded) + failed`: it rises
only while failures outnumber successes two to one, so it ignores noise and needs no window to fill when a
dependency dies. It trips at `min_calls`, and later where failures are usual: a run of failures that
noise of 1 % never makes is made by noise of 30 % every few hours.

An epoch names one stay in one state; whatever began in an older one is late and changes nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

BUCKETS: Final = 10
"""Parts of the window; it moves on by one of them at a time."""

SUCCESS_WEIGHT: Final = 2
NOISE_WEIGHT: Final = 2
"""A usual failure rate of p raises the threshold of the fast detector by this times p."""

HALF_OPEN_LEASES: Final = 3
"""Lengths of a probe's lease after which a half-open circuit without a verdict opens again."""


class State(StrEnum):
    """Where a circuit is."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"
    FORCED_OPEN = "forced_open"
    FORCED_CLOSED = "forced_closed"

    @property
    def forced(self) -> bool:
        """Whether an operator holds it there."""
        return self in (State.FORCED_OPEN, State.FORCED_CLOSED)


class Cause(StrEnum):
    """Why a circuit went to the state it is in."""

    NEW = "new"
    BURST = "burst of failures"
    FAILURE_RATE = "failure rate"
    SLOW_RATE = "slow rate"
    OPEN_LONG_ENOUGH = "open long enough"
    PROBES_SUCCEEDED = "probes succeeded"
    PROBE_FAILED = "probe failed"
    PROBES_LOST = "probes lost"
    FORCED = "forced"
    FORCE_ENDED = "force ended"
    RESET = "reset"
    TAKEN_OVER = "taken over"


_FORCED: Final = frozenset({State.FORCED_OPEN, State.FORCED_CLOSED})

LEGAL: Final[Mapping[State, frozenset[State]]] = {
    State.CLOSED: frozenset({State.CLOSED, State.OPEN}) | _FORCED,  # to itself: a reset forgets the window
    State.OPEN: frozenset({State.HALF_OPEN, State.CLOSED}) | _FORCED,
    State.HALF_OPEN: frozenset({State.OPEN, State.CLOSED}) | _FORCED,
    State.FORCED_OPEN: frozenset({State.CLOSED}) | _FORCED,
    State.FORCED_CLOSED: frozenset({State.CLOSED}) | _FORCED,
}

Answer = Literal["granted", "refused", "closed"]
ProbeOutcome = Literal["succeeded", "failed", "released"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The numbers a circuit goes by. Seconds; a `slow_rate` of 0 means that slow calls are no matter.

    `quorum` is the number of reporters that must see the trouble themselves: hosts if more than one host
    reports, else processes.
    """

    failure_rate: float = 0.5
    slow_rate: float = 0.0
    window: float = 30.0
    min_calls: int = 10
    open_for: float = 60.0
    max_open_for: float = 600.0
    probes: int = 1
    probe_for: float = 30.0
    ramp_for: float = 10.0
    quorum: int = 2


@dataclass(frozen=True, kw_only=True)
class Report:
    """What one process ("host/pid") saw since its last report.

    `earlier` are successes of unknown age: they count in the window and say nothing about this moment.
    `slow` are those among the calls that were slow.
    """

    reporter: str
    earlier: int = 0
    succeeded: int = 0
    failed: int = 0
    slow: int = 0

    def votes(self, rules: Rules) -> bool | None:
        """Whether this process sees trouble; None if it saw nothing lately."""
        calls = self.succeeded + self.failed
        if not calls:
            return None
        slow = rules.slow_rate > 0 and self.slow >= rules.slow_rate * calls
        return slow or self.failed >= rules.failure_rate * calls


@dataclass(kw_only=True)
class Counts:
    """Calls in the window, or those that led to a transition."""

    calls: int = 0
    failed: int = 0
    slow: int = 0


@dataclass
class Machine:
    """One circuit. Every verb takes `now`, in seconds that never go back."""

    rules: Rules
    state: State = State.CLOSED
    cause: Cause = Cause.NEW
    reason: str = ""
    author: str = ""
    epoch: int = 0
    since: float = 0.0
    until: float | None = None
    trips: int = 0
    open_time: float = 0.0
    ramping: bool = False
    score: int = 0
    succeeded: int = 0
    seen: Counts = field(default_factory=Counts)
    window: dict[int, Counts] = field(default_factory=dict)
    reporters: dict[str, float] = field(default_factory=dict)
    troubled: dict[str, float] = field(default_factory=dict)
    leases: dict[str, float] = field(default_factory=dict)

    # What happened

    def report(self, now: float, epoch: int, reports: list[Report]) -> None:
        """Count what processes saw in `epoch`, and trip if it is too much."""
        self.refresh(now)
        if self.epoch == 0:
            self.epoch = self._next_epoch(now)
            self.since = now
        elif epoch != self.epoch:
            return
        if self.state is not State.CLOSED:
            return
        for report in reports:
            self._count(now, report)
        if (cause := self._trouble(now)) and self._quorate(now):
            self._open(now, cause)

    def _count(self, now: float, report: Report) -> None:
        bucket = self.window.setdefault(self._bucket(now), Counts())
        bucket.calls += report.earlier + report.succeeded + report.failed
        bucket.failed += report.failed
        bucket.slow += report.slow
        self.score = max(0, self.score - SUCCESS_WEIGHT * report.succeeded) + report.failed
        self.reporters[report.reporter] = now
        match report.votes(self.rules):
            case True:
                self.troubled[report.reporter] = now
            case False:
                self.troubled.pop(report.reporter, None)

    def counts(self, now: float) -> Counts:
        """What the window holds."""
        oldest, found = self._bucket(now) - BUCKETS + 1, Counts()
        for number, one in list(self.window.items()):
            if number < oldest:
                del self.window[number]
                continue
            found.calls += one.calls
            found.failed += one.failed
            found.slow += one.slow
        return found

    def _bucket(self, now: float) -> int:
        return int(now // (self.rules.window / BUCKETS))

    def _trouble(self, now: float) -> Cause | None:
        rules, self.seen = self.rules, self.counts(now)
        calls, failed, slow = self.seen.calls, self.seen.failed, self.seen.slow
        if calls < rules.min_calls:
            return None
        if self.score >= int(rules.min_calls * (1 + NOISE_WEIGHT * failed / calls)):
            return Cause.BURST
        if failed >= rules.failure_rate * calls:
            return Cause.FAILURE_RATE
        if rules.slow_rate > 0 and slow >= rules.slow_rate * calls:
            return Cause.SLOW_RATE
        return None

    def _quorate(self, now: float) -> bool:
        for seen in (self.reporters, self.troubled):
            for name in [name for name, at in seen.items() if now - at > self.rules.window]:
                del seen[name]
        hosts = {name.partition("/")[0] for name in self.reporters}
        troubled = {name.partition("/")[0] for name in self.troubled} if len(hosts) > 1 else self.troubled
        return len(troubled) >= self.rules.quorum

    # Probes

    def ask(self, now: float, lease: str) -> Answer:
        """May one call go through? "granted" takes a probe's lease, to be given back to `finish`."""
        self.refresh(now)
        if self.state is State.OPEN and self.until is not None and now >= self.until:
            self._go(State.HALF_OPEN, now, Cause.OPEN_LONG_ENOUGH)
        if self.state is State.HALF_OPEN and self.free(now) > 0:
            self.leases[lease] = now + self.rules.probe_for
            return "granted"
        return "closed" if self.state in (State.CLOSED, State.FORCED_CLOSED) else "refused"

    def free(self, now: float) -> int:
        """Probes that may still start; the lease of one that ended without a word is free again."""
        self.leases = {lease: end for lease, end in self.leases.items() if end > now}
        return self.rules.probes - self.succeeded - len(self.leases)

    def finish(self, now: float, lease: str, epoch: int, outcome: ProbeOutcome) -> None:
        """A probe has ended. One without its lease or of another epoch is late: nothing happens."""
        self.refresh(now)
        self.free(now)
        late = epoch != self.epoch and outcome != "released"
        if self.state is not State.HALF_OPEN or late or lease not in self.leases:
            return
        del self.leases[lease]
        if outcome == "failed":
            self._open(now, Cause.PROBE_FAILED)
        elif outcome == "succeeded":
            self.succeeded += 1
            if self.succeeded >= self.rules.probes:
                self._go(State.CLOSED, now, Cause.PROBES_SUCCEEDED)

    # By hand and by time

    def force(self, now: float, state: State, *, for_: float | None, reason: str, author: str) -> None:
        """Hold it open or closed, for so many seconds or until a reset."""
        self.refresh(now)
        self._go(state, now, Cause.FORCED, until=None if for_ is None else now + for_)
        self.reason, self.author = reason, author

    def reset(self, now: float, *, reason: str = "", author: str = "") -> None:
        """Close it and forget what it had seen."""
        self._go(State.CLOSED, now, Cause.RESET)
        self.trips, self.open_time = 0, 0.0
        self.reason, self.author = reason, author

    def take_over(self, now: float) -> None:
        """The cluster's circuit was open and nobody can ask about it any more: open here, due for a probe."""
        self._go(State.OPEN, now, Cause.TAKEN_OVER, until=now)
        self.trips, self.open_time = max(1, self.trips), max(self.rules.open_for, self.open_time)

    def refresh(self, now: float) -> None:
        """What time alone changes."""
        if self.state.forced and self.until is not None and now >= self.until:
            self._go(State.CLOSED, now, Cause.FORCE_ENDED)
        elif self.state is State.HALF_OPEN and now - self.since >= HALF_OPEN_LEASES * self.rules.probe_for:
            self._open(now, Cause.PROBES_LOST)

    def admitted_share(self, now: float) -> float:
        """The part of the calls that a closed circuit lets through while it ramps up."""
        return ramp(now - self.since, self.rules.ramp_for) if self.ramping else 1.0

    # Transitions

    def _open(self, now: float, cause: Cause) -> None:
        again = self.state is State.HALF_OPEN or now - self.since < self.open_time + self.rules.ramp_for
        self.trips = self.trips + 1 if again and self.trips else 1
        self.open_time = open_time(self.rules, self.trips)
        self._go(State.OPEN, now, cause, until=now + self.open_time)

    def _go(self, state: State, now: float, cause: Cause, *, until: float | None = None) -> None:
        """The one place where the state changes."""
        if state not in LEGAL[self.state]:
            raise AssertionError(f"no circuit goes from {self.state} to {state}")
        self.ramping = state is State.CLOSED and (
            self.state is State.FORCED_OPEN if cause is Cause.FORCE_ENDED else cause is Cause.PROBES_SUCCEEDED
        )
        self.state, self.cause, self.since, self.until = state, cause, now, until
        self.reason = self.author = ""
        self.epoch = self._next_epoch(now)
        self.score = self.succeeded = 0
        self.window, self.leases, self.troubled = {}, {}, {}

    def _next_epoch(self, now: float) -> int:
        """It grows even if the number before it was lost."""
        return max(self.epoch + 1, int(now * 1_000_000))


def open_time(rules: Rules, trips: int) -> float:
    """Seconds the circuit stays open after so many trips in a row."""
    return float(min(rules.max_open_for, rules.open_for * 2 ** min(trips - 1, 32)))


def ramp(closed_for: float, ramp_for: float) -> float:
    """From a twentieth of the calls to all of them, in a straight line."""
    return 1.0 if closed_for >= ramp_for else max(0.05, closed_for / ramp_for)
