"""The verbs of the delivery protocol: one Lua script each, and the names of the keys they work on.

Each verb changes shared state in one atomic step on the server. The layout of the keys and what the verbs
share stands in `lua/layout.lua`, which is put in front of every verb.
"""

from functools import partial
from typing import Final

from redis import Redis

from seawall.cluster import Script
from seawall.delivery.options import Options

Verb = partial(Script, __package__)

submit = Verb("submit", fills=True)
resubmit = Verb("submit")
"""For what goes on with work that was accepted: a full server takes it."""
claim = Verb("claim")
settle = Verb("settle")
renew = Verb("renew")
reconcile = Verb("reconcile")
leave = Verb("leave")
recall = Verb("recall")
release = Verb("release")
nudge = Verb("nudge")
purge = Verb("purge")
delete = Verb("delete")
count = Verb("count")
revive = Verb("revive")
discard = Verb("discard")
since = Verb("since")
parked = Verb("parked")


_PURGED_AT_ONCE: Final = 1000
STOCK_STEPS: Final = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""What ends the names of the lists in which the stock transport keeps a queue, see `lua/layout.lua`."""
WAKE: Final = b":wake"
"""How the names of the lists of wake-up tokens end."""


def purge_all(client: "Redis", base: str, stock_list: str) -> int:
    """Remove what waits in a queue, in steps that hold the server up for milliseconds; how many it was.

    What stock publishers left in `stock_list` goes too; empty where nobody imports that.
    """
    purged = 0
    while removed := purge(client, [base], [_PURGED_AT_ONCE, stock_list]):
        purged += removed
    return purged


class Keys:
    """Names of keys under one prefix (kombu's `global_keyprefix`)."""

    def __init__(self, prefix: str = "") -> None:
        self.prefix = prefix
        self.queues = f"{prefix}seawall:queues"
        self.paused = f"{prefix}seawall:paused"
        self.revoked = f"{prefix}seawall:revoked"
        self.never = f"{prefix}seawall:never"  # a list that stays empty, for a wait that nothing ends early

    def base(self, queue: str) -> str:
        """What all keys of a queue begin with; the braces keep them in one slot."""
        return f"{self.prefix}seawall:{{{queue}}}"

    def aboard(self, worker: str) -> str:
        """Which suspect a worker has; see `lua/layout.lua`."""
        return f"{self.prefix}seawall:aboard:{worker}"

    def wake(self, queue: str) -> str:
        """The list that idle consumers of a queue block on."""
        return f"{self.base(queue)}:wake"

    def stock_list(self, queue: str) -> str:
        """The first of the lists in which the stock transport keeps a queue."""
        return f"{self.prefix}{queue}"

    def imported(self, queue: str, options: Options) -> str:
        """The same where claims import from it, else empty."""
        return self.stock_list(queue) if options.import_stock else ""
