"""Kombu's Redis transport with our channel: `broker_transport = "seawall.delivery:Transport"`.

Used by default for Redis and Valkey URLs (`transport_for`). The stock transport is selected with
`broker_transport = "redis"`, RabbitMQ by its URL.

Two things about kombu's Connection decide how this is plugged in. A transport named in the configuration
wins over the URL's scheme, except when a connection with several servers moves on to the next: then kombu
takes the scheme of that URL. And `rediss://` means TLS only where the transport is called "rediss". Both
are put right in `Transport.__init__`, on the one connection it is made for.
"""

import contextlib
import functools
import logging
import os
import socket
import ssl
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

from kombu.transport import redis as stock
from kombu.utils.eventio import poll

from seawall import silence
from seawall.backoff import equal_jitter
from seawall.cluster import sockets_of
from seawall.delivery import older
from seawall.delivery.channel import Channel, SentinelChannel
from seawall.delivery.options import Options
from seawall.delivery.refusal import refusals
from seawall.errors import ConfigError

logger = logging.getLogger(__name__)

_FIRST_RETRY = 0.05
_LONGEST_RETRY = 1.0

_looping_in: tuple[int, int] | None = None  # the process and thread of the worker's event loop

_TRANSPORTS = {
    "redis": "seawall.delivery:Transport",
    "rediss": "seawall.delivery:SecureTransport",
    "valkey": "seawall.delivery:Transport",
    "valkeys": "seawall.delivery:SecureTransport",
    "sentinel": "seawall.delivery:SentinelTransport",
}


def expect_loop() -> None:
    """A worker's loop is to turn in this thread: it tries to connect for as long as `reconnect_for`."""
    global _looping_in  # noqa: PLW0603 - a worker makes a new transport for every connection
    _looping_in = os.getpid(), threading.get_ident()


def transport_for(url: str | Sequence[str]) -> str | None:
    """Our transport for a broker URL, as `broker_transport` takes it; None for brokers that are not Redis.

    Several servers may be given as Celery takes them: in a list, or with semicolons between.

    Raises:
        ConfigError: the URL names a Redis Cluster or a unix socket, or servers of different kinds.
    """
    parts = url.split(";") if isinstance(url, str) else url
    schemes = {urlsplit(part).scheme.lower() for part in parts if "://" in part}
    for scheme in schemes:
        if "cluster" in scheme:
            raise ConfigError(
                f"broker_url has the scheme {scheme}: Redis Cluster is not supported, "
                "use a single server or replicas with Sentinel (sentinel://)."
            )
        if "socket" in scheme or "unix" in scheme:  # kombu lets such a URL choose the stock transport
            raise ConfigError(
                f"broker_url has the scheme {scheme}: unix sockets are not supported, let the server "
                "listen on the loopback address (redis://127.0.0.1), or take the stock transport "
                "(broker_transport='redis') with what it can lose."
            )
    found = {_TRANSPORTS.get(scheme) for scheme in schemes}
    if len(found) > 1:
        raise ConfigError(f"broker_url mixes {', '.join(sorted(schemes))}: use one kind of server.")
    return found.pop() if found else None


class Doorbell:
    """Readable from `ring` until `answer`; ringing twice is ringing once."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        os.set_blocking(self._out, False)
        os.set_blocking(self._in, False)
        self._rung = False

    def fileno(self) -> int:
        """What to poll."""
        return self._out

    def ring(self) -> None:
        """Make it readable."""
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):
                os.write(self._in, b"\0")

    def answer(self) -> None:
        """Make it silent."""
        self._rung = False
        with contextlib.suppress(OSError):
            os.read(self._out, 64)

    def close(self) -> None:
        """Give the two descriptors back; nobody may poll any more."""
        os.close(self._out)
        os.close(self._in)


class Cycle(older.Poller):
    """Kombu's poller, which lets each channel take its turn instead of sending BRPOP.

    A pending answer is read whatever the window says: it holds leases or nothing, never a message that
    would have to stay in the socket.

    A forked child shares the kernel's list of what is polled: if it tidies up what it inherited, its parent
    hears nothing any more. So it gets a poller of its own. A connection stays on that list until the last
    process has closed it, so the child closes its copies: else the parent would hear for ever of one that it
    has given up, and take that for its successor, which has the same number.
    """

    loop: Any = None  # what polls, unless `get` does

    # Kombu's own, which the stubs lack.
    _channels: set[Any]
    _fd_to_chan: dict[int, tuple[Any, str]]
    _chan_to_sock: dict[tuple[Any, Any, str], socket.socket]
    _register_LISTEN: Callable[[Any], None]  # noqa: N815
    _unregister_from_poll: Callable[[int], None]

    def __init__(self) -> None:
        super().__init__()
        _cycles.add(self)

    @property
    def looping(self) -> bool:
        """Whether an event loop polls."""
        return self.loop is not None

    def turn_in(self, seconds: float) -> None:
        """See to it that every channel has a turn after so long, although nothing arrives."""
        if self.loop is not None:
            self.loop.call_later(seconds, self.on_poll_start)

    def on_poll_start(self) -> None:
        """Before each poll: every consuming channel may ask for something."""
        for channel in self._channels:
            if channel.active_queues:
                channel.turn(self)
            if channel.active_fanout_queues:
                self._register_LISTEN(channel)

    def on_readable(self, fileno: int) -> Any:
        """Let the channel read whatever arrived for it."""
        channel, kind = self._fd_to_chan.get(fileno, (None, ""))
        if channel is None:
            return None
        if kind == "BRPOP" and not channel._in_poll:  # noqa: SLF001 - the server closed a silent line
            channel.client.connection.disconnect()
            return None
        return channel.handlers[kind]()

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Hand out one message that is here already, or wait for an event."""
        for channel in list(self._channels):
            if channel.active_queues and channel.hand_out(1):
                return
        super().get(callback, timeout)

    def leave_to_parent(self) -> None:
        """What a forked child does with what it inherited."""
        self.poller = poll()
        for inherited in self._chan_to_sock.values():
            inherited.close()  # this process's copy: the connection stays open

    def give_doorbell(self, channel: Any) -> None:
        """Let a channel interrupt the event loop's poll."""
        channel.doorbell = Doorbell()
        self._fd_to_chan[channel.doorbell.fileno()] = (channel, "DOORBELL")

    def silence(self, channel: Any) -> None:
        """Take a channel's doorbell away."""
        doorbell, channel.doorbell = channel.doorbell, None
        self._fd_to_chan.pop(doorbell.fileno(), None)
        self._unregister_from_poll(doorbell.fileno())
        doorbell.close()


