"""A psycopg pool whose size can be changed while it works.

`ConnectionPool.resize()` only changes a number: busy connections above it go on living after their return and
growth that was under way arrives nevertheless (19 connections under a maximum of 4 after a few changes). Here
every way in and out looks at the cap: idle connections above it close at once, busy ones when they return,
attempts to connect end before they begin. Private names of psycopg_pool are used: its minor
version is bounded, and tests/unit/test_contracts.py names them.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Protocol

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolTimeout
from psycopg_pool.base import AttemptWithBackoff
from psycopg_pool.pool import MaintenanceTask, WaitingClient

from seawall.database.connection import Connection
from seawall.holdings import interruptible, sheltered, unlock, unlock_logging

_IDLE = TransactionStatus.IDLE.value  # the enum's own attribute costs more than the comparison
_FADING = 0.5  # seconds a closed connection's backend may still be seen in the server


class Holder(Protocol):
    """Whoever wants a connection; written on before anything is taken out of the pool for him."""

    pool: "ElasticPool | None"
    connection: Connection | None


class _Nobody:
    """Whoever does not say who he is."""

    pool: "ElasticPool | None" = None
    connection: Connection | None = None


class _Position(WaitingClient[Connection]):
    """The place of one who waits. A connection that is given to it is its holder's already."""

    def __init__(self, pool: "ElasticPool", holder: Holder) -> None:
        super().__init__()
        self._pool = pool
        self.holder = holder

    @interruptible
    def wait(self, timeout: float) -> Connection:
        return super().wait(timeout)

    def set(self, conn: Connection) -> bool:
        with self._cond:
            if self.conn or self.error:
                return False
            conn.holder = self.holder
            conn._pool = self._pool  # noqa: SLF001 - as psycopg_pool does
            self.holder.connection = conn
            self.conn = conn
            self._cond.notify_all()
            return True

    def withdraw(self, error: BaseException) -> None:
        """Want nothing any more; what was given in this moment goes back."""
        with self._cond:
            self.error = self.error or error
            connection = self.conn
        if connection is not None:
            self._pool.run_task(_Return(self._pool, connection, checked=True))


class _Return(MaintenanceTask):
    """A connection on its way back. The first of several for the same holder counts."""

    def __init__(self, pool: "ElasticPool", connection: Connection, *, checked: bool = False) -> None:
        super().__init__(pool)
        self._connection = connection
        self._holder = connection.holder
        self._checked = checked

    def run(self) -> None:
        super().run()
        if (pool := self.pool()) is None or pool.closed:
            self._connection.close()

    def _run(self, pool: Any) -> None:
        pool.returned(self._connection, self._holder, checked=self._checked)


