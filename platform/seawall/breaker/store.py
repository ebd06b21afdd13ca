"""The circuits' shared state in Redis: the scripts, and the snapshots they return."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any, Final, cast

from redis import Redis
from redis.exceptions import NoScriptError

from seawall import identity
from seawall.breaker.machine import Answer, Cause, ProbeOutcome, Report, Rules, State
from seawall.cluster import Argument, Script

ROOT: Final = "seawall:{breakers}"
_NAMED: Final = 3
CHANGES: Final = f"{ROOT}:changes"

Verb = partial(Script, __package__)

_report = Verb("report")
_ask = Verb("ask")
_finish = Verb("finish")
_force = Verb("force")
_sync = Verb("sync")
_hold = Verb("hold")


@dataclass(frozen=True, kw_only=True, slots=True)
class Shared:
    """A circuit as the fleet shares it, at one moment. Seconds passed and seconds left, no instants.

    `left` is the time until the state may end; of a half-open circuit, until a probe's lease does. `free`
    are probes that may start now. The counts are those of the last time somebody looked at them: of a
    transition, those that led to it. `by` names the process whose call caused the latest transition.
    """

    name: str
    state: State = State.CLOSED
    cause: Cause = Cause.NEW
    reason: str = ""
    author: str = ""
    epoch: int = 0
    trips: int = 0
    passed: float = 0.0
    left: float | None = None
    open_time: float = 0.0
    ramping: bool = False
    ramp_for: float = 0.0
    calls: int = 0
    failed: int = 0
    slow: int = 0
    reporters: int = 0
    free: int = 0
    hot_left: float = 0.0
    hot_every: float = 0.0
    by: str = ""
    version: int = 0

    @classmethod
    def read(cls, text: bytes | str) -> "Shared":
        """From what a script returned or published."""
        fields = json.loads(text)
        fields.update(state=State(fields["state"]), cause=Cause(fields["cause"]), epoch=int(fields["epoch"]))
        return cls(**fields)

    def text(self, *, older: float) -> str:
        """As the scripts read it, so many seconds after it was made."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        fields.update(epoch=str(self.epoch), passed=self.passed + older)
        if self.left is None:
            del fields["left"]
        else:
            fields["left"] = max(0.0, self.left - older)
        return json.dumps(fields)


@dataclass(frozen=True, kw_only=True, slots=True)
class Hot:
    """Somebody saw a first failure: everybody reports every so many seconds for a while."""

    name: str
    hot_left: float
    hot_every: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """A process ("host/pid") that refuses calls by itself: seconds since then, and until it tries again."""

    by: str
    passed: float
    left: float


def read_message(text: bytes) -> Shared | Hot:
    """What the channel of changes carries."""
    return Shared.read(text) if b'"epoch"' in text else Hot(**json.loads(text))


