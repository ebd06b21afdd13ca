"""One connection: who speaks through it, how long an answer may take, which statements are slow.

The server's limits end a statement only while the server can be heard. A connection whose other end went
silent without a word would be waited for without end, so every wait for an answer has a limit of its own,
`patience`, longer than the server's; a connection that exceeds it is closed.
"""

import logging
import time
import weakref
from typing import Any, Final, Self

import psycopg
from psycopg import errors as pg
from psycopg.abc import PQGen
from psycopg.rows import DictRow
from psycopg.sql import Composable

from seawall import events
from seawall.database import connecting
from seawall.database.events import (
    ConnectFailed,
    ConnectionOpened,
    StatementRan,
    StatementWasSlow,
)
from seawall.database.forks import ForkSafe
from seawall.database.sqlstate import Kind, kind_of

logger = logging.getLogger(__name__)

TOLERANCE: Final = 1.0
"""Seconds of failing to connect that are waited out; from then on callers are refused at once."""

_SHOWN: Final = 1000  # characters of a slow statement


class Journal:
    """What connecting led to: the connections alive, and since when and why none can be made."""

    def __init__(self) -> None:
        self.connections: weakref.WeakSet[Connection] = weakref.WeakSet()
        self.error: psycopg.Error | None = None
        self.kind: Kind | None = None
        self.failing_since = 0.0
        self.failed_at = 0.0
        self.slow = 0

    def succeeded(self) -> None:
        """A connection was made."""
        self.error = self.kind = None

    def failed(self, error: psycopg.Error, now: float) -> None:
        """None was made."""
        if self.error is None:
            self.failing_since = now
        self.error, self.kind, self.failed_at = error, kind_of(error), now

    def away(self, now: float) -> bool:
        """Whether waiting for a connection is pointless. A refused password is not waited for at all."""
        if self.error is None:
            return False
        return self.kind is Kind.AUTHENTICATION or now - self.failing_since >= TOLERANCE


class Connection(ForkSafe[DictRow]):
    """A connection that is entered in its database's journal."""

    heard_at = 0.0  # when the server answered last, seconds of the monotonic clock
    label = ""
    patience: float | None = None
    slow_query: float = float("inf")
    journal: Journal

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Self:
        """As psycopg does; the result, good or bad, is written down."""
        journal: Journal = kwargs.pop("journal")
        ours = {name: kwargs.pop(name) for name in ("patience", "slow_query", "label") if name in kwargs}
        started = time.monotonic()
        try:
            connection = super().connect(*args, **kwargs)
        except psycopg.Error as exc:
            journal.failed(exc, time.monotonic())
            events.emit(ConnectFailed(kind=kind_of(exc).value, reason=connecting.one_line(exc)))
            raise
        journal.succeeded()
        journal.connections.add(connection)
        connection.journal = journal
        for name, value in ours.items():
            setattr(connection, name, value)
        connection.heard_at = time.monotonic()
        events.emit(ConnectionOpened(seconds=connection.heard_at - started))
        return connection

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for an answer, `patience` seconds at most."""
        try:
            return super().wait(gen, interval, timeout or self.patience)
        except pg._WaitTimeout as exc:  # noqa: SLF001 - tests/unit/test_contracts.py
            if timeout is not None:
                raise
            self.close()
            raise psycopg.OperationalError(
                f"no answer within {self.patience:g} s: the connection was given up"
            ) from exc


class Cursor(psycopg.Cursor[DictRow]):
    """A cursor of a `Connection` that tells how long its statements took."""

    _conn: Connection

    def execute(
        self, query: Any, params: Any = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Self:
        """As psycopg does."""
        started = time.monotonic()
        try:
            psycopg.Cursor.execute(self, query, params, prepare=prepare, binary=binary)
        except BaseException as exc:
            self._tell(query, time.monotonic() - started, exc)
            raise
        self._conn.heard_at = ended = time.monotonic()
        seconds = ended - started
        if seconds >= self._conn.slow_query or events.observed():
            self._tell(query, seconds, None)
        return self

    def _tell(self, query: Any, seconds: float, error: BaseException | None) -> None:
        if error is None:
            failure = None
        else:
            failure = kind_of(error).value if isinstance(error, psycopg.Error) else "interrupted"
        events.emit(StatementRan(seconds=seconds, failure=failure))
        if seconds >= self._conn.slow_query:
            self._conn.journal.slow += 1
            _tell_slow(query, seconds)


def _tell_slow(query: Any, seconds: float) -> None:
    """The statement as it was written: parameters are the user's data and stay out of logs."""
    text = query.as_string() if isinstance(query, Composable) else query
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    statement = " ".join(str(text).split())[:_SHOWN]
    logger.warning("slow statement, %.3f s: %s", seconds, statement)
    events.emit(StatementWasSlow(statement=statement, seconds=seconds))
