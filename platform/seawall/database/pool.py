"""One pool of connections per process, opened at the first statement and never shared with a child.

Fork. A child that touches an inherited connection reads its parent's answers (measured: 13 wrong results in
300 queries), and one that closes it properly ends the parent's session. So after a fork the child drops
everything it got: each inherited socket is replaced by /dev/null, which closes the child's copy without a
byte to the server and turns any use of it into an error, even in a `with` block that the fork happened in
(a plain close would free the number for an unrelated file). The old objects are kept alive so that no
destructor speaks for them, locks are made anew (another thread may have held them), and the next statement
opens a pool of the child's own.

Outages. A failure to connect is waited out for a second; then callers are refused at once, with the last
reason, until the keeper's probe gets through (`keeper`). `min_size=0` and a short `reconnect_timeout` keep
the pool's uncapped backoff small. Connections idle for over a second are tried before use; the first one
found dead has the others tried at once in the background, as the pool itself would back off between them. A
wait for an answer ends by itself when the other side has gone silent (`connection`).

Repeats. Only `run`, and single statements with `retry=True`, are run again, and only after errors that left
nothing behind (`sqlstate`). When a connection is lost while COMMIT is on its way nobody knows what became of
the transaction: that is `CommitUnknown` and is never repeated.

Statements run in autocommit mode, one round trip each; `transaction()` is the only way to span several. They
are not prepared behind the caller's back: after a migration a prepared `SELECT *` fails on its connection for
good ("cached plan must not change result type"). Pass `prepare=True` to `connection.execute` where it pays.
"""

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.abc import Params
from psycopg.abc import QueryNoTemplate as Query
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from seawall import events, holdings
from seawall.backoff import exponential, full_jitter
from seawall.database import connecting, forks, label, nesting
from seawall.database.circuit import Circuit, outcome_of
from seawall.database.connecting import NotAsked
from seawall.database.connection import Connection, Cursor, Journal, refuse_to_lose
from seawall.database.elastic import ElasticPool, Holder
from seawall.database.events import ConnectionAcquired, TransactionRepeated
from seawall.database.keeper import Keeper
from seawall.database.sqlstate import Kind, kind_of, repeatable
from seawall.errors import CommitUnknown, DatabaseUnavailable
from seawall.later import Block, called, refuse_later
from seawall.quantity import Whole
from seawall.sections import DatabaseSettings

if TYPE_CHECKING:
    from seawall.database.governor import Governor

logger = logging.getLogger(__name__)

T = TypeVar("T")

_TRUSTED_IDLE = 1.0  # seconds since the last answer on a connection that is used without trying it
_CHECK_PATIENCE = 1.0  # seconds such a trial may take
_ATTEMPTS = Whole(least=1)
_RECONNECT = 1.0  # seconds until the pool starts its ever longer pauses between attempts anew
_GRACE = 5.0  # seconds the server has to end a statement by itself before its connection is given up
_IDLE = TransactionStatus.IDLE.value
_STATS = (
    *("pool_max", "pool_size", "pool_available", "requests_waiting", "requests_num", "requests_queued"),
    *("requests_wait_ms", "requests_errors", "returns_bad", "connections_num", "connections_ms"),
    *("connections_errors", "connections_lost", "slow_statements", "repeats", "refused"),
)


@dataclass(frozen=True, slots=True)
class Health:
    """Whether the database answers: how long it took in seconds, or why it does not."""

    ok: bool
    seconds: float
    reason: str | None = None


