"""Kombu's channel, poller and transport, with what kombu 5.7 added and ours build on where 5.6 is installed.

The private names are kombu's own; tests/unit/test_delivery_contracts.py holds them.
"""

import logging
from collections.abc import Callable
from functools import partial
from queue import Empty
from typing import TYPE_CHECKING, Any, Final

from kombu.transport import redis as stock
from kombu.transport.base import to_rabbitmq_queue_arguments  # type: ignore[attr-defined] # stubs lack it
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads

logger = logging.getLogger(__name__)

_EXPIRES: Final = "x-expires"


class _Channel(stock.Channel):
    """Kombu 5.6's: it lets queues end after a time without use, and has nothing to say of credentials."""

    keyprefix_binding_permanent = ""
    _brpop_sent_at: float | None = None

    # Kombu's own, which the stubs lack.
    connection: Any
    connection_errors: tuple[type[Exception], ...]
    _fanout_to_queue: dict[str, str]
    _in_listen: Any

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

    def _receive_one(self, c: Any) -> Any:
        """As kombu 5.7: a broadcast is handed over by a method of its own, which ours builds on."""
        try:
            response = c.parse_response()
        except self.connection_errors:
            self._in_listen = None
            raise
        if not isinstance(response, list | tuple):
            return None
        kind, name = bytes_to_str(response[0]), bytes_to_str(response[-2])
        if kind.endswith("unsubscribe"):
            c.handle_message(response)
        if not kind.endswith("message") or not response[-1]:
            return None
        try:
            message = loads(bytes_to_str(response[-1]))
        except (TypeError, ValueError):
            logger.warning("cannot read the broadcast on %r: %.4096r", name, response, exc_info=True)
            raise Empty from None
        exchange = (name.partition(".")[2] if name.startswith("/") else name).split("/", 1)[0]
        return self._deliver_fanout_message(message, exchange)

    def _deliver_fanout_message(self, message: dict[str, Any], exchange: str) -> bool:
        self.connection._deliver(message, self._fanout_to_queue[exchange])  # noqa: SLF001
        return True

    def _flush_brpop_reauth(self) -> None:
        """Kombu 5.6 takes no new credentials for a connection that stands."""


class _Poller(stock.MultiChannelPoller):
    """Kombu 5.6's, whose event loop says how a descriptor leaves it."""

    after_read: set[Callable[[], Any]]
    _fd_to_chan: dict[int, Any]

    def _unregister_from_poll(self, fileno: int) -> None:
        self.poller.unregister(fileno)

    def handle_event(self, fileno: int, event: int) -> Any:
        """As kombu 5.7: what is not listened to any more is nothing."""
        return super().handle_event(fileno, event) if fileno in self._fd_to_chan else None

    def get(self, callback: Any, timeout: float | None = None) -> None:  # noqa: ARG002 - kombu's signature
        """As kombu 5.7: `drain_events` starts a poll as an event loop does."""
        self._in_protected_read = True
        try:
            self.on_poll_start()
            for fileno, event in self.poller.poll(timeout) or ():
                if self.handle_event(fileno, event):
                    return
            self.maybe_restore_messages()
            raise Empty
        finally:
            self._in_protected_read = False
            while self.after_read:
                self.after_read.pop()()


class _Transport(stock.Transport):
    """Kombu 5.6's, which after the loss of one connection lets its event loop poll none any more."""

    cycle: Any

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """As kombu 5.7: of a connection that is lost, its own descriptors leave the loop."""
        super().register_with_event_loop(connection, loop)
        self.cycle._unregister_from_poll = loop.remove_reader  # noqa: SLF001
        self.cycle._on_connection_disconnect = partial(_forget, self.cycle, loop)  # noqa: SLF001


def _forget(cycle: Any, loop: Any, connection: Any) -> None:
    """Take a lost connection out of the loop. Any thread may lose one, beside the loop."""
    sockets, listeners = cycle._chan_to_sock, cycle._fd_to_chan  # noqa: SLF001
    lost = [key for key in list(sockets) if key[1].connection is connection]
    for channel, client, kind in lost:
        sockets.pop((channel, client, kind), None)
        for fileno in [each for each, known in list(listeners.items()) if known == (channel, kind)]:
            loop.remove(fileno)
            listeners.pop(fileno, None)


if TYPE_CHECKING:
    Channel = stock.Channel
    Poller = stock.MultiChannelPoller
    Transport = stock.Transport
else:
    Channel = stock.Channel if hasattr(stock.Channel, "_flush_brpop_reauth") else _Channel
    Poller = (
        stock.MultiChannelPoller if hasattr(stock.MultiChannelPoller, "_unregister_from_poll") else _Poller
    )
    Transport = stock.Transport if Poller is stock.MultiChannelPoller else _Transport
