"""What processes use, read cheaply often and exactly seldom.

Resident bytes (RSS) cost microseconds, but count what forked processes share once for each of them: cells
of 316 MB each had nothing of their own. The proportional size (PSS) counts shared pages once, and costs the
kernel a walk over all pages. A `Meter` reads RSS every time and corrects it by the difference to PSS, which
it measures for one process at a time, so seldom that it costs at most a set share of a core.
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

_STALE: Final = 2.0
"""Seconds after which a process whose RSS has doubled is measured exactly again."""


def machine() -> int:
    """Bytes of memory of this machine."""
    return psutil.virtual_memory().total


def available() -> int:
    """Bytes the machine could still give without swapping."""
    return psutil.virtual_memory().available


def rss(pid: int) -> int:
    """Resident bytes of a process; 0 when it is gone."""
    try:
        return psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0


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
        self._statm = _open("/proc/self/statm")
        self._clear = _open("/proc/self/clear_refs", os.O_WRONLY)

    def rss(self) -> int:
        """Resident bytes now: 2 microseconds on Linux."""
        if self._statm is None:
            return rss(self.pid)
        return int(os.pread(self._statm, 64, 0).split()[1]) * _PAGE

    def reset_peak(self) -> None:
        """Let the kernel count the peak from now on."""
        if self._clear is not None:
            os.pwrite(self._clear, b"5", 0)

    def peak(self) -> int:
        """The highest RSS since `reset_peak`, which the kernel counts; RSS now where it does not."""
        if self._clear is None:
            return self.rss()
        with open("/proc/self/status", "rb") as status:  # noqa: PTH123 - on the path of every task
            text = status.read()
        at = text.find(b"VmHWM:")
        return self.rss() if at < 0 else int(text[at + 6 :].split(None, 1)[0]) * 1024

    def close(self) -> None:
        """Give the files back."""
        for descriptor in (self._statm, self._clear):
            if descriptor is not None:
                os.close(descriptor)
        self._statm = self._clear = None


def _open(path: str, flags: int = os.O_RDONLY) -> int | None:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except OSError:
        return None


@dataclass(slots=True)
class _Watched:
    """One process under a meter."""

    statm: int | None
    since: float
    rss: int = 0
    shared: int = 0
    """What RSS counts too much, when last measured exactly."""

    exact_at: float = float("-inf")
    exact_rss: int = 0

    def due(self, now: float) -> bool:
        """Whether it was never measured exactly, or only when it was young."""
        return self.exact_at < self.since or (self.exact_at < self.since + YOUNG <= now)

    @property
    def own(self) -> int:
        return max(0, self.rss - min(self.shared, self.exact_rss))


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
        """RSS by pid of those that live; dead ones are forgotten. `now` is monotonic."""
        wanted = set(pids)
        for pid in self._watched.keys() - wanted:
            self._forget(pid)
        for pid in wanted:
            self._read(pid, now)
        self._measure_exactly(now)
        return {pid: watched.rss for pid, watched in self._watched.items()}

    def total(self) -> int:
        """Bytes that the processes last read use together, each shared page counted once."""
        return sum(watched.own for watched in self._watched.values())

    def most(self, now: float) -> int:
        """As `total`, with all of the pages of young processes: they may come to own what they share."""
        each = self._watched.values()
        return sum(one.rss if now - one.since < YOUNG else one.own for one in each)

    def own(self, pid: int) -> int:
        """The part of `total` that is due to `pid`."""
        watched = self._watched.get(pid)
        return 0 if watched is None else watched.own

    def close(self) -> None:
        """Forget every process."""
        for pid in tuple(self._watched):
            self._forget(pid)

    def _read(self, pid: int, now: float) -> None:
        watched = self._watched.get(pid)
        if watched is None:
            watched = self._watched[pid] = _Watched(_open(f"/proc/{pid}/statm"), now)
        try:
            if watched.statm is None:
                watched.rss = psutil.Process(pid).memory_info().rss
            else:
                watched.rss = int(os.pread(watched.statm, 64, 0).split()[1]) * _PAGE
        except (OSError, psutil.Error, IndexError):
            watched.rss = 0
        if watched.rss == 0:  # gone, or a zombie
            self._forget(pid)

    def _forget(self, pid: int) -> None:
        watched = self._watched.pop(pid)
        if watched.statm is not None:
            os.close(watched.statm)

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
                watched.exact_rss, proportional = exact
                watched.shared = max(0, watched.exact_rss - proportional)
            watched.exact_at = now
            cost = self._clock() - begun
            self.exact_cost += cost
            self._next_exact = max(now, self._next_exact) + cost / self._share

    def _urgency(self, pid: int, now: float) -> tuple[bool, float]:
        watched = self._watched[pid]
        doubled = watched.rss > 2 * watched.exact_rss and now - watched.exact_at > _STALE
        return not doubled, watched.exact_at


def _exactly(pid: int) -> tuple[int, int] | None:
    """RSS and PSS of one moment: what a process frees in between would pass as shared for good."""
    try:
        # The kernel's summary, which psutil would add up line by line itself.
        with open(f"/proc/{pid}/smaps_rollup", "rb") as rollup:  # noqa: PTH123
            sizes = {
                line[:4]: int(line.split()[1]) * 1024 for line in rollup if line[:4] in (b"Rss:", b"Pss:")
            }
        return sizes[b"Rss:"], sizes[b"Pss:"]
    except (OSError, KeyError):
        pass
    try:
        full = psutil.Process(pid).memory_full_info()
        return int(full.rss), int(full.pss)
    except (psutil.Error, AttributeError):
        return None
