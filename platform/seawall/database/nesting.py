"""Which transaction a thread is in: a second one inside it is a savepoint, on the same session."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from seawall import holdings
from seawall.database.connection import Connection


class _Transaction:
    __slots__ = ("connection", "database", "outer", "thread")

    def __init__(self, database: object, connection: Connection, outer: "_Transaction | None") -> None:
        self.database = database
        self.connection: Connection | None = (
            connection  # None when it has ended: a copy of this context may not
        )
        self.thread = threading.get_ident()  # one that was started with this one's context is not in it
        self.outer = outer

    def give_back(self) -> None:
        """It has ended."""
        self.connection = None
        innermost.set(self.outer)


innermost: Final[ContextVar[_Transaction | None]] = ContextVar("seawall_transaction", default=None)
"""None: this thread is in no transaction at all."""


def connection_of(database: object) -> Connection | None:
    """The connection of the transaction on `database` that this thread is in, if any."""
    each = innermost.get()
    while each is not None:
        if each.connection is not None and each.database is database and each.thread == threading.get_ident():
            return each.connection
        each = each.outer
    return None


@contextmanager
def inside(database: object, connection: Connection) -> Iterator[None]:
    """The block is a transaction on `database`."""
    entered = _Transaction(database, connection, innermost.get())
    holdings.note(entered)
    try:
        innermost.set(entered)
        yield
    finally:
        entered.give_back()
        holdings.forget(entered)


os.register_at_fork(after_in_child=lambda: innermost.set(None))
