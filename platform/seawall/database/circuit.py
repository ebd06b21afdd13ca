"""Where a circuit breaker meets the database: asked before a connection is used, told how it went after."""

from enum import Enum
from typing import Protocol

import psycopg

from seawall.database.sqlstate import COUNTED, Kind, kind_of
from seawall.errors import DatabaseUnavailable


class Outcome(Enum):
    """How one use of a connection ended, as far as the server's health is concerned."""

    SUCCESS = "success"
    FAILURE = "failure"
    SLOW = "slow"  # it was cancelled by its time limit
    IGNORED = (
        "ignored"  # says nothing about the server: the statement's fault, the caller's, or our own limit
    )


class Circuit(Protocol):
    """What `Database.guard` takes. Both are called on the caller's thread and must not block."""

    def before(self) -> None:
        """Raise to refuse; nothing was asked of the server then, and `after` is not called."""

    def after(self, outcome: Outcome, error: BaseException | None, seconds: float) -> None:
        """One use that `before` let through has ended."""


def outcome_of(error: BaseException | None) -> Outcome:
    """What a breaker should make of `error`."""
    if error is None:
        return Outcome.SUCCESS
    if isinstance(error, DatabaseUnavailable):
        saturated = isinstance(cause := error.__cause__, psycopg.Error) and kind_of(cause) is Kind.SATURATED
        return Outcome.IGNORED if saturated else Outcome.FAILURE
    if not isinstance(error, psycopg.Error):
        return Outcome.IGNORED
    kind = kind_of(error)
    if kind is Kind.TIMEOUT:
        return Outcome.SLOW
    return Outcome.FAILURE if kind in COUNTED else Outcome.IGNORED
