"""What the processes of one worker share about circuits: a table of memory and a pipe.

One process, the one that runs the `Hub`, hears from Redis and writes where each circuit is; all others only
read. What they see of their calls goes the other way, as records through the pipe. So a worker of 200 cells
has one subscriber. The table is made before the fork; a process on its own has one to itself.

    slot:  flag | sequence, view | rules, name       one per circuit, never given to another

The flag is one byte that a call compares with the one it expects: `calm(epoch)` while there is nothing to
consider. The view behind it is guarded by its sequence, odd while it is being written. Slots are given out
under a lock that belongs to a process (POSIX record locks), so a dead process holds none; the same kind of
lock lets one process of a worker at a time ask Redis for a probe. Times are CLOCK_MONOTONIC, which all
processes of a machine share.
"""

import contextlib
import fcntl
import mmap
import os
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from seawall import holdings
from seawall.breaker.machine import Cause, Rules, State
from seawall.text import to_bytes

SLOTS: Final = 1024
UNKNOWN: Final = 0
"""The flag of a circuit about which Redis has not been asked yet."""

_PIECE: Final = 65536
_SLOT: Final = 512
_HEADER: Final = 64
_SEQUENCE, _VIEW_AT, _RULES_AT, _NAME_AT = 4, 8, 128, 240
_STATES: Final = tuple(State)
_CAUSES: Final = tuple(Cause)
_VIEW: Final = struct.Struct("=BBBxIQddddd")
_RULES: Final = struct.Struct("=dddIdddddI")
_RULES_ORDER: Final = (
    "failure_rate", "slow_rate", "window", "min_calls", "open_for",
    "max_open_for", "probes", "probe_for", "ramp_for", "quorum",
)  # fmt: skip
_BEAT: Final = struct.Struct("=dB")
_RECORD: Final = struct.Struct("=IIQIIII")
_OWN: Final = struct.Struct("=IIQdd")
_IS_OWN: Final = (1 << 64) - 1
"""In place of an epoch."""

assert _OWN.size == _RECORD.size  # noqa: S101 - both travel in one pipe


@dataclass(frozen=True, slots=True)
class View:
    """Where a circuit of the cluster is, in instants of this machine's monotonic clock."""

    state: State = State.CLOSED
    cause: Cause = Cause.NEW
    free: int = 0
    trips: int = 0
    epoch: int = 0
    since: float = 0.0
    until: float = 0.0
    ramp_for: float = 0.0
    hot_until: float = 0.0
    hot_every: float = 0.0

    def calm(self, now: float) -> bool:
        """Whether calls need no thought."""
        return self.state is State.CLOSED and now >= self.hot_until and now >= self.since + self.ramp_for


@dataclass(frozen=True, slots=True)
class Record:
    """What one process saw of one circuit since its last record; see `machine.Report`."""

    slot: int
    pid: int
    epoch: int
    earlier: int
    succeeded: int
    failed: int
    slow: int


@dataclass(frozen=True, slots=True)
class Own:
    """A process holds its own circuit open, in monotonic instants; `until` is 0 when it does so no more."""

    slot: int
    pid: int
    since: float
    until: float


WAKE: Final = Record(SLOTS, 0, 0, 0, 0, 0, 0)
"""Says nothing but "look again"."""


def calm_flag(epoch: int) -> int:
    """The flag of a calm circuit; the next epoch's differs."""
    return 1 + epoch % 127


