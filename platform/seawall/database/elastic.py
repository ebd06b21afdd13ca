"""A psycopg pool whose size can be changed while it works.

`ConnectionPool.resize()` only changes a number: busy connections above it go on living after their return and
growth that was under way arrives nevertheless (19 connections under a maximum of 4 after a few changes). Here
every way in and out looks at the cap: idle connections above it close at once, busy ones when they return,
attempts to connect end before they begin. Private names of psycopg_pool are used: its minor
version is bounded, and tests/unit/test_contracts.py names them.
"""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolTimeout

from seawall.database.connection import Connection

_IDLE = TransactionStatus.IDLE.value  # the enum's own attribute costs more than the comparison
_FADING = 0.5  # seconds a closed connection's backend may still be seen in the server


class ElasticPool(ConnectionPool[Connection]):
    """A pool of at most `ceiling` connections, now fewer or none: `cap()`.

    `trusted()` says of an idle connection, under the pool's lock, that it needs no `check` before it is used.
    `away()` says that connecting is pointless for now, `failed()` hears of every attempt that failed, and
    `hungry()`, under the pool's lock, of a caller that has to wait because of the cap.
    """

    def __init__(
        self,
        *arguments: Any,
        trusted: Callable[[Connection], bool],
        away: Callable[[], bool],
        hungry: Callable[[], object],
        failed: Callable[[], object],
        cap: int,
        **options: Any,
    ) -> None:
        self.ceiling: int = options["max_size"]
        self._trusted = trusted
        self._away = away
        self._hungry = hungry
        self._failed = failed
        self._fading: deque[float] = deque()
        super().__init__(*arguments, open=False, **options)
        self._max_size = cap
        self.open()

    def held(self) -> int:
        """Connections that the server may still count as ours."""
        with self._lock:
            horizon = time.monotonic() - _FADING
            while self._fading and self._fading[0] < horizon:
                self._fading.popleft()
            return self._nconns + len(self._fading)

    def demand(self) -> int:
        """Connections in use or being made, and callers that wait for one."""
        with self._lock:
            return self._nconns - len(self._pool) + len(self._waiting)

    def requests(self) -> int:
        """How often a connection was asked for so far."""
        return self._stats[self._REQUESTS_NUM]

    def idle(self) -> int:
        """Connections that nobody uses."""
        return len(self._pool)

    def cap(self, size: int) -> None:
        """Hold at most `size` connections from now on."""
        with self._lock:
            self._max_size = size
            surplus = []
            while self._nconns > size and self._pool:
                surplus.append(self._pool.popleft())
                self._nconns -= 1
            self._nconns_min = min(self._nconns_min, len(self._pool))
            if self._waiting:
                self._maybe_grow_pool()
        for connection in surplus:
            self._close_connection(connection)

    def refuse_waiting(self) -> None:
        """Send away everybody who waits: no connection will come soon."""
        with self._lock:
            waiting = list(self._waiting)
            self._waiting.clear()
        for position in waiting:
            position.fail(PoolTimeout("the server is away"))

    def grow_for_waiters(self) -> None:
        """Start connecting again for callers that came while the pool was giving up; it would leave them."""
        with self._lock:
            if self._waiting:
                self._maybe_grow_pool()

    def reserve(self) -> bool:
        """Take room for one connection made elsewhere; `release` it if this says so."""
        with self._lock:
            if self._nconns >= self._max_size:
                return False
            self._nconns += 1
            return True

    def release(self) -> None:
        """Give the room of `reserve` back; its connection is closed."""
        with self._lock:
            self._nconns -= 1
            self._fading.append(time.monotonic())

    def getconn(self, timeout: float | None = None) -> Connection:
        """A connection, at once if one is idle: the short way of what psycopg_pool does."""
        connection = self.take()
        return super().getconn(timeout) if connection is None else connection

    def take(self) -> Connection | None:
        """An idle connection that needs no check, or None."""
        with self._lock:
            idle = self._pool
            if not idle or self._closed or not self._trusted(idle[0]):
                return None
            connection = idle.popleft()
            self._nconns_min = min(self._nconns_min, len(idle))
            self._stats[self._REQUESTS_NUM] += 1
        connection._pool = self  # noqa: SLF001 - as its other half does
        return connection

    def putconn(self, conn: Connection) -> None:
        """Take a connection back, or close it if there are more than the cap."""
        if (
            not self._closed  # in a child the lock below may have been held at the fork: it is not touched
            and conn._pool is self  # noqa: SLF001
            and conn.pgconn.transaction_status == _IDLE
            and conn._expire_at > conn.heard_at  # noqa: SLF001
            and conn._created_at > self._drained_at  # noqa: SLF001
        ):
            with self._lock:
                if not self._waiting and not self._closed and self._nconns <= self._max_size:
                    conn._pool = None  # noqa: SLF001
                    self._pool.append(conn)
                    return
        self._put_carefully(conn)

    def _put_carefully(self, conn: Connection) -> None:
        # The first look is without the lock: a cap lowered just now is seen at the next return.
        if self._nconns > self._max_size and not self._closed and self._drop_one():
            self._check_pool_putconn(conn)
            self._close_connection(conn)
        else:
            super().putconn(conn)

    def _drop_one(self) -> bool:
        with self._lock:
            if self._nconns <= self._max_size:
                return False
            self._nconns -= 1
            return True

    def _maybe_grow_pool(self) -> None:
        if self._nconns >= self._max_size < self.ceiling:
            self._hungry()
        if not self._away():
            super()._maybe_grow_pool()

    def _add_connection(self, attempt: Any, growing: bool = False) -> None:  # noqa: FBT001, FBT002 - theirs
        with self._lock:
            pointless = self._nconns > self._max_size or self._away()
            if pointless:
                self._nconns -= 1
                if growing:
                    self._growing = False
        if not pointless:
            super()._add_connection(attempt, growing=growing)

    def _connect(self, timeout: float | None = None) -> Connection:
        try:
            return super()._connect(timeout)
        except Exception:
            self._failed()
            raise

    def _close_connection(self, conn: Connection) -> None:
        self._fading.append(time.monotonic())
        super()._close_connection(conn)
