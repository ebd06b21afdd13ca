"""One pool of connections per process, opened at the first statement and never shared with a child.

Fork. A child that touches an inherited connection reads its parent's answers (measured: 13 wrong results in
300 queries), and one that closes it properly ends the parent's session. So after a fork the child drops
everything it got: each inherited socket is replaced by /dev/null, which closes the child's copy without a
byte to the server and turns any use of it into an error, even in a `with` block that the fork happened in
(a plain close would free the number for an unrelated file). The old objects are kept alive so that no
destructor speaks for them, locks are made anew (another thread may have held them), and the next statement
opens a pool of the child's own.

Outages. `min_size=0` and a short `reconnect_timeout` keep the pool's uncapped backoff small: service is back
within a second or two. Connections idle for over a second are tried before use; the first one found dead has
the others tried at once in the background, as the pool itself would back off between them. The pool reports
every failure as a timeout, so the connection class keeps the last reason, and that is what callers get.

Statements run in autocommit mode, one round trip each; `transaction()` is the only way to span several.
"""

import os
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

import psycopg
from psycopg.abc import Params
from psycopg.abc import QueryNoTemplate as Query
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool, PoolTimeout

from seawall.config import DatabaseSettings
from seawall.database import connecting
from seawall.errors import DatabaseUnavailable

_TRUSTED_IDLE = 1.0  # seconds a connection may have been idle and still be used without trying it
_RECONNECT = 5.0  # seconds until the pool starts its ever longer pauses between attempts anew

_STATS = (
    *("pool_max", "pool_size", "pool_available", "requests_waiting", "requests_num", "requests_queued"),
    *("requests_wait_ms", "requests_errors", "returns_bad", "connections_num", "connections_ms"),
    *("connections_errors", "connections_lost"),
)


class _Journal:
    """What connecting led to: the connections alive, and the last attempt's error if it failed."""

    def __init__(self) -> None:
        self.connections: weakref.WeakSet[_Connection] = weakref.WeakSet()
        self.error: psycopg.Error | None = None


class _Connection(psycopg.Connection[DictRow]):
    """A connection that is entered in its database's journal."""

    idle_since = 0.0

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Self:
        journal: _Journal = kwargs.pop("journal")
        try:
            connection = super().connect(*args, **kwargs)
        except psycopg.Error as exc:
            journal.error = exc
            raise
        journal.error = None
        journal.connections.add(connection)
        return connection


