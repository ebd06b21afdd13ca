"""Fleets of real processes around one breaker, and what became of their calls."""

import json
import mmap
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.delivery import ROOT
from support.processes import Proc, started
from support.waiting import wait_until


@dataclass(frozen=True)
class Entry:
    """One line of a process's log."""

    at: float
    what: str
    by: str


@dataclass
class Fleet:
    """Processes of `support.breaker_user`; `world` is the dependency they share."""

    url: str
    folder: Path
    world: mmap.mmap
    stack: ExitStack
    options: dict[str, Any] = field(default_factory=dict)
    processes: list[Proc] = field(default_factory=list)
    program: list[str] = field(default_factory=lambda: [sys.executable, "-m", "support.breaker_user"])
    known: list[Entry] = field(default_factory=list)
    read_to: dict[Path, int] = field(default_factory=dict)

    def start(self, many: int = 1, *, rate: float = 190, **settings: Any) -> list[Proc]:
        """Start processes and wait until each has made a call."""
        new = []
        for _ in range(many):
            number = len(self.processes)
            options = self.options | settings.pop("options", {})
            settings = {"folder": str(self.folder), "url": self.url, "rate": rate, **settings}
            label = {"options": options, "label": f"p{number}"}
            argv = [*self.program, json.dumps(settings | label)]
            paths = [str(ROOT / "platform"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
            env = {"PYTHONPATH": os.pathsep.join(paths)}
            log = self.folder / f"out-{number}.txt"
            new.append(self.stack.enter_context(started(argv, log=log, env=env)))
            self.processes.append(new[-1])
        labels = {f"p{number}" for number in range(len(self.processes) - many, len(self.processes))}
        wait_until(lambda: labels <= self._seen(), timeout=60, what="every process's first call")
        return new

    def fail(self, percent: int, *, bad: int | None = None) -> None:
        """The share of calls that fail from now on, everywhere and on the bad host."""
        self.world[0] = percent
        self.world[2] = percent if bad is None else bad

    def stop(self) -> None:
        """Have every process end its loop, and wait for it."""
        self.world[1] = 1
        for process in self.processes:
            process.wait(20)

    def _seen(self) -> set[str]:
        for process in self.processes:
            assert process.popen.poll() is None, process.output
        return {entry.by.partition("-")[0] for entry in self.entries()}

    def entries(self, *what: str, after: float = 0.0, before: float = float("inf")) -> list[Entry]:
        """What was written, by time; of these kinds only, if any are named."""
        for path in self.folder.glob("p*.log"):
            begin = self.read_to.get(path, 0)
            with path.open("rb") as log:
                log.seek(begin)
                whole, end, _ = log.read().rpartition(b"\n")  # the last line may not be all there yet
            self.read_to[path] = begin + len(whole + end)
            for line in whole.decode().splitlines():
                at, _, rest = line.partition(" ")
                self.known.append(Entry(float(at), rest, path.stem))
        return sorted(
            (e for e in self.known if after <= e.at < before and (not what or e.what.startswith(what))),
            key=lambda entry: entry.at,
        )

    def counts(self, **span: float) -> Counter[str]:
        """How many calls ended in which way."""
        return Counter(entry.what for entry in self.entries(**span) if " " not in entry.what)


@contextmanager
def fleet(url: str, folder: Path, **options: Any) -> Iterator[Fleet]:
    """A `Fleet` without processes yet; all of them are gone at the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "world"
    path.write_bytes(bytes(16))
    with path.open("r+b") as file, ExitStack() as stack:
        made = Fleet(url, folder, mmap.mmap(file.fileno(), 0), stack, options)
        try:
            yield made
        finally:
            made.world[1] = 1  # also for a child that was forked this moment
