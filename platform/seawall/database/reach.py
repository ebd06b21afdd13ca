"""Whether PostgreSQL answers, without a session: no login, and none of its connections is used up.

A start-up packet is sent and the first answer read. A request to authenticate, or a refusal of who we are,
comes from a server that takes connections; "starting up" and "shutting down" do not.
"""

import os
import socket
import struct
import time
from typing import Final

from psycopg.conninfo import conninfo_to_dict

from seawall.errors import DatabaseUnavailable

_PROTOCOL: Final = 196608  # 3.0
_AUTHENTICATION: Final = b"R"
_WHO_WE_ARE: Final = "28"  # SQLSTATE class: the server spoke to us and did not like our name or our TLS
_LARGEST_ANSWER: Final = 8192


def reach(url: str, timeout: float) -> None:
    """Return if one of the hosts of `url` answers within `timeout` seconds.

    Raises:
        DatabaseUnavailable: none does.
    """
    given = {name: str(value) for name, value in conninfo_to_dict(url).items() if value is not None}
    hosts = (given.get("hostaddr") or given.get("host") or "localhost").split(",")
    ports = given.get("port", "5432").split(",")
    user = given.get("user", "postgres")
    problems = []
    deadline = time.monotonic() + timeout
    for number, host in enumerate(hosts):
        port = int((ports[number] if len(ports) == len(hosts) else ports[0]) or 5432)
        share = max(0.001, deadline - time.monotonic()) / (len(hosts) - number)
        problem = _ask(host, port, user, given.get("dbname", user), share)
        if problem is None:
            return
        problems.append(f"{host}:{port}: {problem}")
    raise DatabaseUnavailable("; ".join(problems))


def _ask(host: str, port: int, user: str, database: str, timeout: float) -> str | None:
    """What is wrong with this host, None if it answers."""
    deadline = time.monotonic() + timeout
    try:
        with _connect(host, port, timeout) as connection:
            connection.sendall(_hello(user, database))
            answer = b""
            while not _whole(answer):
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                piece = connection.recv(_LARGEST_ANSWER)
                if not piece:
                    return "closed the connection without an answer"
                answer += piece
    except TimeoutError:
        return f"no answer within {timeout:.2g} s"
    except OSError as exc:
        return exc.strerror or str(exc)
    if answer[:1] == _AUTHENTICATION:
        return None
    fields = {part[:1]: part[1:].decode(errors="replace") for part in answer[5:].split(b"\0") if part}
    state = fields.get(b"C", "")
    return None if state.startswith(_WHO_WE_ARE) else fields.get(b"M", "an answer that is not PostgreSQL's")


def _connect(host: str, port: int, timeout: float) -> socket.socket:
    if not host.startswith(("/", "@")):
        return socket.create_connection((host, port), timeout)
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(timeout)
        connection.connect(os.path.join(host, f".s.PGSQL.{port}"))  # noqa: PTH118 - may be abstract
    except BaseException:
        connection.close()
        raise
    return connection


def _hello(user: str, database: str) -> bytes:
    words = [*("user", user), *("database", database), *("application_name", "seawall health")]
    body = b"".join(word.encode() + b"\0" for word in words) + b"\0"
    return struct.pack("!ii", len(body) + 8, _PROTOCOL) + body


def _whole(answer: bytes) -> bool:
    """Whether the first message is complete; one that is too long to be PostgreSQL's counts as such."""
    if len(answer) < 5:  # noqa: PLR2004 - the type and four bytes of length
        return False
    length = int(struct.unpack("!i", answer[1:5])[0])
    return answer[:1] == _AUTHENTICATION or len(answer) > min(length, _LARGEST_ANSWER)
