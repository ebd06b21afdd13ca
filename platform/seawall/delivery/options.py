"""The options of the transport: `broker_transport_options["delivery"]`, validated once.

Kombu's own options (TLS, timeouts, `global_keyprefix`, Sentinel's `master_name`, ...) stay where they are,
beside ours. The stock transport's `visibility_timeout` and its relatives mean nothing here: a lease has no
length a task could outlive.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from seawall.errors import ConfigError

_WHEN_FULL = ("refuse", "block")
_LARGEST_BATCH = 1000  # one claim is one uninterrupted moment of the server's time
_QUEUE_ORDERS = ("weighted", "strict")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How messages are leased, ordered and refused. Durations are seconds, sizes bytes.

    Attributes:
        lease: how long a silent consumer keeps what it holds; renewed at a third of it.
        delivery_limit: lost processes after which a message is a dead letter.
        claim_ahead: seconds of work, at the pace learned, that is claimed beyond the prefetch window.
        max_batch: most messages in one claim.
        hoard_for: seconds after which messages claimed ahead and not handed out go back.
        settle_within: seconds a settlement may wait for a round trip it can share.
        stall_limit: seconds without a turn of the event loop after which leases are no longer renewed.
        ageing: seconds in line after which a message may pass more urgent ones; None switches it off.
        ageing_share: every n-th claim goes to the oldest message, if it has aged.
        max_length: most messages a queue holds, for all queues or by name; None is no limit.
        when_full: whether submitting to a full queue is refused at once or blocks for `block_for`.
        block_for: seconds to wait for room when `when_full` is "block".
        max_message: largest message accepted.
        queue_order: whether several queues share by weight or are served strictly in order.
        queue_weights: shares by queue name, 1.0 where not named.
        import_stock: whether claims also take messages that stock publishers left in lists.
        reconnect_for: seconds a consumer tries, with backoff and jitter, before Celery hears.
    """

    lease: float = 15.0
    delivery_limit: int = 3
    claim_ahead: float = 0.02
    max_batch: int = 128
    hoard_for: float = 0.25
    settle_within: float = 0.01
    stall_limit: float = 60.0
    ageing: float | None = 60.0
    ageing_share: int = 10
    max_length: int | Mapping[str, int] | None = None
    when_full: str = "refuse"
    block_for: float = 30.0
    max_message: int = 16 * 1024 * 1024
    queue_order: str = "weighted"
    queue_weights: Mapping[str, float] = field(default_factory=dict)
    import_stock: bool = True
    reconnect_for: float = 30.0

    def __post_init__(self) -> None:
        for name in ("lease", "hoard_for", "settle_within", "stall_limit", "block_for"):
            self._require(name, _positive, "a number of seconds above 0")
        for name in ("delivery_limit", "max_batch", "ageing_share", "max_message"):
            self._require(name, _whole, "a whole number above 0")
        for name in ("claim_ahead", "reconnect_for"):
            self._require(
                name, lambda value: value == 0 or _positive(value), "a number of seconds, 0 or more"
            )
        self._require("ageing", lambda value: value is None or _positive(value), "seconds above 0, or None")
        self._require("max_length", _lengths, "a whole number above 0, a mapping of queue to one, or None")
        self._require("when_full", _WHEN_FULL.__contains__, 'one of "refuse", "block"')
        self._require("queue_order", _QUEUE_ORDERS.__contains__, 'one of "weighted", "strict"')
        self._require("queue_weights", _weights, "a mapping of queue name to a number above 0")
        self._require("import_stock", lambda value: isinstance(value, bool), "True or False")
        self._require("max_batch", lambda value: value <= _LARGEST_BATCH, f"at most {_LARGEST_BATCH}")

    def _require(self, name: str, holds: Callable[[Any], bool], wish: str) -> None:
        value = getattr(self, name)
        if not holds(value):
            raise ConfigError(f"broker_transport_options['delivery']['{name}'] is {value!r}: give {wish}.")

    @classmethod
    def from_transport_options(cls, transport_options: Mapping[str, Any]) -> "Options":
        """The options of one connection.

        Raises:
            ConfigError: an option is unknown or has a value it cannot have.
        """
        given = transport_options.get("delivery", {})
        if isinstance(given, cls):
            return given
        names = [known.name for known in dataclasses.fields(cls)]
        for name in given:
            if name not in names:
                raise ConfigError(
                    f"broker_transport_options['delivery']['{name}'] is unknown: use {', '.join(names)}."
                )
        return cls(**given)

    def length_limit(self, queue: str) -> int:
        """Most messages `queue` may hold; 0 is no limit."""
        if isinstance(self.max_length, Mapping):
            return self.max_length.get(queue, 0)
        return self.max_length or 0


def _positive(value: object) -> bool:
    return _is_number(value) and value > 0  # type: ignore[operator]


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _lengths(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(queue, str) and _whole(length) for queue, length in value.items())
    return value is None or _whole(value)


def _weights(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(queue, str) and _positive(weight) for queue, weight in value.items()
    )
