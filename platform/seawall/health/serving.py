"""Health over HTTP, on a port or a unix socket: `GET /live`, `/ready` and `/startup`, 200 or 503.

The answer is JSON. It tells which checks failed and why, and no URL or password; whoever reaches the address
may read it. The server is a thread of this process, so an answer also says that the interpreter runs.
"""

import contextlib
import http.client
import json
import logging
import os
import socket
import socketserver
import stat
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final

from seawall.errors import ConfigError, StartupError
from seawall.health.checks import Health, Question
from seawall.urls import UNIX, address_of

logger = logging.getLogger(__name__)

_SLOW_CLIENT: Final = 5.0  # seconds a client may take to say what it wants
_STOP: Final = 10.0


class HealthServer:
    """A service that answers at `address`: `host:port`, `:port` or `unix:/path`.

    Raises:
        ConfigError: `address` is none.
    """

    def __init__(self, health: Health, address: str) -> None:
        self._health = health
        self._place = _parse(address)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Where it answers; the port that was chosen, if it was asked to choose one (0)."""
        if isinstance(self._place, Path) or self._server is None:
            return _written(self._place)
        host, port = self._server.server_address[:2]
        return _written((str(host), int(port)))

    def start(self) -> None:
        """Listen and answer, in a thread.

        Raises:
            StartupError: the address is in use or not ours.
        """
        if isinstance(self._place, Path):
            _remove_stale(self._place)
        try:
            server = _Server(self._place, self._health)
        except OSError as exc:
            raise StartupError(
                f"health.address={_written(self._place)!r} cannot be listened on "
                f"({exc.strerror or exc}): choose another"
            ) from exc
        self._server = server
        self._thread = threading.Thread(target=self._serve, name="seawall-health", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop answering; the address is free afterwards."""
        server, self._server = self._server, None
        if server is None:
            return
        if os.getpid() == server.pid:
            server.shutdown()
            if self._thread is not None:
                self._thread.join(_STOP)
        server.server_close()
        if isinstance(self._place, Path) and os.getpid() == server.pid:
            self._place.unlink(missing_ok=True)

    def _serve(self) -> None:
        server = self._server
        try:
            if server is not None:
                server.serve_forever(poll_interval=0.05)
        except Exception:
            logger.exception("health is no longer answered")


def ask(address: str, question: Question, *, timeout: float = 1.0) -> tuple[bool, dict[str, Any]]:
    """What the process at `address` says; one that cannot be asked is not well.

    Raises:
        ConfigError: `address` is none.
    """
    place = _parse(address)
    connection: http.client.HTTPConnection
    if isinstance(place, Path):
        connection = _UnixConnection(place, timeout)
    else:
        connection = http.client.HTTPConnection(place[0] or "127.0.0.1", place[1], timeout=timeout)
    try:
        connection.request("GET", f"/{question.value}")
        response = connection.getresponse()
        return response.status == http.client.OK, json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as exc:
        reason = f"{_written(place)} does not answer: {_why(exc)}"
        return False, {"question": question.value, "ok": False, "error": reason, "checks": []}
    finally:
        connection.close()


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 32

    def __init__(self, place: Path | tuple[str, int], health: Health) -> None:
        self.health = health
        self.pid = os.getpid()
        if isinstance(place, Path):
            self.address_family = socket.AF_UNIX
        elif ":" in place[0]:
            self.address_family = socket.AF_INET6
        super().__init__(str(place) if isinstance(place, Path) else place, _Handler)  # type: ignore[arg-type]
        if isinstance(place, Path):
            place.chmod(0o600)
        _open.append(self)

    def server_close(self) -> None:
        with contextlib.suppress(ValueError):
            _open.remove(self)
        super().server_close()

    def handle_error(self, *arguments: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    timeout = _SLOW_CLIENT
    server: _Server

    def do_GET(self) -> None:
        """Answer one question."""
        try:
            question = Question(self.path.partition("?")[0].strip("/"))
        except ValueError:
            self._answer(404, {"error": "ask /live, /ready or /startup"})
            return
        report = self.server.health.ask(question)
        self._answer(200 if report.ok else 503, report.as_dict())

    def do_HEAD(self) -> None:
        """The status alone."""
        self.do_GET()

    def log_message(self, *arguments: Any) -> None:
        """Nothing: it is asked every few seconds."""

    def address_string(self) -> str:
        return "health"

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _parse(address: str) -> Path | tuple[str, int]:
    try:
        return address_of(address)
    except ValueError as exc:
        raise ConfigError(f"health.address={address!r} {exc}") from None


def _written(place: Path | tuple[str, int]) -> str:
    if isinstance(place, Path):
        return f"{UNIX}{place}"
    return f"[{place[0]}]:{place[1]}" if ":" in place[0] else f"{place[0]}:{place[1]}"


def _remove_stale(path: Path) -> None:
    """Remove the socket that a killed process left; one that is listened on stays, and refuses us."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(path.stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()


_open: list[_Server] = []


def _after_fork() -> None:
    """A child does not listen where its parent does, or the port would outlive the parent."""
    for server in _open:
        server.socket.close()
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)


def _why(error: Exception) -> str:
    """An error in the words of the system, without its number."""
    words = error.strerror if isinstance(error, OSError) else None
    return (words or str(error) or type(error).__name__).lower()
