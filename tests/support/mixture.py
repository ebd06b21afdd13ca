"""Short tasks with a few long ones among them, and what the short ones waited for."""

import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Self

from celery import Celery

from seawall import delivery
from support.delivery import ROOT, Marks, Site
from support.processes import Proc
from support.waiting import wait_until

SHORT_TAKES: Final = 0.001


def submit(place: Site, *, short: int, long: int, takes: float, short_takes: float = SHORT_TAKES) -> None:
    """`short` tasks, numbered in their order in line, with `long` ones spread among them."""
    every = short // long
    names = [(f"s{number}", short_takes) for number in range(short)]
    for number in range(long):
        names.insert(number * (every + 1) + every // 2, (f"l{number}", takes))
    with Celery("client", broker=place.url) as app:
        app.conf.update(broker_transport=delivery.transport_for(place.url))
        work = app.signature("support.marked.work")
        delivery.submit_many((work.clone(arguments) for arguments in names), app=app)


def run(
    place: Site, folder: Path, *, cells: int, total: int, meanwhile: Callable[[], object] = lambda: None
) -> None:
    """A worker, until all tasks have ended; `meanwhile` is called about each hundredth of a second."""

    def ended() -> bool:
        meanwhile()
        return len(place.marks.counts("end")) == total

    worker = start(place, folder, cells=cells)
    wait_until(ended, timeout=150, what="the end")
    place.stop(worker)


def start(place: Site, folder: Path, *, cells: int) -> Proc:
    """A worker; nobody waits until it is ready."""
    argv = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "support.marked",
        "worker",
        "-c",
        str(cells),
        "-l",
        "WARNING",
    ]
    worker = Proc(argv, log=folder / "worker.log", env=place.environment, cwd=ROOT)
    place.workers.append(worker)
    return worker


def passed_by(marks: Marks, short: int, *, cells: int) -> float:
    """The longest that a short task stood in line after a later one had started: a cell was free then.

    While every cell is inside a long task nobody could have started it: that time does not count.
    """
    begun = {name: min(times) for name, times in marks.times("start").items()}
    full = list(_full(marks, cells))
    longest, first_later = 0.0, float("inf")
    for number in reversed(range(short)):
        start = begun[f"s{number}"]
        if first_later < start:
            nobody = sum(max(0.0, min(end, start) - max(since, first_later)) for since, end in full)
            longest = max(longest, start - first_later - nobody)
        first_later = min(first_later, start)
    return longest


def _full(marks: Marks, cells: int) -> Iterator[tuple[float, float]]:
    """When every cell was inside a long task, from and to."""
    moments = sorted((float(at), kind) for kind, name, at, _ in marks.lines() if name.startswith("l"))
    inside, since = 0, 0.0
    for at, kind in moments:
        if kind == "start":
            inside, since = inside + 1, at
        else:
            if inside == cells:
                yield since, at
            inside -= 1


def waited_beside_a_free_cell(marks: Marks) -> float:
    """The longest that a cell which had begun to work was idle while a short task had not started yet."""
    spans: dict[str, list[tuple[float, str]]] = defaultdict(list)
    starts = []
    for kind, name, at, pid in marks.lines():
        spans[pid].append((float(at), kind))
        if kind == "start" and name.startswith("s"):
            starts.append(float(at))
    last = max(starts)
    longest = 0.0
    for moments in spans.values():
        moments.sort()
        ends = [*moments[1:], (float("inf"), "start")]
        for (moment, kind), (following, _) in zip(moments, ends, strict=True):
            if kind == "end" and moment < last:
                longest = max(longest, min(following, last) - moment)
    return longest


class Standstill:
    """How long this machine let nobody work: a thread that should wake every few milliseconds measures it."""

    def __enter__(self) -> Self:
        self.longest = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="standstill", daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._over.wait(0.005):
            now = time.monotonic()
            self.longest = max(self.longest, now - before - 0.005)
            before = now

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
