"""What Seawall was promised to cost, end to end: `PYTHONPATH=tests python tests/benchmarks/promises.py`.

Each figure stands beside what was promised of it and a tenth of that, which is the aim; its median is judged.
On a busy machine the least is nearer to what it costs. Everything runs on servers of the benchmark's own,
Redis with appendfsync always.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from seawall import (
    Features,
    Seawall,
    System,
    bootstrap,
    breaker,
    classify,
    cluster,
    database,
    settings,
    submit_many,
)
from seawall.breaker import close
from seawall.database.migrations import Migrations
from seawall.database.pool import Database
from seawall.errors import BreakerOpen
from seawall.memory.board import Board
from seawall.memory.guard import Guard
from seawall.sections import DatabaseSettings
from seawall.startup import histories
from support.delivery import ROOT, own_server
from support.outages import own_postgres
from support.proxy import Proxy, proxy
from support.servers import temporary_home
from support.waiting import wait_until

MS = 1e-3
_COLD = """
import time; began = time.perf_counter()
import seawall
app, features = seawall.Seawall("cold"), seawall.Features(logging=False)
imported = time.perf_counter()
seawall.bootstrap(app, features=features)
print(imported - began, time.perf_counter() - imported)
"""


@dataclass(frozen=True)
class Line:
    """One figure, in seconds, beside its promise."""

    what: str
    promised: float
    taken: list[float]

    def text(self) -> str:
        """As it is printed."""
        middle = statistics.median(self.taken)
        high = sorted(self.taken)[int(len(self.taken) * 0.99) - 1] if len(self.taken) > 1 else middle
        verdict = next(
            word
            for most, word in (
                (self.promised / 10, "a tenth"),
                (self.promised, "kept"),
                (float("inf"), "BROKEN"),
            )
            if middle <= most
        )
        shown = (self.promised, self.promised / 10, min(self.taken), middle, high)
        figures = "".join(f"{_short(value):>11}" for value in shown)
        return f"{self.what:44}{figures}  {verdict}"


def _short(seconds: float) -> str:
    for unit, name in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us")):
        if seconds >= unit:
            return f"{seconds / unit:.3g} {name}"
    return f"{seconds * 1e9:.3g} ns"


def timed(call: Callable[[], object], times: int, *, each: int = 1) -> list[float]:
    """Seconds of one call, `times` times; `each` calls are measured together where one is too short."""
    call()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        for _ in range(each):
            call()
        taken.append((time.perf_counter() - began) / each)
    return taken


def starting() -> Iterator[Line]:
    """Fresh processes, servers up."""
    found = [
        subprocess.run([sys.executable, "-c", _COLD], check=True, capture_output=True).stdout.split()
        for _ in range(7)
    ]
    yield Line("bootstrap() in a fresh process", 2.0, [float(took) for _, took in found])
    yield Line("  the imports before it (Celery, pydantic)", 2.0, [float(took) for took, _ in found])


def querying(url: str) -> Iterator[Line]:
    """PostgreSQL."""
    yield Line("query through the pool", 10 * MS, timed(lambda: database().fetch_value("SELECT 1"), 2000))

    def connect() -> None:
        fresh = Database(url, DatabaseSettings())
        fresh.fetch_value("SELECT 1")
        fresh.close()

    yield Line("new pool, new connection, query, close", 100 * MS, timed(connect, 50))


def sampling() -> Iterator[Line]:
    """The guard of a worker with two cells, from outside; it looks oftener than every ten seconds."""
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    cells = [subprocess.Popen(sleeper) for _ in range(2)]
    try:
        guard = Guard(Board.create(64 << 30))
        pids = [cell.pid for cell in cells]
        looks = []
        began = time.monotonic()
        while time.monotonic() - began < 10:
            before = time.thread_time()
            guard.look(pids, time.monotonic())
            looks.append(time.thread_time() - before)
            time.sleep(guard.interval)
        guard.close()
    finally:
        for cell in cells:
            cell.kill()
            cell.wait()
    yield Line("memory: one sample of a worker of two", 1 * MS, looks)
    yield Line("memory: all samples in 10 s together", 1 * MS, [sum(looks)])


def submitting(app: Seawall) -> Iterator[Line]:
    """Redis, confirmed."""

    @app.task(ignore_result=True)
    def nothing() -> None: ...

    yield Line("submit: task.delay(), confirmed and on disk", 1 * MS, timed(nothing.delay, 2000))
    many = timed(lambda: submit_many((nothing.s() for _ in range(1000)), app=app), 10)
    yield Line("submit_many(), one of a thousand", 1 * MS, [each / 1000 for each in many])


def breaking() -> Iterator[Line]:
    """A circuit, closed and open."""
    closed, opened = breaker("calm"), breaker("open")
    yield Line(
        "breaker: a call through a closed one", 0.1 * MS, timed(lambda: closed.call(int), 200, each=500)
    )
    opened.force_open("measured")

    def refused() -> None:
        try:
            opened.call(int)
        except BreakerOpen:
            return
        raise AssertionError("it let a call pass")

    wait_until(lambda: opened.state.forced, what="it to open")
    yield Line("breaker: a refused call", 0.1 * MS, timed(refused, 200, each=500))


def failing() -> Iterator[Line]:
    """An error from below a few frames."""

    def deep(levels: int) -> None:
        if levels:
            deep(levels - 1)
        raise ConnectionError("db12.example.org:5432 refused order '4711'")

    try:
        deep(10)
    except ConnectionError as exc:
        error = exc
    yield Line("error: classify()", 1 * MS, timed(lambda: classify(error), 500, each=20))


def asking(system: System, proxies: dict[str, Proxy]) -> Iterator[Line]:
    """Health, with all servers up, and with each one dead and deaf."""
    wait_until(lambda: system.health().ok, timeout=30, what="readiness")
    yield Line("health: all servers up", 50 * MS, timed(system.health, 100))
    for name, way in proxies.items():
        for word, fail, mend in (
            ("dead", way.die, way.revive),
            ("deaf", way.go_deaf, way.hear_again),
        ):
            fail()
            way.cut()
            wait_until(lambda: not system.health().ok, timeout=30, what="the loss to be seen")
            yield Line(f"health: {name} {word}", 50 * MS, timed(system.health, 50))
            mend()
            wait_until(lambda: system.health().ok, timeout=60, what=f"{name} to be back")


@contextmanager
def servers() -> Iterator[tuple[str, str, dict[str, Proxy]]]:
    """Redis and PostgreSQL, each behind a proxy too: their own URLs, and the proxies."""
    with ExitStack() as stack:
        home = stack.enter_context(temporary_home())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        postgres = stack.enter_context(own_postgres(home))
        redis = stack.enter_context(own_server(folder / "redis")).url
        Migrations(postgres, histories()).up()
        with_user = redis.replace("redis://", "redis://default:none@")
        yield (
            redis,
            postgres,
            {
                "redis": stack.enter_context(proxy(with_user)),
                "broker": stack.enter_context(proxy(with_user)),
                "database": stack.enter_context(proxy(postgres)),
            },
        )


def _settings(redis: str, broker: str, postgres: str) -> None:
    os.environ.update(SEAWALL_REDIS_URL=redis, SEAWALL_BROKER_URL=broker, SEAWALL_DATABASE_URL=postgres)
    settings.cache_clear()
    cluster.client.cache_clear()


def main() -> None:
    """Measure, and print one table."""
    os.environ["SEAWALL_FLEET"] = str(ROOT / "none.toml")
    head = "".join(f"{word:>11}" for word in ("promised", "a tenth", "least", "median", "99 of 100"))
    print(f"{'':44}{head}")  # noqa: T201 - it is a report
    with servers() as (redis, postgres, proxies):
        _settings(redis, redis, postgres)
        app = Seawall("promises", set_as_current=False)
        for part in (starting(), querying(postgres), sampling(), submitting(app), breaking(), failing()):
            for line in part:
                print(line.text(), flush=True)  # noqa: T201
        database().close()
        ways = {name: way.url.replace("default:none@", "") for name, way in proxies.items()}
        _settings(ways["redis"], ways["broker"], ways["database"])
        system = bootstrap(features=Features(logging=False))
        for line in asking(system, proxies):
            print(line.text(), flush=True)  # noqa: T201
        system.shutdown()
        close()


if __name__ == "__main__":
    main()
