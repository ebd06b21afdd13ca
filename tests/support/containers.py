"""Workers in PID namespaces of their own that share a host name, as containers do, and storms of kills.

In each of them the supervisor is pid 1 and its cells are the next ones, however often it was started: nobody
can be told by host name and pid. `python -m support.containers 50` runs so many rounds and prints each.
"""

import functools
import itertools
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import redis

from support.delivery import ROOT
from support.processes import Proc, alive
from support.suspects import Fleet, own_fleet
from support.waiting import busyness, wait_until

CELLS = 2
SECONDS = 0.2  # that a task takes: each process is in one nearly always
IN_LINE = 40  # tasks that wait at least when a round begins: more than both work off within a lease
_NAMESPACES = ("--pid", "--fork", "--mount-proc", "--uts", "--kill-child")
_AS_ANYBODY = ("--user", "--map-root-user")
_NAMED = ("sh", "-c", 'hostname container && exec "$@"', "sh")
_BASE = "seawall:{celery}"
_ON_ITS_WAY = 0.1  # seconds for which an acknowledgement may be on its way


@functools.cache
def entering() -> tuple[tuple[str, ...], str]:
    """What begins a command that is to run in a container, and why there is no such thing here."""
    said = ""
    for more in ((), _AS_ANYBODY):
        command = ("unshare", *more, *_NAMESPACES, *_NAMED)
        try:
            done = subprocess.run([*command, "true"], capture_output=True, text=True, check=False, timeout=30)
        except OSError as exc:
            return (), str(exc)
        if not done.returncode:
            return command, ""
        said = done.stderr.strip()
    return (), said


@dataclass(frozen=True, kw_only=True)
class Kill:
    """One strike: which container, which process of it (0: all of them), when it was over."""

    container: str
    pid: int
    at: float
    running: list[str]

    def hit(self, who: str) -> bool:
        """Whether it took the process that made such a mark."""
        container, *_, pid = who.split(".")
        return container == self.container and self.pid in {0, int(pid)}


@dataclass(frozen=True, kw_only=True)
class Account:
    """What came of a storm."""

    kinds: dict[str, int]
    kills: int
    busy: int
    """Kills that hit a process inside a task."""

    running: int
    """Tasks that ran in what was killed."""

    tasks: int
    lost: int
    given_up: int
    repeated: int
    """Runs beyond the first."""

    on_its_way: int
    """Of those, runs of a task that had ended so shortly before the kill that nobody could know."""

    twice: list[str]
    """Tasks that ran again although what was killed did not run them."""

    back: list[float]
    """Seconds beyond the lease until nothing was held by the dead any more, a worker being up."""

    again: list[float]
    """Seconds from a kill until what ran there had started again."""


