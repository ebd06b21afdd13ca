"""What outlives a fleet that was killed: a tiny process that ends the children's sessions.

Every child dies with the fleet by PR_SET_PDEATHSIG, but that reaches only the child. Celery's pool
processes ask for the same and follow; a program that a task started does not, and would run on. So a
keeper in a session of its own is told each session the fleet opens. When its standard input ends, the
fleet is gone, however it went, and the keeper kills what is left of them. Both guards stand alone:
whoever kills the keeper too still has the first one. What opens a session of its own escapes both.

This file runs by its path in an isolated interpreter (`python -I -S`, about 30 ms and 11 MB), so it
imports the standard library only. Its input is one line a session: `+1234` opened, `-1234` closed.
A session is named by the pid of its first process; the kernel gives that number to nobody else while
the session has a member, so close it before the first process is reaped.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable


def session_members(session: int) -> list[int]:
    """The pids of `session` that run (zombies do not)."""
    members = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - pathlib doubles the time of this walk
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as file:  # noqa: PTH123
                state, _parent, _group, owner, *_ = file.read().rpartition(b")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(owner) == session and state not in b"ZX":
            members.append(int(entry))
    return members


def kill_session(session: int, *, timeout: float = 2.0) -> None:
    """SIGKILL every process of `session` and wait until they are gone, at most `timeout` seconds.

    Again and again, because a process may fork while the others are being killed.
    """
    deadline = time.monotonic() + timeout
    while (members := session_members(session)) and time.monotonic() < deadline:
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


class Keeper:
    """The fleet's end of the keeper process. Losing that process costs the second guard, nothing else."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            start_new_session=True,
        )

    def opened(self, session: int) -> None:
        """From now on `session` is killed if we are."""
        self._tell(f"+{session}\n")

    def closed(self, session: int) -> None:
        """`session` has no member left."""
        self._tell(f"-{session}\n")

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None  # noqa: S101 - narrows Popen's type
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(line.encode())

    def close(self) -> None:
        """Let it go: what is still open now is killed."""
        assert self._process.stdin is not None  # noqa: S101 - narrows Popen's type
        self._process.stdin.close()
        self._process.wait()


def keep(lines: Iterable[str]) -> None:
    """Follow `lines` to their end, then kill the sessions that are still open."""
    sessions: set[int] = set()
    for line in lines:
        change = sessions.add if line.startswith("+") else sessions.discard
        change(int(line[1:]))
    for session in sessions:
        kill_session(session)


if __name__ == "__main__":
    for unwanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(unwanted, signal.SIG_IGN)
    keep(sys.stdin)
