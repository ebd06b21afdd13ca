"""The Redis that all processes of a cluster share, and the scripts that change its state.

Shared state is small and its users can do without it for a moment, so the client never waits long: a short
timeout, no retries (redis-py's defaults cost 7.9 s a call while the server is away, over 20 s when it hangs).
Every change of shared state is one Lua script, one verb: `Script`. Scripts use the server's clock.
"""

import functools
import os
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from seawall import servers

Argument = str | bytes | int | float

TIMEOUT: Final = 0.25
"""Seconds a call to shared state may take."""

MICROSECONDS: Final = 1_000_000


def micros(seconds: float) -> int:
    """Seconds as the scripts count them."""
    return round(seconds * MICROSECONDS)


@functools.cache
def client() -> "Redis":
    """This process's client. Connects on first use; a forked child gets one of its own."""
    return connect(servers.redis_url())


def connect(url: str, *, timeout: float = TIMEOUT) -> "Redis":
    """A client that answers or fails within `timeout` seconds and a reconnect."""
    return Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=Retry(NoBackoff(), 0)
    )


class Script:
    """One Lua verb of a package: sent by its digest and, to a server that does not know it yet, as its text.

    `package` holds `lua/<name>.lua` and `lua/layout.lua`, which documents the keys, is shared by all verbs of
    the package and stands in front of each.
    """

    def __init__(self, package: str, name: str) -> None:
        self.package = package
        self.name = name

    @functools.cached_property
    def text(self) -> str:
        """The layout and the verb."""
        folder = files(self.package) / "lua"
        layout = (folder / "layout.lua").read_text(encoding="utf-8")
        return layout + (folder / f"{self.name}.lua").read_text(encoding="utf-8")

    @functools.cached_property
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
