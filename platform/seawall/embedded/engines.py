"""What is particular to each server: how its directory is made, how it is started, when it is ready.

Neither listens on anything but 127.0.0.1 and its own port, both ask for a password, and a password reaches
them by standard input only: it is in no argument, environment or second file. There are no unix sockets,
and so no limit on the length of a path.
"""

import os
import signal
import socket
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from seawall.embedded.home import Access
from seawall.embedded.preflight import check_major
from seawall.embedded.process import last_words, run
from seawall.embedded.programs import Program
from seawall.embedded.site import Site, remove_tree
from seawall.errors import StartupError

LOCALHOST = "127.0.0.1"


class Engine(ABC):
    """One kind of server on one site. Methods may raise StartupError and OSError."""

    name: ClassVar[str]
    stop_signal: ClassVar[signal.Signals]  # the clean and fast way to stop

    def __init__(self, site: Site, program: Program, version: str) -> None:
        self._site = site
        self._program = program
        self._version = version

    def _run(self, *argv: str | Path, stdin: bytes = b"") -> tuple[int, str]:
        """Run a program to its end as the servers' user; like a server it keeps the site locked."""
        return run(argv, account=self._site.account, stdin=stdin, keep=[self._site.lock])

    def bury(self) -> None:  # noqa: B027 - most leave nothing
        """Remove what a killed predecessor left; called while none of its processes can be alive."""

    @abstractmethod
    def prepare(self, password: str, *, changed: bool) -> None:
        """Make the directory ready for a start; `changed`: it may have been made with another password."""

    @abstractmethod
    def command(self, access: Access) -> tuple[list[str], bytes]:
        """The arguments and the standard input that start the server."""

    @abstractmethod
    def ready(self, access: Access, pid: int) -> bool:
        """Whether the server, running as `pid`, serves requests."""

    @staticmethod
    @abstractmethod
    def url(access: Access) -> str:
        """The URL for clients, password included."""


class Redis(Engine):
    """Valkey or Redis; every acknowledged write is on disk."""

    name = "redis"
    stop_signal = signal.SIGTERM

    def prepare(self, password: str, *, changed: bool) -> None:
        """Make an empty directory; the rest is in the configuration."""
        del password, changed
        self._site.subdirectory(self.name)

    def command(self, access: Access) -> tuple[list[str], bytes]:
        """The server reads its configuration from standard input."""
        directory = str(self._site.subdirectory(self.name)).replace("\\", "\\\\").replace('"', '\\"')
        configuration = (
            f"bind {LOCALHOST}",
            f"port {access.port}",
            f"requirepass {access.password}",
            f'dir "{directory}"',
            "appendonly yes",
            "appendfsync always",
            'save ""',
            "maxmemory-policy noeviction",
        )
        return [os.fspath(self._program.executable), "-"], "\n".join(configuration).encode() + b"\n"

    def ready(self, access: Access, pid: int) -> bool:
        """Whether it answers PING; while it loads its data it says -LOADING."""
        del pid
        try:
            with socket.create_connection((LOCALHOST, access.port), timeout=0.5) as connection:
                connection.sendall(f"AUTH {access.password}\r\nPING\r\n".encode())
                reply = b""
                while reply.count(b"\r\n") < 2 and (piece := connection.recv(1024)):  # noqa: PLR2004
                    reply += piece
        except OSError:
            return False
        return reply == b"+OK\r\n+PONG\r\n"

    @staticmethod
    def url(access: Access) -> str:
        """Database 0."""
        return f"redis://:{access.password}@{LOCALHOST}:{access.port}/0"


class Postgres(Engine):
    """PostgreSQL with one superuser and one database, both named `app`."""

    name = "postgres"
    stop_signal = signal.SIGINT

    def bury(self) -> None:
        """Remove postmaster.pid: its number may be a zombie's, or another process's by now."""
        (self._site.directory / self.name / "postmaster.pid").unlink(missing_ok=True)

    def prepare(self, password: str, *, changed: bool) -> None:
        """Make the cluster, or check that this PostgreSQL can use the one there is."""
        directory = self._site.directory / self.name
        if (directory / "PG_VERSION").is_file():
            check_major(directory, self._program, self._version)
            if changed:
                self._execute(directory, f"ALTER ROLE app PASSWORD '{password}'")
            return
        # Made aside and renamed: a directory of this name is complete, whenever we may have been killed.
        draft = directory.with_suffix(".new")
        remove_tree(draft)
        self._initdb(draft)
        (draft / "pg_hba.conf").write_text(f"host all all {LOCALHOST}/32 scram-sha-256\n")
        self._execute(
            draft, f"ALTER ROLE app PASSWORD '{password}'", "CREATE DATABASE app STRATEGY FILE_COPY"
        )
        draft.rename(directory)

    def command(self, access: Access) -> tuple[list[str], bytes]:
        """Everything of ours is in the arguments: postgresql.conf is the user's."""
        settings = {
            "listen_addresses": LOCALHOST,
            "port": access.port,
            "unix_socket_directories": "",
            "log_checkpoints": "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        directory = self._site.directory / self.name
        return [os.fspath(self._program.executable), "-D", os.fspath(directory), *options], b""

    def ready(self, access: Access, pid: int) -> bool:
        """Whether postmaster.pid says so."""
        del access
        try:
            lines = (self._site.directory / self.name / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        # The file of a postmaster that was SIGKILLed still says ready: it is ours only with our pid.
        return lines[:1] == [str(pid)] and [line.strip() for line in lines[7:8]] == ["ready"]

    @staticmethod
    def url(access: Access) -> str:
        """The database `app`."""
        return f"postgresql://app:{access.password}@{LOCALHOST}:{access.port}/app"

    def _initdb(self, directory: Path) -> None:
        initdb = self._program.executable.with_name("initdb")
        # Nobody can connect until pg_hba.conf is ours, so no password is needed here (initdb wants a file).
        options = "-U app -A reject -E UTF8 --locale=C --no-sync --no-instructions --wal-segsize=1"
        status, output = self._run(initdb, "-D", directory, *options.split())
        if status != 0:
            raise StartupError(
                f"postgres: initdb could not make {directory} ({last_words(output)}):"
                " repair that, or set SEAWALL_DATABASE_URL to a server of yours"
            )

    def _execute(self, directory: Path, *statements: str) -> None:
        """Run statements while no server runs. They may hold a password: they must not be logged."""
        quiet = ("-c", "log_min_error_statement=panic", "-c", "log_checkpoints=off")
        status, output = self._run(
            *(self._program.executable, "--single", "-D", directory, *quiet, "postgres"),
            stdin="".join(f"{statement}\n" for statement in statements).encode(),
        )
        if status != 0 or "ERROR:" in output:
            raise StartupError(
                f"postgres: {directory} could not be set up ({last_words(output)}):"
                " move the directory away to start empty"
            )


ENGINES: dict[str, type[Engine]] = {engine.name: engine for engine in (Redis, Postgres)}
