"""Services that fail where a test wants it, and what every service must bear."""

import random
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from seawall.errors import StartupError
from seawall.runtime import Declaration, Runtime, Service

QUICK = 0.001
"""Seconds between attempts in tests."""


def quick(_attempt: int) -> float:
    return QUICK


class World:
    """What services of one test did: who is up now, and every start and stop in order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.log: list[tuple[str, str]] = []
        self.up: list[str] = []
        self.failing: dict[str, BaseException] = {}
        self.hanging: dict[str, threading.Event] = {}
        self.releasing: dict[str, threading.Event] = {}

    def note(self, verb: str, name: str) -> None:
        with self._lock:
            self.log.append((verb, name))
            if verb == "started":
                self.up.append(name)
            elif verb == "stopped" and name in self.up:
                self.up.remove(name)

    def order(self, verb: str) -> list[str]:
        """Names in the order in which `verb` happened to them."""
        with self._lock:
            return [name for each, name in self.log if each == verb]

    def declare(
        self,
        name: str,
        *requires: str,
        critical: bool = True,
        attempts: int = 1,
        timeout: float = 30.0,
    ) -> Declaration:
        return Declaration(
            name=name,
            factory=lambda: _Recorded(self, name),
            requires=requires,
            critical=critical,
            attempts=attempts,
            timeout=timeout,
        )


class _Recorded:
    """Starts, fails or hangs as its world says."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._name = name
        self._up = False

    def start(self) -> None:
        self._world.note("begun", self._name)
        if (gate := self._world.hanging.get(self._name)) is not None:
            gate.wait(60)
        if (error := self._world.failing.get(self._name)) is not None:
            raise error
        self._up = True
        self._world.note("started", self._name)

    def stop(self) -> None:
        if (gate := self._world.releasing.get(self._name)) is not None:
            gate.wait(60)
        if self._up:
            self._up = False
            self._world.note("stopped", self._name)


OURS = tuple(f"seawall-{word}" for word in ("start", "stop", "runtime", "probe", "health", "watchdog"))
"""How the threads of a runtime and of health are named; other parts have threads of their own."""


def threads_of(*prefixes: str) -> set[threading.Thread]:
    """Those that run now and whose names begin so."""
    return {each for each in threading.enumerate() if each.name.startswith(prefixes or OURS)}


def bear_start_and_stop(make: Callable[[], Service], *, rounds: int = 5, seed: int = 0) -> None:
    """What every service must bear: stop before start, stop twice, and start and stop over and over.

    It leaves no thread behind that it had not found.
    """
    before = set(threading.enumerate())
    dice = random.Random(seed)  # noqa: S311 - no secret
    idle = make()
    idle.stop()
    idle.stop()
    for _ in range(rounds):
        service = make()
        service.start()
        if dice.random() < 0.5:
            with ThreadPoolExecutor(2) as threads:
                for future in [threads.submit(service.stop) for _ in range(2)]:
                    future.result(60)
        service.stop()
        service.stop()
    left = [each for each in set(threading.enumerate()) - before if each.name.startswith("seawall")]
    for each in left:
        each.join(30)
    assert not [each.name for each in left if each.is_alive()]


def failing_at(declarations: Iterable[Declaration], position: str) -> list[Declaration]:
    """The same services, of which the one at `position` cannot start, once all it requires is up."""

    def fail() -> Service:
        raise StartupError(f"planted at {position}")

    return [
        Declaration(
            name=each.name,
            factory=fail if each.name == position else each.factory,
            requires=each.requires,
            critical=True if each.name == position else each.critical,
            attempts=each.attempts,
            timeout=each.timeout,
        )
        for each in declarations
    ]


def runtime_of(*declarations: Declaration, stop_timeout: float = 30.0) -> Runtime:
    return Runtime(declarations, pause=quick, stop_timeout=stop_timeout)
