"""A TCP proxy in front of a server, which can go deaf, slow or away while connections are open."""

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit


class Proxy:
    """Forwards 127.0.0.1:`port` to the server of a URL, from its own thread."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._url = parts
        self._target = (parts.hostname or "127.0.0.1", parts.port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._lock = threading.RLock()
        self._closing = False
        self.deaf = False
        """Accept and read, answer nothing."""
        self.delay = 0.0
        """Seconds by which everything is late."""
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The server's URL through the proxy."""
        userinfo, at, _ = self._url.netloc.rpartition("@")
        return self._url._replace(netloc=f"{userinfo}{at}127.0.0.1:{self.port}").geturl()

    def die(self) -> None:
        """Refuse connections and cut those that are open."""
        with self._lock:
            if self._listener.fileno() >= 0:
                self._selector.unregister(self._listener)
                self._listener.close()
            self.cut()

    def revive(self) -> None:
        """Listen at the same port again."""
        with self._lock:
            if self._listener.fileno() < 0:
                self._listener = socket.create_server(("127.0.0.1", self.port))
                self._selector.register(self._listener, selectors.EVENT_READ)

    def cut(self) -> None:
        """Close every connection."""
        with self._lock:
            for each in list(self._pairs):
                self._drop(each)

    def close(self) -> None:
        self._closing = True
        self._thread.join(10)
        self.die()
        self._selector.close()

    def _run(self) -> None:
        while not self._closing:
            ready = self._selector.select(0.01)
            with self._lock:
                for key, _ in ready:
                    self._turn(key.fileobj)  # type: ignore[arg-type]

    def _turn(self, ready: socket.socket) -> None:
        if ready is self._listener:
            self._accept()
        elif (other := self._pairs.get(ready)) is not None:
            try:
                piece = ready.recv(65536)
                if piece and not self.deaf:
                    time.sleep(self.delay)
                    other.sendall(piece)
            except OSError:
                piece = b""
            if not piece:
                self._drop(ready)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                client.close()
                return
            for one, other in ((client, server), (server, client)):
                self._pairs[one] = other
                self._selector.register(one, selectors.EVENT_READ)

    def _drop(self, one: socket.socket) -> None:
        for each in (one, self._pairs.get(one)):
            if each is not None and self._pairs.pop(each, None) is not None:
                self._selector.unregister(each)
                each.close()


@contextlib.contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """A proxy in front of `url` for the block."""
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()
