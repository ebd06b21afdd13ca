"""A worker of `support.hungry` with its memory watched from outside: for tests and benchmarks."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from celery import Celery

from seawall import Seawall
from seawall.memory.budget import ControlGroup
from support.control_groups import inside
from support.nodes import environment
from support.processes import Proc
from support.waiting import wait_until

MB = 1 << 20


def exactly(pid: int) -> tuple[int, int]:
    """RSS and PSS of one moment, in bytes; zeros when the process is gone."""
    with contextlib.suppress(OSError), Path(f"/proc/{pid}/smaps_rollup").open() as rollup:
        sizes = {line[:4]: int(line.split()[1]) * 1024 for line in rollup if line[:4] in ("Rss:", "Pss:")}
        return sizes.get("Rss:", 0), sizes.get("Pss:", 0)
    return 0, 0


def resident(pid: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


class Watched:
    """A worker, and the most that it and its processes were seen to use together."""

    def __init__(self, proc: Proc, *, every: float = 0.05) -> None:
        self.proc = proc
        self.peak = 0
        self.readings: list[tuple[float, int]] = []
        self._every = every
        self._shared: dict[int, int] = {}
        self._measure_at = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watching memory", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(self._every):
            used = self.used()
            self.peak = max(self.peak, used)
            self.readings.append((time.monotonic(), used))

    def used(self) -> int:
        """What all of them use now, shared pages counted once.

        The RSS of all is read in one go: during a walk over the pages of one, others would end and begin.
        """
        pids = [process.pid for process in self.proc.tree()]
        if time.monotonic() > self._measure_at or not self._shared.keys() >= set(pids):
            self._measure_at = time.monotonic() + 2
            both = {pid: exactly(pid) for pid in pids}
            self._shared = {pid: rss - proportional for pid, (rss, proportional) in both.items()}
        return sum(max(0, resident(pid) - self._shared[pid]) for pid in pids)

    def cpu(self) -> float:
        """Seconds of CPU of the main process so far."""
        times = psutil.Process(self.proc.pid).cpu_times()
        return float(times.user + times.system)

    def stop(self) -> None:
        self._over.set()
        self._thread.join(20)
        self.proc.destroy()


@contextlib.contextmanager
def hungry_worker(
    url: str,
    folder: Path,
    *options: str,
    plain: bool = False,
    every: float = 0.05,
    group: ControlGroup | None = None,
    **variables: str,
) -> Iterator[Watched]:
    """A ready worker, in `group` if one is given; `variables` are added to its environment."""
    folder.mkdir(parents=True, exist_ok=True)
    if plain:
        variables["HUNGRY"] = "plain"
    argv = [sys.executable, "-m", "seawall.worker", "-A", "support.hungry", "worker", "-l", "INFO", *options]
    name = f"{'plain' if plain else 'seawall'}-{time.monotonic_ns()}"
    proc = Proc(
        inside(group, [*argv, "-n", f"{name}@host"]),
        log=folder / f"{name}.log",
        env=environment(url, **variables),
        cwd=folder,
    )
    try:
        wait_until(lambda: "ready." in proc.output, timeout=60, what="the worker")
        watched = Watched(proc, every=every)
    except BaseException:
        proc.destroy()
        raise
    try:
        yield watched
    finally:
        watched.stop()


@contextlib.contextmanager
def hungry_producer(url: str, *, broker: str | None = None, plain: bool = False) -> Iterator[Celery]:
    """Who submits to it, through the Redis at `url` unless another `broker` is given."""
    app: Any = (Celery if plain else Seawall)("hungry", set_as_current=False)
    app.conf.update(broker_url=broker or url, result_backend=url)
    if plain:
        app.conf.broker_transport = "redis"
    try:
        yield app
    finally:
        app.close()
