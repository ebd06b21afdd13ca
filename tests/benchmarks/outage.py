"""What an outage of a dependency costs it in calls: our retries beside plain Celery's `autoretry_for`.

    PYTHONPATH=tests python tests/benchmarks/outage.py

As many tasks as asked for call a dependency that refuses every call. Both may try again three times (ours:
three attempts in all) with exponential backoff; ours keep to a budget that the cluster shares, 0.2 retries a
first attempt by default. Printed are the calls, and when they were made.
"""

import argparse
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from support.delivery import own_server
from support.processes import started
from support.waiting import wait_until

_APPS = Path(__file__).parent / "apps"
_QUIET = 12.0  # seconds without a call after which nothing more is expected: longer than any backoff here
_WIDTH = 60
_POOLS = {"ours": ("-c", "2"), "plain": ("-P", "prefork", "-c", "2")}


def calls(folder: Path, url: str, name: str, tasks: int) -> list[float]:
    """When the dependency was called."""
    marks = folder / f"{name}.marks"
    env = {
        "BENCH_SYSTEM": name,
        "BENCH_REDIS": url,
        "BENCH_MARKS": str(marks),
        "PYTHONPATH": str(_APPS),
        "PYTHONWARNINGS": "ignore",
        "C_FORCE_ROOT": "1",
    }
    # Plain Celery submits one by one, ours too: what is compared comes afterwards.
    fill = [sys.executable, "app_outage.py", "fill", str(tasks)]
    worker = [
        "-m",
        "celery",
        "-A",
        "app_outage",
        "worker",
        *_POOLS[name],
        "-l",
        "CRITICAL",
        "-n",
        f"{name}@b",
    ]
    with started(fill, log=folder / f"{name}.fill", env=env, cwd=_APPS) as filling:
        assert filling.wait(600) == 0, filling.output
    with started([sys.executable, *worker], log=folder / f"{name}.log", env=env, cwd=_APPS):
        wait_until(_silence(marks, tasks), timeout=1200, what=f"{name} to be done")
    return [at for (at,) in struct.iter_unpack("d", marks.read_bytes())]


def _silence(marks: Path, tasks: int) -> Callable[[], bool]:
    last = [0, time.monotonic()]

    def silent() -> bool:
        time.sleep(0.2)
        size = marks.stat().st_size if marks.exists() else 0
        if size != last[0]:
            last[:] = [size, time.monotonic()]
        return size >= tasks * 8 and time.monotonic() - last[1] > _QUIET

    return silent


def plot(found: dict[str, list[float]], tasks: int) -> None:
    """Calls a second, side by side, one line a moment."""
    longest = max(max(each) - min(each) for each in found.values())
    step = max(longest / 24, 1.0)
    rates = {name: Counter(int((at - min(each)) / step) for at in each) for name, each in found.items()}
    most = max(max(rate.values()) for rate in rates.values())
    for name, each in found.items():
        print(f"\n{name}: {len(each)} calls for {tasks} tasks, {len(each) / tasks:.2f} each")  # noqa: T201
        for slot in range(int(longest / step) + 1):
            bar = "#" * round(rates[name][slot] / most * _WIDTH)
            print(f"  {slot * step:6.0f} s {rates[name][slot] / step:7.0f}/s {bar}")  # noqa: T201


def main() -> None:
    """Measure, and print both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", type=int, default=10_000)
    tasks = parser.parse_args().tasks
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="seawall-") as folder:
        Path(folder).chmod(0o711)
        for name in _POOLS:
            with own_server(Path(folder) / name, fsync="everysec") as server:
                found[name] = calls(Path(folder), server.url, name, tasks)
    plot(found, tasks)


if __name__ == "__main__":
    main()
