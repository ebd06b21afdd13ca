"""The memory that a supervisor and its cells share: who runs what, since when, and for how long it may.

One anonymous mapping, made before the first fork. A header of one page belongs to the worker as a whole,
then every cell has a row. A field has exactly one writer:

    header  epoch         u64   supervisor   counts what it told the cells; a cell that sees a new one reads
                                             its channel before it starts another task
    row     pid           u32   supervisor   process in this seat, 0 for none
            generation    u64   cell         counts tasks; odd while the fields of a task are being written
            state         u8    cell         see `State`
            inside        u8    cell         1 while the task's own code runs
            ahead         u32   cell         messages claimed and not started
            done          u64   cell         tasks ended in this process
            acks          u64   cell         acknowledgements decided, ever; the ring holds the last of them
            started       f64   cell         when the task started (`time.monotonic`)
            soft, hard    f64   cell         its limits in seconds, 0 for none
            soft_asked    u64   supervisor   the generation that is to be interrupted for its soft limit
            interrupted   u64   cell         the generation that was interrupted: none is twice
            returned      u64   cell         the generation whose own code has ended; what is left is ours
            recalled      u64   supervisor   the generation during which `ahead` was given back
            killed        u8    supervisor   why this process is being killed, see `Killed`
            doomed        u64   supervisor   the generation it is killed for: one that has ended waits for it
            turns         u64   cell         counts turns of its loop, and waits for a server
            may_wait      f64   cell         seconds that it may be away from its loop from the last turn on
            distance      f64   cell         seconds of a round trip to the broker for which it claims ahead
            unstored      u32   cell         bytes of `results` that are in use
            described     u32   cell         bytes of the description
            seal          u64   supervisor   a fixed number: a row that has another one was overwritten
            task_id, name, tag, queue        strings, cut to what fits (queue and tag never are)
            in hand                          tag and queue of the message being taken in, from before it is
                                             read until Celery has it or it has run; an empty tag for none
            description   the message itself, for a task that the broker has no lease for
            ring          the last acknowledgements: a tag and its queue each
            results       those that are not stored yet: lengths and lifetime, key and value of each
            events        Celery's events of tasks that are not sent yet: their length, and one JSON a line
            gathered      messages that strategies of tasks keep: their length, and one JSON a line

A reader takes a row's task with `Row.task`, which reads the generation before and after: what it returns is
of one task, or None. A signal names the generation it is meant for, so one that comes late hits nobody.
"""

import ctypes
import json
import mmap
import struct
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple, Self

from seawall.text import to_bytes

_HEADER: Final = mmap.PAGESIZE
_RING_AT: Final = 2048
RING_SLOTS: Final = 160
"""Acknowledgements that are kept: more than one claim's messages, and more than a cell leaves unsent."""

_SLOT: Final = struct.Struct("=128p256p")  # a Pascal string holds one byte less, and at most 255
_DESCRIPTION_AT: Final = _RING_AT + RING_SLOTS * _SLOT.size
DESCRIPTION_MAX: Final = 1 << 16
"""Bytes of a description; pages that are never written cost nothing."""

