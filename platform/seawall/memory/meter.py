"""What processes hold, read cheaply often and exactly seldom.

Held is what is resident and the kernel cannot drop: anonymous and shared memory, and not the pages of files,
which a task that reads 300 MiB through mmap is not charged for. That costs microseconds, but counts what
forked processes share once for each of them: cells of 316 MB each had nothing of their own. The proportional
size (PSS) counts shared pages once, and costs the kernel a walk over all pages. A `Meter` reads what is held
every time and corrects it by the difference to PSS, which it measures for one process at a time, so seldom
that it costs at most a set share of a core.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_SHARE_FOR_PSS: Final = 0.001
"""Of one core, for reading PSS."""

YOUNG: Final = 2.0
"""Seconds in which a forked process may still copy what it shares; then it is measured exactly again."""

_MOVED: Final = 256
"""Pages of files and shared memory that come or go until one looks how many are shared memory,"""

_LOOK: Final = 1.0
"""or seconds: as much of the one may have come as of the other has gone."""

_LONGEST_STATUS: Final = 1 << 13
"""Bytes in which the lines of memory stand, unless the process is of hundreds of groups."""

_COLUMN: Final = 40
"""Bytes that hold the number of a line."""

_STALE: Final = 2.0
"""Seconds after which a process whose size has doubled is measured exactly again."""


def machine() -> int:
    """Bytes of memory of this machine."""
    return psutil.virtual_memory().total


def available() -> int:
    """Bytes the machine could still give without swapping."""
    return psutil.virtual_memory().available


class _Statm:
    """What one process holds, by a file that stays open, which counts shared memory among the files."""

    def __init__(self, pid: int | str) -> None:
        self._pid = pid
        self._file = _open(f"/proc/{pid}/statm")
        self._mapped = self._shared_memory = 0
        self._looked = 0.0

    def held(self) -> int:
        """Bytes; 0 of a process that is gone. 2 microseconds on Linux, where the mapped files stay the same.

        Raises:
            OSError, psutil.Error: it is gone.
        """
        if self._file is None:
            return psutil.Process(None if self._pid == "self" else int(self._pid)).memory_info().rss
        fields = os.pread(self._file, 128, 0).split(None, 3)
        resident, mapped = int(fields[1]), int(fields[2])
        if abs(mapped - self._mapped) > _MOVED or time.monotonic() - self._looked > _LOOK:
            self._looked = time.monotonic()
            self._mapped, self._shared_memory = mapped, _line(_status(self._pid), b"RssShmem:")
        return (resident - mapped) * _PAGE + self._shared_memory if resident else 0

    def close(self) -> None:
        """Give the file back."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _status(pid: int | str) -> bytes:
    with open(f"/proc/{pid}/status", "rb") as status:  # noqa: PTH123
        return status.read()


def _line(status: bytes, name: bytes) -> int:
    """Bytes of a line of a process's status; 0 of a line that the kernel does not have."""
    at = status.find(name)
    return int(status[at + len(name) : at + len(name) + _COLUMN].split(None, 1)[0]) * 1024 if at >= 0 else 0


def started_at(pid: int) -> int | None:
    """When a process was started, in ticks that tell it from another with its pid; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stat:  # noqa: PTH123
            fields = stat.read().rpartition(b")")[2].split()
        return None if fields[0] in b"ZX" else int(fields[19])
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time() * 100)
    except psutil.Error:
        return None


class Own:
    """This process's own readings, on files that stay open; made anew after a fork."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._statm = _Statm("self")
        self._status = _open("/proc/self/status")
        self._clear = _open("/proc/self/clear_refs", os.O_WRONLY)

    def held(self) -> int:
        """Bytes that it holds now."""
        return self._statm.held()

    def reset_peak(self) -> None:
        """Let the kernel count the peak from now on."""
        if self._clear is not None:
            os.pwrite(self._clear, b"5", 0)

    def peak(self) -> int:
        """The most it held since `reset_peak`, which the kernel counts; what it holds now where it does not.

        Pages of files that were dropped before now are counted too: the kernel has one peak for all.
        """
        if self._clear is None or self._status is None:
            return self.held()
        status = os.pread(self._status, _LONGEST_STATUS, 0)
        return max(_line(status, b"VmHWM:") - _line(status, b"RssFile:"), self.held())

    def close(self) -> None:
        """Give the files back."""
        self._statm.close()
        for descriptor in (self._status, self._clear):
            if descriptor is not None:
                os.close(descriptor)
        self._status = self._clear = None


def _open(path: str, flags: int = os.O_RDONLY) -> int | None:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:
        return None


