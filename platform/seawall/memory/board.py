"""The memory that the workers of a machine share: what is promised to whom, what runs, and the level.

One file without a name (a memfd), inherited by forked processes and opened by others through its owner's
/proc entry: it is gone when its last user is, however that ends. A header, then rows. A row belongs to one
process, by pid and start time; rows of processes that are gone are freed by whoever next needs room (at once,
by a supervisor that saw the death; else within a second, by any supervisor).

Rows change hands and sums change under a lock of the kernel's, which a dying process gives up. `changing` is
set for as long as the sums may be wrong: whoever finds it set under the lock adds them up again from the
rows. Fields of a row that is held are written by its process alone, except those named below.
"""

import contextlib
import ctypes
import fcntl
import mmap
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from enum import IntEnum
from hashlib import blake2b
from typing import Any, Final, Self

from seawall.errors import StartupError
from seawall.memory.levels import Pressure
from seawall.memory.meter import started_at

_MAGIC: Final = 0x5EA11A3D00000004
_PATIENCE: Final = 0.005
"""Seconds to wait for the lock, which is held for microseconds unless its holder was stopped."""

ROWS: Final = 1024
TASKS: Final = 2048


class Kind(IntEnum):
    """What a row says."""

    FREE = 0
    WORKER = 1
    SHARE = 2
    WAIT = 3
    RUN = 4


class _Header(ctypes.Structure):
    magic: int
    budget: int
    promised: int
    changing: int
    rows: int
    shares: int
    waits: int
    freed: int
    tasks: int
    level: int
    level_since: float
    beside: int
    slots: int
    _fields_ = (
        ("magic", ctypes.c_uint64),
        ("budget", ctypes.c_uint64),
        ("promised", ctypes.c_uint64),  # bytes of all shares and of what workers use without them
        ("changing", ctypes.c_uint64),
        ("rows", ctypes.c_uint64),  # rows ever used: no scan goes further
        ("shares", ctypes.c_uint64),
        ("waits", ctypes.c_uint64),
        ("freed", ctypes.c_uint64),  # counts promises taken back
        ("tasks", ctypes.c_uint64),
        ("level", ctypes.c_uint64),
        ("level_since", ctypes.c_double),
        ("beside", ctypes.c_uint64),  # bytes of what workers use without shares
        ("slots", ctypes.c_uint64),  # tasks that all workers may run at a time
    )