_cycles: weakref.WeakSet[Cycle] = weakref.WeakSet()


def _after_fork() -> None:
    for cycle in list(_cycles):
        cycle.leave_to_parent()


os.register_at_fork(after_in_child=_after_fork)


def _as_uri(client: Any, *args: Any, **kwargs: Any) -> str:
    """The address as it is configured: kombu writes the path of this class where the scheme belongs."""
    _, _, place = type(client).as_uri(client, *args, **kwargs).partition("://")
    return f"{client.transport.scheme}://{place}"


class Transport(older.Transport):
    """Redis and Valkey with leases."""

    scheme = "redis"
    Channel: type[Channel] = Channel
    client: Any
    cycle: Cycle
    _avail_channels: list[Any]

    def __init__(self, client: Any, **kwargs: Any) -> None:
        Options.from_transport_options(client.transport_options)  # wrong options are refused before any I/O
        super().__init__(client, **kwargs)
        self.cycle = Cycle()
        client.as_uri = functools.partial(_as_uri, client)
        if client.alt:
            client.switch = functools.partial(_switch, client, client.transport_cls)

    def establish_connection(self) -> Any:
        """As kombu's, but a thread with an event loop, a worker's, keeps trying for `reconnect_for`.

        With backoff and jitter: Celery's own pauses between attempts grow beyond what a restart takes. And a
        second after a server's answer that it can do nothing now at the earliest: it lets everybody connect.
        """
        options = Options.from_transport_options(self.client.transport_options)
        give_up_at, pause = time.monotonic(), _FIRST_RETRY
        if _looping_in == (os.getpid(), threading.get_ident()):
            give_up_at += options.reconnect_for
            _maybe_shutdown()
            time.sleep(max(0.0, _LONGEST_RETRY - silence.since_refusal()))
        while True:
            try:
                with refusals(self.client):
                    return super().establish_connection()
            except self.connection_errors as exc:
                if time.monotonic() > give_up_at:
                    raise
                logger.info("broker away, trying again: %s", exc)
            _maybe_shutdown()
            time.sleep(equal_jitter(pause))
            pause = min(pause * 2, _LONGEST_RETRY)

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """From now on the loop polls."""
        expect_loop()
        self.cycle.loop = loop
        super().register_with_event_loop(connection, loop)

    def sockets(self) -> Iterator[socket.socket]:
        """Those of all its channels."""
        channels: list[Any] = [*(self.channels or ()), *self._avail_channels]
        for channel in channels:
            for pool in filter(None, (channel._pool, channel._async_pool)):  # noqa: SLF001 - kombu's
                yield from sockets_of(pool)

    def _collect(self, _connection: Any) -> None:
        """Kombu gives up a broken connection: nothing is asked of the server, and what runs goes on."""
        channels: list[Any] = [*(self.channels or ()), *self._avail_channels]
        for channel in channels:
            channel.abandon()
        self.close_connection(self)  # type: ignore[arg-type]  # kombu calls the transport its connection


class SecureTransport(Transport):
    """The same over TLS (`rediss://`). Certificates are verified unless `broker_use_ssl` says otherwise."""

    scheme = "rediss"

    def __init__(self, client: Any, **kwargs: Any) -> None:
        client.ssl = client.ssl or {"ssl_cert_reqs": ssl.CERT_REQUIRED}
        super().__init__(client, **kwargs)


class SentinelTransport(Transport):
    """The same over Redis Sentinel; `master_name` is among the transport options, as in kombu."""

    scheme = "sentinel"
    default_port = stock.SentinelTransport.default_port
    Channel = SentinelChannel


def _switch(client: Any, transport: Any, url: str) -> None:
    """Kombu's `Connection.switch`, which takes the transport from the URL's scheme, and ours back."""
    type(client).switch(client, url)
    client.transport_cls = transport


def _maybe_shutdown() -> None:
    """End the worker that was told to. Where Celery's worker is not imported, there is none."""
    if (state := sys.modules.get("celery.worker.state")) is not None:
        state.maybe_shutdown()
