"""What memory costs and holds, beside plain Celery: `PYTHONPATH=tests python tests/benchmarks/memory.py`.

Each measurement is a function that returns figures; the slow tests call them too. All are bounded: at most
about 1.5 GiB for the plain worker of `budget`, which has nothing that stops it.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from redis import Redis

from seawall import MemoryBudgetExceeded
from seawall.memory import Pressure
from seawall.memory.board import Board
from seawall.memory.guard import Guard
from seawall.memory.learned import Sample
from seawall.memory.runs import Runs
from seawall.policies import Policy
from support import hungry
from support.control_groups import memory_group
from support.delivery import own_server
from support.hunger import MB, hungry_producer, hungry_worker
from support.waiting import wait_until

Figures = dict[str, float]


def budget(url: str, folder: Path, *, plain: bool, tasks: int = 200, pool: Sequence[str] = ()) -> Figures:
    """`tasks` that hold 40 to 140 MiB each, eight at a time, under a budget of 400 MiB.

    Where this machine lets us make a control group, the worker is in one with that limit.
    """
    sizes = random.Random(1).choices(hungry.SIZES, k=tasks)  # noqa: S311
    with (
        memory_group(400 * MB) as group,
        hungry_producer(url, plain=plain) as app,
        hungry_worker(
            url, folder, "-c", "8", *pool, plain=plain, group=group, SEAWALL_MEMORY__BUDGET="400MiB"
        ) as worker,
    ):
        begun = time.monotonic()
        results = [app.send_task(f"hungry.hold_{size}", (size, 0.2)) for size in sizes]

        def over() -> bool:
            return worker.proc.popen.poll() is not None or all(each.ready() for each in results)

        wait_until(over, timeout=600, what="the tasks")
        found = {
            "done": sum(each.successful() for each in results),
            "peak, MiB": worker.peak / MB,
            "seconds": time.monotonic() - begun,
            "lost processes": worker.proc.output.count("killed its process"),
        }
        return found if group is None else found | {"killed by the kernel": group.kills}


def greedy(url: str, folder: Path, way: str, *, megabytes: int = 2048) -> Figures:
    """One task that wants `megabytes` on a budget of 40 MiB and a limit of 60, beside 100 small ones."""
    with hungry_worker(url, folder, "-c", "2", every=0.02) as worker, hungry_producer(url) as app:
        idle = worker.used()
        small = [app.send_task("hungry.small", (n,)) for n in range(50)]
        big = app.send_task("hungry.greedy", (way, megabytes))
        small += [app.send_task("hungry.small", (n,)) for n in range(50)]
        done = sum(each.get(timeout=120) >= 0 for each in small)
        failed = 0
        try:
            big.get(timeout=120)
        except MemoryBudgetExceeded:
            failed = 1
        with Redis.from_url(url) as client:
            lines: Any = client.lrange("ran", 0, -1)
        return {
            "neighbours done": done,
            "MEMORY failures": failed,
            "runs of it": sum(line.startswith(b"greedy") for line in lines),
            "most beyond idle, MiB": (worker.peak - idle) / MB,
        }


def cost(url: str, folder: Path, *, seconds: float = 20.0) -> Figures:
    """CPU of the supervisor of 16 cells, busy with tasks that have budgets, and what a look takes."""
    with hungry_worker(url, folder, "-c", "16", every=1.0) as worker, hungry_producer(url) as app:
        for _ in range(16):
            app.send_task("hungry.hold_40", (40, seconds + 5), ignore_result=True)
        with Redis.from_url(url) as client:
            wait_until(lambda: client.llen("ran") == 16, timeout=60, what="16 running tasks")
        cpu, begun = worker.cpu(), time.monotonic()
        time.sleep(seconds)
        supervisor = (worker.cpu() - cpu) / (time.monotonic() - begun)
        pids = [process.pid for process in worker.proc.tree()[1:]]
        return {"supervisor in all, % of a core": supervisor * 100, **_looking(pids, seconds / 4)}


def _looking(pids: list[int], seconds: float) -> Figures:
    """The share of a core that the guard takes for these processes, from outside."""
    guard = Guard(Board.create(64 << 30))
    guard.look(pids, time.monotonic())
    time.sleep(2.5)  # processes are measured exactly twice when they are new
    guard.look(pids, time.monotonic())
    looks, begun, cpu = 0, time.monotonic(), time.thread_time()
    while time.monotonic() - begun < seconds:
        guard.look(pids, time.monotonic())
        looks += 1
        time.sleep(guard.interval)
    used = time.thread_time() - cpu
    guard.close()
    return {
        "looking, % of a core": used / seconds * 100,
        "a look at 16 cells, us": used / looks * 1e6,
        "looks a second": looks / seconds,
    }


def overhead(*, rounds: int = 5000) -> Figures:
    """Microseconds around a task, without the measuring that is bounded by its share of time."""
    samples: list[Sample] = []
    runs = Runs(Board.create(64 << 30), samples.append)
    with runs.run("warm", "warm", Policy(), MB):
        pass
    runs.after()
    taken = []
    for number in range(rounds):
        begun = time.perf_counter()
        with runs.run(str(number), "task", Policy(), MB):
            pass
        taken.append(time.perf_counter() - begun)
    return {"around a task, us (median)": statistics.median(taken) * 1e6}


def soak(
    url: str,
    folder: Path,
    *,
    plain: bool,
    tasks: int = 50_000,
    show: Callable[[list[tuple[float, int]]], None] = lambda _: None,
) -> Figures:
    """Mixed clean tasks; what the worker uses over time, as a slope over its second half.

    `show` gets all readings: seconds, and bytes.
    """
    rand = random.Random(2)  # noqa: S311
    client = Redis.from_url(url)
    client.delete("ran")
    with hungry_producer(url, plain=plain) as app:
        for number in range(tasks):
            app.send_task("hungry.small", (number % 9,), ignore_result=True)
            if rand.random() < 0.05:
                app.send_task(f"hungry.clean_{rand.randrange(1, 10)}", ignore_result=True)
    with hungry_worker(url, folder, "-c", "2", plain=plain, every=0.25) as worker:
        begun = time.monotonic()
        wait_until(lambda: client.llen("ran") >= tasks, timeout=3600, what="all tasks")
        readings = list(worker.readings)
        show(readings)
        points = [point for point in readings if point[0] > (begun + time.monotonic()) / 2]
        client.close()
        times, used = zip(*points, strict=True)
        slope = statistics.linear_regression(times, used).slope
        return {
            "tasks/s": tasks / (time.monotonic() - begun),
            "grown in the second half, KiB": slope * (times[-1] - times[0]) / 1024,
            "noise, KiB": statistics.stdev(used) / 1024,
            "at the end, MiB": used[-1] / MB,
        }


def errors(url: str, folder: Path, *, seconds: int = 60) -> Figures:
    """One MemoryError a second, among others."""
    with hungry_worker(url, folder, "-c", "2", every=1.0) as worker, hungry_producer(url) as app:
        broken, whole = [], []
        for _ in range(seconds):
            broken.append(app.send_task("hungry.exhaust"))
            whole += [app.send_task("hungry.small", (n,)) for n in range(20)]
            time.sleep(1)
        done = sum(each.get(timeout=60) >= 0 for each in whole)
        failed = 0
        for each in broken:
            try:
                each.get(timeout=60)
            except MemoryBudgetExceeded:
                failed += 1
        alive = worker.proc.popen.poll() is None
        return {"others done": done, "of": len(whole), "MEMORY failures": failed, "worker lives": alive}


def pause(url: str, folder: Path, *, tasks: int = 400) -> Figures:
    """From EXHAUSTED to the last start, and from the end of it to the next one."""
    board = Board.create(64 << 30)
    starts = Redis.from_url(url)
    with (
        hungry_worker(url, folder, "-c", "4", every=1.0, SEAWALL_MEMORY__BOARD=board.path),
        hungry_producer(url) as app,
    ):
        for number in range(tasks):
            app.send_task("hungry.timed", (number,), ignore_result=True)
        wait_until(lambda: starts.llen("starts") > 10, timeout=60, what="some tasks")
        board._header.budget = MB
        wait_until(lambda: board.level is Pressure.EXHAUSTED, timeout=10)
        exhausted = board.level_since
        time.sleep(3)
        before = [float(value) for value in starts.lrange("starts", 0, -1)]
        board._header.budget = 64 << 30
        wait_until(lambda: board.level is Pressure.NORMAL, timeout=10)
        normal = board.level_since
        wait_until(lambda: starts.llen("starts") == tasks, timeout=120, what="the rest")
        after = [float(value) for value in starts.lrange("starts", 0, -1)]
        starts.close()
        return {
            "pressure to last start, ms": (max(before) - exhausted) * 1e3,
            "resumed to next start, ms": (min(set(after) - set(before)) - normal) * 1e3,
            "started once": len(after) == tasks,
        }


def plot(readings: list[tuple[float, int]]) -> None:
    """What was used, one line a moment: the least and the most of it, in MiB."""
    begun, lines = readings[0][0], 24
    step = (readings[-1][0] - begun) / lines
    most = max(used for _, used in readings)
    for line in range(lines):
        there = [used for at, used in readings if line <= (at - begun) / step < line + 1]
        if there:
            bar = "#" * round(statistics.median(there) / most * 60)
            print(f"  {line * step:6.0f} s {min(there) / MB:8.1f} {max(there) / MB:8.1f} {bar}")  # noqa: T201


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=200, help="tasks of `budget`")
    parser.add_argument("--soak", type=int, default=50_000, help="tasks of `soak`")
    parser.add_argument("--seconds", type=int, default=60, help="of `errors`")
    parser.add_argument("only", nargs="*", help="measurements to make; all without")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, own_server(Path(name) / "s", fsync="everysec") as server:
        url, folder = server.url, Path(name)
        measurements: dict[str, Callable[[], Figures]] = {
            "budget": lambda: budget(url, folder, plain=False, tasks=chosen.tasks),
            "budget prefork": lambda: budget(
                url, folder, plain=False, tasks=chosen.tasks, pool=["-P", "prefork"]
            ),
            "budget plain": lambda: budget(url, folder, plain=True, tasks=chosen.tasks),
            "greedy python": lambda: greedy(url, folder, "python"),
            "greedy numpy": lambda: greedy(url, folder, "numpy"),
            "greedy c": lambda: greedy(url, folder, "c"),
            "cost": lambda: cost(url, folder),
            "overhead": overhead,
            "errors": lambda: errors(url, folder, seconds=chosen.seconds),
            "pause": lambda: pause(url, folder),
            "soak": lambda: soak(url, folder, plain=False, tasks=chosen.soak, show=plot),
            "soak plain": lambda: soak(url, folder, plain=True, tasks=chosen.soak, show=plot),
        }
        for title, measure in measurements.items():
            if chosen.only and title.split()[0] not in chosen.only:
                continue
            with Redis.from_url(url) as client:
                client.flushall()
            shown = ", ".join(f"{key} {value:,.4g}" for key, value in measure().items())
            print(f"{title:16} {shown}", flush=True)  # noqa: T201 - it is a report


if __name__ == "__main__":
    main()
