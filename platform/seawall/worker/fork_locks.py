"""Cached properties across a fork, whoever's they are: Celery's, kombu's, an application's.

`functools.cached_property` has a lock for each class before Python 3.12, kombu's always has, and Celery's
applications and connections are full of them. A cell that is forked while another thread of its worker reads
one for the first time would find its lock held for ever by a thread that it does not have. A forked child has
one thread, so nobody can hold any of them there: it gets new ones, and what was being worked out is worked
out again.

So with the locks of redis-py's connection pools, which a child takes before anything else, to forget what is
its parent's.
"""

import functools
import gc
import os
import threading
import weakref
from typing import Any

from redis import ConnectionPool

_pools: "weakref.WeakSet[ConnectionPool]" = weakref.WeakSet()
_make: Any = ConnectionPool.__init__


@functools.wraps(_make)
def _known(self: ConnectionPool, *args: Any, **kwargs: Any) -> None:
    _make(self, *args, **kwargs)
    _pools.add(self)


ConnectionPool.__init__ = _known  # type: ignore[method-assign]

_found: list[Any] = []


def find(**_: Any) -> None:
    """Look for all that exist by now; called before objects are frozen and processes forked.

    No object is asked what it is, but its type: a lazy one, as Django's settings, would be made or raise.
    """
    known = set(map(id, _found))
    _found.extend(
        each
        for each in gc.get_objects()
        if issubclass(type(each), functools.cached_property) and id(each) not in known
    )


def _renew() -> None:
    for each in _found:
        if hasattr(each, "lock"):
            each.lock = threading.RLock()
    for pool in list(_pools):
        pool._lock = pool._fork_lock = threading.RLock()  # noqa: SLF001


os.register_at_fork(after_in_child=_renew)