class Database:
    """The connections of this process to one database; safe for threads, and across fork.

    Errors of the server are psycopg's own; not getting a connection is `DatabaseUnavailable`. `govern` makes
    the keeper of this process's share of the connection budget, None if nobody shares.
    """

    def __init__(
        self,
        url: str,
        limits: DatabaseSettings | None = None,
        *,
        application: str | None = None,
        govern: "Callable[[Database], Governor] | None" = None,
    ) -> None:
        limits = limits or DatabaseSettings()
        self._limits = limits
        self._application = application
        self._pooled = limits.pooler == "transaction"
        session = connecting.session(limits)
        self._params = connecting.parse(
            url,
            application=application or label.current(),
            connect_timeout=limits.connect_timeout - 1,  # the reason is known when a caller gives up waiting
            options=None if self._pooled else session,
        )
        self._local = connecting.local(session) if self._pooled else None
        self._named = "application_name" in self._params or application is not None or self._pooled
        self._size = limits.max_connections_per_process
        self._timeout = limits.connect_timeout
        self._govern = govern
        self._circuit: Circuit | None = None
        self._repeats = self._refused = 0
        self._make_anew()
        _databases.add(self)

    def _make_anew(self) -> None:
        self._lock: Any = threading.RLock()  # so that a thread that was interrupted in it may leave it
        self._pool: ElasticPool | None = None
        self._keeper: Keeper | None = None
        self._journal = Journal()

    def __repr__(self) -> str:
        return f"<Database {connecting.address(self._params)}>"

    @property
    def server(self) -> str:
        """`host:port`, for messages and as the name of the budget."""
        return connecting.server(self._params)

    def guard(self, circuit: Circuit | None) -> None:
        """Ask `circuit` before every use of a connection and tell it how each ended."""
        self._circuit = circuit

    def connection(self) -> AbstractContextManager[psycopg.Connection[DictRow]]:
        """A connection for the block, in autocommit mode: every statement stands by itself.

        Inside a `transaction()` of this thread it is that transaction's.

        Raises:
            DatabaseUnavailable: none was to be had within `connect_timeout` seconds, or the server is known
                to be away.
            psycopg.errors.InvalidTransactionTermination: a transaction that a statement began was open at the
                end of the block, so it was rolled back.
        """
        outer = nesting.connection_of(self)
        return _Use(self) if outer is None else nullcontext(outer)

    def transaction(self) -> Block[psycopg.Connection[DictRow]]:
        """A connection inside a transaction: committed at the end of the block, rolled back by an error.

        Inside another one of this thread it is a savepoint of that one. Until the block ends, all that this
        thread does by this object belongs to the transaction.

        Raises:
            DatabaseUnavailable: as `connection`.
            CommitUnknown: the connection was lost while COMMIT was on its way.
            ConfigError: it decorates a function whose body runs after its call, as a coroutine function's.
        """
        return Block(self._transaction, "transaction()")

    @contextmanager
    def _transaction(self) -> Iterator[psycopg.Connection[DictRow]]:
        if (outer := nesting.connection_of(self)) is not None:
            with outer.transaction():
                yield outer
            return
        complete = False
        with _Use(self) as connection:
            try:
                with connection.transaction(), nesting.inside(self, connection):
                    if self._local is not None:
                        connection.execute(self._local)
                    yield connection
                    complete = True
            except psycopg.Error as exc:
                if complete and kind_of(exc) in {Kind.AWAY, Kind.UNKNOWN_FATE}:
                    raise CommitUnknown(
                        f"the connection to {connecting.address(self._params)} was lost during COMMIT: look "
                        f"whether it is in effect before repeating it ({connecting.one_line(exc)})"
                    ) from exc
                raise

    def run(self, work: Callable[[psycopg.Connection[DictRow]], T], *, attempts: int = 5) -> T:
        """What `work` returns in a transaction of its own, run again after conflicts and lost connections.

        `work` must do nothing but SQL on the connection it gets: it may run several times, and only its last
        run counts. Waits in between grow to a second. Inside a transaction nothing is run again: what failed
        has undone that one too.

        Raises:
            CommitUnknown: as `transaction`; never repeated.
            DatabaseUnavailable: as `connection`.
            ConfigError: the body of `work` runs after its call, as a coroutine function's.
        """
        refuse_later(work, "run() cannot call")

        def once() -> T:
            with self._transaction() as connection:
                return called("run()", work, connection)

        return self._repeat(once, attempts=attempts)

    def execute(self, query: Query, params: Params | None = None, *, retry: bool = False) -> int:
        """Run one statement by itself and return how many rows it touched.

        `retry` repeats it after a conflict or a lost connection; say it only of a statement that may take
        effect twice without harm.
        """
        return self._answer(_rowcount, query, params, retry=retry)

    def fetch(self, query: Query, params: Params | None = None, *, retry: bool = False) -> list[DictRow]:
        """All rows, each a dict by column; `retry` as `execute`."""
        return self._answer(psycopg.Cursor.fetchall, query, params, retry=retry)

    def fetch_one(self, query: Query, params: Params | None = None, *, retry: bool = False) -> DictRow | None:
        """The first row, or None without one; `retry` as `execute`."""
        return self._answer(psycopg.Cursor.fetchone, query, params, retry=retry)

    def fetch_value(self, query: Query, params: Params | None = None, *, retry: bool = False) -> Any:
        """The first column of the first row, or None without a row or a column; `retry` as `execute`."""
        row = self.fetch_one(query, params, retry=retry)
        return None if row is None else next(iter(row.values()), None)

    def health(self) -> Health:
        """Whether the database answers a statement; never raises."""
        started = time.monotonic()
        try:
            self.fetch_value("SELECT 1")
        except (psycopg.Error, DatabaseUnavailable) as exc:
            return Health(ok=False, seconds=time.monotonic() - started, reason=connecting.one_line(exc))
        return Health(ok=True, seconds=time.monotonic() - started)

    def mend(self) -> int:
        """Try every idle connection and drop those that are dead; how many there were."""
        pool = self._pool
        if pool is None:
            return 0
        before = pool.get_stats().get("connections_lost", 0)
        pool.check()
        return pool.get_stats().get("connections_lost", 0) - before

    def stats(self) -> dict[str, int]:
        """psycopg_pool's counters and ours, all of them from the start: what was never counted is zero."""
        pool, keeper = self._pool, self._keeper
        zeros = {**dict.fromkeys(_STATS, 0), "pool_max": self._size}
        ours = {
            "slow_statements": self._journal.slow,
            "repeats": self._repeats,
            "refused": self._refused,
            "granted": (keeper and keeper.grant) or 0,
        }
        return {**zeros, **(pool.get_stats() if pool else {}), **ours}

    def close(self) -> None:
        """Close the connections; those in use close when they are returned. The next use opens new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
            keeper, self._keeper = self._keeper, None
        if pool is not None:
            pool.close()
        if keeper is not None:
            keeper.stop()

    def usable_connections(self) -> int:
        """What the server allows to ordinary users, less a margin for people and other programs.

        Raises:
            DatabaseUnavailable: it cannot be asked.
        """
        return connecting.usable_connections(self._params)

    def _answer(
        self,
        read: Callable[[psycopg.Cursor[DictRow]], T],
        query: Query,
        params: Params | None,
        *,
        retry: bool,
    ) -> T:
        """What `read` takes from one statement's cursor."""
        if retry:
            return self._repeat(lambda: self._answer(read, query, params, retry=False))
        if nesting.innermost.get() and (outer := nesting.connection_of(self)) is not None:
            return read(Cursor(outer).execute(query, params))
        with _Use(self) as connection:
            return read(Cursor(connection).execute(query, params))  # as its execute(), 4 us sooner

    def _opened(self) -> ElasticPool:
        with self._lock:
            if self._pool is None:
                governor = self._govern(self) if self._govern else None
                keeper = Keeper(self._params, self._journal, governor)
                pool = self._made(keeper, cap=0 if governor else self._size)
                try:
                    keeper.start(pool)
                    self._keeper, self._pool = keeper, pool
                except BaseException:
                    self._keeper = self._pool = None
                    pool.close()
                    keeper.stop()
                    raise
            return self._pool

    def _made(self, keeper: Keeper, *, cap: int) -> ElasticPool:
        limits, journal = self._limits, self._journal
        return ElasticPool(
            make_conninfo("", **self._params),
            connection_class=Connection,
            kwargs={
                "journal": journal,
                "patience": limits.statement_timeout + _GRACE if limits.statement_timeout else None,
                "slow_query": limits.slow_query,
                "label": self._params["fallback_application_name"],
                "renewable": not self._pooled,
                "autocommit": True,
                "prepare_threshold": None,
                "row_factory": dict_row,
                "cursor_factory": Cursor,
            },
            min_size=0,
            max_size=self._size,
            timeout=self._timeout,
            reconnect_timeout=_RECONNECT,
            reconnect_failed=ElasticPool.grow_for_waiters,
            trusted=self._trusted,
            check=self._prepare,
            name="seawall-database",
            cap=cap,
            away=lambda: journal.away(time.monotonic()),
            hungry=keeper.hungry,
            failed=keeper.wake,
        )

    def _check_out(self, holder: Holder) -> tuple[ElasticPool, Connection]:
        """A connection and the pool that it goes back to, which may be closed meanwhile."""
        pool, journal = self._pool or self._opened(), self._journal
        if journal.error is not None and journal.away(time.monotonic()) and not pool.idle():
            self._refused += 1
            raise connecting.unavailable(self._params, journal.error, NotAsked) from journal.error
        try:
            return pool, pool.getconn(holder=holder)
        except PoolTimeout as exc:
            if reason := journal.error:
                raise connecting.unavailable(self._params, reason) from reason
            raise DatabaseUnavailable(self._why_none(pool)) from exc

    def _why_none(self, pool: ElasticPool) -> str:
        where, waited = connecting.address(self._params), f"free for {self._timeout:g} s"
        if pool.max_size < self._size:
            return (
                f"no connection to {where} was {waited}, all {pool.max_size} that the budget grants this "
                "process are in use: raise database.max_connections, or run fewer processes"
            )
        return (
            f"no connection to {where} was {waited}, all {self._size} are in use: raise "
            "database.max_connections_per_process or hold them for less"
        )

    def _trusted(self, connection: Connection) -> bool:
        """Whether the server answered on it a moment ago, and to the name of what runs now."""
        if connection.renewing or time.monotonic() - connection.heard_at >= _TRUSTED_IDLE:
            return False
        return self._named or connection.label == label.current()

    def _prepare(self, connection: Connection) -> None:
        """Before a connection is handed out: label it with the task, and try it if it was idle for long."""
        if connection.renewing:
            connection.renewed()
        if self._trusted(connection):
            return
        wanted = connection.label if self._named else label.current()
        patience, connection.patience = connection.patience, _CHECK_PATIENCE
        try:
            if wanted == connection.label:
                ConnectionPool.check_connection(connection)
            else:
                psycopg.Cursor(connection).execute(
                    "SELECT set_config('application_name', %s, false)", (wanted,)
                )
                connection.label = wanted
        except psycopg.Error:
            if (pool := self._pool) is not None and pool.idle():
                threading.Thread(target=pool.check, name="seawall-database-check", daemon=True).start()
            raise
        finally:
            connection.patience = patience
            connection.plain_turns = connection.turns

    def _repeat(self, once: Callable[[], T], *, attempts: int = 5) -> T:
        attempts = _ATTEMPTS.parse(attempts, field="attempts")
        for attempt in range(1, 1 if nesting.connection_of(self) else attempts):
            try:
                return once()
            except psycopg.Error as exc:  # a lost COMMIT is no psycopg.Error any more
                if not repeatable(exc, commit_sent=False):
                    raise
                self._repeats += 1
                events.emit(TransactionRepeated(attempt=attempt, kind=kind_of(exc).value))
                time.sleep(full_jitter(exponential(attempt, base=0.05, cap=1.0)))
        return once()

    def _forget_inherited(self) -> None:
        """In a child, right after the fork: see the module's docstring."""
        _inherited.append((self._pool, self._keeper, list(self._journal.connections)))
        forks.forget(each.fileno() for each in self._journal.connections if not each.closed)
        if self._pool is not None:
            self._pool._closed = True  # noqa: SLF001 - its destructor would join threads that are not here
        self._make_anew()


