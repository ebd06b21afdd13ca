"""Our worker against plain Celery prefork, and on demand against other task queues.

    PYTHONPATH=tests .venv/bin/python tests/benchmarks/worker.py [--peers] [--measure drain ...]

Without `--peers` ours and prefork, as in `make bench`; with it also pgqueuer, taskiq, huey and dramatiq.
They are installed with pip into environments of their own under .bench/; `needs` below names what.

All do the same task with the same number of processes on the same server, taking turns; each figure is the
median of the rounds. A shared machine's absolute speed drifts by tens of per cent: read the ratios.
"""

import argparse
import contextlib
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import venv
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from seawall.embedded import attach
from support.delivery import ROOT, Server, own_server
from support.processes import Proc
from support.waiting import wait_until

_APPS = Path(__file__).parent / "apps"
_STORE = ROOT / ".bench" / "peers"
_PACED = 300
_WARM_UP = 0.1  # of the tasks, before measuring begins
_BALLAST = 300  # MiB
_CELLS_OF_BALLAST = 8

Figures = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class System:
    """How one is started: `{n}` is the number of processes, or, with `each`, of times it is started."""

    name: str
    app: str
    command: tuple[str, ...]
    needs: tuple[str, ...] = ()  # packages, in an environment of its own
    each: bool = False
    tasks: float = 1.0  # of the number asked for: slow ones need not take minutes
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def python(self) -> str:
        """The interpreter that has it."""
        return str(_STORE / self.name / "bin" / "python") if self.needs else sys.executable

    def install(self) -> None:
        """Make its environment, once."""
        if self.needs and not Path(self.python).exists():
            venv.create(_STORE / self.name, with_pip=True)
            subprocess.run([self.python, "-m", "pip", "install", "--quiet", *self.needs], check=True)


def celery(name: str, *pool: str, **more: Any) -> System:
    """Ours, in its default pool, or plain Celery."""
    command = ("-m", "celery", "-A", "app_celery", "worker", *pool, "-c", "{n}", "-l", "WARNING")
    return System(name=name, app="app_celery", command=(*command, "-n", f"{name}@bench"), **more)


CELERY = (celery("ours"), celery("prefork", "-P", "prefork", tasks=0.3))
_RESULTS = {"BENCH_RESULTS": "1"}
STORING = (
    celery("ours-results", environment=_RESULTS),
    celery("prefork-results", "-P", "prefork", tasks=0.2, environment=_RESULTS),
)
NAMED = tuple(
    celery(f"ours-{names}", environment={"BENCH_NAMES": str(names)}) for names in (500, 2_000)
)  # the same task under so many names, which take turns: each cell meets each name for the first time
PEERS = (
    System(
        name="pgqueuer",
        app="app_pgqueuer",
        command=("app_pgqueuer.py", "work"),
        needs=("pgqueuer[asyncpg]>=1.6,<1.7", "uvloop"),
        each=True,
    ),
    System(
        name="taskiq",
        app="app_taskiq",
        command=("-m", "taskiq", "worker", "app_taskiq:broker", "-w", "{n}", "--log-level", "WARNING"),
        needs=("taskiq>=0.13,<0.14", "taskiq-redis", "hiredis", "uvloop"),
    ),
    System(
        name="huey",
        app="app_huey",
        command=("-m", "huey.bin.huey_consumer", "app_huey.queue", "-w", "{n}", "-k", "process", "-q"),
        needs=("huey>=3.5,<3.6", "redis", "hiredis"),
    ),
    System(
        name="dramatiq",
        app="app_dramatiq",
        command=("-m", "dramatiq", "app_dramatiq", "-p", "{n}", "-t", "8"),
        needs=("dramatiq[redis]>=2.2,<2.3", "hiredis"),
    ),
)


