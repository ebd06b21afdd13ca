"""Answers reach whoever asked, on the stock transport or on this one, in both directions.

An answer is a reply of remote control (`inspect`, `control.ping(reply=True)`, celery-exporter, Flower), or
a result for a client of the `rpc://` backend. It goes to a queue of its asker's own, named by a UUID or
`<id>.reply.<namespace>.pidbox`; the one who answers has not declared it and knows nothing of it.

An asker on this transport, of this release or an older one, takes part in its queue like any consumer and
gets its answers there. For an asker that takes no part the stock transport's way is gone: the answer is
pushed onto a plain list of the queue's name. An asker on the stock transport pops it. One on this transport
imports it when it begins to claim, and waits for lists of replies too, because stock workers answer there.

A list without an asker would stay for ever, so every push renews a bound on its life. A queue of ours that
goes when it is not used (`x-expires`, as all of these have) says so in `base:expires`: see `lua/layout.lua`.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from redis import Redis

from seawall.cluster import let_through
from seawall.delivery.envelope import from_json, to_json

_REPLY_KEPT_FOR: Final = 60.0
"""Seconds that a reply waits for its asker: more than any of Celery's own commands waits for replies."""

_RESULT_KEPT_FOR: Final = 86_400.0
"""Seconds that a result waits for its asker: Celery's default for results."""

_REPLY: Final = ".reply."
_MAILBOX: Final = ".pidbox"
_OF_A_CLIENT: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def is_reply_queue(queue: str) -> bool:
    """Whether a queue is one on which an asker waits for replies, by the name that kombu's mailboxes give."""
    mailbox, reply, asker = queue.removesuffix(_MAILBOX).partition(_REPLY)
    return queue.endswith(_MAILBOX) and bool(mailbox and reply and asker)


def kept_for(queue: str, message: Mapping[str, Any]) -> int | None:
    """Milliseconds that a message waits for whoever asked for it; None if it is no answer."""
    if is_reply_queue(queue):
        return round(_REPLY_KEPT_FOR * 1000)
    if _OF_A_CLIENT.fullmatch(queue) and "task" not in (message.get("headers") or {}):
        return round(_RESULT_KEPT_FOR * 1000)
    return None


def push(client: "Redis", stock_list: str, message: Mapping[str, Any], lasts: int) -> None:
    """Push a prepared message for whoever pops `stock_list`, for so many milliseconds."""
    with client.pipeline() as pipe:
        let_through(pipe, "LPUSH", stock_list, to_json(message))
        pipe.pexpire(stock_list, lasts)
        pipe.execute()


def popped(body: bytes) -> dict[str, Any]:
    """The message that was pushed.

    Raises:
        ValueError: it is none.
    """
    message = from_json(body)
    if not isinstance(message, dict):
        raise ValueError("a reply is no message of kombu's")  # noqa: TRY004 - undecodable either way
    return message
