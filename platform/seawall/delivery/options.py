"""The options of the transport: `broker_transport_options["delivery"]`, validated once.

Kombu's own options (TLS, timeouts, `global_keyprefix`, Sentinel's `master_name`, ...) stay where they are,
beside ours. The stock transport's `visibility_timeout` and its relatives mean nothing here: a lease has no
length a task could outlive.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from seawall.errors import ConfigError
from seawall.quantity import (
    DAY,
    LONGEST_WAIT,
    Count,
    Duration,
    Number,
    Quantity,
    Size,
    Wait,
    Whole,
    check_fields,
    shown,
)

LENGTH = Whole(least=1)
"""Of a queue: its `max_length`, or the `x-max-length` that it was declared with."""

_WHEN_FULL = ("refuse", "block")
_LARGEST_BATCH = 1000  # one claim is one uninterrupted moment of the server's time
_MOST_REPLICAS = 100
_LONGEST_REPLICATION = 4.0  # seconds; less than a server may say nothing (`seawall.silence`)
_LARGEST_TEXT = 512 << 20  # bytes of one value in Redis
_LABEL = "broker_transport_options['delivery']['{}']"
_WEIGHT = Number(least=0.001, most=1_000_000)
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
        replicas: how many replicas of the server have to have received a submission before it returns.
        replicas_within: how long it waits for them before it raises OperationalError.
        queue_order: whether several queues share by weight or are served strictly in order.
        queue_weights: shares by queue name, 1.0 where not named.
        import_stock: whether claims also take messages that stock publishers left in lists.
        reconnect_for: seconds a consumer tries, with backoff and jitter, before Celery hears.
    """

    lease: Annotated[float, Duration(least=0.1, most=DAY)] = 15.0
    delivery_limit: Count = 3
    claim_ahead: Annotated[float, Duration(most=60)] = 0.02
    max_batch: Annotated[int, Whole(least=1, most=_LARGEST_BATCH)] = 128
    hoard_for: Wait = 0.25
    settle_within: Annotated[float, Duration(least=0.0001, most=60)] = 0.01
    stall_limit: Wait = 60.0
    ageing: Wait | None = 60.0
    ageing_share: Count = 10
    max_length: int | Mapping[str, int] | None = None
    when_full: str = "refuse"
    block_for: Wait = 30.0
    max_message: Annotated[int, Size(most=_LARGEST_TEXT)] = 16 * 1024 * 1024
    replicas: Annotated[int, Whole(most=_MOST_REPLICAS)] = 0
    replicas_within: Annotated[float, Duration(least=0.001, most=_LONGEST_REPLICATION)] = 1.0
    queue_order: str = "weighted"
    queue_weights: Mapping[str, float] = field(default_factory=dict)
    import_stock: bool = True
    reconnect_for: Annotated[float, Duration(most=LONGEST_WAIT)] = 30.0

    def __post_init__(self) -> None:
        check_fields(self, _LABEL)
        if not isinstance(self.max_length, Mapping) and self.max_length is not None:
            object.__setattr__(self, "max_length", LENGTH.parse(self.max_length, field=_label("max_length")))
        elif self.max_length is not None:
            self._parse_each("max_length", LENGTH)
        self._parse_each("queue_weights", _WEIGHT)
        self._require("when_full", _WHEN_FULL.__contains__, 'one of "refuse", "block"')
        self._require("queue_order", _QUEUE_ORDERS.__contains__, 'one of "weighted", "strict"')
        self._require("import_stock", lambda value: isinstance(value, bool), "True or False")

    def _parse_each(self, name: str, kind: Quantity) -> None:
        """Replace the numbers of a mapping by what they mean."""
        self._require(name, lambda value: isinstance(value, Mapping), "a mapping of queue name to a number")
        parsed = {}
        for queue, value in getattr(self, name).items():
            if not isinstance(queue, str):
                raise ConfigError(f"{_label(name)} has the key {shown(queue)}: give names of queues.")
            parsed[queue] = kind.parse(value, field=f"{_label(name)}[{shown(queue)}]")
        object.__setattr__(self, name, parsed)

    def _require(self, name: str, holds: Callable[[Any], bool], wish: str) -> None:
        value = getattr(self, name)
        if not holds(value):
            raise ConfigError(f"{_label(name)} is {shown(value)}: give {wish}.")

    @classmethod
    def from_transport_options(cls, transport_options: Mapping[str, Any]) -> "Options":
        """The options of one connection.

        Raises:
            ConfigError: an option is unknown or has a value it cannot have.
        """
        given = transport_options.get("delivery", {})
        if isinstance(given, cls):
            return given
        if not isinstance(given, Mapping):
            raise ConfigError(f"broker_transport_options['delivery'] is {shown(given)}: give a mapping.")
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


def try_once(transport_options: dict[str, Any]) -> None:
    """Have a connection with these options say at once that there is no server, `reconnect_for` or not."""
    options = Options.from_transport_options(transport_options)
    transport_options["delivery"] = dataclasses.replace(options, reconnect_for=0)


def _label(name: str) -> str:
    return _LABEL.format(name)
