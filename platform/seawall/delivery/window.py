"""The prefetch window: which messages Celery has, and how many more it may be given."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kombu.transport.virtual import QoS

if TYPE_CHECKING:
    from seawall.delivery.claiming import ClaimingChannel

REQUEUED = "requeued by its worker"
"""Why a message that was rejected is back: its next delivery is a repeated one."""


class Window(QoS):
    """Kombu's QoS over a claimant: a message counts from being handed out to being settled.

    Acknowledging never fails and never blocks: the claimant sends it, and keeps it through an outage.
    """

    channel: "ClaimingChannel"

    @property
    def messages(self) -> dict[str, Any]:
        """Handed out and not settled, by tag."""
        self._flush()  # type: ignore[attr-defined]  # kombu's own; stubs lack it
        return dict(self._delivered or {})

    @property
    def room(self) -> int:
        """How many more messages may be handed out; 1 if the window has no bound."""
        if not self.can_consume():  # Celery may replace it, to stop at what its pool can take
            return 0
        if not self.prefetch_count:
            return 1  # no bound given: one at a time, and what the pace claims ahead
        return self.prefetch_count - len(self._delivered or ()) + len(self._dirty or ())

    def ack(self, delivery_tag: str) -> None:
        """Done with."""
        self._settle(delivery_tag, "a")

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """Not done: back to its place, to be delivered as `redelivered`, or dropped."""
        if requeue:
            self._settle(delivery_tag, "r", REQUEUED)
        else:
            self._settle(delivery_tag, "a")

    def settle(self, delivery_tag: str, kind: str, detail: str) -> None:
        """Any other settlement; see `lua/layout.lua`."""
        self._settle(delivery_tag, kind, detail)

    def _settle(self, delivery_tag: str, kind: str, detail: str = "") -> None:
        self.channel.settle(delivery_tag, kind, detail)
        if delivery_tag in (self._delivered or ()):
            super().ack(delivery_tag)

    def restore_unacked(self) -> None:
        """Give back everything that is not settled."""
        messages: Mapping[str, Any] = self.messages
        for tag in messages:
            self.channel.settle(tag, "r")
        self._forget()

    def abandon(self) -> dict[str, Any]:
        """Forget all messages without settling them, and return them."""
        messages = self.messages
        self._forget()
        return messages

    def _forget(self) -> None:
        if self._delivered is not None:
            self._delivered.clear()

    def restore_visible(self, *_args: Any, **_kwargs: Any) -> None:
        """Nothing: claims restore what lost its lease."""
