"""A real TCP proxy in front of a server: it forwards, goes deaf, and cuts.

Deaf, it keeps every connection and accepts new ones, and passes nothing on: what a firewall or a dying host
does. Hearing again, it passes on what it was sent meanwhile.
"""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit


class Proxy:
    """Forwards to `target` until it is closed; `url` leads through it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=200)
        self._hears = threading.Event()
        self._hears.set()
        self._closed = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.cut_after: Callable[[bytes], bool] | None = None
        """Whether to pass a client's piece on to the server, and cut before the answer comes."""
        user = f"{parts.username}:{parts.password}@"
        self.url = parts._replace(netloc=f"{user}127.0.0.1:{self._listener.getsockname()[1]}").geturl()
        self._start(self._accept)

    def go_deaf(self) -> None:
        self._hears.clear()

    def hear_again(self) -> None:
        self._hears.set()

    def close(self) -> None:
        self._closed = True
        self._hears.set()
        for each in (self._listener, *self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in (self._listener, *self._sockets):
            each.close()

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self._closed:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        self._hears.wait()
        try:
            server = socket.create_connection(self._target)
        except OSError:
            self._end(client)
            return
        self._sockets.append(server)
        self._start(self._forward, server, client)
        self._forward(client, server, self.cut_after)

    def _forward(
        self, source: socket.socket, target: socket.socket, cut: Callable[[bytes], bool] | None = None
    ) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                self._hears.wait()
                if cut is not None and cut(piece):
                    self._end(source)
                    target.sendall(piece)
                    return
                target.sendall(piece)
        self._end(source, target)

    @staticmethod
    def _end(*sockets: socket.socket) -> None:
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    opened = Proxy(url)
    try:
        yield opened
    finally:
        opened.close()
