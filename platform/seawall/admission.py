"""What is decided about a request before it runs, and who decides.

The worker's gate asks every `Account` in turn. An account owns one scarce thing: memory, a limit, the state
of a circuit. Admission reserves a share of it, given back when the request has ended, however it ended.
A refusal or a wait costs none of the task's retries and counts as nobody's failure.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from seawall.errors import SeawallError
from seawall.policies import Policy

PARKED_FOR: Final = 60.0
"""Seconds that a broker keeps a task beyond its time, if nobody lets it go: every watch is dead."""

CIRCUIT: Final = "breaker:"


def dependency_of(breaker_name: str) -> str:
    """Under which name tasks are parked for a breaker; a line feed would end it."""
    return f"{CIRCUIT}{breaker_name}".replace("\n", " ")


class Candidate(NamedTuple):
    """One request at the gate. `arguments()` decodes the task's (args, kwargs) when somebody needs them."""

    id: str
    name: str
    queue: str
    priority: int
    policy: Policy
    arguments: Callable[[], tuple[tuple[Any, ...], dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Admit:
    """It may run: the share is reserved until `release`."""


@dataclass(frozen=True, slots=True)
class Hold:
    """It waits in the worker, which asks again on a release and after `retry_after` seconds at latest.

    With `in_turn` it must not starve: once it has waited for a while, nothing of lower rank passes it.
    """

    reason: str
    retry_after: float
    in_turn: bool = False


@dataclass(frozen=True, slots=True)
class Park:
    """It waits in the broker until `dependency` is released there, `retry_after` seconds at most."""

    dependency: str
    reason: str
    retry_after: float


@dataclass(frozen=True, slots=True)
class Refuse:
    """It will not run here or anywhere: it fails with `error`."""

    error: SeawallError


Verdict = Admit | Hold | Park | Refuse

ADMIT = Admit()


class Account(Protocol):
    """One thing that requests need a share of. Called from the consumer's thread only; must not block."""

    name: str

    def ask(self, candidate: Candidate) -> Verdict:
        """Decide; on `Admit` the share is taken."""

    def release(self, candidate: Candidate) -> None:
        """Give the share back. Safe for a candidate that was never admitted."""


accounts: Final[list[Account]] = []
"""Those in use in this process, in the order in which they are asked."""


def use(account: Account) -> None:
    """Have every request of this process, and of those it forks, ask `account` from now on."""
    accounts.append(account)


def disuse(account: Account) -> None:
    """Undo `use`."""
    if account in accounts:
        accounts.remove(account)
