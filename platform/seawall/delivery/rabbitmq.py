"""Connections to RabbitMQ across a fork.

In a forked child kombu closes the connections of its parent's pools, and py-amqp shuts a connection down
before it closes the descriptor: the parent's ends with it. Each prefork child that is replaced, and each
process that a program with a connection starts, would cost a worker or a producer its connection. A child
closes its own copies of the descriptors first, and says nothing to the server.
"""

import contextlib
import functools
import os
import weakref
from typing import Any

from amqp import transport as amqp

_connected: weakref.WeakSet[Any] = weakref.WeakSet()


@functools.cache
def close_copies_after_forks() -> None:
    """From now on, in every child of this process. Safe to repeat."""
    transport: Any = vars(amqp)["_AbstractTransport"]  # tests/unit/test_contracts.py
    transport.connect = _remembered(transport.connect)
    os.register_at_fork(after_in_child=_after_fork)


def _remembered(connect: Any) -> Any:
    @functools.wraps(connect)
    def remember(transport: Any) -> Any:
        _connected.add(transport)
        return connect(transport)

    return remember


def _after_fork() -> None:
    for transport in list(_connected):
        inherited, transport.sock, transport.connected = transport.sock, None, False
        if inherited is not None:
            with contextlib.suppress(OSError):
                inherited.close()
    _connected.clear()
