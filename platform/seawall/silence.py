"""How long anybody waits for a Redis server that says nothing.

A server that dies closes its connections, and everybody hears of it at once. One that is frozen, or that a
firewall hides, says nothing for ever, so every connection has a timeout: `SILENCE` where nobody set another.

A producer waits for several answers, over several connections, and is promised to hear within
`HEARD_WITHIN` of all of it. It waits inside `within`; connections made of a `bounded` class then wait for
what is left of that time, if this is less than their timeout. docs/waiting.md says who waits for what.

A server that answers that it can do nothing now (`NOT_NOW`) is as good as away, whatever it was asked. These
connections say so with the error of a lost connection, which everybody who waits for a server knows how to
take: a worker connects anew until it is well.
"""

import contextlib
import functools
import math
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, ClassVar, Final

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from seawall import compat

SILENCE: Final = 5.0
"""Seconds for which a server may say nothing; below a lease, so that a new connection is there in time."""

HEARD_WITHIN: Final = 10.0
"""Seconds within which a producer hears what became of a submission."""

MOST_CONNECTIONS: Final = 2**16
"""Of a pool of redis-py: more than threads that use it at once, and what interruptions cost."""

LEFT_WITHIN: Final = 1.0
"""Seconds that a server may say nothing to a process that was told to end."""

_NEWS: Final = 2  # misses

SUSPECTED_WITHIN: Final = 1.0
"""Seconds that it may say nothing on a connection that is older than one that has waited in vain."""

_SUSPECTED_FOR: Final = 15.0

_OVERSLEPT: Final = 1.25
"""How many times its timeout a wait has to last, for the process that waited to have stood still."""

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


NOT_NOW: Final = ("BUSY ", "MISCONF ", "NOREPLICAS ")
"""How a server begins that runs a script without end, cannot write its disk, or has too few replicas to write
anything; redis-py has no classes for them."""


class NotNowError(RedisConnectionError):
    """A server has answered so: it is as good as away, but another connection to it would help nobody."""


announce: Callable[[float], None] | None = None
"""Called before each wait for a server, with the seconds it may last: for who watches whether we live."""


class Deadline:
    """Until when somebody waits for servers. Every answer puts it off (`extend`)."""

    block: Callable[[], object | None] = staticmethod(lambda: None)
    """Of `within`, that it belongs to; None where that has ended."""

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
    held = _deadline.get()
    return None if held is None or held.block() is None else held


class within:  # noqa: N801 - as contextlib's
    """Wait for servers no longer, all in all; inside another such block that one's deadline holds.

    Who is interrupted on his way in or out may leave his deadline behind: it counts for nobody else.
    """

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._is_first = False

    def __enter__(self) -> Deadline:
        if (outer := current()) is not None:
            return outer
        self._is_first = True
        self._deadline.block = weakref.ref(self)
        try:
            _deadline.set(self._deadline)
        except BaseException:
            _deadline.set(None)
            raise
        return self._deadline

    def __exit__(self, *_: object) -> None:
        if self._is_first:
            _deadline.set(None)