class Store:
    """The verbs, over one client. `asker` ("host/pid") is known as the author of what it causes.

    `known` is the newest snapshot that the caller has, as text: a server that lost its state learns from it.
    Raises redis-py's errors as they are: the caller decides what an outage means.
    """

    def __init__(self, client: "Redis", asker: str) -> None:
        self.client = client
        self.asker = asker

    def _head(self, name: str, rules: Rules, known: str) -> list[Argument]:
        return [name, _text(rules), self.asker, known]

    def ask(self, name: str, rules: Rules, lease: str, *, known: str = "") -> tuple[Answer, Shared]:
        """Ask for a probe's lease."""
        answer, text = _ask(self.client, [ROOT], [*self._head(name, rules, known), lease])
        return cast("Answer", answer.decode()), Shared.read(text)

    def finish(self, name: str, rules: Rules, lease: str, epoch: int, outcome: ProbeOutcome) -> Shared:
        """Give a probe's lease back."""
        arguments = [*self._head(name, rules, ""), lease, epoch, outcome]
        return Shared.read(_finish(self.client, [ROOT], arguments))

    def leases(self, name: str) -> list[str]:
        """Of the probes that are under way."""
        members: Any = self.client.zrange(f"{ROOT}:{name}:leases", 0, -1)
        return [member.decode() for member in members]

    def force(  # noqa: PLR0913 - what an operator says
        self, name: str, rules: Rules, to: str, *, for_: float | None, reason: str, author: str
    ) -> Shared:
        """Put it into a forced state, or `reset` it."""
        arguments = [*self._head(name, rules, ""), to, for_ or 0, reason, author]
        return Shared.read(_force(self.client, [ROOT], arguments))

    def sync(self, asked: Sequence[tuple[str, Rules, str]]) -> list[Shared]:
        """Where these circuits (name, rules, known) are, in one round trip."""
        return [
            Shared.read(text)
            for text in self._many(_sync, [self._head(name, rules, known) for name, rules, known in asked])
        ]

    def report(self, reports: Iterable[tuple[str, Rules, str, int, Sequence[Report]]]) -> list[Shared | None]:
        """Report on circuits (name, rules, known, epoch, reports), in one round trip.

        Answers with a snapshot where the caller's may be outdated.
        """
        texts = self._many(
            _report,
            [
                [*self._head(name, rules, known), epoch, *_flat(seen)]
                for name, rules, known, epoch, seen in reports
            ],
        )
        return [Shared.read(text) if text else None for text in texts]

    def _many(self, verb: Script, calls: list[list[Argument]]) -> list[Any]:
        if len(calls) == 1:
            return [verb(self.client, [ROOT], calls[0])]
        pipeline: Any = self.client.pipeline(transaction=False)
        for arguments in calls:
            pipeline.execute_command(*verb.command([ROOT], arguments))
        answers = pipeline.execute(raise_on_error=False)
        for number, answer in enumerate(answers):
            if isinstance(answer, NoScriptError):
                answers[number] = verb(self.client, [ROOT], calls[number])
            elif isinstance(answer, Exception):
                raise answer
        return list(answers)

    def hold(self, held: Iterable[tuple[str, Rules, str, float, float]]) -> None:
        """Processes hold circuits open by themselves: name, rules, holder, seconds passed and left."""
        self._many(
            _hold,
            [
                [*self._head(name, rules, ""), holder, passed, left]
                for name, rules, holder, passed, left in held
            ],
        )

    def held(self, names: Sequence[str]) -> dict[str, list[Held]]:
        """Who holds each of these circuits open by itself; not those of this machine that are gone."""
        pipeline: Any = self.client.pipeline(transaction=False)
        pipeline.time()
        for name in names:
            pipeline.hgetall(f"{ROOT}:{name}:held")
        (seconds, micros), *found = pipeline.execute()
        now = seconds + micros / 1_000_000
        return {name: _held(fields, now) for name, fields in zip(names, found, strict=True)}

    def version(self) -> int:
        """Grows with every transition of any circuit."""
        answer: Any = self.client.get(f"{ROOT}:version")
        return int(answer or 0)

    def names(self) -> list[str]:
        """Every circuit that somebody used in the last 30 days."""
        members: Any = self.client.zrange(f"{ROOT}:names", 0, -1)
        return sorted(member.decode() for member in members)

    def overview(self) -> list[Shared]:
        """All of them, by name."""
        names = self.names()
        return self.sync([(name, self.rules(name), "") for name in names]) if names else []

    def rules(self, name: str) -> Rules:
        """The numbers that its users gave a circuit; the defaults if none has used it yet."""
        stored: Any = self.client.hget(f"{ROOT}:rules", name)
        return Rules(**json.loads(stored)) if stored else Rules()


def _held(fields: dict[bytes, bytes], now: float) -> list[Held]:
    found = []
    for holder, moments in fields.items():
        by, _, _ = holder.decode().rpartition("@")
        since, until = (int(each) / 1_000_000 for each in moments.split())
        if until > now and not is_of_the_dead(holder.decode()):
            found.append(Held(by=by, passed=max(0.0, now - since), left=until - now))
    return sorted(found, key=lambda one: -one.passed)


def named(held: Sequence[Held]) -> str:
    """Who they are and since when, in a few words."""
    shown = ", ".join(f"{one.by} for {one.passed:.0f} s" for one in held[:_NAMED])
    return f"{shown}, and {len(held) - _NAMED} more" if len(held) > _NAMED else shown


def is_of_the_dead(holder: str) -> bool:
    """Whether the process "host/pid[:number]@machine" was one of this machine, and is gone."""
    who, _, machine = holder.rpartition("@")
    pid = who.partition(":")[0].rpartition("/")[2]
    return bool(machine) and machine == identity.machine() and pid.isdecimal() and identity.is_gone(int(pid))


@cache
def _text(rules: Rules) -> str:
    """As the scripts read them."""
    return json.dumps(asdict(rules))


def _flat(reports: Sequence[Report]) -> list[Argument]:
    flat: list[Argument] = []
    for one in reports:
        flat += [one.reporter, one.earlier, one.succeeded, one.failed, one.slow]
    return flat
