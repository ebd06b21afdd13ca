"""What a process and the keeper of a home say to each other over the unix socket: one line each.

The process asks, the keeper answers once: at once to a mere question, and when the servers are ready (or
cannot be) to a user. After that a user's connection is silent; that it is open is what counts.
"""

import dataclasses
import json
import socket
from dataclasses import dataclass

MAX_LINE = 65536


@dataclass(frozen=True, kw_only=True)
class Ask:
    """`need` names the servers to run for as long as the connection is open; empty: a question only."""

    need: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ServerAnswer:
    """One server as the keeper sees it now; `pid` is None while it does not run."""

    url: str
    port: int
    pid: int | None
    restarts: int
    problem: str | None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The state of a home; `error` says why what was asked for cannot be had."""

    keeper: int
    directory: str | None
    servers: dict[str, ServerAnswer]
    error: str | None = None


def send(connection: socket.socket, message: Ask | Answer) -> None:
    """Write one message. On a unix socket a line this short goes out, and comes in, in one piece."""
    connection.sendall(json.dumps(dataclasses.asdict(message)).encode() + b"\n")


def parse_ask(line: bytes) -> Ask:
    """Raises ValueError, TypeError or KeyError for what is not an `Ask`."""
    return Ask(need=tuple(map(str, json.loads(line)["need"])))


def receive_answer(connection: socket.socket) -> Answer | None:
    """Wait for the keeper's answer; None when the keeper went away without one."""
    line = b""
    while not line.endswith(b"\n"):
        try:
            piece = connection.recv(MAX_LINE)
        except ConnectionError:
            return None
        if not piece:
            return None
        line += piece
    fields = json.loads(line)
    servers = {name: ServerAnswer(**server) for name, server in fields.pop("servers").items()}
    return Answer(servers=servers, **fields)
