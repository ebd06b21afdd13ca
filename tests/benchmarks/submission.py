"""What one submission costs, and what it costs to remember it for as long as it may be repeated.

`PYTHONPATH=tests python tests/benchmarks/submission.py`. Prints the microseconds of the server's time per
submission, alone and in batches of 500 (INFO commandstats), the microseconds of a producer's CPU, the bytes
it sends, and the bytes that the server keeps for each submission that it remembers. At last how long a
submission takes with one replica on this machine, with and without waiting for it (`replicas`), by turns.
"""

import tempfile
import time
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from celery import Celery

from seawall import Seawall
from seawall.delivery import submit_many
from support.delivery import Server, own_server
from support.waiting import wait_until

ROUNDS, ALONE, BATCHED = 5, 2_000, 20_000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, own_server(Path(folder) / "server", fsync="no") as server:
        app = Seawall("bench", broker=server.url, backend="cache+memory://", set_as_current=False)
        app.task(name="t", ignore_result=True)(_nothing)
        app.send_task("t", (0,))
        with server.client() as client:
            rounds = [_round(app, client) for _ in range(ROUNDS)]
            for figure in rounds[0]:
                _say(figure, median(each[figure] for each in rounds))
            _remembered(app, client)
            with own_server(Path(folder) / "replica", fsync="no") as replica:
                _replicated(server, replica)


def _replicated(primary: Server, replica: Server) -> None:
    with replica.client() as client:
        client.replicaof("127.0.0.1", primary.port)
        wait_until(lambda: client.info("replication")["master_link_status"] == "up", timeout=30)
    apps = {}
    for replicas in (0, 1):
        app = Seawall("bench", broker=primary.url, backend="cache+memory://", set_as_current=False)
        app.conf.broker_transport_options = {"delivery": {"replicas": replicas}}
        app.task(name="t", ignore_result=True)(_nothing)
        app.send_task("t", (0,))
        apps[f"{replicas} replicas waited for"] = app
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, app in apps.items():
            begun = time.perf_counter()
            for number in range(ALONE):
                app.send_task("t", (number,))
            taken[f"alone, {name}: us"].append((time.perf_counter() - begun) / ALONE * 1e6)
            begun = time.perf_counter()
            submit_many(map(app.tasks["t"].s, range(BATCHED)), app=app)
            taken[f"in batches, {name}: us"].append((time.perf_counter() - begun) / BATCHED * 1e6)
    for figure in sorted(taken):
        _say(figure, median(taken[figure]))


def _nothing(_number: int) -> None:
    """Never run."""


def _round(app: Celery, client: Any) -> dict[str, float]:
    signature = app.tasks["t"].s
    return {
        "alone: the server's time, us": _alone(app, client),
        "alone: the producer's CPU, us": _cpu(app),
        "alone: bytes to the server": _sent(app, client),
        "in batches: the server's time, us": _measure(
            client, lambda: submit_many(map(signature, range(BATCHED)), app=app), BATCHED
        ),
    }


def _alone(app: Celery, client: Any) -> float:
    return _measure(client, lambda: [app.send_task("t", (n,)) for n in range(ALONE)], ALONE)


def _measure(client: Any, work: Any, many: int) -> float:
    """Microseconds of the server's time per message."""
    client.config_resetstat()
    work()
    spent = client.info("commandstats")["cmdstat_evalsha"]["usec"]
    client.flushall()
    return float(spent / many)


def _cpu(app: Celery) -> float:
    begun = time.process_time()
    for number in range(ALONE):
        app.send_task("t", (number,))
    return (time.process_time() - begun) / ALONE * 1e6


def _sent(app: Celery, client: Any) -> float:
    before = client.info("stats")["total_net_input_bytes"]
    for number in range(ALONE):
        app.send_task("t", (number,))
    return float((client.info("stats")["total_net_input_bytes"] - before) / ALONE)


def _remembered(app: Celery, client: Any) -> None:
    client.flushall()
    for number in range(ALONE):
        app.send_task("t", (number,))
    sizes = [client.memory_usage(key, samples=0) for key in client.keys("*:submitted:*")]
    _say("remembered: bytes per submission", sum(sizes) / ALONE)
    client.flushall()
    submit_many(map(app.tasks["t"].s, range(BATCHED)), app=app)
    sizes = [client.memory_usage(key, samples=0) for key in client.keys("*:submitted:*")]
    _say("remembered: bytes per message of a batch", sum(sizes) / BATCHED)


def _say(figure: str, value: float) -> None:
    print(f"{figure:48} {value:10.2f}")  # noqa: T201 - it is a report


if __name__ == "__main__":
    main()
