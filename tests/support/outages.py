"""Outages of a database under load, and what the load saw of them."""

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from seawall.embedded import attach, status
from support.database_load import TABLE, Load, Seen, load, lost
from support.proxy import proxy
from support.waiting import wait_until

LIMITS = {"statement_timeout": 1.0}  # an answer is waited for five seconds longer


@dataclass
class Report:
    """What an outage did to the load: uses, errors, and seconds from the server's return to first success."""

    ok: int
    wrong: int
    lost: int
    errors: int
    early: Sequence[str]
    late: Sequence[str]
    back: float
    median_refusal: float
    slowest_error: float

    def __str__(self) -> str:
        return (
            f"{self.ok} uses, {self.errors} errors ({len(self.early)} before, {len(self.late)} later than 2 s"
            f" after the outage), {self.wrong} wrong, {self.lost} lost; first success {self.back:.2f} s after"
            f" the server was ready; median refusal {self.median_refusal * 1000:.2f} ms, slowest error"
            f" {self.slowest_error:.2f} s"
        )


def survive(  # noqa: PLR0913 - one property of the load each
    url: str,
    folder: Path,
    outage: Callable[[], tuple[float, float]],
    *,
    processes: int,
    threads: int,
    through: str | None = None,
) -> Report:
    """Run a load, cause `outage`, which returns when it began and when the server was ready again."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS load")
        connection.execute(TABLE.encode())
    with load(folder, processes, url=through or url, threads=threads, limits=LIMITS, pause=0.02) as running:
        _wait_for_rows(url, processes)
        began, ready = outage()
        seen = _after(running, ready)
    return _report(url, seen, began, ready)


def _after(running: Load, ready: float) -> list[Seen]:
    """Let it run until three seconds after the outage: late errors would show."""
    wait_until(lambda: time.time() > ready + 3.0, timeout=30, what="three seconds of health")
    return running.seen()


def _report(url: str, seen: Sequence[Seen], began: float, ready: float) -> Report:
    errors = sorted(error for each in seen for error in each.errors)
    first = [min((at for at in each.ok if at > ready), default=float("inf")) - ready for each in seen]
    refusals = sorted(took for at, took, what in errors if "cannot be used" in what and at < ready)
    return Report(
        ok=sum(len(each.ok) for each in seen),
        wrong=sum(len(each.wrong) for each in seen),
        lost=lost(url, seen),
        errors=len(errors),
        early=[what for at, _, what in errors if at < began],
        late=[what for at, _, what in errors if at > ready + 2.0],
        back=max(first),
        median_refusal=refusals[len(refusals) // 2] if refusals else 0.0,
        slowest_error=max((took for _, took, _ in errors), default=0.0),
    )


def _wait_for_rows(url: str, processes: int) -> None:
    def busy() -> bool:
        with psycopg.connect(url, autocommit=True) as connection:
            query = "SELECT count(*) FROM (SELECT process FROM load GROUP BY 1 HAVING count(*) > 50) AS p"
            row = connection.execute(query).fetchone()
            return bool(row and row[0] == processes)

    wait_until(busy, timeout=60, what="a load of all processes")


@contextlib.contextmanager
def server_killed(home: Path, url: str) -> Iterator[None]:
    """PostgreSQL was killed by SIGKILL and is away in the block; after it its keeper has started it again."""
    pids = status(home).pids
    os.kill(pids["keeper"], signal.SIGSTOP)
    try:
        os.kill(pids["postgres"], signal.SIGKILL)
        yield
    finally:
        os.kill(pids["keeper"], signal.SIGCONT)
    wait_until(lambda: _ready(url), timeout=60, what="PostgreSQL to be back")


def kill_server(home: Path, url: str, *, seconds: float) -> tuple[float, float]:
    """SIGKILL PostgreSQL; it stays away for `seconds` before its keeper starts it again."""
    began = time.time()
    with server_killed(home, url):
        wait_until(lambda: time.time() > began + seconds, timeout=seconds + 10, what="the outage")
    return began, time.time()


def terminate_all(url: str) -> tuple[float, float]:
    """End every session of the load at once."""
    began = time.time()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'load'"
        )
    return began, time.time()


@contextlib.contextmanager
def deaf_proxy(url: str, *, seconds: float) -> Iterator[tuple[str, Callable[[], tuple[float, float]]]]:
    """A way to the server that can go deaf for `seconds`."""
    with proxy(url) as way:

        def outage() -> tuple[float, float]:
            began = time.time()
            way.go_deaf()
            wait_until(lambda: time.time() > began + seconds, timeout=seconds + 10, what="the outage")
            way.hear_again()
            return began, time.time()

        yield way.url, outage


def _ready(url: str) -> bool:
    with contextlib.suppress(psycopg.Error), psycopg.connect(url, autocommit=True, connect_timeout=2):
        return True
    return False


@contextlib.contextmanager
def own_postgres(home: Path) -> Iterator[str]:
    """A PostgreSQL of the caller's own, to be killed; it has room for large loads."""
    with attach(home, redis=False, database=True) as attachment:
        yield str(attachment.servers.database_url)