_RESULTS_AT: Final = _DESCRIPTION_AT + DESCRIPTION_MAX
_RESULTS_MAX: Final = 1 << 16
_RESULT: Final = struct.Struct("=HII")
_EVENTS_AT: Final = _RESULTS_AT + _RESULTS_MAX
_EVENTS_MAX: Final = 1 << 16
_LENGTH: Final = struct.Struct("=I")
_GATHERED_AT: Final = _EVENTS_AT + _LENGTH.size + _EVENTS_MAX
_GATHERED_MAX: Final = 1 << 18
_LONGEST_LINE: Final = 1024  # of one message that is gathered: its tag, its queue and its task
_ROW: Final = -(-(_GATHERED_AT + _LENGTH.size + _GATHERED_MAX) // mmap.PAGESIZE) * mmap.PAGESIZE
_READ_ATTEMPTS: Final = 50
_SEAL: Final = 0x5EA1ED_0F_CE11


class State(IntEnum):
    """What a cell is doing."""

    EMPTY = 0
    STARTING = 1
    IDLE = 2
    RUNNING = 3
    LEAVING = 4


class Killed(IntEnum):
    """Why a supervisor killed a cell; NOT if it did not."""

    NOT = 0
    HARD_LIMIT = 1
    TERMINATED = 2
    SHUTDOWN = 3
    MEMORY = 4


class Running(NamedTuple):
    """A task that a cell runs."""

    generation: int
    task_id: str
    name: str
    tag: str
    queue: str
    started: float
    soft: float
    hard: float


_TASK: Final = struct.Struct("=3d256p256p128p256p")
_TASK_AT: Final = 256
_IN_HAND: Final = struct.Struct("=128p256p")
_IN_HAND_AT: Final = 1280


class Row(ctypes.Structure):
    """One cell's row. `memory` is the whole mapping, in which it begins at `start`."""

    memory: mmap.mmap
    seat: int
    start: int
    pid: int
    state: int
    inside: int
    killed: int
    ahead: int
    generation: int
    done: int
    acks: int
    soft_asked: int
    interrupted: int
    returned: int
    recalled: int
    doomed: int
    turns: int
    may_wait: float
    distance: float
    unstored: int
    described: int
    seal: int
    _fields_ = (
        ("pid", ctypes.c_uint32),
        ("state", ctypes.c_uint8),
        ("inside", ctypes.c_uint8),
        ("killed", ctypes.c_uint8),
        ("ahead", ctypes.c_uint32),
        ("generation", ctypes.c_uint64),
        ("done", ctypes.c_uint64),
        ("acks", ctypes.c_uint64),
        ("soft_asked", ctypes.c_uint64),
        ("interrupted", ctypes.c_uint64),
        ("returned", ctypes.c_uint64),
        ("recalled", ctypes.c_uint64),
        ("doomed", ctypes.c_uint64),
        ("turns", ctypes.c_uint64),
        ("may_wait", ctypes.c_double),
        ("distance", ctypes.c_double),
        ("unstored", ctypes.c_uint32),
        ("described", ctypes.c_uint32),
        ("seal", ctypes.c_uint64),
    )

    @classmethod
    def of(cls, memory: mmap.mmap, seat: int) -> Self:
        """The row of a seat."""
        start = _HEADER + seat * _ROW
        row = cls.from_buffer(memory, start)
        row.memory, row.seat, row.start = memory, seat, start
        return row

    def clear(self) -> None:
        """For the next process of this seat; generations go on counting."""
        generation = self.generation if self.sound else 0
        self.memory[self.start : self.start + _RING_AT] = bytes(_RING_AT)
        self.keep_events([])
        self.clear_gathered()
        self.generation = (generation + 2) & ~1
        self.seal = _SEAL

    @property
    def sound(self) -> bool:
        """Whether nobody but its two writers has written here: a task's C code may write anywhere."""
        return (
            self.seal == _SEAL
            and self.state <= State.LEAVING
            and self.killed <= Killed.MEMORY
            and 0 <= self.may_wait < float("inf")
            and self.unstored <= _RESULTS_MAX
            and self.described <= DESCRIPTION_MAX
        )

    # Written by the cell

    def turn(self, may_wait: float) -> None:
        """The loop turns, and may be away for so many seconds now."""
        self.may_wait = may_wait
        self.turns += 1

    def take_in(self, tag: str, queue: str) -> None:
        """A message is about to be read; with an empty tag: the last one is taken in."""
        if tag:
            _IN_HAND.pack_into(self.memory, self.start + _IN_HAND_AT, to_bytes(tag), to_bytes(queue))
        else:
            self.memory[self.start + _IN_HAND_AT] = 0

    def begin(  # noqa: PLR0913, PLR0917 - the fields of one task
        self, task_id: str, name: str, tag: str, queue: str, started: float, soft: float, hard: float
    ) -> None:
        """A task starts."""
        generation = self.generation
        self.generation = generation + 1
        _TASK.pack_into(
            self.memory,
            self.start + _TASK_AT,
            started,
            soft,
            hard,
            to_bytes(task_id)[:255],
            to_bytes(name)[:255],
            to_bytes(tag),
            to_bytes(queue),
        )
        self.state = State.RUNNING
        self.generation = generation + 2

    def end(self) -> None:
        """It has ended, whatever became of it."""
        self.state = State.IDLE
        self.done += 1

    def acknowledged(self, tag: str, queue: str) -> None:
        """An acknowledgement was decided, and may still be on its way to the broker."""
        count = self.acks
        _SLOT.pack_into(
            self.memory,
            self.start + _RING_AT + count % RING_SLOTS * _SLOT.size,
            to_bytes(tag),
            to_bytes(queue),
        )
        self.acks = count + 1

    def describe(self, message: bytes) -> None:
        """The message of the task that is about to begin; empty if the broker keeps it."""
        if len(message) > DESCRIPTION_MAX:
            message = b""
        if message:
            place = self.start + _DESCRIPTION_AT
            self.memory[place : place + len(message)] = message
        self.described = len(message)

    def keep_result(self, key: bytes, lifetime: int, value: bytes) -> bool:
        """A result is about to be stored; False if there is no room to keep it until then."""
        end = self.unstored
        size = _RESULT.size + len(key) + len(value)
        if end + size > _RESULTS_MAX:
            return False
        place = self.start + _RESULTS_AT + end
        self.memory[place : place + size] = _RESULT.pack(len(key), lifetime, len(value)) + key + value
        self.unstored = end + size
        return True

    def results_stored(self) -> None:
        """All results that were kept are stored."""
        self.unstored = 0

    def mark(self, inside: int) -> int:
        """The task's own code begins (1) or has ended (0); the mark that was there before."""
        before, self.inside = self.inside, inside
        if not inside:
            self.returned = self.generation
        return before

    def keep_events(self, events: Iterable[bytes]) -> None:
        """These events are not sent yet, and no others. What has no room dies with the process."""
        _LENGTH.pack_into(self.memory, self.start + _EVENTS_AT, 0)
        for event in events:
            self.keep_event(event)

    def keep_event(self, event: bytes) -> bool:
        """One more is not sent yet; False if there is no room to keep it until then."""
        return self._add_line(_EVENTS_AT, _EVENTS_MAX, event) is not None

    def clear_gathered(self) -> None:
        """Nothing is gathered."""
        _LENGTH.pack_into(self.memory, self.start + _GATHERED_AT, 0)

    def add_gathered(self, line: bytes) -> bool:
        """One more message is kept until there are enough; whether there is room for the next one."""
        length = self._add_line(_GATHERED_AT, _GATHERED_MAX, line)
        return length is not None and length + _LONGEST_LINE <= _GATHERED_MAX

    def _add_line(self, at: int, most: int, line: bytes) -> int | None:
        """Append a line; the bytes in use, or None if it has no room."""
        length_at = self.start + at
        (length,) = _LENGTH.unpack_from(self.memory, length_at)
        after: int = length + len(line) + 1
        if after > most:
            return None
        place = length_at + _LENGTH.size + length
        self.memory[place : place + len(line) + 1] = line + b"\n"
        _LENGTH.pack_into(self.memory, length_at, after)
        return after

    def _lines(self, at: int) -> list[bytes]:
        length_at = self.start + at
        (length,) = _LENGTH.unpack_from(self.memory, length_at)
        return self.memory[length_at + _LENGTH.size : length_at + _LENGTH.size + length].splitlines()

    # Read by the supervisor

    def unsent_events(self) -> list[bytes]:
        """What `keep_event` wrote, once the process is dead."""
        return self._lines(_EVENTS_AT)

    def gathered(self) -> list[tuple[str, str, str]]:
        """Tag, queue and task of the messages that strategies keep."""
        return [(tag, queue, task) for tag, queue, task in map(json.loads, self._lines(_GATHERED_AT))]

    def batch(self, task: Running) -> list[tuple[str, str]]:
        """Tag and queue of all messages that `task` runs for, if it is a batch; else there are none."""
        kept = self.gathered()
        name = next((name for tag, _, name in kept if tag == task.tag), None)
        return [(tag, queue) for tag, queue, owner in kept if owner == name]

    def unstored_results(self) -> list[tuple[bytes, int, bytes]]:
        """Key, lifetime and value of what `keep_result` wrote, once the process is dead."""
        place = self.start + _RESULTS_AT
        end, found = place + self.unstored, []
        while place < end:
            key, lifetime, value = _RESULT.unpack_from(self.memory, place)
            place += _RESULT.size
            found.append(
                (self.memory[place : place + key], lifetime, self.memory[place + key : place + key + value])
            )
            place += key + value
        return found

    @property
    def description(self) -> bytes:
        """What `describe` wrote."""
        place = self.start + _DESCRIPTION_AT
        return self.memory[place : place + self.described]

    def task(self) -> Running | None:
        """The task that runs there now."""
        for _ in range(_READ_ATTEMPTS):
            before = self.generation
            if before % 2:
                continue
            if self.state != State.RUNNING:
                return None
            started, soft, hard, *texts = _TASK.unpack_from(self.memory, self.start + _TASK_AT)
            if self.generation == before:
                task_id, name, tag, queue = (text.decode(errors="replace") for text in texts)
                return Running(before, task_id, name, tag, queue, started, soft, hard)
        return None

    def in_hand(self) -> tuple[str, str] | None:
        """Tag and queue of the message that was being taken in, once the process is dead."""
        tag, queue = _IN_HAND.unpack_from(self.memory, self.start + _IN_HAND_AT)
        return (tag.decode(errors="replace"), queue.decode(errors="replace")) if tag else None

    def recent_acks(self) -> list[tuple[str, str]]:
        """Tag and queue of the last acknowledgements; all that precede the task it runs, if it lives."""
        found = []
        for slot in range(min(self.acks, RING_SLOTS)):
            tag, queue = _SLOT.unpack_from(self.memory, self.start + _RING_AT + slot * _SLOT.size)
            found.append((tag.decode(errors="replace"), queue.decode(errors="replace")))
        return found


# What would overlap, or be cut, is found when this module is loaded.
assert ctypes.sizeof(Row) <= _TASK_AT  # noqa: S101
assert _TASK_AT + _TASK.size <= _RING_AT  # noqa: S101
assert _RING_AT + RING_SLOTS * _SLOT.size <= _DESCRIPTION_AT  # noqa: S101


class Table:
    """The mapping: `seats` rows, each for one cell at a time."""

    def __init__(self, seats: int) -> None:
        self.seats = seats
        memory = mmap.mmap(-1, _HEADER + seats * _ROW)
        self._epoch = ctypes.c_uint64.from_buffer(memory)
        self.rows = [Row.of(memory, seat) for seat in range(seats)]

    @property
    def epoch(self) -> int:
        """Changes whenever the supervisor has told the cells something."""
        return self._epoch.value

    def bump(self) -> None:
        """The supervisor has told the cells something."""
        self._epoch.value += 1

    def running(self) -> Iterator[tuple[Row, Running]]:
        """Every cell that runs a task now, with the task."""
        for row in self.rows:
            if (task := row.task()) is not None:
                yield row, task