class Storm:
    """Two containers of one host name, and what is done to them."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.lease = float(fleet.place.delivery["lease"])
        self.up: list[tuple[str, Proc]] = []
        self.kills: list[Kill] = []
        self.kinds: Counter[str] = Counter()
        self.overdue: list[float] = []
        self.submitted = 0
        self._serial = itertools.count(1)
        self._ways: tuple[Callable[[], list[Kill]], ...] = (
            self.restart_in_place,
            self.kill_one_of_two,
            self.kill_cell,
            self.restart_both,
        )

    # What is done

    def start(self) -> None:
        """One more container; it is not waited for."""
        site, name = self.fleet.place, f"c{next(self._serial)}"
        argv = [*entering()[0], sys.executable, "-m", "seawall.worker", "-A", "support.marked", "worker"]
        argv += ["-c", str(CELLS), "-l", "INFO", "--without-gossip", "--without-mingle"]
        environment = {**site.environment, "CONTAINER": name}
        container = Proc(argv, log=site.folder / f"{name}.log", env=environment, cwd=ROOT)
        site.workers.append(container)
        self.up.append((name, container))

    def round(self, number: int) -> list[Kill]:
        """Have work waiting and both at work, strike, and wait until what ran there has ended elsewhere."""
        for name, _ in self.up:
            wait_until(lambda name=name: self._has_work(name), timeout=60, what="its first task")  # type: ignore[misc]
        way = self._ways[number % len(self._ways)]
        kills = way()
        self.kills += kills
        self.kinds[way.__name__] += 1
        names = {name for kill in kills for name in kill.running}
        ended = self.fleet.place.marks.counts
        wait_until(lambda: names <= set(ended("end")), timeout=60, what="what was killed to end after all")
        return kills

    def _has_work(self, name: str) -> bool:
        """Whether it has begun a task; the others may have done all that was in line before it was up."""
        self.submit()
        return bool(self._tokens(name, 0))

    def submit(self) -> None:
        """Nobody is to be without work."""
        missing = IN_LINE - self.fleet.queues.counts("celery").ready
        if missing > 0:
            many: list[tuple[Any, ...]] = [
                (f"task-{self.submitted + each}", SECONDS) for each in range(missing)
            ]
            self.fleet.submit("contained", many)
            self.submitted += missing

    def restart_in_place(self) -> list[Kill]:
        """One is killed and started again at once."""
        kills = [self._kill(self._any())]
        self.start()
        self._outlast(kills)
        return kills

    def restart_both(self) -> list[Kill]:
        """All are, and nobody is up meanwhile."""
        kills = [self._kill(each) for each in list(self.up)]
        self.start()
        self.start()
        self._outlast(kills)
        return kills

    def kill_one_of_two(self) -> list[Kill]:
        """One is killed, and its namesake is all there is until what was held there is back."""
        kills = [self._kill(self._any())]
        self._outlast(kills)
        self.start()
        return kills

    def kill_cell(self) -> list[Kill]:
        """One process that runs tasks is killed."""
        name, container = self._any()
        cell = random.choice(container.tree()[2:])  # noqa: S311
        pid = _inner_pid(cell)
        with suppress(psutil.NoSuchProcess):
            cell.kill()
        wait_until(lambda: not alive([cell]), timeout=20, what="the cell to be gone")
        kills = [self._struck(name, pid)]
        self._outlast(kills)
        return kills

    def _any(self) -> tuple[str, Proc]:
        return random.choice(self.up)  # noqa: S311

    def _kill(self, victim: tuple[str, Proc]) -> Kill:
        """SIGKILL of the first process of its namespace; with it the kernel ends all others."""
        name, container = victim
        everybody = container.tree()
        everybody[1].kill()
        wait_until(lambda: not alive(everybody), timeout=20, what="the container to be gone")
        container.popen.wait(20)
        self.fleet.place.workers.remove(container)
        self.up.remove(victim)
        return self._struck(name, 0)

    def _struck(self, container: str, pid: int) -> Kill:
        kill = Kill(container=container, pid=pid, at=time.time(), running=[])
        mine = [line for line in self.fleet.place.marks.lines() if kill.hit(line[3])]
        ended = {line[1] for line in mine if line[0] == "end"}
        kill.running.extend(line[1] for line in mine if line[0] == "start" and line[1] not in ended)
        return kill

    # What comes of it

    def _tokens(self, container: str, pid: int) -> set[str]:
        """Of the processes of a container, or of one of them: `worker.process`, from their marks."""
        whose = Kill(container=container, pid=pid, at=0.0, running=[])
        marks = self.fleet.place.marks.lines()
        return {".".join(line[3].split(".")[1:3]) for line in marks if whose.hit(line[3])}

    def _outlast(self, kills: list[Kill]) -> None:
        """Wait until the dead take part in nothing; notes by how much that was later than it may be."""
        dead = set().union(*(self._tokens(kill.container, kill.pid) for kill in kills))
        up_at = time.time() if self._somebody_works(kills) else 0.0

        def gone() -> bool:
            nonlocal up_at
            if not up_at and self._somebody_works(kills):
                up_at = time.time()
            consumers: Any = client.zrange(f"{_BASE}:consumers", 0, -1)
            return not any(_tokens_of(name.decode()) in dead for name in consumers)

        with redis.Redis.from_url(self.fleet.place.url) as client:
            wait_until(gone, timeout=60, what="the dead to be forgotten")
        due = max(kills[-1].at + self.lease, up_at or time.time())
        self.overdue.append(time.time() - due)

    def _somebody_works(self, kills: list[Kill]) -> bool:
        """Whether somebody has started a task since, or was up all the time."""
        names = {name for name, _ in self.up}
        if any(name not in {kill.container for kill in kills} and self._tokens(name, 0) for name in names):
            return True
        return any(kill.pid for kill in kills)

    def account(self) -> Account:
        """Once everything has ended."""
        marks = self.fleet.place.marks
        wait_until(lambda: len(marks.counts("end")) >= self.submitted, timeout=120, what="every task to end")
        starts, ends = marks.times("start"), marks.times("end")
        runs = _runs(marks.lines())
        judged = [self._judge(run) for name in starts for run in runs[name][:-1]]
        again = [
            next((moment for moment in starts[name] if moment > kill.at), kill.at) - kill.at
            for kill in self.kills
            for name in kill.running
        ]
        return Account(
            kinds=dict(self.kinds),
            kills=len(self.kills),
            busy=sum(bool(kill.running) for kill in self.kills),
            running=sum(len(kill.running) for kill in self.kills),
            tasks=self.submitted,
            lost=self.submitted - len(ends),
            given_up=self.fleet.queues.counts("celery").dead,
            repeated=len(judged),
            on_its_way=judged.count("on its way"),
            twice=[each for each in judged if each not in {"cut", "on its way"}],
            back=self.overdue,
            again=sorted(again),
        )

    def _judge(self, run: "Run") -> str:
        """Why a task ran again after this run."""
        for kill in self.kills:
            if kill.hit(run.who) and run.begun <= kill.at:
                if run.ended is None:
                    return "cut"
                if kill.at - run.ended < _ON_ITS_WAY * busyness():
                    return "on its way"
        return f"{run.name} in {run.who} from {run.begun} to {run.ended}"


@dataclass
class Run:
    """One run of a task."""

    name: str
    who: str
    begun: float
    ended: float | None = None


def _runs(lines: list[list[str]]) -> dict[str, list[Run]]:
    """All of each task, in the order of their starts."""
    found: dict[str, list[Run]] = {}
    for kind, name, moment, who in sorted(lines, key=lambda line: float(line[2])):
        if kind == "start":
            found.setdefault(name, []).append(Run(name, who, float(moment)))
        else:
            next(run for run in found[name] if run.who == who and run.ended is None).ended = float(moment)
    return found


def _tokens_of(consumer: str) -> str:
    """`worker.process` of a consumer's name."""
    return consumer.rpartition(":")[2].rpartition(".")[0]