class _Grow(MaintenanceTask):
    """Somebody waits: by a worker, as growing changes several things that an interruption may not part."""

    def _run(self, pool: Any) -> None:
        pool.grow_for_waiters()


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
        self._lock: Any = threading.RLock()  # so that a thread that was interrupted in it may leave it
        self._max_size = cap
        self.open()

    def _start_workers(self) -> None:
        self._tasks: Any = SimpleQueue()  # whose put is one step, and wakes a worker whatever comes after it
        super()._start_workers()

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

    def getconn(self, timeout: float | None = None, holder: Holder | None = None) -> Connection:
        """A connection, at once if one is idle; the long way is psycopg_pool's, with names of those who wait.

        What was found and cannot be used is returned by a worker of the pool: this thread may be interrupted.
        """
        holder = holder or _Nobody()
        if (connection := self.take(holder)) is not None:
            return connection
        patience = self.timeout if timeout is None else timeout
        deadline = time.monotonic() + patience
        self._stats[self._REQUESTS_NUM] += 1
        self._check_open_getconn()
        attempt: AttemptWithBackoff | None = None
        while True:
            connection = self._await(holder, deadline)
            try:
                self._check_connection(connection)
            except psycopg.Error:
                self.run_task(_Return(self, connection, checked=True))
            except BaseException:
                self.run_task(_Return(self, connection, checked=True))
                raise
            else:
                return connection
            attempt = self._pause(attempt, deadline, patience)

    @interruptible
    def _pause(
        self, attempt: "AttemptWithBackoff | None", deadline: float, patience: float
    ) -> AttemptWithBackoff:
        """Between two connections that were found dead, ever longer."""
        now = time.monotonic()
        if attempt is None:
            attempt = AttemptWithBackoff(timeout=deadline - now)
        else:
            attempt.update_delay(now)
        if attempt.time_to_give_up(now):
            raise PoolTimeout(f"couldn't get a connection after {patience:.2f} sec")
        time.sleep(attempt.delay)
        return attempt

    @sheltered
    def take(self, holder: Holder, *, unchecked: bool = False) -> Connection | None:
        """An idle connection that needs no check, or if that is said any; None without one.

        It is its holder's before it leaves the pool, see `give_back`.
        """
        with self._lock:
            idle = self._pool
            if not idle:
                return None
            connection = idle[0]
            if not unchecked:
                if self._closed or not self._trusted(connection):
                    return None
                self._stats[self._REQUESTS_NUM] += 1
            connection.holder = holder
            holder.pool, holder.connection = self, connection
            connection._pool = self  # noqa: SLF001 - as its other half does
            idle.popleft()
            self._nconns_min = min(self._nconns_min, len(idle))
            return connection

    @sheltered
    def _await(self, holder: Holder, deadline: float) -> Connection:
        """An idle connection, good or not, or the next one that is returned or made."""
        begun = time.monotonic()
        position = _Position(self, holder)
        holder.pool = self
        with self._lock:
            if begun >= deadline:
                raise PoolTimeout("no time left to wait for a connection")
            if (connection := self.take(holder, unchecked=True)) is not None:
                return connection
            self._waiting.append(position)
            self._stats[self._REQUESTS_QUEUED] += 1
        try:
            self.run_task(_Grow(self))
            return position.wait(deadline - begun)
        except BaseException as exc:
            self._stats[self._REQUESTS_ERRORS] += 1
            position.withdraw(exc)
            raise
        finally:
            self._stats[self._REQUESTS_WAIT_MS] += int(1000.0 * (time.monotonic() - begun))

    def give_back(self, holder: Holder) -> None:
        """Take back what `holder` has or waits for; a connection is closed, as its state is unknown.

        Called where an interruption may have cut a way in or out in two, at any place.
        """
        unlock(self._lock)
        unlock_logging()  # the pool's own threads write debug lines
        with self._lock:
            waiting: list[Any] = list(self._waiting)
            for position in [each for each in waiting if each.holder is holder]:
                unlock(position._cond)  # noqa: SLF001 - psycopg_pool's
                self._waiting.remove(position)
                position.withdraw(PoolTimeout("interrupted"))
            connection = holder.connection
            if connection is None or connection.holder is not holder or connection in self._pool:
                return
            connection.holder = self  # what is on its way back for `holder` comes too late
        connection.close()
        self.run_task(_Return(self, connection))

    @sheltered
    def putconn(self, conn: Connection) -> None:
        """Take a connection back, or close it if there are more than the cap."""
        if (
            not self._closed  # in a child the lock below may have been held at the fork: it is not touched
            and conn._pool is self  # noqa: SLF001
            and conn.pgconn.transaction_status == _IDLE
            and not conn._num_transactions  # noqa: SLF001 - else interrupted within `transaction`
            and conn._expire_at > conn.heard_at  # noqa: SLF001
            and conn._created_at > self._drained_at  # noqa: SLF001
        ):
            altered = conn.altered()
            with self._lock:
                if not self._waiting and not self._closed and self._nconns <= self._max_size:
                    if altered:
                        conn.renew()
                    self._pool.append(conn)
                    conn._pool = None  # noqa: SLF001
                    conn.holder = None
                    return
        if self._closed:
            super().putconn(conn)
            return
        self._check_pool_putconn(conn)
        self.run_task(_Return(self, conn))

    def returned(self, conn: Connection, holder: object, *, checked: bool) -> None:
        """By a worker, which nobody interrupts: as psycopg_pool's, once for each time it was taken."""
        with self._lock:
            if conn in self._pool:
                return
            if conn.holder is None or conn.holder is not holder:
                return
            conn.holder = None
            surplus = self._nconns > self._max_size
            self._nconns -= surplus
        conn._pool = self  # noqa: SLF001
        if conn._num_transactions:  # noqa: SLF001
            conn.close()
        if surplus:
            self._close_connection(conn)
        else:
            self._return_connection(conn, from_getconn=checked)

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

    def _add_to_pool(self, conn: Connection) -> None:
        if conn.altered() and not conn.renewing and conn.pgconn.transaction_status == _IDLE:
            conn.renew()
        super()._add_to_pool(conn)

    def _connect(self, timeout: float | None = None) -> Connection:
        try:
            return super()._connect(timeout)
        except Exception:
            self._failed()
            raise

    def _close_connection(self, conn: Connection) -> None:
        self._fading.append(time.monotonic())
        super()._close_connection(conn)