def _rowcount(cursor: psycopg.Cursor[DictRow]) -> int:
    return cursor.rowcount


class _Use(AbstractContextManager[psycopg.Connection[DictRow]]):
    """One use of a connection. Written out, as a generator would cost several microseconds a statement."""

    __slots__ = ("_circuit", "_database", "_noted", "_started", "connection", "pool")

    def __init__(self, database: Database) -> None:
        self._database = database
        self._circuit = database._circuit  # noqa: SLF001 - the other half of the class
        self.pool: ElasticPool | None = None
        self.connection: Connection | None = None

    @holdings.sheltered
    def __enter__(self) -> Connection:
        self._noted = holdings.note(self)
        circuit, begun = self._circuit, False
        try:
            if circuit is not None:
                self._started = time.monotonic()
                circuit.before()
                begun = True
            pool = self._database._pool  # noqa: SLF001
            if pool is not None and not events.observed() and (idle := pool.take(self)) is not None:
                return idle
            return self._wait_for_one()
        except BaseException as exc:
            if circuit is not None and begun:
                circuit.after(outcome_of(exc), exc, time.monotonic() - self._started)
            self.give_back()
            holdings.forget(self)
            raise

    def _wait_for_one(self) -> Connection:
        asked = time.monotonic()
        self.pool, connection = self._database._check_out(self)  # noqa: SLF001
        if events.observed():
            events.emit(ConnectionAcquired(waited=time.monotonic() - asked))
        return connection

    @holdings.sheltered
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool, connection = self.pool, self.connection
        assert pool is not None and connection is not None  # noqa: S101, PT018 - of the block that ends
        status = _IDLE if error is not None else connection.pgconn.transaction_status
        try:
            pool.putconn(connection)
        finally:
            if (circuit := self._circuit) is not None:
                circuit.after(outcome_of(error), error, time.monotonic() - self._started)
        if self._noted:
            holdings.forget(self)
        if status != _IDLE:
            refuse_to_lose(status)

    def give_back(self) -> None:
        """After an interruption on the way in or out."""
        database = self._database
        holdings.unlock(database._lock)  # noqa: SLF001
        pool = self.pool or database._pool  # noqa: SLF001 - its lock may be held before it is ours
        if pool is not None:
            pool.give_back(self)


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork() -> None:
    for each in list(_databases):
        each._forget_inherited()  # noqa: SLF001 - the other half of the class


def _at_exit() -> None:
    """Close what was forgotten: a pool's destructor would wait 5 s for each of its frozen threads."""
    for each in list(_databases):
        each.close()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
