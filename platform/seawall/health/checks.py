"""`Health`: three questions about a process, each answered within a budget of milliseconds.

    live     its loops turn. Servers play no part: restarting this process would not bring them back.
    ready    it has started, and every server it cannot do without answers.
    startup  it has started once.

A probe of a server may take as long as the server is deaf, so it runs in a thread of its own, one at a time
for each check. Who asks waits for it no longer than the budget; then the last answer counts, for as long as
a slow server is given. So a deaf server costs an asker the budget, and at most one thread, never more.
"""

import enum
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

from seawall.later import called, refuse_later
from seawall.quantity import parse_duration

BUDGET: Final = 0.04
"""Seconds that whoever asks waits for probes, all of them together."""

PATIENCE: Final = 1.0
"""Seconds a server may take to answer before it counts as gone; until then its last answer counts."""


class Question(enum.Enum):
    """What can be asked."""

    LIVE = "live"
    READY = "ready"
    STARTUP = "startup"


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckReport:
    """One check's answer; `seconds` is what its last probe took, None if none has ended."""

    name: str
    ok: bool
    critical: bool
    detail: str
    seconds: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthReport:
    """The answer to one question, with what it rests on."""

    question: Question
    ok: bool
    seconds: float
    checks: tuple[CheckReport, ...]

    def __bool__(self) -> bool:
        return self.ok

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "question": self.question.value, "checks": [asdict(c) for c in self.checks]}


class Beat:
    """A loop that shows that it turns by calling `touch` at least every `within` seconds."""

    def __init__(self, name: str, within: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._within = parse_duration(within, field="within")
        self._clock = clock
        self._last = clock()

    def touch(self) -> None:
        """The loop turns."""
        self._last = self._clock()

    def report(self) -> CheckReport:
        """Whether it has turned lately."""
        silent = self._clock() - self._last
        ok = silent <= self._within
        detail = f"turned {silent:.1f} s ago" if ok else f"has not turned for {silent:.1f} s"
        return CheckReport(name=self.name, ok=ok, critical=True, detail=detail)


@dataclass(frozen=True, slots=True)
class _Result:
    """How a probe ended."""

    error: str | None
    seconds: float


class Check:
    """One thing that can be probed: `probe` returns if all is well and raises, or hangs, if not."""

    def __init__(
        self,
        name: str,
        probe: Callable[[], object],
        *,
        critical: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        refuse_later(probe, f"the check {name!r} cannot ask")
        self.name = name
        self.critical = critical
        self._probe = probe
        self._clock = clock
        self._last: _Result | None = None
        self._reset()
        _checks.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._running: threading.Event | None = None  # set when the probe that runs has ended
        self._since = 0.0

    def begin(self) -> None:
        """Have a probe under way, in a thread."""
        with self._lock:
            if self._running is not None:
                return
            self._running = threading.Event()
            self._since = self._clock()
            done = self._running
        threading.Thread(
            target=self._run, args=(done,), name=f"seawall-probe-{self.name}", daemon=True
        ).start()

    def report(self, wait: float) -> CheckReport:
        """Its answer after `wait` seconds at most."""
        running = self._running
        ended = running is None or running.wait(max(0.0, wait))
        last, asked = self._last, self._clock() - self._since
        if ended or (last is not None and last.error is None and asked < PATIENCE):
            detail = (last and last.error) or (
                "answers" if ended else f"slow, answered before ({asked:.2f} s)"
            )
            ok = last is not None and last.error is None
        else:
            ok, detail = False, f"no answer for {asked:.2f} s"
        seconds = None if last is None else last.seconds
        return CheckReport(name=self.name, ok=ok, critical=self.critical, detail=detail, seconds=seconds)

    def _run(self, done: threading.Event) -> None:
        began = self._clock()
        error: str | None = None
        try:
            called(f"the check {self.name!r}", self._probe)
        except Exception as exc:  # noqa: BLE001 - whatever it raises is the answer
            error = " ".join(str(exc).split()) or type(exc).__name__
        self._last = _Result(error, self._clock() - began)
        with self._lock:
            self._running = None
        done.set()


class Health:
    """The health of this process. `started` and `ready` say what its own parts know, beside the checks."""

    def __init__(
        self,
        checks: Iterable[Check] = (),
        *,
        started: Callable[[], bool] = lambda: True,
        ready: Callable[[], bool] = lambda: True,
        budget: float = BUDGET,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._checks = list(checks)
        self._beats: list[Beat] = []
        self._started = started
        self._ready = ready
        self._budget = budget
        self._clock = clock

    def add(self, *checks: Check) -> None:
        """Readiness rests on these too."""
        self._checks += checks

    def beat(self, name: str, *, within: float = 60.0) -> Beat:
        """A loop on which liveness rests from now on."""
        beat = Beat(name, within, clock=self._clock)
        self._beats.append(beat)
        return beat

    def forget(self, beat: Beat) -> None:
        """The loop has ended as it should."""
        self._beats = [each for each in self._beats if each is not beat]

    def ask(self, question: Question = Question.READY) -> HealthReport:
        """The answer, within the budget and what the machine adds."""
        began = self._clock()
        if question is Question.LIVE:
            checks = [beat.report() for beat in list(self._beats)]
        elif question is Question.STARTUP:
            checks = [_own("started", self._started(), "has started", "is starting")]
        else:
            checks = [
                _own("started", self._started(), "has started", "is starting"),
                _own("services", self._ready(), "ready", "not ready"),
                *self._probed(began + self._budget),
            ]
        ok = all(each.ok for each in checks if each.critical)
        return HealthReport(question=question, ok=ok, seconds=self._clock() - began, checks=tuple(checks))

    def live(self) -> HealthReport:
        """Whether its loops turn."""
        return self.ask(Question.LIVE)

    def ready(self) -> HealthReport:
        """Whether it can do its work."""
        return self.ask(Question.READY)

    def startup(self) -> HealthReport:
        """Whether it has started."""
        return self.ask(Question.STARTUP)

    def _probed(self, deadline: float) -> list[CheckReport]:
        for check in self._checks:
            check.begin()
        return [check.report(deadline - self._clock()) for check in self._checks]


def _own(name: str, ok: bool, yes: str, no: str) -> CheckReport:  # noqa: FBT001 - three words for one fact
    return CheckReport(name=name, ok=ok, critical=True, detail=yes if ok else no)


_checks: "weakref.WeakSet[Check]" = weakref.WeakSet()


def _after_fork() -> None:
    """A child inherits no probe that runs."""
    for check in list(_checks):
        check._reset()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)
