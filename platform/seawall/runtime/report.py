"""What a start took, service by service."""

from collections.abc import Iterator
from dataclasses import dataclass

from seawall.runtime.states import State
from seawall.text import many


@dataclass(frozen=True, kw_only=True, slots=True)
class ServiceReport:
    """One service as of now. `seconds` is what its start took with all attempts, `after` when it began."""

    name: str
    state: State
    requires: tuple[str, ...]
    critical: bool
    after: float = 0.0
    seconds: float = 0.0
    attempts: int = 0
    error: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class StartReport:
    """A whole start, in the order in which services may start."""

    seconds: float
    services: tuple[ServiceReport, ...]

    @property
    def degraded(self) -> tuple[str, ...]:
        """Names of the services that are not up and are tried again in the background."""
        return tuple(each.name for each in self.services if each.state is State.DEGRADED)

    def lines(self) -> Iterator[str]:
        """For a log: the whole, then one line a service."""
        yield f"{many(len(self.services), 'service')} in {self.seconds:.3f} s"
        for each in self.services:
            tries = f", {each.attempts} attempts" if each.attempts > 1 else ""
            error = f": {each.error}" if each.error else ""
            times = f"{each.seconds:.3f} s (after {each.after:.3f} s{tries})"
            yield f"  {each.name}: {each.state.value} {times}{error}"
