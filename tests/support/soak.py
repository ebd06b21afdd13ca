"""A soak: a fleet under mixed load while servers, workers and cells are killed, and the account of it.

    PYTHONPATH=tests python -m support.soak --minutes 60

`seawall up` runs two workers of two cells on a Redis, a PostgreSQL and a gateway of the soak's own. One fault
follows another, of every kind in turn in random order. After each, three new tasks, one of each need, tell
when the fleet works again. At the end every task that was accepted must have ended or failed with a reason.
Exit code 1 if anything is not as it should be.
"""

import argparse
import contextlib
import functools
import itertools
import random
import re
import signal
import socketserver
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import psycopg

from seawall import Seawall
from seawall.worker.request import DELIVERY_LIMIT
from support import soaked
from support.delivery import ROOT, Marks, Server, own_server
from support.nodes import environment
from support.outages import kill_server, own_postgres
from support.processes import Proc, started
from support.proxy import Proxy, proxy
from support.servers import temporary_home
from support.waiting import wait_until

BUDGET = 700 << 20
RATE = 40.0
"""Tasks a second, unless told otherwise."""

RECOVERED_WITHIN = 60.0
_MIX = {"quick": 60, "row": 20, "call": 15, "slow": 2, "leak": 3}
_FLEET = """
app = "support.soaked"
drain_timeout = "40s"
[workers.default]
processes = 2
concurrency = 2
options = ["--without-mingle", "--without-gossip"]
[flower]
enabled = false
"""
_OUT_OF_RETRIES = {"call TimeoutError", "call ConnectionError", "call ConnectionRefusedError"}
"""A call that fails before the circuit opens is tried again only within the retry budget of the cluster."""

_BEFORE_IT_OPENS = 15
_UNHANDLED = re.compile(
    r"\| Traceback \(most recent|Exception in thread|Exception ignored|Fatal Python|"
    r'"level": ?"critical"|crash-looping|Unrecoverable'
)


@dataclass
class Fault:
    """One fault: what it was, how long it lasted, and how long after its end the fleet worked again."""

    name: str
    at: float
    lasted: float
    recovered: float | None


