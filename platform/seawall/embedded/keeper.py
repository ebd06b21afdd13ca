"""The keeper: the one process of a home that owns its servers.

Users hold a connection to its unix socket for as long as they use the servers. The kernel closes a connection
when the last process that has it is gone, SIGKILLed or not, so "no user left" is an end of file on each. The
keeper then waits `linger` seconds for the next user, stops the servers and ends. SIGTERM and SIGINT end it at
once. When the keeper itself is SIGKILLed, the kernel passes that on to the servers (see `process`).

How exactly one keeper runs, and no user ever meets one that is leaving: whoever wants to connect takes the
home's lock, and connects; if nobody listens he binds the socket himself, starts a keeper with it as its
standard input and connects, all under the lock (`attachment`). A keeper that wants to leave takes the same
lock, looks for a last connection in its backlog, and closes and unlinks the socket. So every connection made
is served, and by the time another keeper is started this one only stops its servers. That keeper starts its
own when the data directory's lock is free: after the last process of this one's servers has ended (`site`).

One thread, one selector: connections, and a pipe that signals (of ended children, too) are written to.
"""

import contextlib
import logging
import os
import selectors
import signal
import socket
import time
from dataclasses import dataclass
from types import FrameType

from seawall.embedded.engines import ENGINES
from seawall.embedded.home import Home
from seawall.embedded.server import Server, State
from seawall.embedded.site import Site
from seawall.embedded.wire import MAX_LINE, Answer, Ask, parse_ask, send

log = logging.getLogger(__name__)

_SOON = 0.05
_STOP_TIMEOUT = 20.0  # PostgreSQL writes a checkpoint; a server that takes longer is killed and recovers


@dataclass(eq=False)
class _Peer:
    """One connection: silent so far (`ask` None), a question or a user (`ask.need`)."""

    connection: socket.socket
    ask: Ask | None = None
    waiting: bool = False

    @property
    def is_user(self) -> bool:
        return self.ask is not None and bool(self.ask.need)


class Keeper:
    """Serves a listening socket until nobody needs the servers."""

    def __init__(self, home: Home, listener: socket.socket, *, linger: float) -> None:
        self._home = home
        self._listener = listener
        self._linger = linger
        self._site: Site | None = None
        self._servers = {name: Server(name, self._open_site) for name in ENGINES}
        self._peers: set[_Peer] = set()
        self._leave_at: float | None = time.monotonic() + linger
        self._told_to_stop = False
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        """Serve; returns when the servers have stopped."""
        self._watch_signals()
        self._listener.settimeout(0)
        self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        try:
            while not (self._may_leave() and self._leave()):
                for key, _ in self._selector.select(self._timeout()):
                    key.data()
                self._tick()
        finally:
            for peer in self._peers:
                peer.connection.close()
            self._stop_servers()

    def _open_site(self) -> Site:
        if self._site is None:
            self._site = Site(self._home)
        return self._site

    def _watch_signals(self) -> None:
        wakeup, written = socket.socketpair()
        wakeup.settimeout(0)
        written.settimeout(0)
        signal.set_wakeup_fd(written.detach(), warn_on_full_buffer=False)

        def drain() -> None:
            wakeup.recv(4096)

        def stop(signum: int, frame: FrameType | None) -> None:
            del signum, frame
            self._told_to_stop = True

        def note(signum: int, frame: FrameType | None) -> None:
            """Only wake the selector: the next tick looks at the children."""

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGCHLD, note)
        self._selector.register(wakeup, selectors.EVENT_READ, drain)

    # Users come and go.

    def _accept(self) -> bool:
        """Take in who waits in the backlog; whether there was anybody."""
        came = False
        with contextlib.suppress(BlockingIOError):
            while True:
                connection, _ = self._listener.accept()
                connection.settimeout(0)
                peer = _Peer(connection)
                self._peers.add(peer)
                self._selector.register(connection, selectors.EVENT_READ, lambda peer=peer: self._read(peer))
                came = True
        return came

    def _read(self, peer: _Peer) -> None:
        try:
            line = peer.connection.recv(MAX_LINE)
        except ConnectionError:
            line = b""
        if not line:
            self._drop(peer)
        elif peer.ask is None:
            self._hear(peer, line)

    def _hear(self, peer: _Peer, line: bytes) -> None:
        try:
            peer.ask = parse_ask(line)
            needed = [self._servers[name] for name in peer.ask.need]
        except (ValueError, TypeError, KeyError):
            log.exception("a peer said what this version does not understand: %r", line[:200])
            self._drop(peer)
            return
        if not peer.is_user:
            self._tell(peer)
            return
        self._leave_at = None
        peer.waiting = True
        for server in needed:
            server.need(time.monotonic())

    def _drop(self, peer: _Peer) -> None:
        self._peers.discard(peer)
        self._selector.unregister(peer.connection)
        peer.connection.close()
        if peer.is_user and not any(other.is_user for other in self._peers):
            self._leave_at = time.monotonic() + self._linger

    def _tell(self, peer: _Peer, error: str | None = None) -> None:
        directory = None if self._site is None else str(self._site.directory)
        servers = {name: answer for name, server in self._servers.items() if (answer := server.answer)}
        with contextlib.suppress(OSError):  # it is gone: its end of file comes next
            send(
                peer.connection, Answer(keeper=os.getpid(), directory=directory, servers=servers, error=error)
            )

    # The servers live.

    def _tick(self) -> None:
        for server in self._servers.values():
            server.tick(time.monotonic())
        for peer in [peer for peer in self._peers if peer.waiting]:
            needed = [self._servers[name] for name in peer.ask.need] if peer.ask else []
            error = next((server.given_up for server in needed if server.given_up), None)
            if error is not None:
                self._tell(peer, error)
                self._drop(peer)
            elif all(server.state is State.READY for server in needed):
                self._tell(peer)
                peer.waiting = False

    def _timeout(self) -> float | None:
        now = time.monotonic()
        moments = [server.wakes_at(now) for server in self._servers.values()]
        due = [moment for moment in (*moments, self._leave_at) if moment is not None]
        return max(0.0, min(due) - now) if due else None

    # The end.

    def _may_leave(self) -> bool:
        return self._told_to_stop or (self._leave_at is not None and time.monotonic() >= self._leave_at)

    def _leave(self) -> bool:
        """Stop listening, unless somebody has just come or is about to."""
        self._leave_at = time.monotonic() + _SOON
        try:
            with self._home.turn(deadline=0.0):
                unknown = self._accept() or any(peer.ask is None for peer in self._peers)
                if unknown and not self._told_to_stop:
                    return False
                self._home.socket.unlink(missing_ok=True)
                self._selector.unregister(self._listener)
                self._listener.close()
        except TimeoutError:
            return False
        return True

    def _stop_servers(self) -> None:
        running = [server for server in self._servers.values() if server.signal()]
        deadline = time.monotonic() + _STOP_TIMEOUT
        for server in running:
            if not server.wait(deadline - time.monotonic()):
                log.error("%s did not stop within %.0f s and is killed", server.name, _STOP_TIMEOUT)
                server.signal(force=True)
                server.wait(_STOP_TIMEOUT)
        log.info("left: nobody needs the servers" if not self._told_to_stop else "stopped by a signal")