@dataclass(slots=True)
class _Watched:
    """One process under a meter."""

    statm: _Statm
    since: float
    held: int = 0
    shared: int = 0
    """What others hold too, when last measured exactly."""

    exact_at: float = float("-inf")
    exact_held: int = 0
    common: int = 0
    """What it did not have to itself then, in full."""

    def due(self, now: float) -> bool:
        """Whether it was never measured exactly, or only when it was young."""
        return self.exact_at < self.since or (self.exact_at < self.since + YOUNG <= now)

    @property
    def own(self) -> int:
        return max(0, self.held - min(self.shared, self.exact_held))

    @property
    def alone(self) -> int:
        return max(0, self.held - min(self.common, self.exact_held))


class Meter:
    """Readings of a set of processes. One thread; `clock` measures what the exact readings cost."""

    def __init__(
        self, *, share_for_pss: float = _SHARE_FOR_PSS, clock: Callable[[], float] = time.thread_time
    ) -> None:
        self._watched: dict[int, _Watched] = {}
        self._clock = clock
        self._share = share_for_pss
        self._next_exact = float("-inf")
        self.exact_cost = 0.0
        """Seconds that exact readings took during the last `read`; they have a share of their own."""

    def read(self, pids: Iterable[int], now: float) -> dict[int, int]:
        """Bytes held by pid, of those that live; dead ones are forgotten. `now` is monotonic."""
        wanted = set(pids)
        for pid in self._watched.keys() - wanted:
            self._forget(pid)
        for pid in wanted:
            self._read(pid, now)
        self._measure_exactly(now)
        return {pid: watched.held for pid, watched in self._watched.items()}

    def total(self) -> int:
        """Bytes that the processes last read use together, each shared page counted once."""
        return sum(watched.own for watched in self._watched.values())

    def most(self, now: float) -> int:
        """As `total`, with all of the pages of young processes: they may come to own what they share."""
        each = self._watched.values()
        return sum(one.held if now - one.since < YOUNG else one.own for one in each)

    def own(self, pid: int) -> int:
        """The part of `total` that is due to `pid`."""
        watched = self._watched.get(pid)
        return 0 if watched is None else watched.own

    def alone(self, pid: int) -> int:
        """What `pid` holds and shares with nobody."""
        watched = self._watched.get(pid)
        return 0 if watched is None else watched.alone

    def renew(self, pid: int) -> None:
        """What `pid` shares has changed: measure it exactly at the next `read`."""
        if (watched := self._watched.get(pid)) is not None:
            watched.exact_at = float("-inf")

    def close(self) -> None:
        """Forget every process."""
        for pid in tuple(self._watched):
            self._forget(pid)

    def _read(self, pid: int, now: float) -> None:
        watched = self._watched.get(pid)
        if watched is None:
            watched = self._watched[pid] = _Watched(_Statm(pid), now)
        try:
            watched.held = watched.statm.held()
        except (OSError, psutil.Error, ValueError):
            watched.held = 0
        if watched.held == 0:  # gone, or a zombie
            self._forget(pid)

    def _forget(self, pid: int) -> None:
        self._watched.pop(pid).statm.close()

    def _measure_exactly(self, now: float) -> None:
        """PSS of the process that needs it most; new ones at once, old ones as the share allows."""
        self.exact_cost = 0.0
        new = [pid for pid, each in self._watched.items() if each.due(now)]
        if not new and (now < self._next_exact or not self._watched):
            return
        for pid in new or [min(self._watched, key=lambda pid: self._urgency(pid, now))]:
            begun = self._clock()
            watched = self._watched[pid]
            if (exact := _exactly(pid)) is not None:
                watched.exact_held, proportional, watched.common = exact
                watched.shared = max(0, watched.exact_held - proportional)
            watched.exact_at = now
            cost = self._clock() - begun
            self.exact_cost += cost
            self._next_exact = max(now, self._next_exact) + cost / self._share

    def _urgency(self, pid: int, now: float) -> tuple[bool, float]:
        watched = self._watched[pid]
        doubled = watched.held > 2 * watched.exact_held and now - watched.exact_at > _STALE
        return not doubled, watched.exact_at


def _exactly(pid: int) -> tuple[int, int, int] | None:
    """Held, proportional and shared bytes of one moment: what is freed in between would pass as shared."""
    try:
        # The kernel's summary, which psutil would add up line by line itself.
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:  # noqa: PTH123
            next(rollup)  # the addresses
            sizes = {
                name: int(rest.split()[0]) * 1024
                for name, _, rest in (line.partition(b":") for line in rollup)
            }
        held = sizes[b"Anonymous"] + _line(_status(pid), b"RssShmem:")
        return held, sizes[b"Pss_Anon"] + sizes[b"Pss_Shmem"], sizes[b"Shared_Dirty"]
    except (OSError, KeyError):
        pass
    try:
        full = psutil.Process(pid).memory_full_info()
        return int(full.rss), int(full.pss), int(full.rss - full.uss)
    except (psutil.Error, AttributeError):
        return None