class _Whole:
    """In front of a class of redis-py's connections: whoever gets one from a pool reads his own answers.

    A subscriber's is his alone until it is closed, and is told what nobody asked for.

    Redis-py takes for whole what somebody left who was interrupted before he had greeted the server or had
    read all that he had asked for, and who came next would take those answers for his.
    """

    # redis-py's own.
    _sock: socket.socket | None
    _greeted = True
    _subscribes = False
    _packed = 1
    _unread = 0

    def connect(self, *args: Any, **options: Any) -> None:
        """As redis-py's, whose pools call it for each connection that they lend."""
        if not self._greeted or (self._unread and not self._subscribes):
            self.disconnect()
        super().connect(*args, **options)  # type: ignore[misc]

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        """As redis-py's."""
        self._greeted = False
        super().connect_check_health(*args, **options)  # type: ignore[misc]
        self._greeted = True

    def disconnect(self, *args: Any, **options: Any) -> None:
        """As redis-py's; what was asked will not be answered any more."""
        self._unread, self._subscribes = 0, False
        super().disconnect(*args, **options)  # type: ignore[misc]

    def send_command(self, *args: Any, **options: Any) -> None:
        """As redis-py's."""
        self._subscribes = self._subscribes or str(args[0]).endswith("SUBSCRIBE")
        super().send_command(*args, **options)  # type: ignore[misc]

    def pack_commands(self, commands: Iterable[Any]) -> Any:
        """As redis-py's, for what is sent next."""
        commands = list(commands)
        self._packed = len(commands)
        return super().pack_commands(commands)  # type: ignore[misc]

    def send_packed_command(self, command: Any, *args: Any, **options: Any) -> None:
        """As redis-py's."""
        if not self._sock:
            self.connect_check_health(check_health=False)  # first, as it asks the server too
        many, self._packed = self._packed, 1
        self._unread += many
        super().send_packed_command(command, *args, **options)  # type: ignore[misc]

    def read_response(self, *args: Any, **options: Any) -> Any:
        """As redis-py's."""
        try:
            answer = super().read_response(*args, **options)  # type: ignore[misc]
        except ResponseError:
            self._count_answer()
            raise
        self._count_answer()
        return answer

    def _count_answer(self) -> None:
        if self._unread:  # else nobody had asked for it, as for a message to a subscriber
            self._unread -= 1


class _Bounded:
    """In front of a class of redis-py's connections: nobody waits longer for one than `within` says."""

    # redis-py's own.
    socket_connect_timeout: float | None
    socket_timeout: float | None
    disconnect: Callable[[], None]
    _made_at = 0.0

    def _connect(self) -> Any:
        about_to_wait()
        configured = self.socket_connect_timeout
        self.socket_connect_timeout = _shorter(configured)
        try:
            with _counted(current()):
                made = super()._connect()  # type: ignore[misc]
            self._made_at = time.monotonic()
            return made
        finally:
            self.socket_connect_timeout = configured

    def read_response(self, *args: Any, timeout: Any = compat.UNSET, **options: Any) -> Any:
        """As redis-py's, but nobody waits for ever, as kombu would for the rest of a broadcast."""
        timeout = compat.UNSET if timeout is None else timeout
        about_to_wait(self.socket_timeout if timeout is compat.UNSET else timeout)
        deadline, bound = current(), self.socket_timeout
        if deadline is not None or _Process.leaves or _Process.silent_at:
            bound = _shorter(bound)
            if self._may_be_cut():
                bound = SUSPECTED_WITHIN if bound is None else min(bound, SUSPECTED_WITHIN)
        waits_for_answer = timeout is compat.UNSET  # else somebody looks whether there is one
        if waits_for_answer and bound != self.socket_timeout:
            timeout = bound
        try:
            with _counted(deadline):
                if waits_for_answer and bound is not None:
                    return self._read_awake(bound, args, timeout, options)
                return self._read(args, timeout, options)
        except RedisTimeoutError:
            if waits_for_answer and (bound is None or bound >= SUSPECTED_WITHIN):
                _Process.silent_at[self._server] = time.monotonic()
            raise
        except ResponseError as exc:
            if str(exc).startswith(NOT_NOW):
                _Process.refused_at = time.monotonic()
                raise NotNowError(str(exc)) from exc
            raise

    def _read_awake(self, bound: float, args: Any, timeout: Any, options: dict[str, Any]) -> Any:
        """Wait for an answer, once more where not the server was silent but this process stood still.

        Stopped, frozen with its machine or without a core, it finds its time over before an answer comes.
        """
        begun, lets_go = time.monotonic(), options.get("disconnect_on_error", True)
        options["disconnect_on_error"] = False
        try:
            return self._read(args, timeout, options)
        except ResponseError:
            raise
        except BaseException as exc:
            overslept = time.monotonic() - begun > bound * _OVERSLEPT
            if not (overslept and isinstance(exc, RedisTimeoutError)):
                if lets_go:
                    self.disconnect()
                raise
        about_to_wait(bound)
        options["disconnect_on_error"] = lets_go
        return self._read(args, timeout, options)

    def _read(self, args: Any, timeout: Any, options: dict[str, Any]) -> Any:
        if compat.READS_WITH_TIMEOUT:
            return super().read_response(*args, timeout=timeout, **options)  # type: ignore[misc]
        if timeout is compat.UNSET:
            return super().read_response(*args, **options)  # type: ignore[misc]
        with compat.socket_waits(self, timeout):
            return super().read_response(*args, **options)  # type: ignore[misc]

    @property
    def _server(self) -> tuple[Any, Any]:
        return getattr(self, "host", None), getattr(self, "port", None)

    def _may_be_cut(self) -> bool:
        """Whether another connection to the same server has waited in vain since this one was made."""
        since = _Process.silent_at.get(self._server, math.inf)
        if since < time.monotonic() - _SUSPECTED_FOR:
            _Process.silent_at.pop(self._server, None)  # with the last one, answers are read as before
            return False
        return self._made_at < since < math.inf


