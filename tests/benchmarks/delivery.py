"""Our transport against the stock one: `PYTHONPATH=tests python tests/benchmarks/delivery.py`.

Each figure is the median of rounds in which the two take turns on one server, because a shared machine's
absolute speed drifts by tens of per cent: read the ratios. A round trip is a command that a client waits
for; commands also count what scripts and transactions do inside the server.
"""

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from celery import Celery

from seawall import delivery
from support.delivery import OURS, Server, Site, own_server, site
from support.processes import Proc
from support.waiting import wait_until

_TASK = "support.delivery_app.nothing"
_WAITED_FOR = ("evalsha", "eval", "blpop", "brpop", "exec", "llen")
_MEASURING = ("hlen", "llen", "info", "config|resetstat")

Figures = dict[str, float]


class Bench:
    """One server, and the measurements for either transport on it."""

    def __init__(self, server: Server, folder: Path, tasks: int) -> None:
        self._server = server
        self._folder = folder
        self._tasks = tasks
        self._redis: Any = server.client()

    @contextmanager
    def _site(self, transport: str) -> Iterator[Site]:
        self._redis.flushall()
        with site(self._server.url, self._folder / transport, transport=transport) as place:
            place.marks.path.unlink(missing_ok=True)
            yield place

    @contextmanager
    def _app(self, transport: str) -> Iterator[Celery]:
        with Celery("bench", broker=self._server.url) as app:
            app.conf.broker_transport = OURS if transport == "ours" else "redis"
            yield app

    def _left(self, transport: str) -> int:
        if transport == "ours":
            return int(self._redis.hlen("seawall:{celery}:messages"))
        return int(self._redis.llen("celery") + self._redis.hlen("unacked"))

    def drain(self, transport: str, pool: str) -> Figures:
        """Empty a full queue with one worker of two slots."""
        with self._site(transport) as place, self._app(transport) as app:
            publish(app, transport, self._tasks)
            worker = place.worker(pool=pool, wait=False)
            wait_until(lambda: self._left(transport) < self._tasks, timeout=60)
            self._redis.config_resetstat()
            cpu, begun, first = cpu_of(worker), time.monotonic(), self._left(transport)
            wait_until(lambda: self._left(transport) == 0, timeout=300)
            seconds = time.monotonic() - begun
            done = first / 1000
            calls = self._calls()
            return {
                f"drain {pool}, tasks/s": first / seconds,
                f"worker CPU {pool}, s per 1,000": (cpu_of(worker) - cpu) / done,
                f"round trips {pool}, per task": calls["waited for"] / first,
                f"commands {pool}, per task": calls["all"] / first,
            }

    def _calls(self) -> Figures:
        stats = self._redis.info("commandstats")
        calls = {name.removeprefix("cmdstat_"): value["calls"] for name, value in stats.items()}
        for name in _MEASURING:
            calls.pop(name, None)
        return {"waited for": sum(calls.get(name, 0) for name in _WAITED_FOR), "all": sum(calls.values())}

    def enqueue(self, transport: str) -> Figures:
        """Submit one by one and, ours, in bulk."""
        with self._site(transport), self._app(transport) as app:
            task = app.signature(_TASK)
            task.apply_async()
            single, figures = self._tasks // 5, {}
            begun = time.monotonic()
            for _ in range(single):
                task.apply_async()
            figures["enqueue single, tasks/s"] = single / (time.monotonic() - begun)
            if transport == "ours":
                begun = time.monotonic()
                delivery.submit_many((task.clone() for _ in range(self._tasks)), app=app)
                figures["enqueue bulk, tasks/s"] = self._tasks / (time.monotonic() - begun)
            return figures

    def latency(self, transport: str) -> Figures:
        """From submitting to running, on an idle worker."""
        with self._site(transport) as place, self._app(transport) as app:
            place.worker()
            late = self._punctual(place, app, 200, priority=None)
            return {
                "latency p50, ms": late[len(late) // 2] * 1e3,
                "latency p99, ms": late[len(late) * 99 // 100] * 1e3,
            }

    def delays(self, transport: str) -> Figures:
        """From the end of a delay to running, on an idle worker."""
        with self._site(transport) as place, self._app(transport) as app:
            place.worker()
            late = self._punctual(place, app, 40, priority=None, delay=0.3)
            return {
                "late after a delay p50, ms": late[len(late) // 2] * 1e3,
                "late after a delay worst, ms": late[-1] * 1e3,
            }

    def _punctual(
        self, place: Site, app: Celery, many: int, *, priority: int | None, delay: float = 0.0
    ) -> list[float]:
        app.send_task(_TASK, priority=priority)  # the first one pays for the connection
        for number in range(many):
            due = time.time() + delay
            eta = datetime.fromtimestamp(due, UTC) if delay else None
            app.send_task("support.delivery_app.punctual", (due,), priority=priority, eta=eta)
            wait_until(partial(more_than, number, place), timeout=60)
        return place.marks.values("late")

    def priority(self, transport: str, low: int) -> Figures:
        """One urgent task submitted into a queue full of others: most urgent as each transport counts."""
        with self._site(transport) as place, self._app(transport) as app:
            least, most = (1, 9) if transport == "ours" else (9, 0)
            publish(app, transport, low, priority=least)
            place.worker()
            wait_until(lambda: self._left(transport) < low, timeout=60)
            late = self._punctual(place, app, 10, priority=most)
            return {f"urgent behind {low:,}, median ms": statistics.median(late) * 1e3}


def more_than(number: int, place: Site) -> bool:
    return len(place.marks.values("late")) > number


def publish(app: Celery, transport: str, many: int, *, priority: int = 0) -> None:
    """Fill a queue, whatever it takes."""
    task = app.signature(_TASK, priority=priority)
    if transport == "ours":
        delivery.submit_many((task.clone() for _ in range(many)), app=app)
        return
    with app.producer_or_acquire() as producer:
        for start in range(0, many, 1000):
            with producer.batch():
                for _ in range(min(1000, many - start)):
                    task.apply_async(producer=producer)


def cpu_of(worker: Proc) -> float:
    """Seconds of CPU of a worker and its children so far."""
    total = 0.0
    for process in worker.tree():
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += times.user + times.system
    return total


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5000, help="tasks to drain and to submit per round")
    parser.add_argument("--low", type=int, default=100_000, help="tasks an urgent one has to overtake")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pools", nargs="+", default=["prefork", "threads", "solo"])
    chosen = parser.parse_args()
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder, own_server(Path(folder) / "s", fsync="everysec") as server:
        bench = Bench(server, Path(folder), chosen.tasks)
        measurements: list[Callable[[str], Figures]] = [
            *(partial(bench.drain, pool=pool) for pool in chosen.pools),
            bench.enqueue,
            bench.latency,
            bench.delays,
            partial(bench.priority, low=chosen.low),
        ]
        for _ in range(chosen.rounds):
            for measure in measurements:
                for transport in ("stock", "ours"):
                    for name, value in measure(transport).items():
                        found[name][transport].append(value)
    show(found)


def show(found: dict[str, dict[str, list[float]]]) -> None:
    """The medians, side by side."""
    print(f"{'':40} {'stock':>10} {'ours':>10} {'ours/stock':>11}")  # noqa: T201 - it is a report
    for name, by_transport in found.items():
        stock = statistics.median(by_transport["stock"]) if "stock" in by_transport else None
        ours = statistics.median(by_transport["ours"])
        cells = [f"{ours:10.3g}" if ours < 1000 else f"{ours:10,.0f}"]
        cells.insert(
            0, f"{'-':>10}" if stock is None else f"{stock:10.3g}" if stock < 1000 else f"{stock:10,.0f}"
        )
        ratio = f"{ours / stock:11.2f}" if stock else f"{'-':>11}"
        print(f"{name:40} {cells[0]} {cells[1]} {ratio}")  # noqa: T201


if __name__ == "__main__":
    main()
