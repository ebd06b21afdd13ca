"""One connection: who speaks through it, how long an answer may take, which statements are slow.

The server's limits end a statement only while the server can be heard. A connection whose other end went
silent without a word would be waited for without end, so every wait for an answer has a limit of its own,
`patience`, longer than the server's; a connection that exceeds it is closed.

A connection counts the turns of its user, and those that left the session as it was (`sessions`). If they
differ when it is given back, the server is told to make the session as new. Nobody waits for that: the answer
is read before the next turn, and what the session held, such as locks, is free meanwhile.
"""

import contextlib
import logging
import re
import sys
import time
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, Self

import psycopg
from psycopg import errors as pg
from psycopg._preparing import PrepareManager
from psycopg.abc import PQGen
from psycopg.adapt import AdaptersMap
from psycopg.generators import execute
from psycopg.pq import Escaping, ExecStatus, TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg.sql import Composable

from seawall import events, holdings
from seawall.database import connecting
from seawall.database.events import (
    ConnectFailed,
    ConnectionOpened,
    StatementRan,
    StatementWasSlow,
)
from seawall.database.forks import ForkSafe
from seawall.database.sessions import KNOWN, RENEWAL, plain
from seawall.database.sqlstate import Kind, kind_of

logger = logging.getLogger(__name__)

TOLERANCE: Final = 1.0
"""Seconds of failing to connect that are waited out; from then on callers are refused at once."""

_SHOWN: Final = 1000  # characters of a slow statement
_RENEWED_WITHIN: Final = 1.0  # seconds after which a session that is not as new is given up
_CANCELLED_WITHIN: Final = 1.0  # seconds that telling the server of an interrupted statement may take
_THRESHOLDS: Final = (None, sys.maxsize)  # as new, and after `prepare=True`
_DONE: Final = frozenset({ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK})


