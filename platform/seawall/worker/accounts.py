"""What the gate asks for tasks that say `requires=[...]` or `limit=Limit(...)`.

A required breaker that is open parks the task in the broker: no retry is spent, nothing waits in the worker,
other tasks flow. When its time is over the gate takes a probe's lease and lets one task in with it; the
first call of that breaker in the process is the probe. Parked tasks come back spread over the ramp, or when
the circuit closes before that (by hand), as fast as they would have.

Stock prefork decides here and runs in another process, which has to ask for the probe itself: one task at a
time is let in to do so. There, and wherever else a required breaker refuses a call inside a task or a
probe fails, the task is put aside again instead of failed (`seawall.worker.task`).

A full limit parks the task under its key; each share that is given back lets one of them go. In a minute
or less they look again by themselves: a killed holder gives nothing back.
"""

import functools
import inspect
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from celery import Celery
from redis.exceptions import RedisError

from seawall import cluster
from seawall.admission import ADMIT, Candidate, Hold, Park, Refuse, Verdict
from seawall.breaker import BreakerChanged, State, breaker
from seawall.breaker.circuit import Call, Circuit
from seawall.delivery import Queues
from seawall.errors import ConfigError
from seawall.events import subscribe
from seawall.limits import shares
from seawall.worker import gate

logger = logging.getLogger(__name__)

LOOK_AGAIN: Final = 1.0
"""Seconds after which a task that found a limit full asks again, if nothing lets it go before."""

AWAY: Final = 0.5
_LONGEST_PROBE: Final = 5.0

_in_use: list["Limits"] = []


def dependency_of(breaker_name: str) -> str:
    """Under which name tasks are parked for a breaker."""
    return f"breaker:{breaker_name}"


class Breakers:
    """The account of `requires`. With `elsewhere`, tasks run in other processes than this one."""

    name = "breakers"

    def __init__(self, *, elsewhere: bool = False) -> None:
        self._elsewhere = elsewhere
        self._trying: dict[str, str] = {}
        self._probes: dict[str, list[tuple[Circuit, Call]]] = {}

    def ask(self, candidate: Candidate) -> Verdict:
        """Park it while a breaker is open; let it in as a probe when one is due."""
        for name in candidate.policy.requires:
            circuit = breaker(name).circuit
            refused = self._ask(circuit, candidate)
            if refused is not None:
                self.release(candidate)
                spread = random.random() * max(circuit.rules.ramp_for, LOOK_AGAIN)  # noqa: S311 - no secret
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
    """The account of `limit`. `let_go` releases so many tasks that a queue holds parked for a dependency."""

    name = "limits"

    def __init__(self, app: Celery, let_go: Callable[[str, str, int], None]) -> None:
        self._app: Any = app
        self._let_go = let_go
        self._held: dict[str, tuple[str, str]] = {}

    def ask(self, candidate: Candidate) -> Verdict:
        """Take a share of its key, or park it until one is free."""
        limit = candidate.policy.limit
        if limit is None:
            return ADMIT
        try:
            key = limit.key.format_map(self._arguments(candidate))
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
        again = min(wait, LOOK_AGAIN) * random.uniform(0.5, 1.5)  # noqa: S311
        return Park(f"limit:{key}", f"{key} is at its limit of {limit.n}", again)

    def release(self, candidate: Candidate) -> None:
        """Give its share back, and let one go that waits for it."""
        key, number = self._held.pop(candidate.id, ("", ""))
        if not number:
            return
        shares().give(key, number)
        self._let_go(candidate.queue, f"limit:{key}", 1)

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


class Parked:
    """Lets parked tasks of an app's queues go. On a broker that parks nothing it does nothing."""

    def __init__(self, app: Celery) -> None:
        self._app: Any = app

    def let_go(self, queue: str, dependency: str, most: int) -> None:
        """So many of those that `queue` holds for `dependency`."""
        try:
            with self._app.pool.acquire(block=True) as connection, Queues.open(connection) as queues:
                queues.release(queue, dependency, most=most)
        except ConfigError:
            return
        except Exception as exc:  # noqa: BLE001 - they come back by themselves, a little later
            logger.info("what waits for %s comes back by itself: %s", dependency, exc)

    def hear(self, event: BreakerChanged) -> None:
        """A circuit has closed: what is parked for it comes back over the ramp, once for the fleet."""
        if event.scope == "cluster" and event.new == State.CLOSED and event.old != State.CLOSED:
            threading.Thread(
                target=self._let_all_go, args=(event,), name="seawall-parked", daemon=True
            ).start()

    def _let_all_go(self, event: BreakerChanged) -> None:
        ramp_for = max(breaker(event.name).circuit.rules.ramp_for, 0.1) if "[" not in event.name else 1.0
        try:
            first = cluster.client().set(
                f"seawall:{{breakers}}:{event.name}:let_go:{event.epoch}", 1, nx=True, ex=60
            )
            if not first:
                return
            with self._app.connection_for_write() as connection, Queues.open(connection) as queues:
                for queue in queues.names():
                    waiting = queues.counts(queue).parked.get(dependency_of(event.name), 0)
                    if waiting:
                        queues.release(queue, dependency_of(event.name), rate=waiting / ramp_for)
        except ConfigError:
            return
        except Exception as exc:  # noqa: BLE001 - they come back by themselves, a little later
            logger.info("what waits for %s comes back by itself: %s", event.name, exc)


def open_accounts(app: Any, *, elsewhere: bool) -> None:
    """Have the gate ask for what the app's tasks require; `elsewhere`: they run in other processes."""
    policies = [policy for task in app.tasks.values() if (policy := getattr(task, "policy", None))]
    parked = Parked(app)
    if any(policy.requires for policy in policies):
        gate.use(Breakers(elsewhere=elsewhere))
        subscribe(BreakerChanged, parked.hear)
    if any(policy.limit for policy in policies):
        limits = Limits(app, parked.let_go)
        _in_use.append(limits)
        gate.use(limits)


def renew(pids: list[int]) -> None:
    """Processes that run tasks for this one live: their shares stay theirs."""
    if _in_use and pids:
        _carefully(lambda: shares().renew(pids))


def lost(pid: int) -> None:
    """A process that ran tasks for this one is dead: its shares are free."""
    if _in_use:
        _carefully(lambda: shares().lost(pid))


def _carefully(work: Callable[[], None]) -> None:
    try:
        work()
    except (RedisError, OSError) as exc:
        logger.info("limits: Redis is away, shares end with their leases: %s", exc)
