"""The way into a running fleet: a unix socket in the home directory, open to the fleet's own user.

A client sends one request, `{"do": "restart", "only": ["default1"]}` or `{"do": "link"}`, and hears how it
goes:

    {"said": "..."}     what the fleet says meanwhile, line by line
    {"done": [...]}     the programs that were replaced, or the links into them; the last word
    {"failed": "..."}   why not all were; the last word

One message is one packet (SOCK_SEQPACKET). Nobody can hold the fleet up: who does not read is dropped.
"""

import contextlib
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from seawall.errors import SeawallError

FILE: Final = "fleet.sock"
_LONGEST: Final = 65536


class Control:
    """The listening end, for a loop that polls. `directory` exists.

    Raises:
        SeawallError: another fleet of this home runs.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._arrived: list[socket.socket] = []
        self._clients: list[socket.socket] = []  # those that have asked
        self._listener = _socket()
        try:
            self._bind()
        except BaseException:
            self._listener.close()
            raise

    def _bind(self) -> None:
        with _short(self._path) as address:
            if (other := _listener(address)) is not None:
                home = str(self._path.parent)
                raise SeawallError(
                    f"another fleet runs with home={home!r}, as process {other}: end it there with Ctrl-C "
                    f"(or `kill {other}`), or give this one a home of its own with SEAWALL_HOME"
                )
            self._path.unlink(missing_ok=True)  # a killed fleet's
            self._listener.bind(address)
            self._path.chmod(0o600)
            self._listener.listen(8)
        self._listener.setblocking(False)  # noqa: FBT003 - the standard library's signature

    def fileno(self) -> int:
        """Readable when a client has come."""
        return self._listener.fileno()

    def accept(self) -> socket.socket | None:
        """The client that has come; it is readable when it has asked."""
        with contextlib.suppress(OSError):
            client, _ = self._listener.accept()
            client.setblocking(False)  # noqa: FBT003
            self._arrived.append(client)
            return client
        return None

    def request(self, client: socket.socket) -> dict[str, Any] | None:
        """What it asks; None, and it is let go, if it has gone or talks nonsense."""
        self._arrived.remove(client)
        try:
            asked = json.loads(client.recv(_LONGEST))
        except (OSError, ValueError):
            asked = None
        if not isinstance(asked, dict):
            client.close()
            return None
        self._clients.append(client)
        return asked

    def tell(self, message: dict[str, Any], *clients: socket.socket) -> None:
        """One message to these clients, or to all."""
        packet = json.dumps(message).encode()[:_LONGEST]
        for client in clients or tuple(self._clients):
            try:
                client.send(packet)
            except OSError:
                self.drop(client)

    def dismiss(self, last_word: dict[str, Any]) -> None:
        """The last word to all, who are let go."""
        self.tell(last_word)
        for client in tuple(self._clients):
            self.drop(client)

    def drop(self, client: socket.socket) -> None:
        """Let a client go; safe to repeat."""
        if client in self._clients:
            self._clients.remove(client)
            client.close()

    def close(self) -> None:
        """Let all go; safe to repeat."""
        while self._arrived:
            self._arrived.pop().close()
        for client in tuple(self._clients):
            self.drop(client)
        if self._listener.fileno() >= 0:
            self._listener.close()
            self._path.unlink(missing_ok=True)


def ask(directory: Path, request: dict[str, Any], hear: Callable[[str], object]) -> Sequence[str]:
    """Ask the fleet of this home directory, and pass on what it says until it is done; what was done.

    Raises:
        SeawallError: no fleet runs there, it could not do all, or it ended meanwhile.
    """
    with _socket() as fleet, _short(directory / FILE) as address:
        try:
            fleet.connect(address)
            fleet.send(json.dumps(request).encode())
        except OSError as exc:
            raise SeawallError(
                f"no `seawall up` runs with home={str(directory)!r} ({exc.strerror}): set SEAWALL_HOME to "
                "its home; workers under systemd or Kubernetes are restarted there (docs/startup.md)"
            ) from exc
        while packet := fleet.recv(_LONGEST):
            message = json.loads(packet)
            if "done" in message:
                return list(message["done"])
            if "failed" in message:
                raise SeawallError(message["failed"])
            hear(message["said"])
    raise SeawallError("the fleet ended meanwhile")


def find(directory: Path) -> int | None:
    """The process of the fleet of this home directory; None if none runs there."""
    with _short(directory / FILE) as address:
        return _listener(address)


def _socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def _listener(address: str) -> int | None:
    """The process that listens there."""
    with _socket() as probe:
        if probe.connect_ex(address) != 0:
            return None
        credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", credentials)[0]
        return pid


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """`path` as a socket's address, which may be no longer than 107 bytes: through its open directory."""
    directory = None
    with contextlib.suppress(OSError):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield str(path) if directory is None else f"/proc/self/fd/{directory}/{path.name}"
    finally:
        if directory is not None:
            os.close(directory)