class Bench:
    """The servers, and what is measured of a system on them."""

    def __init__(self, server: Server, database: str, folder: Path, tasks: int) -> None:
        self._server = server
        self._database = database
        self._folder = folder
        self._tasks = tasks
        self._marks = folder / "marks"
        self._redis: Any = server.client()

    def _environment(self, system: System, **more: str) -> dict[str, str]:
        return {
            "BENCH_SYSTEM": system.name,
            "BENCH_REDIS": self._server.url,
            "BENCH_DATABASE": self._database,
            "BENCH_MARKS": str(self._marks),
            "PYTHONPATH": str(_APPS),
            "PYTHONWARNINGS": "ignore",
            "C_FORCE_ROOT": "1",
            **system.environment,
            **more,
        }

    def _done(self) -> int:
        return self._marks.stat().st_size // 8 if self._marks.exists() else 0

    def _clear(self, system: System) -> None:
        self._marks.unlink(missing_ok=True)
        self._redis.flushall()
        if system.app == "app_pgqueuer":
            self._send(system, "empty")

    def _send(self, system: System, *arguments: str) -> None:
        argv = [system.python, f"{system.app}.py", *arguments]
        env = {**os.environ, **self._environment(system)}
        subprocess.run(argv, cwd=_APPS, env=env, check=True, timeout=300)

    @contextlib.contextmanager
    def _workers(self, system: System, many: int, **environment: str) -> Iterator[list[Proc]]:
        argv = [system.python, *(part.format(n=many) for part in system.command)]
        env = self._environment(system, **environment)
        log = self._folder / f"{system.name}.log"
        procs = [Proc(argv, log=log, env=env, cwd=_APPS) for _ in range(many if system.each else 1)]
        try:
            yield procs
        finally:
            for proc in procs:
                proc.destroy()

    def drain(self, system: System, processes: int = 2) -> Figures:
        """Empty a full queue."""
        self._clear(system)
        tasks = int(self._tasks * system.tasks * max(processes / 2, 0.5))
        self._send(system, "fill", str(tasks))
        with self._workers(system, processes) as procs:
            wait_until(lambda: self._done() > tasks * _WARM_UP, timeout=120, what=f"{system.name} to begin")
            self._redis.config_resetstat()
            cpu, first, begun = cpu_of(procs), self._done(), time.monotonic()
            supervising, serving = cpu_of_main(procs), self._server.cpu()
            wait_until(lambda: self._done() >= tasks, timeout=300, what=f"{system.name} to end")
            seconds, done = time.monotonic() - begun, tasks - first
            figures = {
                f"{processes} processes: tasks/s": done / seconds,
                f"{processes} processes: CPU s per 1,000": (cpu_of(procs) - cpu) / done * 1e3,
            }
            if system.name == "ours":
                supervising, serving = cpu_of_main(procs) - supervising, self._server.cpu() - serving
                figures[f"{processes} processes: supervisor's CPU, us per task"] = supervising / done * 1e6
                figures[f"{processes} processes: Redis CPU, us per task"] = serving / done * 1e6
            if system.app != "app_pgqueuer":
                calls = self._redis.info("commandstats")
                total = sum(stat["calls"] for stat in calls.values())
                figures[f"{processes} processes: Redis commands per task"] = total / done
            return figures

    def latency(self, system: System) -> Figures:
        """From sending to running, at a hundred a second."""
        self._clear(system)
        with self._workers(system, 2):
            self._send(system, "fill", "20")
            wait_until(lambda: self._done() >= 20, timeout=120, what=f"{system.name} to begin")
            self._send(system, "pace", str(_PACED))
            wait_until(lambda: self._done() >= 20 + _PACED, timeout=60, what="all paced tasks")
        marks = self._marks.read_bytes()
        late = sorted(value for (value,) in struct.iter_unpack("d", marks) if value)
        return {
            "latency p50, ms": late[len(late) // 2] * 1e3,
            "latency p99, ms": late[len(late) * 99 // 100] * 1e3,
        }

    def memory(self, system: System) -> Figures:
        """Highest PSS of a worker of eight with a large application, while it works."""
        self._clear(system)
        tasks = 4000
        self._send(system, "fill", str(tasks))
        peak = 0
        with self._workers(system, _CELLS_OF_BALLAST, BENCH_BALLAST=str(_BALLAST)) as procs:
            wait_until(lambda: self._done() > 0, timeout=120, what="the first task")
            while True:
                peak = max(peak, pss_of(procs))
                if self._done() >= tasks:
                    break
            peak = max(peak, pss_of(procs))
        return {f"peak PSS of {_CELLS_OF_BALLAST} with a large application, MiB": peak / 1_048_576}


def _scale(bench: Bench, system: System) -> Figures:
    return bench.drain(system, 1) | bench.drain(system, 4)


MEASURES: dict[str, tuple[Callable[[Bench, System], Figures], tuple[System, ...]]] = {
    "drain": (Bench.drain, (*CELERY, *PEERS)),
    "results": (Bench.drain, STORING),
    "names": (Bench.drain, NAMED),
    "latency": (Bench.latency, (*CELERY, *PEERS)),
    "scale": (_scale, CELERY),
    "memory": (Bench.memory, CELERY),
}


def _all(procs: list[Proc]) -> Iterator[psutil.Process]:
    for proc in procs:
        yield from proc.tree()


def cpu_of(procs: list[Proc]) -> float:
    """Seconds of CPU of the workers and their children so far."""
    return sum(proc.cpu() for proc in procs)


def cpu_of_main(procs: list[Proc]) -> float:
    """The same of the main process alone."""
    times = psutil.Process(procs[0].pid).cpu_times()
    return times.user + times.system


def pss_of(procs: list[Proc]) -> int:
    """Bytes, shared ones counted once."""
    total = 0
    for process in _all(procs):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_full_info().pss
    return total


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", type=int, default=20_000, help="for two processes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=list(MEASURES))
    chosen = parser.parse_args()
    more = [
        each
        for name, those in (("results", STORING), ("names", NAMED))
        if name in chosen.measure
        for each in those
    ]
    systems = [*CELERY, *more, *(PEERS if chosen.peers else ())]
    for system in systems:
        system.install()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (
        tempfile.TemporaryDirectory(prefix="seawall-") as name,
        own_server(Path(name) / "s", fsync="everysec") as server,
        _database(Path(name), wanted=chosen.peers) as database,
    ):
        Path(name).chmod(0o711)
        bench = Bench(server, database, Path(name), chosen.tasks)
        for _ in range(chosen.rounds):
            for system in systems:
                _measure(bench, system, found, chosen.measure)
    show(found, [system.name for system in systems])
    _extrapolate({name: statistics.median(by["ours"]) for name, by in found.items() if by["ours"]})


def _measure(
    bench: Bench, system: System, found: dict[str, dict[str, list[float]]], chosen: list[str]
) -> None:
    figures: Figures = {}
    for name in chosen:
        measure, measured = MEASURES[name]
        if system in measured:
            figures |= measure(bench, system)
    for name, value in figures.items():
        found[name][system.name].append(value)


@contextlib.contextmanager
def _database(folder: Path, *, wanted: bool) -> Iterator[str]:
    if not wanted:
        yield ""
        return
    folder.chmod(0o711)
    with attach(folder / "home", redis=False) as attachment:
        yield str(attachment.servers.database_url)


def show(found: dict[str, dict[str, list[float]]], names: list[str]) -> None:
    """The medians, side by side."""
    print(f"{'':48}" + "".join(f"{name:>10}" for name in names))  # noqa: T201 - it is a report
    for figure, by_system in found.items():
        cells = [statistics.median(by_system[name]) if by_system[name] else None for name in names]
        texts = ("-" if cell is None else f"{cell:,.0f}" if cell >= 1000 else f"{cell:.3g}" for cell in cells)
        print(f"{figure:48}" + "".join(f"{text:>10}" for text in texts))  # noqa: T201


def _extrapolate(ours: Figures) -> None:
    """Where many cores would meet one server: it works on one core, and so much of it for each task."""
    if not (serving := ours.get("2 processes: Redis CPU, us per task")):
        return
    each = ours["2 processes: CPU s per 1,000"] * 1e3
    cores = each / serving
    print(  # noqa: T201
        f"\nA no-op task takes {each:.0f} us of the worker's CPU and {serving:.1f} us of the server's, "
        f"which has one core: it is full at {1e6 / serving:,.0f} tasks/s, which {cores:.0f} cores of cells "
        f"reach. With a millisecond of work in each task: {(each + 1000) / serving:.0f} cores."
    )


if __name__ == "__main__":
    main()
