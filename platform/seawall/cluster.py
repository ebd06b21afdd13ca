"""The Redis that all processes of a cluster share, and the scripts that change its state.

Shared state is small and its users can do without it for a moment, so the client never waits long: a short
timeout, no retries (redis-py's defaults cost 7.9 s a call while the server is away, over 20 s when it hangs).
Every change of shared state is one Lua script, one verb: `Script`. Scripts use the server's clock.
"""

import functools
import math
import os
import socket
from collections.abc import Callable, Iterator
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

from redis import Redis
from redis._parsers import Encoder
from redis.backoff import NoBackoff
from redis.connection import HiredisRespSerializer, PythonRespSerializer
from redis.exceptions import (
    AuthorizationError,
    ClusterDownError,
    DataError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.retry import Retry
from redis.utils import HIREDIS_AVAILABLE

from seawall import servers, silence
from seawall.config import settings
from seawall.errors import ConfigError
from seawall.text import to_bytes
from seawall.urls import SENTINEL, as_redis, scheme_of, sentinels_of

Argument = str | bytes | int | float

TIMEOUT: Final = 0.25
"""Seconds a call to shared state may take."""

MICROSECONDS: Final = 1_000_000

_FILLS: Final = "#!lua\n"
_MAKES_ROOM: Final = "#!lua flags=allow-oom\n"
"""The first line of a script that a server runs although it has reached its maxmemory."""

_LET_THROUGH: Final = f"{_MAKES_ROOM}return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))"

_BUFFER: Final = 6000
"""Bytes of a command that are joined before they are sent, as in redis-py."""

_OPTIONS: Final = (
    "the URL of Redis has an option behind its ? that redis-py does not know, or a value that it does not "
    "take: leave it out, or correct it (`seawall config` shows the URL)"
)
"""Its own words are left out: behind a ? in a password they would be a piece of it."""

_FOREVER: Final = 1 << 53
"""Microseconds, 285 years: more than that Redis's scores, which are floating point, cannot tell apart."""


_NOT_NOW: Final = (
    *(OutOfMemoryError, ReadOnlyError, TryAgainError, ClusterDownError),  # MASTERDOWN is the last one's
    *(NoPermissionError, AuthorizationError),  # until somebody corrects the user's rights
)
_NOT_NOW_TOO: Final = (*silence.NOT_NOW, "UNKILLABLE ")


def away(error: BaseException) -> bool:
    """Whether a server cannot do now what it was asked, whatever that was.

    Its other answers, and what redis-py says before it asks, are about the command and the data in it: the
    same will be said of them later.
    """
    if isinstance(error, ResponseError):
        return isinstance(error, _NOT_NOW) or str(error).startswith(_NOT_NOW_TOO)
    return isinstance(error, (RedisError, OSError)) and not isinstance(error, DataError)


def micros(seconds: float) -> int:
    """Seconds as the scripts count them; without an end (infinity) they are 285 years.

    Raises:
        ConfigError: `seconds` is no number.
    """
    if isinstance(seconds, float) and math.isnan(seconds):
        raise ConfigError("nan is no number of seconds: give a number")
    return round(max(-_FOREVER, min(seconds * MICROSECONDS, _FOREVER)))


class Packer:
    """Makes bytes of commands; text that UTF-8 cannot carry reaches the server as `seawall.text` has it.

    Every connection of ours has this packer, so no caller has to think of it. hiredis, where installed, knows
    no `encoding_errors`.

    With a `prefix`, every key and channel in a command gets it, so no caller has to think of that either.
    Scripts build their keys from those that they are given.
    """

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        encoder: Any = Encoder("utf-8", "strict", False)  # type: ignore[no-untyped-call] # noqa: FBT003
        plain: Any = (
            HiredisRespSerializer() if HIREDIS_AVAILABLE else PythonRespSerializer(_BUFFER, encoder.encode)
        )
        self._pack = plain.pack

    def pack(self, *arguments: Any) -> list[bytes]:
        """One command in the protocol of Redis."""
        if self._prefix:
            arguments = self._prefixed(*arguments)
        try:
            return self._pack(*arguments)  # type: ignore[no-any-return]
        except UnicodeEncodeError:
            carried = (to_bytes(each) if isinstance(each, str) else each for each in arguments)
            return self._pack(*carried)  # type: ignore[no-any-return]

    def _prefixed(self, verb: str, *arguments: Any) -> tuple[Any, ...]:
        name = verb.split(" ", 1)[0].upper()
        if name in _KEYLESS:
            return verb, *arguments
        first = 2 if name in _NUMBERED else 0
        last = first + int(arguments[1]) if first else len(arguments) if name in _NOTHING_BUT_KEYS else 1
        keys = (
            self._prefix.encode() + each if isinstance(each, bytes) else f"{self._prefix}{each}"
            for each in arguments[first:last]
        )
        return verb, *arguments[:first], *keys, *arguments[last:]


_KEYLESS: Final = frozenset(
    {
        "ACL", "AUTH", "CLIENT", "COMMAND", "CONFIG", "DISCARD", "ECHO", "EXEC", "FLUSHALL", "FLUSHDB",
        "HELLO", "INFO", "MULTI", "PING", "QUIT", "RESET", "SCRIPT", "SELECT", "TIME", "UNWATCH", "WAIT",
    }
)  # fmt: skip
_NUMBERED: Final = frozenset({"EVAL", "EVALSHA"})
"""Their second argument says how many keys follow."""
_NOTHING_BUT_KEYS: Final = frozenset(
    {"DEL", "EXISTS", "MGET", "SUBSCRIBE", "TOUCH", "UNLINK", "UNSUBSCRIBE", "WATCH"}
)
"""Every other command has one key, its first argument."""


@functools.cache
def client() -> "Redis":
    """This process's client. Connects on first use; a forked child gets one of its own."""
    return connect(servers.redis_url())


def connect(url: str, *, timeout: float = TIMEOUT) -> "Redis":
    """A client that answers or fails within `timeout` seconds and a reconnect; its keys get the prefix.

    Raises:
        ConfigError: the URL says what redis-py does not take, or names no master.
    """
    options = {
        **silence.parameters({}, silence=timeout),
        "retry": Retry(NoBackoff(), 0),
        "command_packer": Packer(settings().redis_prefix),
    }
    if scheme_of(url) == SENTINEL:
        return _of_master(url, options)
    try:
        made = Redis.from_url(as_redis(url), **options)
        pool = made.connection_pool
        pool.connection_class(**pool.connection_kwargs)  # which connects later, and looks at its options now
    except (ValueError, TypeError, RedisError):
        raise ConfigError(_OPTIONS) from None
    pool.connection_class = silence.bounded(pool.connection_class)
    return made


def _of_master(url: str, options: dict[str, Any]) -> "Redis":
    """A client of whatever is the master when it connects.

    Raises:
        ConfigError: the URL does not name it.
    """
    from redis.sentinel import MasterNotFoundError, Sentinel, SentinelManagedConnection  # long to import

    class Brief(Sentinel):
        """Redis-py's, whose error shows every connection with all its options."""

        def discover_master(self, service_name: str) -> Any:
            try:
                return super().discover_master(service_name)  # type: ignore[no-untyped-call]
            except MasterNotFoundError:
                asked = f"none of {len(self.sentinels)} sentinels knows a master {service_name!r}"
                raise MasterNotFoundError(asked) from None

    try:
        named = sentinels_of(url)
    except ValueError as exc:
        raise ConfigError(f"the URL of Redis {exc}") from None
    waits = {name: value for name, value in options.items() if name.startswith("socket_")}
    made: Redis = Brief(named.nodes, sentinel_kwargs=waits).master_for(  # type: ignore[no-untyped-call]
        named.master,
        username=named.user,
        password=named.password,
        db=named.database,
        connection_class=silence.bounded(SentinelManagedConnection),
        **options,
    )
    return made


def sockets_of(pool: Any) -> Iterator[socket.socket]:
    """The sockets of a pool of redis-py, in use or not."""
    for connection in (*pool._available_connections, *pool._in_use_connections):  # noqa: SLF001 - redis-py's
        if connection._sock is not None:  # noqa: SLF001
            yield connection._sock  # noqa: SLF001


def let_through(client: "Redis", command: str, key: str, *arguments: str | bytes | float) -> Any:
    """Run one command that a server shall not refuse because it has reached its maxmemory.

    For what is small and keeps others going. `client` may be a pipeline.
    """
    return client.execute_command("EVAL", _LET_THROUGH, 1, key, command, *arguments)  # type: ignore[no-untyped-call]


def makes_room(script: Any) -> Any:
    """One of redis-py's scripts, of a library, as one that a server at its maxmemory runs too."""
    return script.registered_client.register_script(_MAKES_ROOM + script.script)


class _Lazy:
    """An attribute that is worked out at its first use, and without a lock.

    `functools.cached_property` has one per class before Python 3.12, and a process that is forked while
    another thread holds it never gets it. Two threads that come at once work it out twice.
    """

    def __init__(self, find: Callable[[Any], str]) -> None:
        self._find = find
        self.__doc__ = find.__doc__

    def __get__(self, owner: object, _: type) -> str:
        found = vars(owner)[self._find.__name__] = self._find(owner)
        return found


class Script:
    """One Lua verb of a package: sent by its digest and, to a server that does not know it yet, as its text.

    `package` holds `lua/<name>.lua` and `lua/layout.lua`, which documents the keys, is shared by all verbs of
    the package and stands in front of each.

    A server at its maxmemory refuses a verb that `fills` it, before it changes anything. All others go
    through: what makes room writes a little too.
    """

    def __init__(self, package: str, name: str, *, fills: bool = False) -> None:
        self.package = package
        self.name = name
        self.fills = fills

    @_Lazy
    def text(self) -> str:
        """What it may do, the layout and the verb."""
        folder = files(self.package) / "lua"
        layout, verb = (
            (folder / f"{name}.lua").read_text(encoding="utf-8") for name in ("layout", self.name)
        )
        return (_FILLS if self.fills else _MAKES_ROOM) + layout + verb

    @_Lazy
    def digest(self) -> str:
        """By which a server that has seen the text knows it."""
        return sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    def command(self, keys: list[str], arguments: list[Argument], *, text: bool = False) -> list[Argument]:
        """The command as it is sent; `text` for a server that answered that it does not know the digest."""
        head = ["EVAL", self.text] if text else ["EVALSHA", self.digest]
        return [*head, len(keys), *keys, *arguments]

    def __call__(self, client: "Redis", keys: list[str], arguments: list[Argument]) -> Any:
        """Run it and return its answer."""
        try:
            return client.execute_command(*self.command(keys, arguments))  # type: ignore[no-untyped-call]
        except NoScriptError:
            return client.execute_command(*self.command(keys, arguments, text=True))  # type: ignore[no-untyped-call]


os.register_at_fork(after_in_child=client.cache_clear)
