"""What the database tells observers; names and fields stand in docs/events.md. Times are seconds."""

from dataclasses import dataclass

from seawall.events import Event


@dataclass(frozen=True, kw_only=True, slots=True)
class DatabaseEvent(Event):
    """The base of these; subscribe to it to hear all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StatementRan(DatabaseEvent):
    """A statement ended; `failure` is its error's kind or "interrupted", None if it succeeded."""

    seconds: float
    failure: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class StatementWasSlow(DatabaseEvent):
    """A statement took longer than `database.slow_query`. Its parameters are not told."""

    statement: str
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionAcquired(DatabaseEvent):
    """A caller got a connection after waiting for `waited`."""

    waited: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionOpened(DatabaseEvent):
    """A connection to the server was made."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectFailed(DatabaseEvent):
    """A connection could not be made."""

    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DatabaseWentAway(DatabaseEvent):
    """From now on callers are refused at once."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DatabaseCameBack(DatabaseEvent):
    """Connections can be made again, after `seconds` without."""

    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class TransactionRepeated(DatabaseEvent):
    """A transaction left nothing behind and runs again."""

    attempt: int
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ConnectionsGranted(DatabaseEvent):
    """This process's share of the connection budget changed."""

    grant: int
    budget: int
