"""The side that makes rows: one append-only file a process.

A row is one line: a letter for its kind, then JSON.

    r[...]  a run that ended: see `ledger.RUN`      e{...}  one occurrence of a failure
    d{...}  a dead letter                           b{...}  a breaker went to another state
    g{...}  rows that were left out, and since when

A file is locked (flock) by the process that appends to it; whoever gets the lock knows that nothing will be
added. A full one is followed by the next. Names are never used twice.
"""

import contextlib
import fcntl
import json
import logging
import math
import mmap
import os
import threading
import time
import weakref
from collections.abc import Mapping
from json.encoder import encode_basestring_ascii
from pathlib import Path
from typing import Any, Final

from seawall.text import storable

logger = logging.getLogger(__name__)

SUFFIX: Final = ".rows"
SEGMENT: Final = 1 << 20
"""Bytes after which a process begins another file."""

LONGEST_ROW: Final = 1 << 18
"""Bytes of a row; `spool.Segment` reads twice as much at once."""

_COMPLAIN_EVERY: Final = 60.0
_TELL_EVERY: Final = 1.0
_encode: Final = json.JSONEncoder(separators=(",", ":"), default=repr, allow_nan=False).encode


class Gauge:
    """How full the spool is, shared by all processes of a worker. Made before the first fork."""

    FREE, SCARCE, FULL = range(3)

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)

    @property
    def level(self) -> int:
        """FREE; SCARCE: successes are left out; FULL: everything is."""
        return self._memory[0]

    @level.setter
    def level(self, level: int) -> None:
        self._memory[0] = level


class Journal:
    """Appends rows. Safe for threads and across fork; never raises and never waits for anybody."""

    def __init__(self, directory: Path, gauge: Gauge) -> None:
        self._directory = directory
        self._gauge = gauge
        self._descriptor = -1
        self._left_out = 0
        self._left_out_since = 0.0
        self._complained_at = float("-inf")
        self._start_afresh()
        _journals.add(self)

    def _start_afresh(self) -> None:
        """In this process there is no file yet. The parent's stays the parent's: only our copy is closed."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._lock = threading.RLock()  # the handler of a signal may write in the middle of a row's writing
        self._descriptor = -1
        self._size = 0
        self._torn = False
        self._left_out = 0

    def write(self, rows: str, *, expendable: bool = False) -> bool:
        """Append whole lines, all or none; False if they were left out, which is counted.

        `expendable` rows are the first to be left out when the spool runs full.
        """
        level = self._gauge.level
        if level and (expendable or level == Gauge.FULL):
            self._leave_out(rows)
            return False
        with self._lock:
            before = self._left_out if time.time() - self._left_out_since > _TELL_EVERY else 0
            told = gap(before, self._left_out_since) if before else ""
            written = self._append((told + rows).encode())
            self._left_out -= before if written else 0
        if not written:
            self._leave_out(rows)
        return written

    def _leave_out(self, rows: str) -> None:
        self._left_out_since = self._left_out_since if self._left_out else time.time()
        self._left_out += rows.count("\n")

    def _append(self, text: bytes) -> bool:
        try:
            if self._descriptor < 0:
                self._open()
            if self._torn:
                text = b"\n" + text
            written = os.write(self._descriptor, text)
        except OSError as exc:
            self._complain(exc)
            return False
        self._size += written
        self._torn = written < len(text)  # the disk is full: what there is of it is skipped by who reads
        if self._size >= SEGMENT:
            self._end_file()
        return not self._torn

    def _open(self) -> None:
        name = f"{os.getpid()}-{os.urandom(6).hex()}"
        hidden, shown = self._directory / f".{name}", self._directory / f"{name}{SUFFIX}"
        descriptor = os.open(hidden, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        hidden.rename(shown)  # nobody sees it without its lock
        self._descriptor, self._size = descriptor, 0

    def close(self) -> None:
        """Nothing more comes into the present file; the next row begins another."""
        with self._lock:
            if self._left_out and self._append(gap(self._left_out, self._left_out_since).encode()):
                self._left_out = 0
            self._end_file()

    def _end_file(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _complain(self, exc: OSError) -> None:
        if time.monotonic() - self._complained_at > _COMPLAIN_EVERY:
            self._complained_at = time.monotonic()
            logger.error("what becomes of tasks cannot be written down in %s: %s", self._directory, exc)


def gap(rows: int, since: float, why: str = "the spool was full") -> str:
    """The line that stands for rows that are missing."""
    return f"g{_encode({'rows': rows, 'since': since, 'why': why})}\n"


def line(kind: str, content: list[Any] | Mapping[str, Any]) -> str:
    """One row, or the gap that stands for one that is too large. Text is as `text.storable` has it."""
    try:
        text = _encode(content)
    except ValueError:  # infinity or nan, for which JSON has no word
        text = _encode(_storable(content))
    # How JSON writes NUL, and half a surrogate pair (or a whole one).
    if "\\u0000" in text or "\\ud" in text:
        text = _encode(_storable(content))
    if len(text) > LONGEST_ROW:
        return gap(1, time.time(), f"it took {len(text)} bytes")
    return f"{kind}{text}\n"


def quoted(text: str) -> str:
    """`text` in JSON, as `line` would have it."""
    found = encode_basestring_ascii(text)
    if "\\u0000" in found or "\\ud" in found:
        found = encode_basestring_ascii(storable(text))
    return found


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return {storable(str(key)): _storable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(each) for each in value]
    known = value is None or isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if known else storable(repr(value))


_journals: "weakref.WeakSet[Journal]" = weakref.WeakSet()


def _after_fork() -> None:
    for each in list(_journals):
        with contextlib.suppress(OSError):
            each._start_afresh()  # noqa: SLF001 - the other half of the class


os.register_at_fork(after_in_child=_after_fork)
