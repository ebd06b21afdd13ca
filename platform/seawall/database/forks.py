"""A fork waits for threads that are in the middle of libpq's connecting code.

A child has only the thread that forked. If another one was connecting at that moment, the child inherits
locks of OpenSSL and libpq that nobody will ever release, and its own first connection waits for them for
ever (seen: CRYPTO_THREAD_read_lock, in about one of 50 children of a parent that connects). Connecting is a
series of short steps with waits for the network between them: only the steps exclude forks.

A connection that is being made belongs to nobody yet who could let a child forget it: the child puts
/dev/null in its place here.
"""

import os
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final, Self

import psycopg
from psycopg import errors as pg
from psycopg.rows import Row

if TYPE_CHECKING:
    from psycopg.abc import PQGen, PQGenConn

_PATIENCE: Final = 2.0  # seconds a fork waits for a step: one that looks a name up may take longer


class _Steps:
    """The steps under way, in any thread, and the fork that waits for their end."""

    def __init__(self) -> None:
        self._entrance = threading.Lock()
        self._changed = threading.Condition()
        self._under_way = 0
        self._closed = False
        self.sockets: dict[object, int] = {}
        """Of connections that are being made, by who makes them."""

    def __enter__(self) -> None:
        with self._entrance, self._changed:
            self._under_way += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._under_way -= 1
            self._changed.notify_all()

    def before_fork(self) -> None:
        """Let nobody begin a step, and wait for those that are under way."""
        self._closed = self._entrance.acquire(timeout=_PATIENCE)
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, _PATIENCE)

    def after_in_parent(self) -> None:
        """Steps may begin."""
        if self._closed:
            self._closed = False
            self._entrance.release()

    def after_in_child(self) -> None:
        """The threads that took steps are not here."""
        made_by_others = self.sockets.values()
        self.__init__()  # type: ignore[misc]
        forget(made_by_others)


def forget(sockets: Iterable[int]) -> None:
    """In a forked child: close its copies of its parent's connections without a word to the server."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in sockets:
        os.dup2(null, number, inheritable=False)
    os.close(null)


steps: Final = _Steps()

os.register_at_fork(
    before=steps.before_fork,
    after_in_parent=steps.after_in_parent,
    after_in_child=steps.after_in_child,
)


class ForkSafe(psycopg.Connection[Row]):
    """A connection that other threads may fork beside while it is being made.

    It waits for no answer longer than `patience` seconds, if that is given, and is closed when none comes.
    """

    patience: float | None = None

    @classmethod
    def _connect_gen(cls, conninfo: str = "") -> "PQGenConn[Self]":
        connect: Any = super()._connect_gen(conninfo)
        ready: Any = None
        try:
            while True:
                with steps:
                    try:
                        wait = connect.send(ready)
                    except StopIteration as done:
                        return done.value  # type: ignore[no-any-return]
                    steps.sockets[connect] = wait[0]
                ready = yield wait
        finally:
            steps.sockets.pop(connect, None)

    def wait(self, gen: "PQGen[Any]", interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg's, for `patience` seconds at most."""
        try:
            return super().wait(gen, interval, timeout or self.patience)
        except pg._WaitTimeout as exc:  # noqa: SLF001 - tests/unit/test_contracts.py
            if timeout is not None:
                raise
            raise self.unanswered() from exc

    def unanswered(self) -> psycopg.OperationalError:
        """Close the connection, and say why."""
        self.close()
        return psycopg.OperationalError(f"no answer within {self.patience:g} s: the connection was given up")
