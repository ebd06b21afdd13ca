"""Storms of tasks that kill their worker among neighbours that do no harm, and the account of each."""

import contextlib
import gc
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis
from celery import Celery

from seawall import delivery
from seawall.cluster import micros
from seawall.delivery import Queues, scripts
from seawall.delivery.options import Options
from seawall.delivery.scripts import Keys
from support.delivery import ROOT, Site, own_server, site
from support.processes import Proc
from support.waiting import busyness, lease, wait_until

LEASE = 1.0
_LIMIT = Options().delivery_limit
MOST_RUNS = 2 * _LIMIT - 1
"""Of a killer whose first starts never came on record."""

_PATIENCE = 120.0
_A_MOMENT = 0.01  # seconds that a worker lives that is lost


class Fleet:
    """Workers of `support.marked` over one server of the test's own."""

    def __init__(self, place: Site, queues: Queues) -> None:
        self.place = place
        self.queues = queues
        self._serial = itertools.count(1)
        self.environment = place.environment

    def worker(
        self,
        pool: str,
        concurrency: int,
        *,
        wait: bool = True,
        inside: tuple[str, ...] = (),
        application: str = "support.marked",
    ) -> Proc:
        """A worker; `inside` is a command that begins it, such as one that enters a control group."""
        number = next(self._serial)
        argv = [*inside, sys.executable, "-m", "seawall.worker", "-A", application, "worker"]
        argv += ["-c", str(concurrency), "-l", "INFO", "-n", f"suspects{number}@test"]
        argv += ["--without-gossip", "--without-mingle", *([] if pool == "cells" else ["-P", pool])]
        log = self.place.folder / f"suspects-{number}.log"
        proc = Proc(argv, log=log, env=self.environment, cwd=ROOT)
        self.place.workers.append(proc)
        if wait:
            proc.wait_for("ready.")
        return proc

    @contextlib.contextmanager
    def client(self) -> Iterator[Celery]:
        """An application that submits, and knows no task."""
        with Celery("client", broker=self.place.url) as app:
            app.conf.update(
                broker_transport=delivery.transport_for(self.place.url),
                broker_transport_options={"delivery": self.place.delivery},
                result_backend=self.place.url,
            )
            yield app
            gc.collect()  # a chord's results are a cycle, and let go of the server while there is one

    def submit(
        self, name: str, many: list[tuple[Any, ...]], *, application: str = "marked", **options: Any
    ) -> None:
        with self.client() as app:
            task = app.signature(f"support.{application}.{name}")
            delivery.submit_many((task.clone(arguments).set(**options) for arguments in many), app=app)

    def until(self, condition: Callable[[], object], what: str, timeout: float = 60.0) -> None:
        wait_until(condition, timeout=timeout, what=what)

    def lose(self, strikes: int) -> None:
        """Have the one message that waits start in workers that die, until it has so many strikes."""
        keys, limit = Keys(), Options().delivery_limit
        base = keys.base("celery")
        with redis.Redis.from_url(self.place.url) as client:
            for life in range(strikes + 1):  # the first one makes it a suspect
                worker = f"lost{life}"
                name = f"lost:0:{worker}.process.1"

                def claimed(worker: str = worker, name: str = name) -> Any:
                    of = [keys.paused, keys.revoked, keys.aboard(worker), base]
                    return scripts.claim(client, of, [name, micros(_A_MOMENT), limit, 1, 0, 10, 10, "", 0])[
                        3
                    ][0]

                self.until(claimed, "the lease of the one before to end")
                [tag, *_] = client.hkeys(f"{base}:held:{name}")
                scripts.settle(client, [base], [name, limit, b"s" + tag])

    def started(self, name: str) -> int:
        return self.place.marks.counts("start")[name]

    def on_record(self) -> int:
        """Messages whose start is on record; it gets there a few milliseconds after the start."""
        with redis.Redis.from_url(self.place.url) as client:
            keys: Any = client.keys("seawall:{celery}:held:*")
            marks: Any = itertools.chain.from_iterable(client.hvals(key) for key in keys)
            return sum(mark.startswith(b"+") for mark in marks)

    def ended(self, prefix: str) -> int:
        """How many tasks of such a name have ended, each counted once."""
        return sum(name.startswith(prefix) for name in self.place.marks.counts("end"))

    def pids(self, prefix: str) -> set[int]:
        """Of the processes in which these tasks started."""
        lines = self.place.marks.lines()
        return {int(line[3]) for line in lines if line[0] == "start" and line[1].startswith(prefix)}

    def buried(self) -> list[str]:
        """The arguments of the dead letters."""
        letters = self.queues.dead("celery", limit=1000)
        return sorted(letter.message["headers"]["argsrepr"] for letter in letters)


