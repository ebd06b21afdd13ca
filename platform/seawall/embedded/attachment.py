"""How a process uses the servers of a home: find its keeper or start one, and hold on to it.

An attachment is one open connection to the keeper; `keeper` says why that is all it takes. A forked child
inherits the connection and so counts as a user, too: the children of a prefork server keep the servers
running whatever becomes of their parent. Programs that a user starts (exec) do not inherit it.
"""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from seawall.embedded import preflight
from seawall.embedded.home import Home
from seawall.embedded.wire import Answer, Ask, receive_answer, send
from seawall.errors import StartupError
from seawall.redaction import redact_text

_ANSWER_TIMEOUT = 20.0  # a keeper that makes a database is half a second late, seconds on a busy machine


@dataclass(frozen=True, kw_only=True, repr=False)
class Servers:
    """The URLs of a home's servers, passwords included; None for one that was not asked for."""

    redis_url: str | None
    database_url: str | None

    def __repr__(self) -> str:
        return redact_text(f"Servers({self.redis_url}, {self.database_url})")


@dataclass(frozen=True, kw_only=True)
class Status:
    """What runs for a home now; the parts are named "keeper", "redis" and "postgres"."""

    running: bool
    pids: Mapping[str, int] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)
    restarts: Mapping[str, int] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None


class Attachment:
    """The use of a home's servers until `close`, the end of the block, or the death of every holder."""

    def __init__(self, home: Home, connection: socket.socket, servers: Servers) -> None:
        self.servers = servers
        self._home = home
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Attachment {self._home.path} {self.servers}>"

    @property
    def pids(self) -> Mapping[str, int]:
        """The processes behind the URLs as of now, by name: keeper, redis, postgres."""
        return _status(self._home).pids

    def close(self) -> None:
        """Let go, in this process; safe to repeat. The last user's letting go ends the servers."""
        self._connection.close()


def attach(home: Path, *, redis: bool = True, database: bool = True, timeout: float = 60.0) -> Attachment:
    """Use the servers of `home`: returns when they serve, having started what did not run.

    Raises:
        StartupError: they cannot be had, or not within `timeout` seconds; one line with cause and fix.
    """
    need = _needed(redis=redis, database=database)
    if not need:
        raise ValueError("attach(redis=False, database=False) asks for nothing: ask for one of them")
    place = Home(home)
    deadline = time.monotonic() + timeout
    try:
        if not _is_kept(place):
            preflight.check(place, need)
        place.make()
        # Without an answer we met a keeper that was told to stop, or killed: there will be another.
        while not (attachment := _try_to_attach(place, need, deadline)):
            pass
    except TimeoutError:
        raise StartupError(
            f"the servers of {place.path} were not ready within {timeout:g} s:"
            " see the log files there, or give them longer"
        ) from None
    except OSError as exc:
        raise place.unusable(exc) from exc
    return attachment


def check(home: Path, *, redis: bool = True, database: bool = True) -> None:
    """Make sure that `attach` can start these servers, as far as that shows before anything is made.

    Raises:
        StartupError: it cannot.
    """
    preflight.check(Home(home), _needed(redis=redis, database=database))


def _needed(*, redis: bool, database: bool) -> tuple[str, ...]:
    return tuple(name for name, wanted in (("redis", redis), ("postgres", database)) if wanted)


def _is_kept(home: Home) -> bool:
    """Whether a keeper listens, which has made sure of its programs."""
    try:
        _connect(home).close()
    except OSError:
        return False
    return True


def find(home: Path) -> Servers | None:
    """The URLs of servers that run for `home` now, without using or starting them; None if no keeper runs."""
    answer = _question(Home(home))
    return None if answer is None else _servers(answer, ("redis", "postgres"))


def status(home: Path) -> Status:
    """What runs for `home`, without using or starting anything."""
    return _status(Home(home))


def _try_to_attach(home: Home, need: tuple[str, ...], deadline: float) -> Attachment | None:
    with contextlib.ExitStack() as on_failure:
        connection, started = _connect_or_start(home, deadline)
        on_failure.enter_context(connection)
        answer = _ask(connection, need, deadline)
        if answer is None:
            if started:
                last = (home.log("keeper").read_text(errors="replace").splitlines() or ["it said nothing"])[
                    -1
                ]
                raise StartupError(f"the keeper ended at once ({last}): see {home.log('keeper')}")
            return None
        if answer.error is not None:
            raise StartupError(answer.error)
        on_failure.pop_all()
        return Attachment(home, connection, _servers(answer, need))


def _servers(answer: Answer, names: tuple[str, ...]) -> Servers:
    urls = {name: server.url for name, server in answer.servers.items() if name in names}
    return Servers(redis_url=urls.get("redis"), database_url=urls.get("postgres"))


def _status(home: Home) -> Status:
    answer = _question(home)
    if answer is None:
        memory = home.recall()
        return Status(
            running=False,
            ports={name: access.port for name, access in memory.access.items()},
            directory=memory.elsewhere or home.path / "data" if memory.access else None,
        )
    servers = answer.servers
    pids = {name: server.pid for name, server in servers.items() if server.pid is not None}
    return Status(
        running=True,
        pids={"keeper": answer.keeper, **pids},
        ports={name: server.port for name, server in servers.items()},
        restarts={name: server.restarts for name, server in servers.items()},
        problems={name: server.problem for name, server in servers.items() if server.problem is not None},
        directory=None if answer.directory is None else Path(answer.directory),
    )


def _question(home: Home) -> Answer | None:
    try:
        with _connect(home) as connection:
            return _ask(connection, (), time.monotonic() + _ANSWER_TIMEOUT)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError):
        return None
    except TimeoutError:
        raise StartupError(
            f"the keeper of {home.path} does not answer: it is stopped or stuck, end it and attach again"
        ) from None
    except OSError as exc:
        raise home.unusable(exc) from exc


def _ask(connection: socket.socket, need: tuple[str, ...], deadline: float) -> Answer | None:
    connection.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        send(connection, Ask(need=need))
    except ConnectionError:
        return None
    return receive_answer(connection)


def _connect_or_start(home: Home, deadline: float) -> tuple[socket.socket, bool]:
    """A connection that a keeper serves or will serve, and whether we started that keeper."""
    with home.turn(deadline):
        try:
            return _connect(home), False
        except (FileNotFoundError, ConnectionRefusedError):
            home.socket.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(home.socket))
            home.socket.chmod(0o600)
            listener.listen(512)
            starter = _start_keeper(home, listener)
            connection = _connect(home)
    # From here on only the keeper listens: should it end, our connection ends, too.
    starter.wait()
    return connection, True


def _connect(home: Home) -> socket.socket:
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.socket(socket.AF_UNIX))
        connection.connect(str(home.socket))
        stack.pop_all()
        return connection


def _start_keeper(home: Home, listener: socket.socket) -> subprocess.Popen[bytes]:
    log = home.open_log("keeper")
    try:
        return subprocess.Popen(
            # -P: the directory we happen to be in is no source of modules for it
            [sys.executable, "-P", "-m", "seawall.embedded", str(home.path)],
            stdin=listener.fileno(),
            stdout=log,
            stderr=log,
            cwd=home.path,
            start_new_session=True,
        )
    except OSError as exc:
        raise StartupError(
            f"{sys.executable!r} cannot be started ({exc.strerror}): run seawall with a Python"
        ) from exc
    finally:
        os.close(log)
