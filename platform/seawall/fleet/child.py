"""One running process of a program: its session, its output, its notifications.

It has a session of its own, so a terminal's Ctrl-C reaches only the fleet. It dies with us
(`seawall.tether`: start children from the main thread).
Its exit is seen without reaping it (WNOWAIT): as long as the zombie stands, its pid and so its session
cannot become somebody else's, and what is left of the session can be killed safely.

Each child has a notification socket of its own, bound to an abstract address that the kernel picks: who
sent a message is known by where it arrived, a message of an earlier run cannot be taken for one of this
run, and nothing is left on disk.
"""

import codecs
import contextlib
import functools
import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from itertools import takewhile
from typing import Final

from seawall.fleet.keeper import kill_session
from seawall.fleet.program import Program
from seawall.tether import die_with

_CHUNK: Final = 65536
_LAST_CHUNKS: Final = 64  # what a process outside the session may still write must not hold us up for ever
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")
_LONGEST_LINE: Final = 1 << 18  # characters: more than a line of `seawall.logs` has, which is not to be cut


class Lines:
    """Bytes in, lines out. One without an end waits for it, up to `_LONGEST_LINE` characters."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""

    def feed(self, chunk: bytes, *, final: bool = False) -> Iterator[str]:
        """The lines that `chunk` completes; with `final` also the one that will have no end."""
        *lines, self._rest = (self._rest + self._decoder.decode(chunk, final)).split("\n")
        if self._rest and (final or len(self._rest) > _LONGEST_LINE):
            lines.append(self._rest)
            self._rest = ""
        for line in lines:
            text = line.removesuffix("\r")
            yield text[:_LONGEST_LINE]
            for start in range(_LONGEST_LINE, len(text), _LONGEST_LINE):
                yield text[start : start + _LONGEST_LINE]


class Child:
    """A started process.

    Raises:
        OSError: the program cannot be executed.
    """

    def __init__(self, program: Program, *, now: float) -> None:
        self.program = program
        self.started = now
        self.last_line = ""
        self._lines = Lines()
        self.notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notifications.settimeout(0.0)
        self.notifications.bind("")
        try:
            self._popen = self._spawn()
        except BaseException:
            self.notifications.close()
            raise
        assert self._popen.stdout is not None  # noqa: S101 - narrows Popen's type
        self.output = self._popen.stdout
        os.set_blocking(self.output.fileno(), False)

    @property
    def pid(self) -> int:
        """Its process id, and that of its session."""
        return self._popen.pid

    def _spawn(self) -> subprocess.Popen[bytes]:
        address: bytes = self.notifications.getsockname()
        return subprocess.Popen(
            self.program.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
            preexec_fn=functools.partial(die_with, os.getpid()),  # noqa: PLW1509 - one prctl call, and the fleet has one thread
            env={
                "PYTHONUNBUFFERED": "1",  # last words must not wait in a buffer
                **os.environ,
                "SEAWALL_LOG__PROGRAM": self.program.name,
                **self.program.environment,
                "NOTIFY_SOCKET": "@" + address[1:].decode(),
            },
        )

    def read(self) -> list[str] | None:
        """The lines that arrived; None at the end of the output."""
        chunk = self._chunk()
        return None if chunk == b"" else self._remember(self._lines.feed(chunk or b""))

    def _chunk(self) -> bytes | None:
        """What the pipe holds: empty at its end, None while there is nothing."""
        try:
            return self.output.read(_CHUNK)
        except OSError:
            return b""

    def notified(self) -> Iterator[tuple[str, str]]:
        """The sd_notify assignments that arrived, such as `("READY", "1")`."""
        while True:
            try:
                message = self.notifications.recv(4096)
            except OSError:
                return
            for line in message.decode(errors="replace").splitlines():
                key, _, value = line.partition("=")
                yield key, value

    def signal(self, signum: signal.Signals) -> None:
        """SIGKILL goes to the whole session, any other signal to the process that leads it."""
        if signum is signal.SIGKILL:
            kill_session(self.pid)
        else:
            self._popen.send_signal(signum)

    def has_exited(self) -> bool:
        """Whether it ended and waits for `close`."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self.pid, flags) is not None

    def close(self) -> tuple[int, list[str]]:
        """Kill what is left of the session; returns the `Popen.returncode` and the last lines."""
        kill_session(self.pid)
        rest = b"".join(takewhile(bool, (self._chunk() or b"" for _ in range(_LAST_CHUNKS))))
        lines = self._remember(self._lines.feed(rest, final=True))
        self.output.close()
        self.notifications.close()
        status = self._popen.wait()
        with contextlib.suppress(ChildProcessError):  # its orphans are ours to reap where we are pid 1
            while os.waitpid(-self.pid, os.WNOHANG)[0]:
                pass
        return status, lines

    def _remember(self, lines: Iterator[str]) -> list[str]:
        remembered = list(lines)
        if last := next((line for line in reversed(remembered) if line.strip()), ""):
            self.last_line = _said(last)
        return remembered


def _said(line: str) -> str:
    """What a line says: of one of ours as JSON, its message; without the colours of one for a terminal."""
    if line.startswith('{"timestamp"'):
        with contextlib.suppress(ValueError):
            return str(json.loads(line)["event"])
    return _COLOURS.sub("", line)