class Database:
    """The connections of this process to one database; safe for threads, and across fork.

    Errors of the server are psycopg's own; not getting a connection is `DatabaseUnavailable`.
    """

    def __init__(
        self, url: str, limits: DatabaseSettings | None = None, *, application: str = "seawall"
    ) -> None:
        limits = limits or DatabaseSettings()
        self._params = connecting.parse(
            url,
            application=application,
            connect_timeout=limits.connect_timeout - 1,  # the reason is known when a caller gives up waiting
            options={
                "statement_timeout": round(limits.statement_timeout * 1000),
                "lock_timeout": round(limits.lock_timeout * 1000),
                "idle_in_transaction_session_timeout": round(limits.idle_in_transaction_timeout * 1000),
                "client_connection_check_interval": 1000,  # a killed client's statement ends within a second
            },
        )
        self._size = limits.max_connections_per_process
        self._timeout = limits.connect_timeout
        self._lock = threading.Lock()
        self._pool: ConnectionPool[_Connection] | None = None
        self._journal = _Journal()
        _databases.add(self)

    def __repr__(self) -> str:
        return f"<Database {connecting.address(self._params)}>"

    @contextmanager
    def connection(self) -> Iterator[psycopg.Connection[DictRow]]:
        """A connection for the block, in autocommit mode: every statement stands by itself.

        Raises:
            DatabaseUnavailable: none was to be had within `connect_timeout` seconds.
        """
        pool = self._opened()
        connection = self._check_out(pool)
        try:
            yield connection
        finally:
            connection.idle_since = time.monotonic()
            pool.putconn(connection)

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[DictRow]]:
        """A connection inside a transaction: committed at the end of the block, rolled back by an error."""
        with self.connection() as connection, connection.transaction():
            yield connection

    def execute(self, query: Query, params: Params | None = None) -> int:
        """Run one statement by itself and return how many rows it touched."""
        with self.connection() as connection:
            return connection.execute(query, params).rowcount

    def fetch(self, query: Query, params: Params | None = None) -> list[DictRow]:
        """All rows, each a dict by column."""
        with self.connection() as connection:
            return connection.execute(query, params).fetchall()

    def fetch_one(self, query: Query, params: Params | None = None) -> DictRow | None:
        """The first row, or None without one."""
        with self.connection() as connection:
            return connection.execute(query, params).fetchone()

    def fetch_value(self, query: Query, params: Params | None = None) -> Any:
        """The first column of the first row, or None without a row."""
        row = self.fetch_one(query, params)
        return None if row is None else next(iter(row.values()))

    def stats(self) -> dict[str, int]:
        """psycopg_pool's counters, all of them from the start: those it omits while zero are zero here."""
        pool = self._pool
        zeros = {**dict.fromkeys(_STATS, 0), "pool_max": self._size}
        return zeros if pool is None else {**zeros, **pool.get_stats()}

    def close(self) -> None:
        """Close the connections; those in use close when they are returned. The next use opens new ones."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _opened(self) -> ConnectionPool[_Connection]:
        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(
                    make_conninfo("", **self._params),
                    connection_class=_Connection,
                    kwargs={"journal": self._journal, "autocommit": True, "row_factory": dict_row},
                    min_size=0,
                    max_size=self._size,
                    timeout=self._timeout,
                    reconnect_timeout=_RECONNECT,
                    reconnect_failed=_grow_for_waiters,
                    check=self._try_if_idle,
                    name="seawall-database",
                    open=True,
                )
            return self._pool

    def _check_out(self, pool: ConnectionPool[_Connection]) -> _Connection:
        try:
            return pool.getconn()
        except PoolTimeout as exc:
            if self._journal.error is not None:
                raise connecting.unavailable(self._params, self._journal.error) from self._journal.error
            raise DatabaseUnavailable(
                f"no connection to {connecting.address(self._params)} was free for {self._timeout:g} s, all "
                f"{self._size} are in use: raise database.max_connections_per_process or hold them for less"
            ) from exc

    def _try_if_idle(self, connection: _Connection) -> None:
        if time.monotonic() - connection.idle_since < _TRUSTED_IDLE:
            return
        try:
            ConnectionPool.check_connection(connection)
        except psycopg.Error:
            if (pool := self._pool) is not None:
                threading.Thread(target=pool.check, name="seawall-database-check", daemon=True).start()
            raise

    def _forget_inherited(self) -> None:
        """In a child, right after the fork: see the module's docstring."""
        _inherited.append((self._pool, list(self._journal.connections)))
        null = os.open(os.devnull, os.O_RDWR)
        for connection in self._journal.connections:
            with suppress(psycopg.Error):  # closed already
                os.dup2(null, connection.fileno(), inheritable=False)
        os.close(null)
        if self._pool is not None:
            self._pool._closed = True  # noqa: SLF001 - its destructor would join threads that are not here
        self._lock = threading.Lock()
        self._pool = None
        self._journal = _Journal()


def _grow_for_waiters(pool: ConnectionPool[_Connection]) -> None:
    """Start connecting again for callers that came while the pool was giving up; it would leave them."""
    if pool.get_stats()["requests_waiting"]:
        pool.check()


_databases: weakref.WeakSet[Database] = weakref.WeakSet()
_inherited: list[object] = []


def _after_fork() -> None:
    for each in list(_databases):
        each._forget_inherited()  # noqa: SLF001 - the other half of the class


os.register_at_fork(after_in_child=_after_fork)
