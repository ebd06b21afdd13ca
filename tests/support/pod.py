"""Programs of deploy/ as containers of one network of their own, where every port of the files is free."""

import contextlib
import functools
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from seawall.embedded.programs import find
from support import contained
from support.delivery import ROOT
from support.deployed import Program
from support.processes import Proc
from support.proxy import Proxy
from support.waiting import wait_until

_POSTGRES: Final = 5432
_AS_ANYBODY: Final = ("--user", "--map-root-user")
_KEEPER: Final = """
import fcntl, socket, struct, sys
SIOCSIFFLAGS, UP = 0x8914, 0x41
with socket.socket() as any, socket.socket(fileno=int(sys.argv[1])) as test:
    fcntl.ioctl(any, SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", UP))
    with socket.create_server(("127.0.0.1", int(sys.argv[2])), backlog=200) as listener:
        socket.send_fds(test, [b"."], [listener.fileno()])
    test.recv(1)  # until the test is over
"""
_REDIS_CLI: Final = """#!{python}
import os, socket
with socket.create_connection(("127.0.0.1", 6379), timeout=3) as redis:
    redis.sendall(b"AUTH %s\\r\\nPING\\r\\n" % os.environb[b"REDISCLI_AUTH"])
    answers = redis.makefile()
    answers.readline()
    print(answers.readline().strip().lstrip("+"))
"""


@functools.cache
def entering() -> tuple[tuple[str, ...], str]:
    """The options with which `unshare` makes a network and mounts here, and why it does not."""
    said = ""
    for options in ((), _AS_ANYBODY):
        command = ["unshare", *options, "--net", "--mount", "true"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        except OSError as exc:
            return (), str(exc)
        if not done.returncode:
            return options, ""
        said = done.stderr.strip()
    return (), said


class Pod:
    """Containers that share a network in which `postgres:5432` is the server of a test."""

    def __init__(self, keeper: int, folder: Path, postgres: Proxy, names: Sequence[str]) -> None:
        self.postgres = postgres
        self._entering = ("nsenter", *_as_whom(keeper), f"--net=/proc/{keeper}/ns/net")
        self._folder = folder
        (folder / "hosts").write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *names)))
        self._tools = _tools(folder / "tools")
        self.up: dict[str, tuple[Program, Proc]] = {}

    @classmethod
    @contextlib.contextmanager
    def opened(cls, folder: Path, database_url: str, names: Sequence[str] = ()) -> "Iterator[Pod]":
        """A new one; all that runs in it ends with the block."""
        folder.mkdir()
        ours, theirs = socket.socketpair()
        with ours, theirs, contextlib.ExitStack() as stack:
            argv = [sys.executable, "-c", _KEEPER, str(theirs.fileno()), str(_POSTGRES)]
            keeper = subprocess.Popen(
                ["unshare", *entering()[0], "--net", *argv],
                pass_fds=[theirs.fileno()],
            )
            stack.callback(keeper.wait, 30)
            stack.callback(ours.close)
            _, (listener,), _, _ = socket.recv_fds(ours, 1, 1)
            proxy = Proxy(database_url, socket.socket(fileno=listener))
            stack.callback(proxy.close)
            pod = cls(keeper.pid, folder, proxy, names)
            stack.callback(pod._destroy)
            yield pod

    def start(self, program: Program) -> Proc:
        """Run it; see `contained.py` for what it sees."""
        root = self._folder / program.name / "root"
        root.mkdir(parents=True, exist_ok=True)
        writable = [(self.seen(program, place), place, True) for place in (*program.scratch, *program.kept)]
        shown = [(each, each, False) for each in (ROOT, Path(sys.prefix), Path(sys.base_prefix))]
        spec = {
            "root": root,
            "binds": [
                *writable,
                *shown,
                *((source, target, False) for source, target in program.mounts),
                (self._folder / "hosts", "/etc/hosts", False),
                (self._tools, _TOOLS, False),
            ],
            "directory": program.directory,
            "environment": self._environment(program),
            "argv": program.argv,
        }
        argv = [*self._entering, "unshare", "--mount", sys.executable, contained.__file__]
        proc = Proc([*argv, json.dumps(spec, default=str)], log=self._folder / f"{program.name}.log")
        self.up[program.name] = program, proc
        return proc

    def seen(self, program: Program, place: str) -> Path:
        """Where a directory of its own, that it may write to, is seen from here."""
        path = self._folder / program.name / place.strip("/").replace("/", "-")
        path.mkdir(parents=True, exist_ok=True)
        return path

    def asks(self, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a container, as `docker exec` does."""
        program, proc = self.up[name]
        inside = [f"{key}={value}" for key, value in self._environment(program).items()]
        entering = [
            "nsenter",
            *_as_whom(proc.pid),
            f"--target={proc.pid}",
            "--net",
            "--mount",
            "--root",
            "--wd",
        ]
        return subprocess.run(
            [*entering, "env", "-i", *inside, *argv], capture_output=True, text=True, check=False, timeout=120
        )

    def wait_healthy(self, name: str) -> None:
        """Until the health check of the file says yes."""
        program, proc = self.up[name]
        last: list[subprocess.CompletedProcess[str]] = []

        def healthy() -> bool:
            assert proc.popen.poll() is None, f"{name} exited {proc.popen.returncode}:\n{proc.output}"
            last[:] = [self.asks(name, *program.healthcheck)]
            return not last[0].returncode

        try:
            wait_until(healthy, timeout=60, what=f"{name} to be healthy")
        except AssertionError as exc:
            raise AssertionError(f"{exc}: {last}\n{proc.output}") from None

    def stop(self, name: str) -> int:
        """The signal of the file, and the exit status within the time of the file."""
        program, proc = self.up[name]
        proc.signal(program.stop_signal)
        return proc.wait(program.patience)

    def _environment(self, program: Program) -> dict[str, str]:
        marks = {name: value for name, value in os.environ.items() if name.startswith("PYTEST_")}
        return {"PATH": f"{_TOOLS}:/usr/bin:/bin", **marks, **program.environment}

    def _destroy(self) -> None:
        for _, proc in self.up.values():
            proc.destroy()


_TOOLS: Final = "/opt/tools"


def _as_whom(pid: int) -> tuple[str, ...]:
    """The user namespace of a process, if `unshare` makes one here."""
    return (f"--user=/proc/{pid}/ns/user", "--preserve-credentials") if entering()[0] else ()


def _tools(folder: Path) -> Path:
    """What the images of Redis and PostgreSQL bring: their programs, from where ours come from."""
    folder.mkdir()
    redis, postgres = find("redis").executable, find("postgres").executable
    shutil.copy(redis, folder / "redis-server")
    (folder / "pg_isready").write_text(f'#!/bin/sh\nexec {postgres.with_name("pg_isready")} "$@"\n')
    (folder / "redis-cli").write_text(_REDIS_CLI.format(python=sys.executable))
    for tool in folder.iterdir():
        tool.chmod(0o755)
    return folder