def _inner_pid(process: psutil.Process) -> int:
    """What it is called in its own namespace."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1])


def storm(folder: Path, rounds: int) -> Account:
    """So many rounds, with a line for each."""
    with own_fleet(folder) as fleet:
        raging = Storm(fleet)
        raging.start()
        raging.start()
        for number in range(rounds):
            kills = raging.round(number)
            running = sum(len(kill.running) for kill in kills)
            late = raging.overdue[-1]
            print(  # noqa: T201 - the account is the point
                f"round {number + 1}: {list(raging.kinds)[number % len(raging.kinds)]}, {running} tasks ran"
                f" there, back {late:+.2f} s from the lease's end",
                flush=True,
            )
        return raging.account()


def summary(account: Account) -> str:
    """The figures in one sentence."""
    found, again = account, max(account.again, default=0.0)
    return (
        f"{found.kills} kills in {found.kinds}: {found.busy} hit a busy process, {found.running} tasks ran"
        f" there; {found.tasks} tasks, {found.lost} lost, {found.given_up} given up, {found.repeated} runs"
        f" repeated, {found.on_its_way} of them just ended, {len(found.twice)} not running; back"
        f" {max(found.back):+.2f} s from the end of the lease at worst, started again after {again:.2f} s"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="containers-") as _folder:
        print(summary(storm(Path(_folder), int(sys.argv[1]))))  # noqa: T201