class _Process:
    leaves = False
    silent_at: ClassVar[dict[tuple[Any, Any], float]] = {}
    """When a connection to a server has waited in vain last, by its host and port."""
    refused_at = -math.inf


class Misses:
    """Questions in a row that had no answer. A busy machine costs one now and then; two are worth a line."""

    def __init__(self) -> None:
        self._many = 0

    def count(self) -> bool:
        """One more had none; whether to say so now."""
        self._many += 1
        return self._many == _NEWS

    def end(self) -> None:
        """One was answered."""
        self._many = 0


def since_refusal() -> float:
    """Seconds since a server has answered this process that it can do nothing now."""
    return time.monotonic() - _Process.refused_at


def leaving(*, leaves: bool = True) -> None:
    """This process was told to end: from now on nobody in it waits longer than `LEFT_WITHIN` at a time."""
    _Process.leaves = leaves


def about_to_wait(seconds: float | None = None) -> None:
    """Announce a wait, by default for a connection."""
    if announce is not None:
        announce(_CONNECTED_WITHIN if seconds is None else seconds)


def _after_fork() -> None:
    global announce  # noqa: PLW0603 - one per process
    announce = None
    leaving(leaves=False)


os.register_at_fork(after_in_child=_after_fork)


class _Counted:
    """What is waited in vain within the block counts."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        self._begun = time.monotonic()

    def __exit__(self, failed: object, *_: object) -> None:
        if failed is not None:
            self._deadline.waited(time.monotonic() - self._begun)


_UNCOUNTED: Final = contextlib.nullcontext()


def _counted(deadline: Deadline | None) -> contextlib.AbstractContextManager[None]:
    return _UNCOUNTED if deadline is None else _Counted(deadline)


def _shorter(timeout: float | None) -> float | None:
    """`timeout`, or what is left of the caller's time."""
    if _Process.leaves:
        timeout = LEFT_WITHIN if timeout is None else min(timeout, LEFT_WITHIN)
    bound = current()
    if bound is None or (timeout is not None and bound.left >= timeout):
        return timeout
    return max(bound.left, _LEAST)


@functools.cache
def bounded(kind: Any) -> Any:
    """A class of redis-py's connections that wait no longer than `within` says and come whole from a pool."""
    return type(kind.__name__, (_Bounded, _Whole, kind), {"__module__": kind.__module__})


def parameters(given: Mapping[str, Any], *, silence: float = SILENCE) -> dict[str, Any]:
    """What a connection's parameters lack of ours: timeouts, and a pool that no interruption uses up.

    An exception that arrives while a connection is taken from redis-py's pool costs it one of
    `max_connections` for good. What somebody set stays.
    """
    ours = {
        "socket_timeout": silence,
        "socket_connect_timeout": silence,
        "socket_keepalive": True,
        "socket_keepalive_options": dict(KEEPALIVE),
        "max_connections": MOST_CONNECTIONS,
        **compat.NO_NOTIFICATIONS,
    }
    return {name: value for name, value in ours.items() if given.get(name) is None}
