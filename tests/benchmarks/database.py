"""What the database layer costs, and how it comes through outages: `python tests/benchmarks/database.py`.

The pool and a raw connection take turns on one server, because a shared machine's speed drifts; read the
differences. `--storms` adds the outages under 4 processes of 20 threads. `--against PATH`, a checkout
of another version, adds its statements: both take turns, each in a process and on a session of its own.
"""

import argparse
import os
import random
import statistics
import subprocess
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
from seawall.database.migrations.script import parse
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
    parser.add_argument(
        "--against",
        type=Path,
        help="a checkout of another version; with `taskset -c 0`, else the cores that they get decide",
    )
    asked = parser.parse_args()
    with temporary_home() as home, tempfile.TemporaryDirectory() as folder, own_postgres(home) as url:
        overhead(url)
        renewal(url)
        if asked.against:
            against(url, asked.against)
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


def renewal(url: str) -> None:
    """What making a session as new costs: a statement after which it is due, with and without, in turn."""
    taken: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
    with opened(url, 1) as database:
        with database.connection() as connection:
            held: Any = connection  # the only one
            server = Path(f"/proc/{connection.info.backend_pid}/schedstat")
        for _ in range(_ROUNDS):
            for renewed in random.sample([True, False], 2):
                held.renewable = renewed
                database.fetch_one(LEAVES)
                served = int(server.read_text().split()[0])
                taken[renewed].append(
                    (*timed(database, LEAVES), (int(server.read_text().split()[0]) - served) / 1e3)
                )
    cost = {
        renewed: [statistics.median(each) for each in zip(*taken[renewed], strict=True)] for renewed in taken
    }
    for place, label in enumerate(("time of its user", "CPU of the client", "CPU of the server")):
        each = (cost[True][place] - cost[False][place]) / (_BATCH if place == SERVER else 1)
        show(f"a session made as new, {label}", f"{each:+.1f} us")


LEAVES = "SELECT current_setting('TimeZone') AS x"
"""A statement after which nobody knows that the session is as before."""
SERVER = 2


def timed(database: Database, query: str) -> tuple[float, float]:
    """Microseconds of one statement: the median of its times, and CPU of the caller."""
    taken = []
    spent = time.thread_time()
    for _ in range(_BATCH):
        started = time.perf_counter()
        database.fetch_one(query)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken) * 1e6, (time.thread_time() - spent) / _BATCH * 1e6


def against(url: str, other: Path) -> None:
    """Statements of this version and of another, in turn."""
    here = Path(__file__).parents[2]
    taken: dict[tuple[str, str], list[list[float]]] = {}
    children = {name: version(url, path) for name, path in (("this", here), ("the other", other))}
    for _ in range(_ROUNDS // 4):
        for query in ("SELECT 1 AS x", LEAVES):
            for name in random.sample(list(children), 2):
                stdin, stdout = children[name].stdin, children[name].stdout
                assert stdin is not None
                assert stdout is not None
                stdin.write(query + "\n")
                stdin.flush()
                taken.setdefault((query, name), []).append(
                    [float(each) for each in stdout.readline().split()]
                )
    for child in children.values():
        child.communicate()
    for query in ("SELECT 1 AS x", LEAVES):
        this, before = (
            [statistics.median(each) for each in zip(*taken[query, name], strict=True)] for name in children
        )
        show(
            query,
            f"p50 {this[0]:.1f} us, {this[0] - before[0]:+.1f} us; CPU {this[1] - before[1]:+.1f} us of it",
        )


def version(url: str, path: Path) -> "subprocess.Popen[str]":
    """A process that measures the sources below `path`."""
    return subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "apps" / "app_database.py"), url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(path / "platform")},
    )


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

    def check() -> None:
        problems = Migrations(url, [History("bench", directory)]).check()
        assert not problems, problems

    taken = [(mean(check, 1), mean(check, 1, time.thread_time)) for _ in range(21)]
    wall, cpu = (statistics.median(each) * 1e3 for each in zip(*taken, strict=True))
    show("a worker's check of 500 applied ones", f"{wall:.1f} ms, {cpu:.1f} ms of CPU")
    script = "".join(f"INSERT INTO t VALUES ({n}, 'it''s; {n}'); -- {n}\n" for n in range(40_000))  # noqa: S608 - nobody runs it
    count = len(parse(script).statements)
    show(
        f"{count:,} statements parsed", f"{mean(lambda: parse(script).statements, 3, time.thread_time):.2f} s"
    )


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
