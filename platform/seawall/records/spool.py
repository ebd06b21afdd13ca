"""The directory in which a worker's rows wait: one for each worker, locked for as long as it lives."""

import contextlib
import fcntl
import os
import socket
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seawall.embedded.home import make_folders
from seawall.records.journal import SUFFIX

_OWNER: Final = "owner"
_MOST: Final = 1 << 19


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of one process, and its bytes so far."""

    path: Path
    size: int

    @property
    def name(self) -> str:
        """What it is called in `seawall.record_journals`: unique for ever."""
        return f"{self.path.parent.name}/{self.path.stem}"

    def read(self, start: int) -> bytes:
        """Whole lines from there on, half a megabyte at most."""
        with self.path.open("rb") as file:
            text = os.pread(file.fileno(), _MOST, start)
        return text[: text.rfind(b"\n") + 1]

    def tail(self, start: int) -> bytes:
        """What there is from there on, whole or not."""
        with self.path.open("rb") as file:
            return os.pread(file.fileno(), _MOST, start)

    def finished(self) -> bool:
        """Whether the process that appended to it has gone on to another, or is gone."""
        with self.path.open("rb") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False


class Spool:
    """One worker's directory, held by this process until it ends or `leave`s."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock
        _held.add(self)

    @classmethod
    def make(cls, above: Path) -> "Spool":
        """A new one in `above`, or, where nothing can be written there, in the machine's temporary directory.

        Raises:
            OSError: nothing can be written anywhere.
        """
        name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        try:
            return cls._make(above / name)
        except OSError:
            return cls._make(Path(tempfile.gettempdir()) / "seawall-spool" / name)

    @classmethod
    def _make(cls, path: Path) -> "Spool":
        make_folders(path.parent, 0o700)
        path.mkdir(mode=0o700)
        lock = _locked(path)
        if lock is None:
            raise OSError(f"{path} is another worker's")
        return cls(path, lock)

    def segments(self) -> list[Segment]:
        """Its files, oldest first."""
        found = []
        with os.scandir(self.path) as entries:
            for entry in entries:
                if entry.name.endswith(SUFFIX):
                    status = entry.stat()
                    found.append((status.st_ctime, Segment(Path(entry.path), status.st_size)))
        return [segment for _, segment in sorted(found, key=lambda each: each[0])]

    def orphans(self) -> "Iterator[Spool]":
        """Those beside it whose worker is gone; they are this process's from now on."""
        for path in sorted(self.path.parent.iterdir()):
            if path != self.path and path.is_dir() and (lock := _locked(path)) is not None:
                yield Spool(path, lock)

    def leave(self) -> bool:
        """Give it up; it is deleted if nothing waits in it. Whether that is so."""
        waiting = bool(self.segments())
        if not waiting:
            with contextlib.suppress(OSError):  # another worker looks into it at this moment, and deletes it
                for path in self.path.iterdir():
                    path.unlink(missing_ok=True)
                self.path.rmdir()
        self._forget()
        return not waiting

    def _forget(self) -> None:
        lock, self._lock = self._lock, -1
        if lock >= 0:
            os.close(lock)


def _locked(path: Path) -> int | None:
    """The lock of a directory, if nobody has it."""
    try:
        descriptor = os.open(path / _OWNER, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # deleted in this moment
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


_held: "weakref.WeakSet[Spool]" = weakref.WeakSet()


def _after_fork() -> None:
    """The lock is the parent's alone: what it left is free as soon as it is gone."""
    for each in list(_held):
        each._forget()  # noqa: SLF001 - the other half of the class


os.register_at_fork(after_in_child=_after_fork)
