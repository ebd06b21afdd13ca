"""What the gate asks for tasks that say `requires=[...]` or `limit=Limit(...)`.

A required breaker that is open parks the task in the broker: no retry is spent, nothing waits in the worker,
other tasks flow. When its time is over, one parked task is let go (`Watch`); the gate takes a probe's lease
for it, and the first call of that breaker in the process is the probe. When the circuit closes, the others
are let go over the ramp. A broker that parks nothing gets them back with a delay instead: the open time, and
a part of the ramp.

Stock prefork decides here and runs in another process, which has to ask for the probe itself: one task at a
time is let in to do so. There, and wherever else a required breaker refuses a call inside a task or a
probe fails, the task is put aside again instead of failed (`seawall.worker.task`).

A full limit parks the task under its key; each share that is given back lets one of them go. A killed holder
gives nothing back, and a share given back just before a task was parked lets nobody go: the fleet looks for
keys that are wanted and have shares free (`Room`). So a task costs nothing while it waits, however many do.
"""

import functools
import inspect
import logging
import os
import random
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from celery import Celery, signals
from redis.exceptions import RedisError

from seawall import admission, cluster, servers
from seawall.admission import (
    ADMIT,
    CIRCUIT,
    PARKED_FOR,
    Candidate,
    Hold,
    Park,
    Refuse,
    Verdict,
    dependency_of,
)
from seawall.breaker import State, breaker
from seawall.breaker.calls import Call
from seawall.breaker.circuit import Circuit
from seawall.breaker.hub import undisturbed
from seawall.breaker.store import Store
from seawall.delivery import Queues, Transport, let_go
from seawall.errors import ConfigError
from seawall.limits import shares
from seawall.silence import Misses
from seawall.text import carried, one_line
from seawall.worker.names import Known, digest_of, waits_for
from seawall.worker.periodic import Periodic

logger = logging.getLogger(__name__)

LOOK_AGAIN: Final = 1.0
"""Seconds after which a task that found a limit full asks again on a broker that parks nothing."""

AWAY: Final = 0.5
_TICK: Final = 0.1
_LONGEST_PROBE: Final = 5.0

_in_use: list["Breakers | Limits"] = []
_watches: list["Watch"] = []


class Breakers:
    """The account of `requires`. With `elsewhere`, tasks run in other processes than this one."""

    name = "breakers"

    def __init__(self, *, elsewhere: bool = False, parks: bool = True) -> None:
        self._elsewhere = elsewhere
        self._longer = PARKED_FOR if parks else 0.0
        self._trying: dict[str, str] = {}
        self._probes: dict[str, list[tuple[Circuit, Call]]] = {}

    def ask(self, candidate: Candidate) -> Verdict:
        """Park it while a breaker is open; let it in as a probe when one is due."""
        for name in candidate.policy.requires:
            circuit = breaker(name).circuit
            refused = self._ask(circuit, candidate) if circuit.config.mode == "on" else None
            if refused is not None:
                self.release(candidate)
                spread = random.random() * max(circuit.rules.ramp_for, LOOK_AGAIN)  # noqa: S311 - no secret
                if circuit.shared_state is not State.CLOSED:
                    spread += self._longer  # it is let go; what a ramp or this process left out is not
                return Park(dependency_of(name), f"{name} is {circuit.state}", refused + spread)
        return ADMIT

    def _ask(self, circuit: Circuit, candidate: Candidate) -> float | None:
        """None if it may pass, else the seconds until it may be otherwise."""
        decided = circuit.decide(time.monotonic())
        if decided is None:
            if self._elsewhere:
                trying = self._trying.setdefault(circuit.name, candidate.id)
                return None if trying == candidate.id else LOOK_AGAIN
            decided = circuit.ask()
        if isinstance(decided, Call):
            if decided.lease or decided.local_lease:
                self._probes.setdefault(candidate.id, []).append((circuit, decided))
                circuit.offer(decided)
            return None
        return min(decided, _LONGEST_PROBE) if circuit.state is State.HALF_OPEN else decided

    def release(self, candidate: Candidate) -> None:
        """A probe that was not made is somebody else's to make."""
        for circuit, call in self._probes.pop(candidate.id, ()):
            if circuit.take_back(call):
                call.release()
        for name in [name for name, who in self._trying.items() if who == candidate.id]:
            del self._trying[name]


