"""How long anybody waits for a Redis server that says nothing.

A server that dies closes its connections, and everybody hears of it at once. One that is frozen, or that a
firewall hides, says nothing for ever, so every connection has a timeout: `SILENCE` where nobody set another.

A producer waits for several answers, over several connections, and is promised to hear within
`HEARD_WITHIN` of all of it. It waits inside `within`; connections made of a `bounded` class then wait for
what is left of that time, if this is less than their timeout. docs/waiting.md says who waits for what.
"""

import contextlib
import functools
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, Final

from redis.utils import SENTINEL

SILENCE: Final = 5.0
"""Seconds for which a server may say nothing; below a lease, so that a new connection is there in time."""

HEARD_WITHIN: Final = 10.0
"""Seconds within which a producer hears what became of a submission."""

_CONNECTED_WITHIN: Final = 60.0
"""Seconds that nobody is longer than in making a connection, the system's resolver included."""

_LEAST: Final = 0.001  # seconds: a timeout of 0 means not to wait, and none at all to wait for ever

KEEPALIVE: Final[Mapping[int, int]] = {
    getattr(socket, name): value
    for name, value in (
        ("TCP_KEEPIDLE", 10),
        ("TCP_KEEPINTVL", 5),
        ("TCP_KEEPCNT", 3),
        ("TCP_USER_TIMEOUT", 25_000),
    )
    if hasattr(socket, name)
}
"""A connection on which nobody waits for an answer, such as a subscription, is given up after 25 s, where its
other end is not even a machine any more."""


announce: Callable[[float], None] | None = None
"""Called before each wait for a server, with the seconds it may last: for who watches whether we live."""


class Deadline:
    """Until when somebody waits for servers. Every answer puts it off (`extend`)."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self.extend()

    def extend(self) -> None:
        """The server has answered."""
        self._ends_at = self._clock() + self.seconds

    @property
    def left(self) -> float:
        """Seconds; 0 or less when it has passed."""
        return self._ends_at - self._clock()

    def waited(self, seconds: float) -> None:
        """Somebody waited for an answer that did not come."""


class Allowance(Deadline):
    """So many seconds of waiting in vain, all in all; waits that an answer ends do not count."""

    _spent = 0.0

    @property
    def left(self) -> float:
        """Seconds; 0 or less when they are spent."""
        return self.seconds - self._spent

    def waited(self, seconds: float) -> None:
        """Somebody waited for an answer that did not come."""
        self._spent += seconds


_deadline: ContextVar[Deadline | None] = ContextVar("seawall_deadline", default=None)


def current() -> Deadline | None:
    """That of whoever calls; None if nothing but timeouts bounds how long he waits."""
    return _deadline.get()


@contextlib.contextmanager
def within(deadline: Deadline) -> Iterator[Deadline]:
    """Wait for servers no longer, all in all; inside another such block that one's deadline holds."""
    if (outer := _deadline.get()) is not None:
        yield outer
        return
    token = _deadline.set(deadline)
    try:
        yield deadline
    finally:
        _deadline.reset(token)


class _Bounded:
    """In front of a class of redis-py's connections."""

    # redis-py's own.
    _socket_connect_timeout: float | None
    _socket_timeout: float | None

    def _connect(self) -> Any:
        about_to_wait()
        configured = self._socket_connect_timeout
        self._socket_connect_timeout = _shorter(configured)
        try:
            with _counted(_deadline.get()):
                return super()._connect()  # type: ignore[misc]
        finally:
            self._socket_connect_timeout = configured

    def read_response(self, *args: Any, timeout: Any = SENTINEL, **options: Any) -> Any:
        """As redis-py's."""
        about_to_wait(self._socket_timeout if timeout is SENTINEL else timeout)
        if (deadline := _deadline.get()) is None:
            return super().read_response(*args, timeout=timeout, **options)  # type: ignore[misc]
        if timeout is SENTINEL and (bound := _shorter(self._socket_timeout)) != self._socket_timeout:
            timeout = bound
        with _counted(deadline):
            return super().read_response(*args, timeout=timeout, **options)  # type: ignore[misc]


def about_to_wait(seconds: float | None = None) -> None:
    """Announce a wait, by default for a connection."""
    if announce is not None:
        announce(_CONNECTED_WITHIN if seconds is None else seconds)


def _forget_who_watches() -> None:
    global announce  # noqa: PLW0603 - one per process
    announce = None


os.register_at_fork(after_in_child=_forget_who_watches)


@contextlib.contextmanager
def _counted(deadline: Deadline | None) -> Iterator[None]:
    begun = time.monotonic()
    try:
        yield
    except BaseException:
        if deadline is not None:
            deadline.waited(time.monotonic() - begun)
        raise


def _shorter(timeout: float | None) -> float | None:
    """`timeout`, or what is left of the caller's time."""
    bound = _deadline.get()
    if bound is None or (timeout is not None and bound.left >= timeout):
        return timeout
    return max(bound.left, _LEAST)


@functools.cache
def bounded(kind: Any) -> Any:
    """A class of redis-py's connections, whose connections wait no longer than `within` says."""
    return type(kind.__name__, (_Bounded, kind), {"__module__": kind.__module__})


def timeouts(given: Mapping[str, Any], *, silence: float = SILENCE) -> dict[str, Any]:
    """What a connection's parameters lack in timeouts; what somebody set stays."""
    ours = {
        "socket_timeout": silence,
        "socket_connect_timeout": silence,
        "socket_keepalive": True,
        "socket_keepalive_options": dict(KEEPALIVE),
    }
    return {name: value for name, value in ours.items() if given.get(name) is None}
