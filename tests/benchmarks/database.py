"""What the database layer costs, and how it comes through outages: `python tests/benchmarks/database.py`.

The pool and a raw connection take turns on one server, because a shared machine's speed drifts; read the
differences. `--storms` adds the outages under 4 processes of 20 threads.
"""

import argparse
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import psycopg
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool

from seawall.database.migrations import History, Migrations
from seawall.database.pool import Database
from seawall.sections import DatabaseSettings
from support.outages import deaf_proxy, kill_server, own_postgres, survive, terminate_all
from support.servers import temporary_home

_ROUNDS = 200
_BATCH = 50


def main() -> None:
    """Print each figure as soon as it is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--storms", action="store_true", help="outages under load too (two minutes)")
    asked = parser.parse_args()
    with temporary_home() as home, tempfile.TemporaryDirectory() as folder, own_postgres(home) as url:
        overhead(url)
        latency(url)
        naive(url)
        migrations(url, Path(folder))
        if asked.storms:
            storms(home, url, Path(folder))


class Beside(psycopg.Connection[DictRow]):
    """A plain connection over the session that `session` has: no server, socket or process differs."""

    session: psycopg.pq.abc.PGconn

    @classmethod
    def connect(cls, *_: Any, **__: Any) -> Self:
        made = cls(cls.session, row_factory=dict_row)
        made.set_autocommit(True)
        made.prepare_threshold = None
        return made


def overhead(url: str) -> None:
    """One statement of `database()`, on a held connection and from the pool, beside psycopg and its own pool.

    All take turns on one session; CPU of the caller.
    """
    query = "SELECT 1 AS x"
    with opened(url, 1) as database:
        with database.connection() as connection:
            Beside.session = connection.pgconn
        raw, stock = (
            Beside.connect(),
            ConnectionPool("", connection_class=Beside, min_size=1, max_size=1, open=True),
        )
        stock.wait()

        def alone() -> None:
            with stock.connection() as connection:
                connection.execute(query).fetchone()

        def checked_out() -> None:
            with database.connection():
                pass

        def held() -> float:
            with database.connection() as connection:
                return cpu(lambda: connection.execute(query).fetchone())

        cpu = partial(mean, clock=time.thread_time)
        turns: dict[str, Callable[[], float]] = {
            "raw": lambda: cpu(lambda: raw.execute(query).fetchone()),
            "held": held,
            "pool": lambda: cpu(lambda: database.fetch_one(query)),
            "psycopg_pool": lambda: cpu(alone),
            "checkout": lambda: cpu(checked_out),
        }
        taken: dict[str, list[float]] = {name: [] for name in turns}
        for _ in range(_ROUNDS):
            for name in random.sample(list(turns), len(turns)):  # each finds the server as another left it
                taken[name].append(turns[name]())
        stock.close()
    cost = {name: statistics.median(taken[name]) * 1e6 for name in turns}
    show("one statement, raw connection", f"{cost['raw']:.1f} us")
    show("on a connection of ours that is held", f"{cost['held'] - cost['raw']:+.1f} us")
    show("checkout + statement + return: database()", f"{cost['pool'] - cost['raw']:+.1f} us")
    show("the same with psycopg_pool alone", f"{cost['psycopg_pool'] - cost['raw']:+.1f} us")
    show("checkout + return of ours, nothing between", f"{cost['checkout']:.1f} us")


def latency(url: str) -> None:
    """Single statements of eight threads over four connections."""
    taken: list[float] = []
    with opened(url, 4) as database:

        def work() -> None:
            for _ in range(1500):
                started = time.perf_counter()
                database.fetch_value("SELECT 1")
                taken.append(time.perf_counter() - started)

        in_threads(work, 8)
    points = statistics.quantiles(taken, n=100)
    show("p50 / p99, 8 threads on 4 connections", f"{points[49] * 1e3:.2f} / {points[98] * 1e3:.2f} ms")


def naive(url: str) -> None:
    """A transaction of two statements: from the pool, and on a connection made for it."""

    def fresh() -> None:
        with psycopg.connect(url) as connection:
            connection.execute("SELECT 1")
            connection.execute("SELECT 2")

    with opened(url, 1) as database:

        def pooled() -> None:
            with database.transaction() as connection:
                connection.execute("SELECT 1")
                connection.execute("SELECT 2")

        pool, alone = mean(pooled, 500) * 1e3, mean(fresh, 100) * 1e3
    show("transaction from the pool", f"{pool:.2f} ms")
    show("the same, connecting for each", f"{alone:.2f} ms ({alone / pool:.0f} times)")


def migrations(url: str, folder: Path) -> None:
    """500 files of one table each, then nothing to do."""
    directory = folder / "migrations"
    directory.mkdir()
    for number in range(1, 501):
        (directory / f"{number:04}_t.up.sql").write_text(f"CREATE TABLE bench_{number} (id int);\n")
    runner = Migrations(url, [History("bench", directory)])
    for label in ("500 migrations", "the same again, nothing to do"):
        started = time.perf_counter()
        runner.up()
        show(label, f"{time.perf_counter() - started:.2f} s")


def storms(home: Path, url: str, folder: Path) -> None:
    """20 threads in each of 4 processes through three outages."""
    storm = partial(survive, url, processes=4, threads=20)
    for name in ("killed", "terminated", "deaf"):
        (folder / name).mkdir()
    killed = partial(kill_server, home, url, seconds=3.0)
    show("SIGKILL, away for 3 s", storm(folder / "killed", killed))
    show("all sessions terminated", storm(folder / "terminated", partial(terminate_all, url)))
    with deaf_proxy(url, seconds=8.0) as (way, outage):
        show("a way that is deaf for 8 s", storm(folder / "deaf", outage, through=way))


@contextmanager
def opened(url: str, size: int) -> Iterator[Database]:
    """A database whose connections are there."""
    database = Database(url, DatabaseSettings(max_connections_per_process=size))
    try:
        database.fetch_value("SELECT 1")
        yield database
    finally:
        database.close()


def mean(
    call: Callable[[], object], times: int = _BATCH, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds one call takes."""
    started = clock()
    for _ in range(times):
        call()
    return (clock() - started) / times


def in_threads(work: Callable[[], None], count: int) -> None:
    """Run `work` in so many threads at once."""
    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def show(label: str, value: object) -> None:
    """One line."""
    sys.stdout.write(f"{label:40} {value}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
