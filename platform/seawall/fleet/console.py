"""The fleet's output: one line at a time, prefixed with the name of the program that wrote it.

Or as JSON, where nobody reads along: lines of programs that are JSON, which say whose they are by themselves
(`SEAWALL_LOG__PROGRAM`), pass as they are, and any other becomes an object with the same fields.

Whoever reads us must never stop the fleet: a terminal held by Ctrl-S, a pager or a stalled connection
would block our only thread, and behind it every child that logs. So writing never blocks: what cannot be
written waits in a bounded backlog, and lines beyond it are dropped and counted. O_NONBLOCK belongs to the
open file and would be shared with the shell, so terminals and pipes are opened once more for ourselves.

A reader that went away (`seawall up | head -1`, a closed terminal) sets `closed`, at the next line or as
soon as poll says so.
"""

import json
import os
import select
import stat
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from seawall.text import to_bytes

_COLOURS: Final = ("36", "33", "32", "35", "34", "96")
_LOUD: Final = "1;31"
_OWN_NAME: Final = "fleet"
_BACKLOG: Final = 4 << 20  # bytes
_AT_ONCE: Final = 4096  # PIPE_BUF: a pipe that polls writable takes this much without blocking


class Console:
    """Lines to the descriptor `fd`; coloured on a terminal unless NO_COLOR is set, or as `colour` says.

    `as_json`: each line is one object.

    Flush whatever else writes to `fd` before: the backlog is this object's own.
    """

    def __init__(self, fd: int = 1, *, colour: bool | None = None, as_json: bool = False) -> None:
        self.closed = False
        self.is_terminal = os.isatty(fd)
        self._fd = _own_descriptor(fd)
        self._colour = _wants_colour(fd) if colour is None else colour
        self._as_json = as_json
        self._names: list[str] = [_OWN_NAME]
        self._backlog: deque[bytes] = deque()
        self._waiting = 0
        self._dropped = 0

    def introduce(self, names: Sequence[str]) -> None:
        """The programs to come: their names set the width of the prefix and the order of the colours."""
        self._names = [_OWN_NAME, *names]

    def line(self, name: str, text: str) -> None:
        """One line that the program `name` wrote."""
        if self._waiting > _BACKLOG:
            self._dropped += 1
            return
        if self._dropped and not self._waiting:
            dropped, self._dropped = self._dropped, 0
            self.say(f"{dropped} lines were dropped: nobody read this output fast enough", loud=True)
        if not self._as_json:
            self._write(self._prefix(name) + text)
        elif _is_object(text):
            self._write(text)
        elif text.strip():
            self._write(_object(name, "info", text))

    def say(self, text: str, *, loud: bool = False) -> None:
        """One line of the fleet's own; `loud` ones must not be overlooked."""
        if self._as_json:
            self._write(_object(_OWN_NAME, "warning" if loud else "info", text))
            return
        if loud:
            text = self._painted(f"!! {text}", _LOUD)
        self._write(self._prefix(_OWN_NAME) + text)

    def fileno(self) -> int:
        """What to poll: for writing while `behind`, for nothing otherwise."""
        return self._fd

    def attend(self, events: int) -> None:
        """Do what poll's `events` for `fileno` ask for."""
        if events & (select.POLLERR | select.POLLHUP):
            self._lose_reader()
        else:
            self.flush()

    @property
    def behind(self) -> bool:
        """Whether lines wait to be written."""
        return bool(self._backlog) and not self.closed

    def flush(self, *, timeout: float = 0.0) -> None:
        """Write what can be written without blocking; the rest may take up to `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while self.behind:
            if not _writable(self._fd, max(0.0, deadline - time.monotonic())):
                return
            self._write_some()

    def close(self) -> None:
        """Write what is left, but not for ever, and let the descriptor go; safe to repeat."""
        if self._fd >= 0:
            self.flush(timeout=2.0)
            os.close(self._fd)
            self._fd, self.closed = -1, True

    def _write(self, text: str) -> None:
        if self.closed:
            return
        encoded = to_bytes(text + "\n")
        self._backlog.append(encoded)
        self._waiting += len(encoded)
        self.flush()

    def _write_some(self) -> None:
        line = self._backlog.popleft()
        try:
            written = os.write(self._fd, line[:_AT_ONCE])
        except BlockingIOError:
            written = 0
        except OSError:  # EPIPE, or EIO from a terminal that hung up
            self._lose_reader()
            return
        self._waiting -= written
        if written < len(line):
            self._backlog.appendleft(line[written:])

    def _lose_reader(self) -> None:
        self.closed = True
        self._backlog.clear()

    def _prefix(self, name: str) -> str:
        if name not in self._names:
            self._names.append(name)
        width = max(map(len, self._names))
        place = self._names.index(name)
        colour = "1" if place == 0 else _COLOURS[(place - 1) % len(_COLOURS)]
        return self._painted(f"{name:<{width}} |", colour) + " "

    def _painted(self, text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if self._colour else text


def _is_object(text: str) -> bool:
    if not text.startswith("{"):
        return False
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _object(name: str, level: str, text: str) -> str:
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    fields = {"timestamp": stamp, "level": level, "event": text, "logger": name, "program": name}
    return json.dumps(fields, ensure_ascii=False)


def _writable(fd: int, timeout: float) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return bool(poll.poll(timeout * 1000))


def _wants_colour(fd: int) -> bool:
    return os.isatty(fd) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _own_descriptor(fd: int) -> int:
    mode = os.fstat(fd).st_mode
    if stat.S_ISCHR(mode) or stat.S_ISFIFO(mode):
        try:
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{fd}", flags)
        except OSError:  # another user's terminal, or nobody reads any more: polling has to do
            pass
    return os.dup(fd)
