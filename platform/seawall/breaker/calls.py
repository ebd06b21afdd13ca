"""One call that a circuit let through, and what is said about calls beyond it."""

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextvars import ContextVar
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from seawall.breaker.machine import ProbeOutcome

if TYPE_CHECKING:
    from seawall.breaker.circuit import Circuit

_YIELDING: Final = inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR

_admitted: ContextVar[tuple[str, ...]] = ContextVar("admitted", default=())


@contextlib.contextmanager
def admitted(names: tuple[str, ...]) -> Iterator[None]:
    """The work of this block was let in for these breakers: no ramp stops it half-way."""
    token = _admitted.set(names)
    try:
        yield
    finally:
        _admitted.reset(token)


class Probes:
    """The trial calls that failed while one attempt at a task was under way, with what each raised.

    They are kept here and not on the exception: an application may raise one object again and again, and
    only this attempt is excused by its probe. Any thread of the process may have made the call.
    """

    __slots__ = ("_names", "_raised")

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names
        self._raised: list[tuple[BaseException, str]] = []
        _attempts.add(self)

    def name_of(self, exc: BaseException) -> str:
        """The breaker whose probe raised `exc`; "" if none did."""
        return next((name for raised, name in self._raised if raised is exc), "")

    def end(self) -> None:
        """The attempt has ended."""
        _attempts.discard(self)
        self._raised.clear()

    def failed(self, name: str, exc: BaseException) -> None:
        """A probe of this breaker raised `exc`."""
        if name.partition("[")[0] in self._names:
            self._raised.append((exc, name))


_attempts: set[Probes] = set()
"""Those under way in this process."""


def is_admitted(name: str) -> bool:
    """Whether the work around this call was let in for this breaker."""
    return name in _admitted.get()


class Call:
    """One admitted call on the careful way. `ended`, `failed` or `release` follows, and counts once."""

    __slots__ = ("_begun", "_circuit", "_ok", "done", "epoch", "lease", "local_lease")

    def __init__(self, circuit: "Circuit", *, lease: str = "", epoch: int = 0, local_lease: str = "") -> None:
        self._circuit = circuit
        self._ok = circuit.ok
        self._begun = time.monotonic()
        self.done = False
        self.lease = lease
        self.epoch = epoch
        self.local_lease = local_lease

    @property
    def probing(self) -> bool:
        """Whether its outcome decides."""
        return bool(self.lease or self.local_lease)

    @property
    def encloses(self) -> bool:
        """Whether calls inside of it are part of it: its outcome decides, and is not known yet."""
        return self.probing and not self.done

    def release(self) -> None:
        """It was not made after all."""
        self._settle(failed=None)

    def ended(self, result: Any = None) -> None:
        """It returned."""
        self._settle(failed=self._circuit.config.is_bad(result))

    def failed(self, exc: BaseException) -> None:
        """It raised."""
        config = self._circuit.config
        verdict = config.failed(exc)
        if self.probing:
            if verdict:
                for attempt in tuple(_attempts):
                    attempt.failed(self._circuit.name, exc)
            elif verdict is None and config.shows_life(exc):
                verdict = False
        self._settle(failed=verdict)

    def _settle(self, *, failed: bool | None) -> None:
        if self.done:
            return
        self.done = True
        circuit = self._circuit
        if failed is None:
            outcome: ProbeOutcome = "released"
        else:
            slow, late = circuit.lasted(time.monotonic() - self._begun)
            failed = failed or late
            outcome = "failed" if failed or slow else "succeeded"
            if not self.probing:
                circuit.note(self._ok, failed=failed, slow=slow)
        if self.local_lease:
            circuit.finish_locally(self.local_lease, outcome)
        if self.lease:
            circuit.finish(self.lease, self.epoch, outcome)


class FallingBack:
    """A fallback at work, in place of a call that was refused; `encloses` until it has ended."""

    __slots__ = ("encloses",)

    def __init__(self) -> None:
        self.encloses = True


async def asked(circuit: "Circuit") -> Call | float:
    """As `Circuit.ask`, in a thread; whoever is cancelled meanwhile gives back the probe that it may get."""
    answer: Future[Call | float] = Future()

    def ask() -> None:
        try:
            answer.set_result(circuit.ask())
        except BaseException as exc:  # noqa: BLE001 - raised where it is waited for
            answer.set_exception(exc)

    try:
        await asyncio.to_thread(ask)
    except asyncio.CancelledError:
        answer.add_done_callback(_not_made)
        raise
    return answer.result()


def _not_made(answer: "Future[Call | float]") -> None:
    if answer.exception() is None and isinstance(call := answer.result(), Call):
        call.release()


async def settled(call: Call, verb: Callable[..., None], *arguments: Any) -> None:
    """Say how a call ended; the end of a probe is a round trip, which must not stop the loop."""
    if call.lease:
        await asyncio.shield(asyncio.to_thread(verb, *arguments))
    else:
        verb(*arguments)


def is_left_early(exc: BaseException | None, trace: TracebackType | None) -> bool:
    """Whether a generator was closed at a `yield` in the block that is left: what it asked for has come.

    A coroutine is closed while it awaits, and nobody knows what.
    """
    return (
        isinstance(exc, GeneratorExit)
        and trace is not None
        and bool(trace.tb_frame.f_code.co_flags & _YIELDING)
    )
