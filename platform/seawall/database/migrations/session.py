"""The one session that migrates: direct, and alone while it holds its turn.

The turn is an advisory lock of the session, so it ends with it: a runner or a backend that is killed leaves
nothing to clean up. A file may let go of all locks of its session (DISCARD ALL, pg_advisory_unlock_all), so
the runner holds a second lock in a session of its own, which no file reaches. A lock is polled, never waited
for: CREATE INDEX CONCURRENTLY waits for every older transaction, also for one that waits in pg_advisory_lock,
and the two would deadlock. Session state does not survive a transaction pooler, so a pooler in between is
refused: the process id that was announced at login is then not the backend's.
"""

import contextlib
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import psycopg
from psycopg.conninfo import make_conninfo

from seawall.database import connecting
from seawall.database.connecting import Params
from seawall.database.migrations.problems import Kind, problem
from seawall.errors import ConfigError, DatabaseUnavailable

logger = logging.getLogger(__name__)

_LOOK_EVERY: Final = 5.0
_SILENT_FOR: Final = 30.0  # seconds: a restart of the server takes less

TURN: Final = int.from_bytes(b"seawall!", "big")
"""The key of the advisory lock: any constant, as such locks are per database."""

_OUT_OF_REACH: Final = int.from_bytes(b"seawall+", "big")
"""The key of the lock that the files' session does not hold."""

_OPTIONS: Final = {
    "statement_timeout": 0,  # a role's limits are meant for its queries, not for building an index
    "idle_in_transaction_session_timeout": 0,
    "idle_session_timeout": 0,  # the second session of a runner waits for the first one's files
    "lock_timeout": 0,
    "client_connection_check_interval": 1000,  # the statement and the turn of a killed runner end
}


def parse(url: str) -> Params:
    """The parameters for a migrating session.

    Raises:
        ConfigError: `url` is no PostgreSQL URL.
    """
    return connecting.parse(url, application="seawall migrate", connect_timeout=10, options=_OPTIONS)


@contextmanager
def session(params: Params) -> Iterator[psycopg.Connection]:
    """A connection in autocommit mode that is no pooler's.

    Raises:
        DatabaseUnavailable: it could not be made, or broke; what was committed is recorded.
        ConfigError: it goes through a connection pooler.
    """
    connection = _connected(params)
    with connection, _watched(connection, params):
        try:
            row = connection.execute("SELECT pg_backend_pid()").fetchone()
            if row != (connection.info.backend_pid,):
                raise _pooled(params)
            yield connection
        except psycopg.Error as exc:
            if connection.broken:
                raise DatabaseUnavailable(
                    f"the connection to {connecting.address(params)} broke: migrate again, what was "
                    f"committed is recorded ({connecting.one_line(exc)})"
                ) from exc
            raise problem(Kind.FAILED, f"{connecting.address(params)}: {connecting.one_line(exc)}") from exc


def _connected(params: Params) -> psycopg.Connection:
    try:
        # Nothing is prepared behind the files' backs: between two of them DEALLOCATE ALL ends what they left.
        return psycopg.connect(make_conninfo("", **params), autocommit=True, prepare_threshold=None)
    except psycopg.Error as exc:
        if "unsupported startup parameter" in str(exc):
            raise _pooled(params) from exc
        raise connecting.unavailable(params, exc) from exc


@contextmanager
def _watched(connection: psycopg.Connection, params: Params) -> Iterator[None]:
    """A statement may take hours, so nothing but the server itself says whether an answer may still come.

    It is asked again and again, over connections of their own. If it does not answer for `_SILENT_FOR`
    seconds, the session ends, and with it the wait.
    """
    done = threading.Event()

    def watch() -> None:
        silent_since: float | None = None
        while not done.wait(_LOOK_EVERY):
            now = time.monotonic()
            reason = connecting.probe(params, timeout=_LOOK_EVERY)
            if reason is None or not reason.startswith(connecting.NO_ANSWER):
                silent_since = None
            elif now - (silent_since := silent_since or now) >= _SILENT_FOR:
                logger.error("%s does not answer: the session is given up", connecting.address(params))
                _hang_up(connection)
                return

    watcher = threading.Thread(target=watch, name="seawall-migrate-watch", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join(2 * _LOOK_EVERY)


def _hang_up(connection: psycopg.Connection) -> None:
    """End whatever waits on it, in another thread; only that one may close it."""
    with (
        contextlib.suppress(psycopg.Error, OSError),
        socket.socket(fileno=os.dup(connection.fileno())) as line,
    ):
        line.shutdown(socket.SHUT_RDWR)


@contextmanager
def turn(params: Params, *, patience: float) -> Iterator[psycopg.Connection]:
    """A session, as `session`, of the only runner while the block lasts.

    Raises:
        MigrationProblem: another runner kept its turn for `patience` seconds.
    """
    with session(params) as connection:
        _take(connection, TURN, patience)
        with contextlib.closing(_connected(params)) as other:
            _take(other, _OUT_OF_REACH, patience)
            yield connection


def _take(connection: psycopg.Connection, key: int, patience: float) -> None:
    deadline = time.monotonic() + patience
    while connection.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone() != (True,):
        if time.monotonic() > deadline:
            raise problem(
                Kind.LOCKED,
                f"another runner is migrating for over {patience:g} s ({_holder(connection, key)}): wait for "
                "it, or end it with pg_terminate_backend",
            )
        time.sleep(random.uniform(0.05, 0.15))  # noqa: S311 - no secret


def _holder(connection: psycopg.Connection, key: int) -> str:
    row = connection.execute(
        "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
        " AND (classid::bigint << 32 | objid::bigint) = %s",
        (key,),
    ).fetchone()
    return f"backend {row[0]}" if row else "it just ended"


def _pooled(params: Params) -> ConfigError:
    return ConfigError(
        f"database_url={connecting.address(params)} is a connection pooler (PgBouncer?), which loses the "
        "locks of a session: migrate with the server's own address"
    )