@contextlib.contextmanager
def own_fleet(folder: Path, conf: Mapping[str, Any] | None = None) -> Iterator[Fleet]:
    """A `Fleet` with a server and a folder of its own; its workers are gone at the end of the block."""
    with (
        own_server(folder / "server", fsync="everysec") as server,
        site(server.url, folder / "site", delivery={"lease": lease(LEASE)}, conf=dict(conf or {})) as place,
        place.connection() as connection,
        Queues.open(connection) as queues,
    ):
        yield Fleet(place, queues)


def neighbours(name: str, many: int, seconds: float = 0.0) -> list[tuple[str, float]]:
    return [(f"{name}-{number}", seconds) for number in range(many)]


@dataclass(frozen=True, kw_only=True)
class Storm:
    """What a round is made of: so many killers among 2 x `concurrency` - 1 neighbours of `seconds`."""

    pool: str
    concurrency: int
    seconds: float
    killers: int = 1
    way: str = "kill_worker"
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    inside: tuple[str, ...] = ()
    stopping: bool = False
    """Whether each worker is told to stop, as in a rolling restart, once a killer runs there."""

    @property
    def innocents(self) -> int:
        return 2 * self.concurrency - 1


@dataclass(frozen=True, kw_only=True)
class Account:
    """What became of a round."""

    kills: int
    """Workers that died."""

    runs: list[int]
    """Of each killer."""

    buried: list[str]
    repeated: int
    """Runs of innocents beyond the first."""

    seconds: float

    @property
    def innocents_buried(self) -> list[str]:
        return [name for name in self.buried if "killer" not in name]


def storm(fleet: Fleet, made_of: Storm) -> Account:
    """One round: the worker is started again whenever it has died, until all had their outcome."""
    begun = time.monotonic()
    beside = made_of.concurrency
    fleet.submit("work", neighbours("innocent-a", beside - 1, made_of.seconds))
    killers = [(f"killer-{each}", *made_of.arguments) for each in range(made_of.killers)]
    fleet.submit(made_of.way, killers, **made_of.options)
    fleet.submit("work", neighbours("innocent-b", beside, made_of.seconds))
    patience = 60 + 40 * made_of.killers + 4 * made_of.seconds * made_of.innocents
    kills = 0

    def killers_started() -> int:
        return sum(fleet.started(f"killer-{each}") for each in range(made_of.killers))

    def given_up() -> bool:
        return fleet.queues.counts("celery").dead >= made_of.killers

    def all_ended() -> bool:
        if fleet.ended("innocent-") < made_of.innocents:
            return False
        counts = fleet.queues.counts("celery")
        return counts.dead >= made_of.killers and counts.held == counts.ready == counts.delayed == 0

    def watch(worker: Proc) -> None:
        if made_of.stopping:
            so_far = killers_started()
            fleet.until(
                lambda: killers_started() > so_far or worker.popen.poll() is not None or given_up(),
                "a killer's turn",
                _PATIENCE,
            )
            if not given_up():
                worker.signal(signal.SIGTERM)
        fleet.until(lambda: worker.popen.poll() is not None or all_ended(), "an end", _PATIENCE)

    while not all_ended() and fleet.queues.counts("celery").dead <= made_of.killers:
        assert time.monotonic() - begun < patience * busyness(), fleet.queues.counts("celery")
        worker = fleet.worker(made_of.pool, made_of.concurrency, wait=False, inside=made_of.inside)
        watch(worker)
        assert worker.popen.poll() in (None, 0, -signal.SIGKILL), worker.output
        kills += worker.popen.poll() == -signal.SIGKILL
        fleet.place.kill(worker)
    starts = fleet.place.marks.counts("start")
    return Account(
        kills=kills,
        runs=[starts[f"killer-{each}"] for each in range(made_of.killers)],
        buried=fleet.buried(),
        repeated=sum(count - 1 for name, count in starts.items() if name.startswith("innocent")),
        seconds=time.monotonic() - begun,
    )


def rounds(folder: Path, made_of: Storm, many: int, at_once: int) -> list[Account]:
    """So many storms, several at once, each with a server of its own; a line is printed for each."""
    printing = threading.Lock()

    def one(number: int) -> Account:
        with own_fleet(folder / f"round-{number}") as fleet:
            account = storm(fleet, made_of)
        with printing:
            print(  # noqa: T201 - the account is the point
                f"{made_of.pool} -c {made_of.concurrency} {made_of.way} round {number}:",
                f"{account.kills} kills, runs of the killers {account.runs},",
                f"innocents buried {len(account.innocents_buried)}, run again {account.repeated},",
                f"{account.seconds:.0f} s",
                flush=True,
            )
        return account

    with ThreadPoolExecutor(at_once) as lanes:
        return list(lanes.map(one, range(many)))


def from_environment(name: str, default: int) -> int:
    """A number that the caller of a slow test may choose."""
    return int(os.environ.get(name, str(default)))