class Limits:
    """The account of `limit`."""

    name = "limits"

    def __init__(self, app: Celery, parked: "Parked") -> None:
        self._app: Any = app
        self._parked = parked
        self._held: dict[str, tuple[str, str]] = {}

    def ask(self, candidate: Candidate) -> Verdict:
        """Take a share of its key, or park it until one is free."""
        limit = candidate.policy.limit
        if limit is None:
            return ADMIT
        try:
            key = carried(limit.key.format_map(self._arguments(candidate)))  # as Redis will show it
        except Exception as exc:  # noqa: BLE001 - whatever the arguments' own formatting raises
            return Refuse(
                ConfigError(f"limit.key={limit.key!r} cannot be filled for {candidate.name}: {exc!r}")
            )
        try:
            number, wait = shares().take(key, limit.n)
        except (RedisError, OSError) as exc:
            return Hold(f"limit {key} cannot be asked for: {exc}", AWAY)
        if number:
            self._held[candidate.id] = key, number
            return ADMIT
        again = PARKED_FOR if self._parked.possible else min(wait, LOOK_AGAIN)
        spread = random.uniform(0.5, 1.5)  # noqa: S311 - no secret
        return Park(_waits_for(key), f"{key} is at its limit of {limit.n}", again * spread)

    def release(self, candidate: Candidate) -> None:
        """Give its share back, and let one go that waits for it."""
        key, number = self._held.pop(candidate.id, ("", ""))
        if not number:
            return
        if shares().give(key, number):
            self._parked.let_go(candidate.queue, _waits_for(key))

    def _arguments(self, candidate: Candidate) -> Mapping[str, Any]:
        positional, named = candidate.arguments()
        bound = self._signature(candidate.name).bind(*positional, **named)
        bound.apply_defaults()
        known = dict(bound.arguments)
        for parameter in bound.signature.parameters.values():
            if parameter.kind is inspect.Parameter.VAR_KEYWORD:
                known.update(known.pop(parameter.name))
        return known

    @functools.lru_cache(maxsize=1024)  # noqa: B019 - one account per process, for good
    def _signature(self, task: str) -> inspect.Signature:
        return inspect.signature(self._app.tasks[task].run)


def _waits_for(key: str) -> str:
    """Under which name tasks are parked for a limit: one line of bounded length."""
    key = carried(key)
    shown = one_line(key[:_LONGEST_NAME])
    if len(shown) > _LONGEST_NAME or len(key) > _LONGEST_NAME:
        shown = f"{shown[: _LONGEST_NAME // 2]}:{digest_of([key])}"
    return f"limit:{shown}"


_LONGEST_NAME: Final = 200


class Parked:
    """The parked tasks of an app's queues, over a connection of its own; some brokers park nothing."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._opened: tuple[int, Any, Queues] | None = None
        self.possible = issubclass(app.connection_for_write().get_transport_cls(), Transport)

    def queues(self) -> Queues:
        """The verbs; a forked child gets a connection of its own. Raises what connecting raises."""
        if self._opened is None or self._opened[0] != os.getpid():
            channel = self._app.connection_for_write().channel()
            opened = Queues(channel.redis, prefix=channel.keys.prefix, options=channel.delivery)
            self._opened = os.getpid(), channel, opened
        return self._opened[2]

    def let_go(self, queue: str, dependency: str) -> None:
        """One of those that `queue` holds for `dependency`; they come back by themselves if it fails."""
        if not self.possible or let_go(queue, dependency):
            return
        try:
            self.queues().release(queue, dependency, most=1)
        except Exception as exc:  # noqa: BLE001 - whatever the broker's client raises
            self._opened = None
            logger.info("what waits for %s comes back by itself: %s", dependency, exc)

    def let_all_go(self, dependency: str, seconds: float) -> None:
        """All that any queue holds for `dependency`, spread over so many seconds; they come back anyway."""
        if not self.possible:
            return
        try:
            self.release_all(dependency, seconds)
        except Exception as exc:  # noqa: BLE001 - whatever the broker's client raises
            self._opened = None
            logger.info("what waits for %s comes back by itself: %s", dependency, exc)

    def release_all(self, dependency: str, seconds: float) -> None:
        """As `let_all_go`, but raises what the broker's client raises."""
        queues = self.queues()
        for queue in queues.names():
            if waiting := queues.counts(queue).parked.get(dependency, 0):
                queues.release(queue, dependency, rate=waiting / seconds)

    def release_some(self, dependency: str, most: int) -> int:
        """So many of those that wait for it, queue by queue; how many there were. Raises as `release_all`."""
        queues, gone = self.queues(), 0
        for queue in queues.names():
            gone += queues.release(queue, dependency, most=most - gone)
            if gone >= most:
                break
        return gone


