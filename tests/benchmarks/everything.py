"""A thousand trivial tasks with results, events and INFO lines all on: cells beside plain Celery's prefork.

    PYTHONPATH=tests .venv/bin/python tests/benchmarks/everything.py [--rounds 9] [--beside ../old/platform]

The application is that of Celery's tutorial, started with `worker -c 2 -E --loglevel=INFO`, once with ours
installed and once without. Both workers are up all the time, on one server, and get work in turns. Each turn
measures twice:

- waiting: all tasks are submitted before the worker may consume, from that moment to the last result,
- end to end: from the first `delay()` to the last result, the producer beside the worker on the same cores.

CPU is that of the worker with all its processes, and of the server, until nothing is left to be done: every
result stored, every event heard by a subscriber, every line in the file. What is missing fails the run.
A turn that is not measured goes before. Read the ratios, as a machine's speed drifts. With `--beside`, the
cells of another checkout take turns as well.
"""

import argparse
import base64
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from celery import Celery
from redis import Redis

from support.delivery import OURS, Server, own_server
from support.processes import Proc
from support.waiting import wait_until

_APPS = Path(__file__).parent / "apps"
_QUEUE = "celery"
_EVENTS = ("task-received", "task-started", "task-succeeded")
_LINES = (b"received", b"succeeded")
_LINE = re.compile(rb'Task bench\.add\[[^\]]+\] (received|succeeded)|"event": "(received|succeeded)"')

Figures = dict[str, float]


class Listener:
    """A subscriber to Celery's events as cheap as can be: what it heard is read when all is over."""

    def __init__(self, port: int, database: int) -> None:
        client: Any = Redis(port=port)
        self._pubsub = client.pubsub()
        self._pubsub.psubscribe(f"/{database}.celeryev*")
        self._heard: list[bytes] = []
        self._read = 0
        self._counts: Counter[str] = Counter()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for message in self._pubsub.listen():
            if message["type"] == "pmessage":
                self._heard.append(message["data"])

    def counts(self) -> Counter[str]:
        """How many of each type."""
        new = self._heard[self._read :]
        self._read += len(new)
        for raw in new:
            message = json.loads(raw)
            encoded = message["properties"].get("body_encoding") == "base64"
            body = json.loads(base64.b64decode(message["body"]) if encoded else message["body"])
            self._counts.update(each["type"] for each in (body if isinstance(body, list) else [body]))
        return self._counts


class System:
    """A worker and a producer with two databases of the server, for messages and for results."""

    def __init__(  # noqa: PLR0913, PLR0917 - all that it is made of
        self, name: str, platform: str, number: int, server: Server, folder: Path, stack: ExitStack
    ) -> None:
        self.name, self._server, self._expected = name, server, 0
        urls = [f"redis://127.0.0.1:{server.port}/{2 * number + each}" for each in range(2)]
        env = {**os.environ, "PYTHONPATH": f"{_APPS}:{platform}", "PYTHONWARNINGS": "ignore"}
        env |= {"BENCH_SYSTEM": name, "BENCH_BROKER": urls[0], "BENCH_BACKEND": urls[1]}
        argv = [sys.executable, "-m", "celery", "-A", "app_everything", "worker"]
        argv += ["-c", "2", "-E", "--loglevel=INFO", "-n", f"{name}@bench"]
        self.worker = Proc(argv, log=folder / f"{name}.log", env=env, cwd=_APPS)
        stack.callback(self.worker.destroy)
        self._producer: Any = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "app_everything.py"],
                cwd=_APPS,
                env=env,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        self._operator = stack.enter_context(Celery(name, broker=urls[0]))
        if name != "prefork":
            self._operator.conf.broker_transport = OURS
        self._results: Any = Redis(port=server.port, db=2 * number + 1)
        self._listener = Listener(server.port, 2 * number)
        self.worker.wait_for("ready.")

    def measure(self, tasks: int) -> Figures:
        """Run so many tasks in both ways."""
        self._operator.control.cancel_consumer(_QUEUE, reply=True, timeout=5)
        self._submit(tasks)
        cpu, serving = self.worker.cpu(), self._server.cpu()
        begun = time.monotonic()
        self._operator.control.add_consumer(_QUEUE)
        waiting = self._last_result() - begun
        self._settle()
        between, served = self.worker.cpu(), self._server.cpu()
        begun = self._submit(tasks)
        end_to_end = self._last_result() - begun
        self._settle()
        return {
            "waiting: wall, s": waiting,
            "waiting: worker's CPU, us per task": (between - cpu) / tasks * 1e6,
            "waiting: server's CPU, us per task": (served - serving) / tasks * 1e6,
            "end to end: wall, s": end_to_end,
            "end to end: worker's CPU, us per task": (self.worker.cpu() - between) / tasks * 1e6,
        }

    def _submit(self, tasks: int) -> float:
        self._expected += tasks
        print(tasks, file=self._producer.stdin, flush=True)
        return float(self._producer.stdout.readline())

    def _last_result(self) -> float:
        while self._results.dbsize() < self._expected:
            time.sleep(0.002)
        return time.monotonic()

    def _settle(self) -> None:
        """Wait until all that the tasks leave behind is there."""

        def is_there() -> bool:
            lines = Counter(one or other for one, other in _LINE.findall(self.worker.log.read_bytes()))
            told = self._listener.counts()
            return all(lines[word] == self._expected for word in _LINES) and all(
                told[kind] == self._expected for kind in _EVENTS
            )

        wait_until(is_there, timeout=60, what=f"every event and line of {self.name}")


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--beside", metavar="DIRECTORY", help="the platform/ of another checkout")
    chosen = parser.parse_args()
    platforms = {"prefork": "", "cells": ""} | ({"beside": chosen.beside} if chosen.beside else {})
    rounds: list[dict[str, Figures]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seawall-")))
        server = stack.enter_context(own_server(folder / "s", fsync="everysec"))
        systems = [
            System(name, platform, number, server, folder, stack)
            for number, (name, platform) in enumerate(platforms.items())
        ]
        for number in range(chosen.rounds + 1):
            first = number % len(systems)
            turn = systems[first:] + systems[:first]
            rounds.append({system.name: system.measure(chosen.tasks) for system in turn})
            show(rounds[1:] or rounds, [*platforms])


def show(rounds: list[dict[str, Figures]], names: list[str]) -> None:
    """Medians so far, and how many times as much prefork takes as cells: least, median and most."""
    heads = "".join(f"{name:>9}" for name in names)
    print(f"\n{f'{len(rounds)} rounds':40}{heads}   prefork / cells: least, median, most")  # noqa: T201 - a report
    for figure in rounds[0]["cells"]:
        found = [[each[name][figure] for each in rounds] for name in names]
        ratios = [prefork / cells for prefork, cells in zip(found[0], found[1], strict=True)]
        medians = "".join(f"{statistics.median(each):9.4g}" for each in found)
        spread = f"{min(ratios):8.2f}{statistics.median(ratios):8.2f}{max(ratios):8.2f}"
        print(f"{figure:40}{medians}   {spread}", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