class Row(ctypes.Structure):
    """One row; what a field means depends on the kind.

    WORKER  size: what the worker uses beside the shares of its tasks. used: all it uses. slots: how
            many tasks it runs at a time.
    SHARE   id, size: what an admitted request was promised. guessed: 1 if nobody knew what it needs.
    WAIT    size, priority: the request of this process that waits most urgently; since, asked: when it first
            and last asked. id: which.
    RUN     id, name: the task; begun: RSS at its start; soft, hard: limits in bytes beyond that, 0 for none;
            size: its budget; generation: counts tasks, 0 while none runs; since: when it began, by the
            clock of process starts. Written by the supervisor: below (bytes of the processes it started),
            used (the highest seen, with those) and told (the generation that was told of its soft limit).
    """

    kind: int
    pid: int
    started: int
    size: int
    used: int
    begun: int
    soft: int
    hard: int
    generation: int
    told: int
    below: int
    priority: int
    slots: int
    guessed: int
    since: float
    asked: float
    id: bytes
    name: bytes
    _fields_ = (
        ("kind", ctypes.c_uint32),
        ("pid", ctypes.c_uint32),
        ("started", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("used", ctypes.c_uint64),
        ("begun", ctypes.c_uint64),
        ("soft", ctypes.c_uint64),
        ("hard", ctypes.c_uint64),
        ("generation", ctypes.c_uint64),
        ("told", ctypes.c_uint64),
        ("below", ctypes.c_uint64),
        ("priority", ctypes.c_uint32),
        ("slots", ctypes.c_uint32),
        ("guessed", ctypes.c_uint64),
        ("since", ctypes.c_double),
        ("asked", ctypes.c_double),
        ("id", ctypes.c_char * 64),
        ("name", ctypes.c_char * 128),
    )


class _Learned(ctypes.Structure):
    key: int
    size: int
    _fields_ = (("key", ctypes.c_uint64), ("size", ctypes.c_uint64))


_ROWS_AT: Final = 256
_TASKS_AT: Final = _ROWS_AT + ROWS * ctypes.sizeof(Row)
_SIZE: Final = _TASKS_AT + TASKS * ctypes.sizeof(_Learned)
_PROMISES: Final = (Kind.WORKER, Kind.SHARE)
_LEVELS: Final = tuple(Pressure)


class Busy(Exception):  # noqa: N818 - never leaves this package
    """The lock could not be had in time; ask again."""


class Board:
    """A mapping of the file. Made before the first fork, or opened by path."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._mine = threading.Lock()  # the kernel's lock is the process's, not the thread's
        self._me: tuple[int, int] | None = None
        self._memory = mmap.mmap(descriptor, _SIZE)
        self._header = _Header.from_buffer(self._memory)
        row, task = ctypes.sizeof(Row), ctypes.sizeof(_Learned)
        self._rows = [Row.from_buffer(self._memory, _ROWS_AT + n * row) for n in range(ROWS)]
        self._known: dict[str, _Learned] = {}
        self._keys: dict[str, int] = {}
        self._tasks = [_Learned.from_buffer(self._memory, _TASKS_AT + n * task) for n in range(TASKS)]
        os.register_at_fork(after_in_child=self._after_fork)

    @classmethod
    def create(cls, budget: int) -> Self:
        """A board of this process's, for the workers that share `budget` bytes."""
        if hasattr(os, "memfd_create"):
            descriptor = os.memfd_create("seawall-memory", os.MFD_CLOEXEC)
        else:
            with tempfile.TemporaryFile() as file:
                descriptor = os.dup(file.fileno())
        os.ftruncate(descriptor, _SIZE)
        board = cls(descriptor)
        board._header.budget = budget
        board._header.magic = _MAGIC
        return board

    @classmethod
    def open(cls, path: str) -> Self:
        """The board of another process, by its `path`.

        Raises:
            StartupError: there is none.
        """
        try:
            board = cls(os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except (OSError, ValueError) as exc:
            raise StartupError(f"memory.board={path!r} cannot be opened ({exc}): unset it") from exc
        if board._header.magic != _MAGIC:
            raise StartupError(f"memory.board={path!r} is no board of this version: restart its owner")
        return board

    @property
    def path(self) -> str:
        """Where another process opens it while this one lives."""
        return f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def _after_fork(self) -> None:
        self._mine = threading.Lock()
        self._me = None

    def _owner(self) -> tuple[int, int]:
        """This process, as rows name it."""
        if self._me is None:
            pid = os.getpid()
            self._me = pid, started_at(pid) or 0
        return self._me

    # Read without a lock: each is one aligned word

    @property
    def budget(self) -> int:
        """Bytes for all workers of the board."""
        return self._header.budget

    @property
    def level(self) -> Pressure:
        """What the supervisors last found."""
        return _LEVELS[self._header.level]

    @property
    def level_since(self) -> float:
        """When that began, monotonic."""
        return self._header.level_since

    @property
    def promised(self) -> int:
        """Bytes of all shares, and of what workers use beside them."""
        return self._header.promised

    @property
    def beside(self) -> int:
        """Bytes of what workers use beside all shares."""
        return self._header.beside

    @property
    def slots(self) -> int:
        """Tasks that all workers may run at a time."""
        return self._header.slots

    @property
    def shares(self) -> int:
        """Requests that hold a share."""
        return self._header.shares

    @property
    def waits(self) -> int:
        """Processes with a request that waits for a share."""
        return self._header.waits

    @property
    def freed(self) -> int:
        """Changes whenever less is promised than before."""
        return self._header.freed

    def used(self) -> int:
        """Bytes that all workers use, as their supervisors last measured."""
        return sum(row.used for row in self.rows(Kind.WORKER))

    def bereaved(self) -> bool:
        """Whether a process that has rows is gone: they count until somebody sweeps."""
        rows = self._rows[: self._header.rows]
        owners = {(row.pid, row.started) for row in rows if row.kind != Kind.FREE}
        return any(started_at(pid) != started for pid, started in owners)

    def rows(self, kind: Kind) -> Iterator[Row]:
        """Rows of a kind, those of dead processes included."""
        for row in self._rows[: self._header.rows]:
            if row.kind == kind:
                yield row

    # Changed under the lock

    @contextlib.contextmanager
    def locked(self, patience: float = _PATIENCE) -> Iterator[None]:
        """For the length of the block nobody else changes the sums or the owners of rows.

        Raises:
            Busy: somebody held it for longer than `patience` seconds; perhaps this thread itself, which the
                handler of a signal has interrupted.
        """
        deadline = time.monotonic() + patience
        if not self._mine.acquire(timeout=patience):
            raise Busy
        try:
            while not self._try_lock():
                if time.monotonic() > deadline:
                    raise Busy
                time.sleep(0.0002)
            try:
                if self._header.changing:
                    self._add_up()
                self._header.changing = 1
                yield
                self._header.changing = 0
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 8, 0)
        finally:
            self._mine.release()

    def _try_lock(self) -> bool:
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 8, 0)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def take(self, kind: Kind, **fields: Any) -> Row | None:
        """A row of this process's, filled; None if the board is full. Under the lock."""
        row = self._free_row() or (self._free_row() if self._sweep() else None)
        if row is None:
            return None
        for name, value in fields.items():
            setattr(row, name, value)
        row.pid, row.started = self._owner()
        row.kind = kind
        self._count(row, 1)
        return row

    def change(self, row: Row, size: int, *, slots: int | None = None) -> None:
        """Give a row another size, and a worker's its slots. Under the lock."""
        less = row.kind in _PROMISES and size < row.size
        self._count(row, -1, freed=False)
        row.size, row.slots = size, row.slots if slots is None else slots
        self._count(row, 1)
        self._header.freed += less

    def cut_guesses(self, size: int) -> bool:
        """Cut shares that were guessed to `size`, or to what their tasks were seen to use. Under the lock.

        Whether any was cut. More tasks run at a time than when those were promised.
        """
        runs = {row.id: row for row in self.rows(Kind.RUN)}
        cut = False
        for share in self.rows(Kind.SHARE):
            run = runs.get(share.id)
            least = max(size, run.used if run else 0)
            if share.guessed and share.size > least:
                self.change(share, least)
                if run:
                    run.size = least
                cut = True
        return cut

    def free(self, row: Row) -> None:
        """Give a row up. Under the lock."""
        self._count(row, -1)
        row.kind = Kind.FREE
        ctypes.memset(ctypes.addressof(row), 0, ctypes.sizeof(row))

    def forget(self, pid: int) -> None:
        """A process is known to be dead: what it held is free now."""
        with self.locked(patience=1.0):
            for row in self._rows[: self._header.rows]:
                if row.pid == pid and row.kind != Kind.FREE:
                    self.free(row)

    def sweep(self) -> bool:
        """Free the rows of dead processes; whether there were any. Under the lock."""
        return self._sweep()

    def set_level(self, level: Pressure, now: float) -> None:
        """What a supervisor found. Under the lock."""
        if self._header.level != level:
            self._header.level_since = now
            self._header.level = level

    def _sweep(self) -> bool:
        alive: dict[int, int | None] = {}
        dead = []
        for row in self._rows[: self._header.rows]:
            if row.kind != Kind.FREE:
                if row.pid not in alive:
                    alive[row.pid] = started_at(row.pid)
                if alive[row.pid] != row.started:
                    dead.append(row)
        for row in dead:
            self.free(row)
        return bool(dead)

    def _free_row(self) -> Row | None:
        for number, row in enumerate(self._rows):
            if row.kind == Kind.FREE:
                self._header.rows = max(self._header.rows, number + 1)
                return row
        return None

    def _count(self, row: Row, sign: int, *, freed: bool = True) -> None:
        header = self._header
        if row.kind in _PROMISES:
            header.promised += sign * row.size
            header.freed += freed and sign < 0
        if row.kind == Kind.WORKER:
            header.beside += sign * row.size
            header.slots += sign * row.slots
        header.shares += sign * (row.kind == Kind.SHARE)
        header.waits += sign * (row.kind == Kind.WAIT)

    def _add_up(self) -> None:
        header = self._header
        header.promised = header.beside = header.slots = header.shares = header.waits = 0
        for row in self._rows[: self._header.rows]:
            self._count(row, 1)

    # Learned budgets: written by supervisors, read by whoever admits

    def learn(self, name: str, size: int) -> None:
        """Publish what a task is known to need."""
        with self.locked(patience=1.0):
            slot = self._slot(name, add=True)
            if slot is not None:
                slot.size = size

    def learned(self, name: str) -> int | None:
        """What a task is known to need; None if nothing is known."""
        slot = self._slot(name, add=False)
        return None if slot is None else slot.size

    def _slot(self, name: str, *, add: bool) -> _Learned | None:
        if (known := self._known.get(name)) is not None:
            return known
        if (key := self._keys.get(name)) is None:
            key = (
                int.from_bytes(
                    blake2b(name.encode(errors="backslashreplace"), digest_size=8).digest(), "little"
                )
                or 1
            )
            self._keys[name] = key
        for step in range(TASKS):
            slot = self._tasks[(key + step) % TASKS]
            if not slot.key and add:
                slot.key = key
            if slot.key == key:
                self._known[name] = slot  # it stays where it is
                return slot
            if not slot.key:
                return None
        return None
