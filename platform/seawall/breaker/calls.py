"""One call that a circuit let through, and what is said about calls beyond it."""

import contextlib
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from seawall.breaker.machine import ProbeOutcome

if TYPE_CHECKING:
    from seawall.breaker.circuit import Circuit

_admitted: ContextVar[tuple[str, ...]] = ContextVar("admitted", default=())


@contextlib.contextmanager
def admitted(names: tuple[str, ...]) -> Iterator[None]:
    """The work of this block was let in for these breakers: no ramp stops it half-way."""
    token = _admitted.set(names)
    try:
        yield
    finally:
        _admitted.reset(token)


def failed_probe(exc: BaseException) -> str:
    """The breaker whose probe raised `exc`; "" if none did."""
    return getattr(exc, "__seawall_probe__", "")


def is_admitted(name: str) -> bool:
    """Whether the work around this call was let in for this breaker."""
    return name in _admitted.get()


class Call:
    """One admitted call on the careful way. Exactly one of `ended`, `failed` follows."""

    __slots__ = ("_begun", "_circuit", "_ok", "epoch", "lease", "local_lease")

    def __init__(self, circuit: "Circuit", *, lease: str = "", epoch: int = 0, local_lease: str = "") -> None:
        self._circuit = circuit
        self._ok = circuit.ok
        self._begun = time.monotonic()
        self.lease = lease
        self.epoch = epoch
        self.local_lease = local_lease

    @property
    def probing(self) -> bool:
        """Whether its outcome decides."""
        return bool(self.lease or self.local_lease)

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
                with contextlib.suppress(AttributeError):  # an exception with slots carries no mark
                    exc.__seawall_probe__ = self._circuit.name  # type: ignore[attr-defined]
            elif verdict is None and config.shows_life(exc):
                verdict = False
        self._settle(failed=verdict)

    def _settle(self, *, failed: bool | None) -> None:
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