_OURS: Final = ("patience", "slow_query", "label", "renewable")


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
    slow_query: float = float("inf")
    renewable = True
    turns = 0  # of the present user, and of the one after it until it has one
    plain_turns = 0
    renewing = False
    ended = False  # a statement has ended the transaction of a block that is not over
    journal: Journal
    holder: object = None  # whoever has it, or is about to; None while it is idle

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Self:
        """As psycopg does; the result, good or bad, is written down."""
        journal: Journal = kwargs.pop("journal")
        ours = {name: kwargs.pop(name) for name in _OURS if name in kwargs}
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
        connection.server_cursor_factory = ServerCursor
        for name, value in ours.items():
            setattr(connection, name, value)
        connection.heard_at = time.monotonic()
        events.emit(ConnectionOpened(seconds=connection.heard_at - started))
        return connection

    @contextlib.contextmanager
    def transaction(
        self,
        savepoint_name: str | None = None,
        force_rollback: bool = False,  # noqa: FBT001, FBT002 - psycopg's
    ) -> Iterator[psycopg.Transaction]:
        """As psycopg does, but a rollback is never a success.

        PostgreSQL answers the COMMIT of a transaction in which a statement failed with ROLLBACK and no error.

        Raises:
            psycopg.errors.InFailedSqlTransaction: a statement failed, and the block swallowed its error.
            psycopg.errors.InvalidTransactionTermination: a statement ended the transaction inside the block.
        """
        with super().transaction(savepoint_name, force_rollback) as transaction:
            self.ended = self.ended and self._num_transactions > 1
            self.plain_turns += 1
            try:
                yield transaction
            finally:
                self.plain_turns += 1
            if not force_rollback:
                self._refuse_what_has_ended()

    def _refuse_what_has_ended(self) -> None:
        status = self.info.transaction_status
        if status == TransactionStatus.INERROR:
            raise rolled_back()
        awaited = self.pgconn.pipeline_status  # the answer to BEGIN may be
        if self.ended or (status == TransactionStatus.IDLE and not awaited):
            raise _ended_inside()

    def answered(self, query: Any, tags: Sequence[bytes | None]) -> None:
        """Look at the ends of transactions among the answers to `query`: one may have begun another.

        Raises:
            psycopg.errors.InFailedSqlTransaction: a COMMIT was answered with ROLLBACK.
            psycopg.errors.InvalidTransactionTermination: the transaction of a block ended inside it.
        """
        within = self._num_transactions > 0
        if within and _ends(query, tags):
            self.ended = True
        if tags[:1] == [b"ROLLBACK"] and not _asked_to_roll_back(query):
            raise rolled_back()
        if within and self.ended:
            raise _ended_inside()

    def commit(self) -> None:
        """As psycopg does, but a rollback is never a success.

        Raises:
            psycopg.errors.InFailedSqlTransaction: a statement of the transaction failed.
        """
        failed = self.info.transaction_status == TransactionStatus.INERROR
        super().commit()
        if failed:
            raise rolled_back()

    @holdings.interruptible
    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait for an answer, `patience` seconds at most; the connection is closed when none comes."""
        if self.renewing:
            self.renewed()
        self.turns += 1
        try:  # as ForkSafe does, which would be one call more for each statement
            return psycopg.Connection.wait(self, gen, interval, timeout or self.patience)
        except psycopg.Error:
            raise
        except pg._WaitTimeout as exc:  # noqa: SLF001 - tests/unit/test_contracts.py
            if timeout is not None:
                raise  # a bound of the caller's own
            raise self.unanswered() from exc
        except BaseException:
            self._give_up()
            raise

    def _give_up(self) -> None:
        """The wait was interrupted: end a statement that is under way in the server, and the connection."""
        if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
            try:
                self._try_cancel(timeout=_CANCELLED_WITHIN)
            finally:
                self.close()

    def altered(self) -> bool:
        """Whether its user may have left something behind. Setting how transactions begin is a turn, too."""
        prepared = self._prepared
        return (
            self.turns != self.plain_turns
            or self.row_factory is not dict_row
            or self.cursor_factory is not Cursor
            or self.server_cursor_factory is not ServerCursor
            or bool(self._notice_handlers or self._notify_handlers)
            or prepared.prepare_threshold not in _THRESHOLDS
            or prepared.prepared_max != PrepareManager.prepared_max
            or (self._adapters is not None and _adapts_otherwise(self._adapters))
        )

    def renew(self) -> None:
        """Have the session made as new; it must be in no transaction. Waits for nothing."""
        self._forget_settings()
        self.turns = self.plain_turns = 0
        if not self.renewable:
            return
        self.renewing = True
        name = Escaping(self.pgconn).escape_literal(self.label.encode())
        try:
            self.pgconn.send_query(RENEWAL + b"; SET application_name = " + name)
            self.pgconn.flush()
        except psycopg.Error:
            self.close()  # as whoever reads the answer finds out

    def renewed(self) -> None:
        """Read what the server answered to `renew`.

        Raises:
            psycopg.OperationalError: it could not, so the connection was closed.
        """
        self.renewing = False
        try:
            results = super().wait(execute(self.pgconn), timeout=_RENEWED_WITHIN)
        except psycopg.Error as exc:
            self.close()
            raise psycopg.OperationalError(f"the session was not made as new: {exc}") from exc
        except BaseException:
            self.close()
            raise
        if failed := [each for each in results if each.status not in _DONE]:
            self.close()
            reason = failed[0].get_error_message()
            raise psycopg.OperationalError(f"the session was not made as new: {reason}")
        self._notifies_backlog = deque()  # what came before it was told to listen to nothing
        self.heard_at = time.monotonic()

    def _forget_settings(self) -> None:
        self.autocommit = True
        self.isolation_level = self.read_only = self.deferrable = None
        self.prepare_threshold = None
        self._prepared.prepared_max = PrepareManager.prepared_max
        self.row_factory = dict_row
        self.cursor_factory = Cursor
        self.server_cursor_factory = ServerCursor
        self._adapters = None
        self._notice_handlers.clear()
        self._notify_handlers.clear()


def _adapts_otherwise(adapters: AdaptersMap) -> bool:
    """Whether something was registered. Parts that were not are the same objects, so equal at once."""
    others = psycopg.adapters
    return (
        adapters._loaders != others._loaders  # noqa: SLF001 - tests/unit/test_contracts.py
        or adapters._dumpers != others._dumpers  # noqa: SLF001
        or adapters._dumpers_by_oid != others._dumpers_by_oid  # noqa: SLF001
        or adapters.types._registry is not others.types._registry  # noqa: SLF001
    )


def rolled_back() -> pg.InFailedSqlTransaction:
    """What a COMMIT that PostgreSQL answered with ROLLBACK is told as."""
    return pg.InFailedSqlTransaction(
        "a statement of this transaction failed unheard, so nothing was committed: "
        "let its error out, or run it in a `with connection.transaction():` of its own"
    )


def refuse_to_lose(status: int) -> None:
    """Refuse to end a use of a connection without a word when its transaction is in `status`.

    Raises:
        psycopg.errors.InvalidTransactionTermination: it is open, and nobody will commit it.
        psycopg.errors.InFailedSqlTransaction: a statement of it failed.
    """
    if status == TransactionStatus.INTRANS:
        raise pg.InvalidTransactionTermination(
            "a transaction was still open when its connection was given back, so nothing was committed: "
            "use `with database().transaction():`, or run COMMIT before the end of the block"
        )
    if status == TransactionStatus.INERROR:
        raise rolled_back()


def _ended_inside() -> pg.InvalidTransactionTermination:
    return pg.InvalidTransactionTermination(
        "a statement ended this transaction inside its block: let the end of the block commit it, "
        "or let an error out to undo it"
    )


def _refuse_nul(query: Any) -> None:
    if "\0" in _text(query):
        raise psycopg.DataError("there is a NUL in the statement, and PostgreSQL reads nothing after one")


class ServerCursor(psycopg.ServerCursor[DictRow]):
    """A cursor on the server, of a `Connection`."""

    def execute(self, query: Any, *args: Any, **options: Any) -> Self:
        """As psycopg does, but a statement with a NUL in it is refused and not cut there.

        Raises:
            psycopg.DataError: there is one.
        """
        _refuse_nul(query)
        return super().execute(query, *args, **options)


class Cursor(psycopg.Cursor[DictRow]):
    """A cursor of a `Connection` that tells how long its statements took, and cuts none at a NUL."""

    _conn: Connection

    def execute(
        self, query: Any, params: Any = None, *, prepare: bool | None = None, binary: bool | None = None
    ) -> Self:
        """As psycopg does, but a statement with a NUL in it is refused and not cut there.

        Raises:
            psycopg.DataError: there is one.
        """
        as_before = KNOWN[query] if query.__class__ is str else plain(query)
        started = time.monotonic()
        if prepare and self._conn.renewable:
            self._conn.prepare_threshold = sys.maxsize  # without one it does not prepare at all
        try:
            psycopg.Cursor.execute(self, query, params, prepare=prepare, binary=binary)
        except BaseException as exc:
            if as_before and isinstance(exc, psycopg.Error):
                self._conn.plain_turns += 1
            self._tell(query, time.monotonic() - started, exc)
            raise
        connection = self._conn
        if as_before:
            connection.plain_turns += 1
        else:
            connection.answered(query, [each.command_status for each in self._results])
        connection.heard_at = ended = time.monotonic()
        seconds = ended - started
        if seconds >= connection.slow_query or events.observed():
            self._tell(query, seconds, None)
        return self

    def executemany(self, query: Any, *args: Any, **options: Any) -> None:
        """As psycopg does; see `execute`."""
        _refuse_nul(query)
        super().executemany(query, *args, **options)

    def stream(self, query: Any, *args: Any, **options: Any) -> Iterator[DictRow]:
        """As psycopg does; see `execute`."""
        _refuse_nul(query)
        return super().stream(query, *args, **options)

    def copy(self, statement: Any, *args: Any, **options: Any) -> Any:
        """As psycopg does; see `execute`."""
        _refuse_nul(statement)
        return super().copy(statement, *args, **options)

    def _tell(self, query: Any, seconds: float, error: BaseException | None) -> None:
        if error is None:
            failure = None
        else:
            failure = kind_of(error).value if isinstance(error, psycopg.Error) else "interrupted"
        events.emit(StatementRan(seconds=seconds, failure=failure))
        if seconds >= self._conn.slow_query:
            self._conn.journal.slow += 1
            _tell_slow(query, seconds)


_COMMIT: Final = re.compile(
    r"(?:\s|;|--[^\r\n]*+|/\*(?:[^/*]|\*(?!/)|/(?!\*)|/\*(?:[^*]|\*(?!/))*+\*/)*+\*/)*+(?:commit|end|prepare)\b",
    re.IGNORECASE,
)
"""What asks for a COMMIT, after comments."""
_TO_A_SAVEPOINT: Final = re.compile(r"\brollback\s+(?:(?:work|transaction)\s+)?to\b", re.IGNORECASE)


def _ends(query: Any, tags: Sequence[bytes | None]) -> bool:
    """Whether a transaction ended, by the answers to `query`: ROLLBACK TO is answered with ROLLBACK too."""
    if b"COMMIT" in tags or b"PREPARE TRANSACTION" in tags:
        return True
    return b"ROLLBACK" in tags and tags.count(b"ROLLBACK") > len(_TO_A_SAVEPOINT.findall(_text(query)))


def _asked_to_roll_back(query: Any) -> bool:
    return not _COMMIT.match(_text(query))


def _text(query: Any) -> str:
    if isinstance(query, str):
        return str.__str__(query)
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    return query.as_string() if isinstance(query, Composable) else str(query)


def _tell_slow(query: Any, seconds: float) -> None:
    """The statement as it was written: parameters are the user's data and stay out of logs."""
    statement = " ".join(_text(query).split())[:_SHOWN]
    logger.warning("slow statement, %.3f s: %s", seconds, statement)
    events.emit(StatementWasSlow(statement=statement, seconds=seconds))
