"""Kombu's channel and poller, with what kombu 5.7 added and ours build on where kombu 5.6 is installed."""

from typing import TYPE_CHECKING, Any, Final

from kombu.transport import redis as stock
from kombu.transport.base import to_rabbitmq_queue_arguments  # type: ignore[attr-defined] # stubs lack it

_EXPIRES: Final = "x-expires"


class _Channel(stock.Channel):
    """Kombu 5.6's: it lets queues end after a time without use, and has nothing to say of credentials."""

    keyprefix_binding_permanent = ""
    _brpop_sent_at: float | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._expires: dict[str, int] = {}
        super().__init__(*args, **kwargs)

    def prepare_queue_arguments(self, arguments: Any, **kwargs: Any) -> Any:
        """A queue's options by their names in the broker, as kombu 5.7."""
        return to_rabbitmq_queue_arguments(arguments, **kwargs)

    def _new_queue(self, queue: str, auto_delete: bool = False, **kwargs: Any) -> None:  # noqa: FBT001, FBT002
        super()._new_queue(queue, auto_delete=auto_delete, **kwargs)
        lasts = (kwargs.get("arguments") or {}).get(_EXPIRES)
        if lasts is None:
            self._expires.pop(queue, None)
        else:
            self._expires[queue] = int(lasts)

    def _flush_brpop_reauth(self) -> None:
        """Kombu 5.6 takes no new credentials for a connection that stands."""


class _Poller(stock.MultiChannelPoller):
    """Kombu 5.6's, whose event loop says how a descriptor leaves it."""

    def _unregister_from_poll(self, fileno: int) -> None:
        self.poller.unregister(fileno)


if TYPE_CHECKING:
    Channel = stock.Channel
    Poller = stock.MultiChannelPoller
else:
    Channel = stock.Channel if hasattr(stock.Channel, "_flush_brpop_reauth") else _Channel
    Poller = (
        stock.MultiChannelPoller if hasattr(stock.MultiChannelPoller, "_unregister_from_poll") else _Poller
    )
