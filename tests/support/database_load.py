"""Programs that use a database until SIGTERM, and what they saw.

Run as a program it takes its orders as JSON in the environment (LOAD) and prints one JSON line at the end. A
use is an insert of a number of its own and a question with a known answer, in one transaction.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis

from seawall.database.governor import Governor, base_of
from seawall.database.pool import Database
from seawall.errors import SeawallError
from seawall.sections import DatabaseSettings
from support.processes import Proc, started

TABLE = "CREATE TABLE load (process int, thread int, number int, PRIMARY KEY (process, thread, number))"


@dataclass
class Seen:
    """What one process saw: moments of success, errors as (moment, seconds it took, what), wrong answers."""

    ok: list[float]
    errors: list[tuple[float, float, str]]
    wrong: list[str]


@dataclass
class Load:
    """The processes of one load; `processes[n]` may be None once it is gone."""

    processes: list[Proc]

    def seen(self, *, timeout: float = 90.0) -> list[Seen]:
        """Stop all that still run and read what they saw."""
        running = [proc for proc in self.processes if proc.popen.poll() is None]
        for proc in running:
            proc.signal(signal.SIGTERM)
        for proc in running:
            if code := proc.wait(timeout):
                raise AssertionError(f"ended with {code}:\n{proc.output[-3000:]}")
        return [self.read(proc) for proc in running]

    @staticmethod
    def read(proc: Proc) -> Seen:
        return Seen(**json.loads(proc.output.strip().splitlines()[-1]))


@contextlib.contextmanager
def load(folder: Path, count: int, **orders: Any) -> Iterator[Load]:
    """`count` processes under load."""
    with contextlib.ExitStack() as stack:
        yield Load([stack.enter_context(one(folder, number, **orders)) for number in range(count)])


def one(folder: Path, number: int, **orders: Any) -> contextlib.AbstractContextManager[Proc]:
    """One process of a load: `url`, `threads`, and for a governed one `redis` and `budget`."""
    argv = [sys.executable, "-m", "support.database_load"]
    root = Path(__file__).resolve().parents[2]
    path = os.pathsep.join([str(root / "platform"), str(root / "tests")])
    environment = {"LOAD": json.dumps({"process": number, **orders}), "PYTHONPATH": path}
    return started(argv, log=folder / f"load-{number}.log", env=environment)


def lost(url: str, seen: Sequence[Seen]) -> int:
    """How many uses were reported done and are not in the table."""
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM load").fetchone()
    return max(0, sum(len(each.ok) for each in seen) - (row[0] if row else 0))


class _Work:
    def __init__(self, database: Database, process: int, pause: float) -> None:
        self._database = database
        self._process = process
        self._pause = pause
        self.stop = threading.Event()
        self.seen = Seen([], [], [])

    def run(self, thread: int) -> None:
        process, number = self._process, 0
        while not self.stop.is_set():
            number += 1
            started_at = time.monotonic()
            try:
                with self._database.transaction() as connection:
                    connection.execute("INSERT INTO load VALUES (%s, %s, %s)", (process, thread, number))
                    row = connection.execute("SELECT %s::int AS x", (number,)).fetchone()
                if row != {"x": number}:
                    self.seen.wrong.append(f"{thread} {number} {row}")
                self.seen.ok.append(time.time())
            except (psycopg.Error, SeawallError) as exc:
                took = time.monotonic() - started_at
                self.seen.errors.append((time.time(), took, f"{type(exc).__name__}: {exc}"[:200]))
                self.stop.wait(0.02)
            self.stop.wait(self._pause)


def main(orders: dict[str, Any]) -> None:
    threads = orders["threads"]
    limits = DatabaseSettings(max_connections_per_process=threads, **orders.get("limits", {}))
    govern = None
    if "redis" in orders:
        shared = redis.Redis.from_url(orders["redis"], socket_timeout=1.0)

        def govern(database: Database) -> Governor:
            return Governor(
                lambda: shared, base_of(database.server), orders["budget"], database.usable_connections
            )

    database = Database(orders["url"], limits, application="load", govern=govern)
    work = _Work(database, orders["process"], orders.get("pause", 0.0))
    signal.signal(signal.SIGTERM, lambda *_: work.stop.set())
    workers = [threading.Thread(target=work.run, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        while worker.is_alive():
            worker.join(0.1)
    database.close()
    sys.stdout.write(f"\n{json.dumps(vars(work.seen))}\n")


if __name__ == "__main__":
    main(json.loads(os.environ["LOAD"]))
