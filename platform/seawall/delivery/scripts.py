"""The verbs of the delivery protocol: one Lua script each, and the names of the keys they work on.

Each verb changes shared state in one atomic step on the server. The layout of the keys and what the verbs
share stands in `lua/layout.lua`, which is put in front of every verb.
"""

from functools import cached_property
from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError

Argument = str | bytes | int | float


class Verb:
    """One script, sent by its digest and, to a server that does not know it yet, as its text."""

    def __init__(self, name: str) -> None:
        self.name = name

    @cached_property
    def text(self) -> str:
        """The layout and the verb."""
        folder = files(__package__) / "lua"
        layout = (folder / "layout.lua").read_text(encoding="utf-8")
        return layout + (folder / f"{self.name}.lua").read_text(encoding="utf-8")

    @cached_property
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


submit = Verb("submit")
claim = Verb("claim")
settle = Verb("settle")
renew = Verb("renew")
reconcile = Verb("reconcile")
leave = Verb("leave")
lose = Verb("lose")
release = Verb("release")
nudge = Verb("nudge")
purge = Verb("purge")
delete = Verb("delete")
count = Verb("count")
revive = Verb("revive")
discard = Verb("discard")

MICROSECONDS = 1_000_000


def micros(seconds: float) -> int:
    """Seconds as the scripts count them."""
    return round(seconds * MICROSECONDS)


class Keys:
    """Names of keys under one prefix (kombu's `global_keyprefix`)."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.queues = f"{prefix}seawall:queues"
        self.paused = f"{prefix}seawall:paused"
        self.revoked = f"{prefix}seawall:revoked"

    def base(self, queue: str) -> str:
        """What all keys of a queue begin with; the braces keep them in one slot."""
        return f"{self.prefix}seawall:{{{queue}}}"

    def wake(self, queue: str) -> str:
        """The list that idle consumers of a queue block on."""
        return f"{self.base(queue)}:wake"

    def stock_list(self, queue: str) -> str:
        """The first of the lists in which the stock transport keeps a queue."""
        return f"{self.prefix}{queue}"
