"""Which transaction a thread is in: a second one inside it is a savepoint, on the same session."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, NamedTuple

from seawall import holdings
from seawall.database.connection import Connection


class _Transaction(NamedTuple):
    database: object
    connection: Connection
    thread: int  # one that was started with this one's context is not in it
    outer: "_Transaction | None"


innermost: Final[ContextVar[_Transaction | None]] = ContextVar("seawall_transaction", default=None)
"""None: this thread is in no transaction at all."""


def connection_of(database: object) -> Connection | None:
    """The connection of the transaction on `database` that this thread is in, if any."""
    each = innermost.get()
    while each is not None and (each.database is not database or each.thread != threading.get_ident()):
        each = each.outer
    return each and each.connection


@contextmanager
def inside(database: object, connection: Connection) -> Iterator[None]:
    """The block is a transaction on `database`."""
    outer = innermost.get()
    restored = holdings.Restored(innermost, outer)
    holdings.note(restored)
    try:
        innermost.set(_Transaction(database, connection, threading.get_ident(), outer))
        yield
    finally:
        innermost.set(outer)
        holdings.forget(restored)


os.register_at_fork(after_in_child=lambda: innermost.set(None))
