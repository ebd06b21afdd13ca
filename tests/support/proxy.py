"""A real TCP proxy in front of a server: it forwards, goes deaf, is slow, dies, cuts, and loses answers.

Deaf, it keeps every connection and accepts new ones, and passes nothing on: what a firewall or a dying host
does. Hearing again, it passes on what it was sent meanwhile. Of a peer that is replaced the old connections
stay deaf (`black_hole`), and new ones lead somewhere.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit


class Proxy:
    """Forwards to `target` until it is closed; `url` leads through it."""

    def __init__(self, url: str, listener: socket.socket | None = None) -> None:
        """`listener`, which it closes, may be of another network namespace."""
        parts = urlsplit(url)
        self._target = (parts.hostname, parts.port)
        self._listener = listener or socket.create_server(("127.0.0.1", 0), backlog=200)
        self._port = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._hears = threading.Event()
        self._hears.set()
        self._closed = False
        self._sockets: set[socket.socket] = set()
        self._swallowed: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.cut_after: Callable[[bytes], bool] | None = None
        """Whether to pass a client's piece on to the server, and cut before the answer comes."""
        self.loses_answer: Callable[[bytes], bool] | None = None
        """Whether the server's answer to a client's piece is lost, and the client's connection with it."""
        self.lost: Callable[[], None] = lambda: None
        """Called once the server has answered what the client will not hear of."""
        self.delay = 0.0
        """Seconds by which every piece is late."""
        self.pieces = self.held = 0
        """What came for it to pass on, and how much of it while it was deaf."""
        user, at, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{user}{at}127.0.0.1:{self._port}").geturl()
        self._start(self._accept)

    @property
    def busy(self) -> bool:
        """Whether somebody is connected."""
        return bool(self._sockets)

    def go_deaf(self) -> None:
        self._hears.clear()

    def hear_again(self) -> None:
        self._hears.set()

    def black_hole(self) -> None:
        """Every connection that there is passes nothing on any more; new ones do."""
        with self._lock:
            self._swallowed.update(self._sockets)

    def die(self) -> None:
        """Refuse connections and cut those that there are."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def revive(self) -> None:
        """Accept connections again, at the same port; nothing if it does."""
        if self._listener.fileno() < 0:
            self._listener = socket.create_server(("127.0.0.1", self._port), backlog=200)
            self._start(self._accept)

    def cut(self) -> None:
        """End every connection there is."""
        with self._lock:
            self._end(*self._sockets)

    def close(self) -> None:
        self._closed = True
        self._hears.set()
        self.die()
        for thread in self._threads:
            thread.join(10)

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads = [*(each for each in self._threads if each.is_alive()), thread]
        thread.start()

    def _accept(self) -> None:
        listener = self._listener
        with contextlib.suppress(OSError):
            while not self._closed:
                client, _ = listener.accept()
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with self._tracked(client):
            self._hears.wait()
            try:
                server = socket.create_connection(self._target)
            except OSError:
                self._end(client)
                return
            with self._tracked(server):
                doomed = threading.Event()  # the server's next answer is lost
                back = threading.Thread(target=self._answer, args=(server, client, doomed), daemon=True)
                back.start()
                self._forward(client, server, doomed)
                back.join()

    @contextlib.contextmanager
    def _tracked(self, one: socket.socket) -> Iterator[None]:
        """Among those that are cut together, and closed at the end."""
        with self._lock:
            self._sockets.add(one)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(one)
                self._swallowed.discard(one)
                one.close()

    def _forward(self, client: socket.socket, server: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while piece := self._next(client):
                if self.cut_after is not None and self.cut_after(piece):
                    self._end(client)
                    server.sendall(piece)
                    return
                if self.loses_answer is not None and self.loses_answer(piece):
                    doomed.set()
                server.sendall(piece)
        self._end(client, server)

    def _answer(self, server: socket.socket, client: socket.socket, doomed: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while piece := self._next(server):
                if doomed.is_set():
                    self.lost()
                    break
                client.sendall(piece)
        self._end(server, client)

    def _next(self, source: socket.socket) -> bytes:
        """The next piece, when it is to be passed on; nothing at the end."""
        piece = source.recv(65536)
        self.pieces += 1
        self.held += not self._hears.is_set()
        self._hears.wait()
        time.sleep(self.delay)
        while source in self._swallowed and piece:
            piece = source.recv(65536)
        return piece

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