class Watch(Periodic):
    """Lets parked tasks go. Of the fleet's watches one acts at a time."""

    thread = "seawall-parked"
    tick: float
    """Seconds between two looks."""

    def __init__(self, parked: Parked) -> None:
        super().__init__()
        self._parked = parked
        self._misses = Misses()

    def turn(self) -> float:
        """Look; what cannot be let go now is looked at again, and comes back by itself."""
        try:
            with undisturbed():
                self.look()
        except Exception as exc:  # noqa: BLE001 - whatever Redis and the broker's client raise
            logger.log(
                logging.INFO if self._misses.count() else logging.DEBUG, "what is parked waits: %s", exc
            )
            return LOOK_AGAIN
        self._misses.end()
        return self.tick

    @abstractmethod
    def look(self) -> None:
        """Let go what may go now. Raises what Redis and the broker raise."""


class Circuits(Watch):
    """What waits for breakers. It reads memory only, and asks Redis for nothing while all is closed."""

    tick = _TICK

    def __init__(self, parked: Parked, names: Sequence[str]) -> None:
        super().__init__(parked)
        self._names = names
        self._before: dict[str, tuple[State, int]] = {}  # a worker may start after the circuit has closed

    def look(self) -> None:
        """One probe for each that is due; all, over the ramp, of one that has closed."""
        for name in self._names:
            self._look_at(name)

    def _look_at(self, name: str) -> None:
        circuit = breaker(name).circuit
        view = circuit.look()
        if view is None:
            return
        seen = view.state, view.epoch  # it may have been open between two looks
        if view.state is State.CLOSED or view.state is State.FORCED_CLOSED:
            if self._before.get(name) != seen and _first(name, str(view.epoch), 60.0):
                self._parked.release_all(dependency_of(name), max(circuit.rules.ramp_for, _TICK))
        else:
            due = time.monotonic() >= view.until or (view.state is State.HALF_OPEN and view.free > 0)
            if due and _first_to_probe(name):
                self._parked.release_some(dependency_of(name), circuit.rules.probes)
        self._before[name] = seen


def _first(name: str, what: str, seconds: float) -> bool:
    """Whether no other watch of the fleet does it already."""
    key = f"seawall:{{breakers}}:{name}:let_go:{what}"
    return bool(cluster.client().set(key, 1, nx=True, px=round(seconds * 1000)))


def _first_to_probe(name: str) -> bool:
    """Whether nobody let one of those that wait for a breaker go in this second."""
    return _first(name, "probe", LOOK_AGAIN)


class Room(Watch):
    """What waits for limits: as many as there are free shares that nobody passed on to them."""

    tick = 0.5

    def look(self) -> None:
        """Let them go; a key that nobody waits for is forgotten."""
        if not cluster.client().set("seawall:{limits}:let_go", 1, nx=True, px=round(self.tick * 1000)):
            return
        for free in shares().free():
            if not self._parked.release_some(_waits_for(free.key), free.shares):
                shares().forget(free)