@dataclass
class Account:
    """What became of everything."""

    seed: int
    accepted: Counter[str]
    refused: int
    refused_and_run: int
    ended: int
    ended_twice: int
    failed: Counter[str]
    poisoned: int
    """Failed because the faults killed their process as often as the platform tries."""

    lost: list[str]
    rows_missing: int
    faults: list[Fault]
    unhandled: list[str]
    peak: int
    longest_silence: float
    exit_status: int
    seconds: float

    def problems(self) -> list[str]:
        """What is not as it should be; empty if all is well."""
        late = [each for each in self.faults if (each.recovered or 1e9) > RECOVERED_WITHIN]
        outages = sum(each.name == "gateway_out" for each in self.faults)
        calls = Counter({name: many for name, many in self.failed.items() if name in _OUT_OF_RETRIES})
        surprising = self.failed.keys() - calls.keys() - {"greedy MemoryBudgetExceeded"}
        found = {
            "lost": self.lost[:5],
            "rows missing": self.rows_missing,
            "failed for no good reason": sorted(surprising),
            "failed before the circuit opened": calls if calls.total() > _BEFORE_IT_OPENS * outages else {},
            "not recovered in time": late,
            "unhandled": self.unhandled[:5],
            "beyond the memory budget": max(0, self.peak - BUDGET) if self.peak else "nobody looked",
            "exit status": self.exit_status,
        }
        return [f"{what}: {value}" for what, value in found.items() if value]

    def lines(self) -> Iterator[str]:
        """The account, to print."""
        total = sum(self.accepted.values())
        yield f"seed {self.seed}: {self.seconds:.0f} s, {len(self.faults)} faults, {total} tasks accepted"
        yield f"  {dict(self.accepted)}"
        yield f"  {self.ended} ended, {self.ended_twice} of them more than once; {len(self.lost)} lost"
        yield f"  failed: {dict(self.failed) or 'none'}; killed {DELIVERY_LIMIT} times: {self.poisoned}"
        yield f"  {self.refused} submissions were refused, {self.refused_and_run} of those ran all the same"
        yield f"  rows that are missing: {self.rows_missing}; unhandled errors: {len(self.unhandled)}"
        yield f"  memory of the workers at most {self.peak >> 20} MiB of {BUDGET >> 20} MiB"
        yield f"  longest time without the end of a task: {self.longest_silence:.1f} s"
        for name in sorted({each.name for each in self.faults}):
            mine = [each for each in self.faults if each.name == name]
            times = sorted(each.recovered or float("inf") for each in mine)
            median, worst = times[len(times) // 2], times[-1]
            yield f"  {len(mine):4} x {name:20} recovered after {median:.1f} s, worst {worst:.1f} s"
        yield f"  exit status of the fleet: {self.exit_status}"


class _Greeter(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.request.sendall(b"ok")


@contextlib.contextmanager
def own_gateway() -> Iterator[Proxy]:
    """A server that says "ok" to whoever connects, behind a proxy that can fail."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Greeter) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            with proxy(f"tcp://u:p@127.0.0.1:{server.server_address[1]}") as way:
                yield way
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Load:
    """What submits tasks, steadily; a submission that raises was refused, or may have been."""

    app: Seawall
    dice: random.Random
    rate: float = RATE
    accepted: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    _number: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _over: threading.Event = field(default_factory=threading.Event)

    def submit(self, kind: str, *arguments: object) -> str | None:
        """One task; its id if it was accepted."""
        with self._lock:
            self._number += 1
            name = f"{kind}-{self._number}"
        try:
            self.app.tasks[f"soak.{kind}"].apply_async(arguments, task_id=name)
        except Exception:  # noqa: BLE001 - whatever a client of a dead server raises
            self.refused.append(name)
            return None
        self.accepted.append(name)
        return name

    def run(self) -> None:
        """Until `stop`."""
        kinds, weights = list(_MIX), list(_MIX.values())
        while not self._over.wait(self.dice.expovariate(self.rate)):
            kind = self.dice.choices(kinds, weights)[0]
            arguments: tuple[object, ...] = ()
            if kind == "slow":
                arguments = (self.dice.uniform(0.5, 3.0),)
            elif kind == "row":
                arguments = (self._number,)
            self.submit(kind, *arguments)

    def stop(self) -> None:
        self._over.set()


@dataclass
class Place:
    """Where it all happens."""

    folder: Path
    redis: Server
    home: Path
    database: str
    gateway: Proxy
    fleet: Proc
    load: Load
    dice: random.Random
    marks: Marks
    peak: int = 0

    def workers(self) -> list[psutil.Process]:
        """The main processes of the workers."""
        found = []
        for each in self.fleet.tree():
            with contextlib.suppress(psutil.Error):
                if each.ppid() == self.fleet.pid and "worker" in each.cmdline():
                    found.append(each)
        return found

    def weigh(self) -> None:
        """Look at the memory of the workers with all their cells."""
        total = 0
        for worker in self.workers():
            for each in [worker, *worker.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    total += each.memory_full_info().pss
        self.peak = max(self.peak, total)


# Faults. Each returns when it is over.


def _pass_time(seconds: float) -> None:
    over = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > over, timeout=seconds + 60)


def redis_killed(place: Place) -> None:
    place.redis.kill()
    _pass_time(place.dice.uniform(0.5, 4))
    place.redis.start()


def redis_frozen(place: Place) -> None:
    assert place.redis.proc is not None
    place.redis.proc.signal(signal.SIGSTOP)
    _pass_time(place.dice.uniform(1, 4))
    place.redis.proc.signal(signal.SIGCONT)


def postgres_killed(place: Place) -> None:
    kill_server(place.home, place.database, seconds=place.dice.uniform(1, 8))


def worker_killed(place: Place) -> None:
    with contextlib.suppress(psutil.NoSuchProcess, IndexError):
        place.dice.choice(place.workers()).kill()


def cells_killed(place: Place) -> None:
    for _ in range(3):
        with contextlib.suppress(psutil.NoSuchProcess, IndexError):
            place.dice.choice(place.dice.choice(place.workers()).children()).kill()
        _pass_time(0.3)


def gateway_out(place: Place) -> None:
    fail, mend = place.dice.choice([(Proxy.die, Proxy.revive), (Proxy.go_deaf, Proxy.hear_again)])
    fail(place.gateway)
    _pass_time(place.dice.uniform(3, 8))
    mend(place.gateway)


def a_leak(place: Place) -> None:
    switch = place.folder / "leak"
    switch.touch()
    for _ in range(60):
        place.load.submit("leak")
    _pass_time(6)
    switch.unlink()


def greed(place: Place) -> None:
    for _ in range(2):
        place.load.submit("greedy")
    _pass_time(3)


def rolling_restart(place: Place) -> None:
    """Not a fault, but the fleet must bear it among them."""
    before = {each.pid for each in place.workers()}
    place.fleet.signal(signal.SIGHUP)

    def replaced() -> bool:
        now = {each.pid for each in place.workers()}
        return len(now) == len(before) and not now & before

    wait_until(replaced, timeout=120, what="two new workers")


FAULTS: tuple[Callable[[Place], None], ...] = (
    redis_killed,
    redis_frozen,
    postgres_killed,
    worker_killed,
    cells_killed,
    gateway_out,
    a_leak,
    greed,
    rolling_restart,
)


# The course of it


def recovery(place: Place) -> float | None:
    """Seconds until a task of each need, submitted from now on, has ended; None if that took too long.

    One that fails is followed by another: the account has what failed, here it is asked what works.
    """
    began = time.monotonic()
    awaited: dict[str, str | None] = dict.fromkeys(("quick", "row", "call"))

    def works() -> bool:
        ends, failures = place.marks.counts("end"), _failures(place.marks)
        for kind, name in awaited.items():
            if name is None or (name in failures and name not in ends):
                awaited[kind] = place.load.submit(kind, *((0,) if kind == "row" else ()))
        return all(name in ends for name in awaited.values())

    try:
        wait_until(works, timeout=2 * RECOVERED_WITHIN)
    except AssertionError:
        return None
    return time.monotonic() - began


def storm(place: Place, seconds: float, tell: Callable[[str], object]) -> list[Fault]:
    """Faults, until the time is over; `tell` hears of each."""
    over = time.monotonic() + seconds
    began = time.monotonic()
    found: list[Fault] = []
    deck: list[Callable[[Place], None]] = []
    while time.monotonic() < over:
        deck = deck or place.dice.sample(FAULTS, len(FAULTS))
        fault = deck.pop()
        at = time.monotonic()
        fault(place)
        lasted = time.monotonic() - at
        found.append(Fault(fault.__name__, at - began, lasted, recovery(place)))
        tell(str(found[-1]))
        _pass_time(place.dice.uniform(1, 5))
    return found


@contextlib.contextmanager
def prepared(folder: Path, seed: int, rate: float) -> Iterator[Place]:
    """The servers and a fleet that is ready."""
    dice = random.Random(seed)  # noqa: S311 - no secret
    fleet = folder / "fleet.toml"
    fleet.write_text(_FLEET)
    with (
        temporary_home() as home,
        own_postgres(home) as database,
        own_server(folder / "redis") as redis,
        own_gateway() as gateway,
    ):
        with psycopg.connect(database, autocommit=True) as connection:
            connection.execute(soaked.TABLE.encode())
        variables = environment(
            redis.url,
            SEAWALL_DATABASE_URL=database,
            SEAWALL_FLEET=str(fleet),
            SEAWALL_HOME=str(folder / "home"),
            SEAWALL_STARTUP__MIGRATIONS="ignore",
            SEAWALL_MEMORY__BUDGET=str(BUDGET),
            SEAWALL_MEMORY__RECYCLE_LEAKS="true",
            SOAK_GATEWAY=gateway.url.rpartition("@")[2],
            SOAK_LEAK=str(folder / "leak"),
            DELIVERY_MARKS=str(folder / "marks"),
        )
        argv = [sys.executable, "-m", "seawall.cli", "up", "--no-migrate"]
        with started(argv, log=folder / "fleet.log", env=variables, cwd=ROOT) as proc:
            proc.wait_for("fleet ready", timeout=120)
            load, marks = Load(_client(redis.url), dice, rate), Marks(folder / "marks")
            yield Place(folder, redis, home, database, gateway, proc, load, dice, marks)


def _client(url: str) -> Seawall:
    """The producer's side, in this process."""
    app = soaked.app
    app.conf.update(broker_url=url, result_backend=url)
    return app


def soak(
    folder: Path,
    seconds: float,
    seed: int,
    tell: Callable[[str], object] = lambda _line: None,
    *,
    rate: float = RATE,
) -> Account:
    """Run it for so long, and draw the account."""
    began = time.monotonic()
    over = threading.Event()
    with prepared(folder, seed, rate) as place:

        def weigh() -> None:
            while not over.wait(1.0):
                with contextlib.suppress(psutil.Error):
                    place.weigh()

        threads = [threading.Thread(target=place.load.run), threading.Thread(target=weigh)]
        for thread in threads:
            thread.start()
        try:
            faults = storm(place, seconds, tell)
            place.load.stop()
            _wait_for_the_rest(place)
        finally:
            place.load.stop()
            over.set()
            for thread in threads:
                thread.join()
        place.fleet.signal(signal.SIGTERM)
        status = place.fleet.wait(90)
        return _account(place, faults, status, time.monotonic() - began, seed)


def _wait_for_the_rest(place: Place) -> None:
    accepted = set(place.load.accepted)

    def settled() -> bool:
        marks = place.marks
        return accepted <= set(marks.counts("end")) | _failures(marks).keys()

    with contextlib.suppress(AssertionError):  # what is left then is lost, and the account says so
        wait_until(settled, timeout=120)


def _failures(marks: Marks) -> dict[str, str]:
    return dict(line[1].split("=", 1) for line in marks.lines() if line[0] == "failed")


def _account(place: Place, faults: list[Fault], status: int, seconds: float, seed: int) -> Account:
    marks, accepted = place.marks, set(place.load.accepted)
    starts, ends, failures = marks.counts("start"), marks.counts("end"), _failures(marks)
    poisoned = {
        name for name, why in failures.items() if why == "Poisoned" and starts[name] >= DELIVERY_LIMIT
    }
    moments = sorted(float(line[2]) for line in marks.lines() if line[0] == "end")
    with psycopg.connect(place.database, autocommit=True) as connection:
        rows = {str(name) for (name,) in connection.execute("SELECT id FROM soak")}
    done = {name for name in ends if name in accepted}
    return Account(
        seed=seed,
        accepted=Counter(name.partition("-")[0] for name in accepted),
        refused=len(place.load.refused),
        refused_and_run=sum(name in ends or name in failures for name in place.load.refused),
        ended=len(done),
        ended_twice=sum(ends[name] > 1 for name in done),
        failed=Counter(
            f"{name.partition('-')[0]} {why}"
            for name, why in failures.items()
            if name not in ends and name not in poisoned
        ),
        poisoned=len(poisoned),
        lost=sorted(accepted - done - failures.keys()),
        rows_missing=sum(name.startswith("row-") and name not in rows for name in done),
        faults=faults,
        unhandled=[line for line in place.fleet.output.splitlines() if _UNHANDLED.search(line)],
        peak=place.peak,
        longest_silence=max((b - a for a, b in itertools.pairwise(moments)), default=0.0),
        exit_status=status,
        seconds=seconds,
    )


def main(arguments: Any = None) -> int:
    """Soak, print the account, and say by the exit code whether it is right."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument(
        "--keep", type=Path, help="directory for logs and marks; default: one that is removed"
    )
    chosen = parser.parse_args(arguments)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the fleet would inherit that it is ignored
    with contextlib.ExitStack() as stack:
        folder = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="soak-")))
        folder.mkdir(parents=True, exist_ok=True)
        account = soak(folder, chosen.minutes * 60, chosen.seed, functools.partial(print, flush=True))
    for line in account.lines():
        print(line)  # noqa: T201 - it is a report
    for problem in account.problems():
        print(f"PROBLEM {problem}")  # noqa: T201
    return 1 if account.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
