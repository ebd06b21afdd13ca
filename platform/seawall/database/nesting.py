"""Which transaction a thread is in: a second one inside it is a savepoint, on the same session."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from seawall import holdings
from seawall.database.connection import Connection


class _Transaction(NamedTuple):
    database: object
    connection: Connection
    thread: int  # one that was started with this one's context is not in it
    outer: "_Transaction | None"


_innermost: ContextVar[_Transaction | None] = ContextVar("seawall_transaction", default=None)


def connection_of(database: object) -> Connection | None:
    """The connection of the transaction on `database` that this thread is in, if any."""
    each = _innermost.get()
    while each is not None and (each.database is not database or each.thread != threading.get_ident()):
        each = each.outer
    return each and each.connection


@contextmanager
def inside(database: object, connection: Connection) -> Iterator[None]:
    """The block is a transaction on `database`."""
    outer = _innermost.get()
    restored = holdings.Restored(_innermost, outer)
    holdings.note(restored)
    try:
        _innermost.set(_Transaction(database, connection, threading.get_ident(), outer))
        yield
    finally:
        _innermost.set(outer)
        holdings.forget(restored)


os.register_at_fork(after_in_child=lambda: _innermost.set(None))