class Waiting(Watch):
    """What waits in the queues that this worker consumes, for a task name that it knows or for a breaker.

    `Circuits` knows the breakers that tasks require. Others are known only by what was put aside because they
    refused a call of its body. Of the workers that know the same names and consume the same queues one looks
    at a time.
    """

    tick = 0.5

    def __init__(self, parked: Parked, app: Any, required: Sequence[str]) -> None:
        super().__init__(parked)
        self._app = app
        self._names = Known(app)
        self._required = frozenset(map(dependency_of, required))
        self._digest = ""
        self._waits: frozenset[str] = frozenset()

    def look(self) -> None:
        """Let it go; what a worker of another release takes again is let go by the next look."""
        digest, names = self._names.look()
        if digest != self._digest:
            self._digest, self._waits = digest, frozenset(map(waits_for, names))
        consumed = sorted(self._app.amqp.queues.consume_from)
        key = f"seawall:{{names}}:let_go:{digest_of([digest, *consumed])}"
        if not cluster.client().set(key, 1, nx=True, px=round(self.tick * 1000)):
            return
        queues = self._parked.queues()
        circuits = set()
        for queue in consumed:
            for dependency in queues.dependencies(queue):
                if dependency in self._waits:
                    queues.release(queue, dependency)
                elif dependency.startswith(CIRCUIT) and dependency not in self._required:
                    circuits.add(dependency.removeprefix(CIRCUIT))
        for name in circuits:
            self._look_at(name)

    def _look_at(self, name: str) -> None:
        """As `Circuits` does, for a breaker that this process may not have."""
        store = Store(cluster.client(), "seawall-parked")
        rules = store.rules(name)
        (shared,) = store.sync([(name, rules, "")])
        if shared.state in (State.CLOSED, State.FORCED_CLOSED):
            self._parked.release_all(dependency_of(name), max(rules.ramp_for, _TICK))
        elif (shared.left == 0 or shared.free > 0) and _first_to_probe(name):
            self._parked.release_some(dependency_of(name), rules.probes)


def open_accounts(app: Any, *, elsewhere: bool) -> None:
    """Have the gate ask for what the app's tasks require; `elsewhere`: they run in other processes."""
    close_accounts()  # of a worker that is still in this process, as in tests: the last one counts
    policies = [policy for task in app.tasks.values() if (policy := getattr(task, "policy", None))]
    required = sorted({name for policy in policies for name in policy.requires})
    limited = any(policy.limit for policy in policies)
    parked = Parked(app)
    if parked.possible and servers.redis_is_known():
        _watches.append(Waiting(parked, app, required))
    if required:
        _in_use.append(Breakers(elsewhere=elsewhere, parks=parked.possible))
        for name in required:
            breaker(name)
    if limited:
        _in_use.append(Limits(app, parked))
    if required and parked.possible:
        _watches.append(Circuits(parked, required))
    if limited and parked.possible:
        _watches.append(Room(parked))
    for account in _in_use:
        admission.use(account)


def connect() -> None:
    """Listen to the worker's signals. Safe to repeat."""
    signals.worker_ready.connect(_start_watches, dispatch_uid="seawall.accounts")


def _start_watches(**_: Any) -> None:
    for watch in _watches:
        watch.start()


def close_accounts(**_: Any) -> None:
    """Undo `open_accounts`. Safe to repeat."""
    for watch in _watches:
        watch.stop()
    for account in _in_use:
        admission.disuse(account)
    _watches.clear()
    _in_use.clear()


def renew(processes: list[str]) -> None:
    """Processes that run tasks for this one live, by their tokens: their shares stay theirs."""
    if processes and _limits_are_in_use():
        _carefully(lambda: shares().renew(processes))


def lost(process: str) -> None:
    """A process that ran tasks for this one is dead, by its token: its shares are free."""
    if _limits_are_in_use():
        _carefully(lambda: shares().lost(process))


def _limits_are_in_use() -> bool:
    return any(isinstance(account, Limits) for account in _in_use)


def _carefully(work: Callable[[], None]) -> None:
    try:
        work()
    except (RedisError, OSError) as exc:
        logger.info("limits: Redis is away, shares end with their leases: %s", exc)