class Table:
    """The memory and the pipe. Only the process of the hub calls what writes (`put`, `beat`, `receive`)."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the table
        self._file.truncate(_HEADER + SLOTS * _SLOT)
        self._map = mmap.mmap(self._file.fileno(), 0)
        self.memory = memoryview(self._map)
        self._locks()
        self._slots: dict[str, int] = {}
        self._circuits: list[tuple[str, Rules]] = []
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)
        self._rest = b""

    def after_fork(self) -> None:
        """In a child that follows: a lock of its own, and nothing to read from the pipe."""
        self._locks()
        if self.reader >= 0:  # else a child of a child, whose parent follows already
            os.close(self.reader)
            self.reader = -1

    def _locks(self) -> None:
        self._lock: Any = threading.RLock()
        self._ask_lock: Any = threading.RLock()

    def unlock(self) -> None:
        """After an interruption: this thread is inside no more."""
        holdings.unlock(self._lock)
        holdings.unlock(self._ask_lock)

    def close(self) -> None:
        """Close the pipe and the file; the memory goes with its last reader."""
        for descriptor in (self.reader, self._writer):
            if descriptor >= 0:
                os.close(descriptor)
        self.reader = self._writer = -1
        self._file.close()

    # Slots

    def slot(self, name: str, rules: Rules) -> int | None:
        """The slot of a circuit, given out on first use; None if there is none left."""
        with self._lock:
            if (known := self._find(name)) is not None:
                return known
            with self._locked(0, wait=True):
                if (known := self._find(name)) is not None or len(self._circuits) >= SLOTS:
                    return known
                at, text = _HEADER + len(self._circuits) * _SLOT, to_bytes(name)
                _RULES.pack_into(self.memory, at + _RULES_AT, *(getattr(rules, one) for one in _RULES_ORDER))
                self.memory[at + _NAME_AT + 2 : at + _NAME_AT + 2 + len(text)] = text
                struct.pack_into("=H", self.memory, at + _NAME_AT, len(text))  # last: now it can be seen
                return self._find(name)

    def circuits(self, start: int = 0) -> list[tuple[str, Rules]]:
        """The circuits by slot, from `start` on, by whichever process they were given one."""
        with self._lock:
            self._read_on()
            return self._circuits[start:]

    def _find(self, name: str) -> int | None:
        self._read_on()
        return self._slots.get(name)

    def _read_on(self) -> None:
        """Read the slots that were given out since the last time."""
        while (slot := len(self._circuits)) < SLOTS:
            at = _HEADER + slot * _SLOT
            (length,) = struct.unpack_from("=H", self.memory, at + _NAME_AT)
            if not length:
                return
            name = bytes(self.memory[at + _NAME_AT + 2 : at + _NAME_AT + 2 + length]).decode()
            values = _RULES.unpack_from(self.memory, at + _RULES_AT)
            self._circuits.append((name, Rules(**dict(zip(_RULES_ORDER, values, strict=True)))))
            self._slots[name] = slot

    def flag(self, slot: int) -> memoryview:
        """The flag's byte, to be read at each call."""
        at = _HEADER + slot * _SLOT
        return self.memory[at : at + 1]

    # Views

    def put(self, slot: int, view: View, *, now: float) -> None:
        """Write where a circuit is; the flag goes last."""
        at = _HEADER + slot * _SLOT
        (sequence,) = struct.unpack_from("=I", self.memory, at + _SEQUENCE)
        struct.pack_into("=I", self.memory, at + _SEQUENCE, sequence + 1 & 0xFFFFFFFF)
        _VIEW.pack_into(
            self.memory,
            at + _VIEW_AT,
            _STATES.index(view.state),
            _CAUSES.index(view.cause),
            min(255, view.free),
            view.trips,
            view.epoch,
            view.since,
            view.until,
            view.ramp_for,
            view.hot_until,
            view.hot_every,
        )
        struct.pack_into("=I", self.memory, at + _SEQUENCE, sequence + 2 & 0xFFFFFFFF)
        calm = calm_flag(view.epoch)
        self.memory[at] = calm if view.calm(now) else calm + 128

    def view(self, slot: int) -> View:
        """Read where a circuit is."""
        at = _HEADER + slot * _SLOT
        while True:
            before = self.sequence(slot)
            state, cause, *rest = _VIEW.unpack_from(self.memory, at + _VIEW_AT)
            if before % 2 == 0 and self.sequence(slot) == before:
                return View(_STATES[state], _CAUSES[cause], *rest)
            time.sleep(0)

    def sequence(self, slot: int) -> int:
        """Changes with every view that is written."""
        sequence: int = struct.unpack_from("=I", self.memory, _HEADER + slot * _SLOT + _SEQUENCE)[0]
        return sequence

    # The hub's pulse

    def beat(self, now: float, *, cut_off: bool) -> None:
        """The hub lives, and whether it can reach Redis."""
        _BEAT.pack_into(self.memory, 0, now, cut_off)

    def pulse(self) -> tuple[float, bool]:
        """When the hub last lived, and whether it was cut off from Redis."""
        at, cut_off = _BEAT.unpack_from(self.memory)
        return at, bool(cut_off)

    # The pipe

    def send(self, record: Record) -> bool:
        """Hand a record to the hub; False if the pipe is full or its reader is gone: keep it."""
        fields = (record.slot, record.pid, record.epoch, record.earlier, record.succeeded, record.failed)
        try:
            os.write(self._writer, _RECORD.pack(*fields, record.slow))
        except OSError:
            return False
        return True

    def send_own(self, own: Own) -> None:
        """Tell the hub what this process's own circuit does; lost if the pipe is full: it decides nothing."""
        with contextlib.suppress(OSError):
            os.write(self._writer, _OWN.pack(own.slot, own.pid, _IS_OWN, own.since, own.until))

    def receive(self) -> list[Record | Own]:
        """Everything that has arrived."""
        text = self._rest
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.reader, _PIECE):
                text += piece
                if len(piece) < _PIECE:
                    break
        whole = len(text) - len(text) % _RECORD.size
        self._rest = text[whole:]
        pieces = (text[at : at + _RECORD.size] for at in range(0, whole, _RECORD.size))
        return [_unpack(piece) for piece in pieces]

    # One process of a worker at a time

    @contextlib.contextmanager
    def asking(self, slot: int) -> Iterator[bool]:
        """Whether this process is the one of its worker that may ask about this circuit now."""
        if not self._ask_lock.acquire(blocking=False):
            yield False
            return
        try:
            with self._locked(1 + slot, wait=False) as alone:
                yield alone
        finally:
            self._ask_lock.release()

    @contextlib.contextmanager
    def _locked(self, byte: int, *, wait: bool) -> Iterator[bool]:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), 1, byte)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN, 1, byte)


def _unpack(piece: bytes) -> Record | Own:
    fields = _RECORD.unpack(piece)
    if fields[2] != _IS_OWN:
        return Record(*fields)
    slot, pid, _, since, until = _OWN.unpack(piece)
    return Own(slot, pid, since, until)
