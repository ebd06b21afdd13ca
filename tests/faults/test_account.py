"""Every task is accounted for: done and dead letters make up what was submitted, and the ledger agrees."""

import contextlib
import random
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from redis import Redis

from seawall import delivery
from seawall.database.migrations import Migrations, platform_history
from seawall.delivery import Queues
from support import mixed
from support.nodes import StartWorker, producer_of, start_worker
from support.outages import own_postgres, server_killed
from support.recorded import Recorded
from support.waiting import wait_until

__all__ = ["start_worker"]

PAYLOAD = "x" * 10_000_000

app = producer_of(mixed.create)


def kinds(tasks: int) -> Counter[str]:
    """How many of each: 10 % fail for a while, 1 % for good, 0.1 % kill their process."""
    few = {"flaky": tasks // 10, "broken": tasks // 100, "deadly": max(tasks // 1000, 1)}
    strange = {"unknown": max(tasks // 500, 2), "undecodable": max(tasks // 500, 2), "garbage": 3, "large": 3}
    return Counter({**few, **strange, "fine": tasks - sum([*few.values(), *strange.values()])})


def submit(app: Any, redis_url: str, wanted: Counter[str]) -> None:
    """All of them, in random order; the strange ones one by one in between."""
    strange = ("unknown", "undecodable", "garbage", "large")
    tasks = [kind for kind in wanted.elements() if kind not in strange]
    random.shuffle(tasks)
    half = len(tasks) // 2
    delivery.submit_many((app.tasks["mixed.work"].s(kind) for kind in tasks[:half]), app=app)
    for n in range(wanted["large"]):
        app.tasks["mixed.work"].delay("fine", PAYLOAD + str(n))
    for _ in range(wanted["unknown"]):
        app.send_task("mixed.nobody", ("who",))
    with app.connection_for_write() as connection, connection.Producer() as producer:
        for n in range(wanted["undecodable"]):
            producer.publish(
                b"{not json",
                content_type="application/json",
                content_encoding="utf-8",
                exchange="",
                routing_key="celery",
                headers={"task": "mixed.work", "id": f"undecodable-{n}", "lang": "py"},
            )
    with Redis.from_url(redis_url) as client:
        place = client.zrange("seawall:{celery}:ready", 0, 0, withscores=True)
        for n in range(wanted["garbage"]):
            client.hset("seawall:{celery}:messages", f"4garbage{n}", "no message at all")
            client.zadd("seawall:{celery}:ready", {f"4garbage{n}": place[0][1]})
    delivery.submit_many((app.tasks["mixed.work"].s(kind) for kind in tasks[half:]), app=app)


def account(recorded: Recorded) -> dict[str, int]:
    """Tasks by their last state, each counted once, and rows by state."""
    last = recorded.sql(
        "SELECT state, count(*) FROM (SELECT DISTINCT ON (task_id) task_id, state FROM seawall.task_runs"
        " ORDER BY task_id, finished_at DESC) AS last GROUP BY 1"
    )
    return dict(last)


@pytest.mark.parametrize("tasks", [1_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(2400)
def test_done_and_dead_letters_are_what_was_submitted(
    tasks: int, app: Any, redis_url: str, start_worker: StartWorker, recorded: Recorded
) -> None:
    wanted = kinds(tasks)
    submit(app, redis_url, wanted)
    start_worker(
        "support.mixed", "--concurrency=2", env={**recorded.env, "SEAWALL_WORKER__UNKNOWN_FOR": "0.001"}
    )
    died = {kind: wanted[kind] for kind in ("broken", "deadly", "unknown", "undecodable", "garbage")}
    expected = {"success": wanted.total() - sum(died.values()), "dead": sum(died.values())}
    with Queues.open(app.connection_for_read()) as queues:

        def over() -> bool:
            counts = queues.counts("celery")
            return (counts.ready, counts.delayed, counts.held) == (0, 0, 0)

        with contextlib.suppress(AssertionError):  # the account says more
            wait_until(over, timeout=240 if tasks < 10_000 else 1800, what="all to be done or dead")
            wait_until(lambda: account(recorded) == expected, timeout=120, what="the ledger to be complete")
        rows = recorded.states()
        counts = queues.counts("celery")
        in_broker = Counter(letter.category for letter in queues.dead_letters("celery"))
    query = "SELECT count(*), count(DISTINCT task_id) FROM seawall.dead_letters WHERE state = 'open'"
    letters = recorded.sql(query)
    print(f"\nsubmitted {wanted.total()}: {dict(wanted)}")  # noqa: T201 - the account is to be seen
    print(f"ledger: tasks {account(recorded)}, rows {dict(rows)}; dead letters {letters[0][0]}")  # noqa: T201
    print(f"broker: {counts.ready} ready, {counts.held} held, {counts.dead} dead {dict(in_broker)}")  # noqa: T201
    assert account(recorded) == expected
    assert (counts.ready, counts.delayed, counts.held, counts.dead) == (0, 0, 0, sum(died.values()))
    assert letters == [(sum(died.values()),) * 2]
    assert rows["retried"] == wanted["flaky"] + 2 * wanted["deadly"]
    assert rows["success"] == expected["success"]


def users(worker: Any, url: str) -> set[int]:
    """Which processes of a worker are connected to a server of this machine."""
    port = urlsplit(url).port
    processes = [psutil.Process(worker.pid), *worker.children()]
    return {
        process.pid
        for process in processes
        for connection in process.net_connections("tcp")
        if connection.raddr and connection.raddr.port == port
    }


@pytest.mark.parametrize("tasks", [1_000, pytest.param(25_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_postgres_is_away_and_tasks_do_not_notice(
    tasks: int, app: Any, start_worker: StartWorker, home: Path
) -> None:
    with own_postgres(home) as url:
        Migrations(url, [platform_history()]).up()
        recorded = Recorded(url)
        delivery.submit_many((app.tasks["mixed.nap"].s() for _ in range(tasks)), app=app)
        worker = start_worker("support.mixed", "--concurrency=3", env=recorded.env)
        with Queues.open(app.connection_for_read()) as queues:

            def left() -> int:
                counts = queues.counts("celery")
                return counts.ready + counts.held

            wait_until(lambda: left() < tasks and recorded.states(), timeout=60, what="the first rows")
            connected = users(worker.container, url)
            with server_killed(home, url):
                had = left()
                wait_until(lambda: left() == 0, timeout=120, what="every task to end without PostgreSQL")
        with contextlib.suppress(AssertionError):  # what there is says more
            wait_until(lambda: recorded.states() == {"success": tasks}, timeout=60, what="a complete ledger")
        assert recorded.states() == {"success": tasks}
        print(f"\n{had} of {tasks} tasks ended while PostgreSQL was away")  # noqa: T201 - the count is the point
        assert "waits on disk" in worker.logs()
        assert had > tasks / 2, "most were done before the outage: give it more tasks"
        assert connected | users(worker.container, url) == {worker.container.pid}, (
            "a cell never asks PostgreSQL"
        )
        worker.kill("SIGTERM")
        assert worker.container.wait(30) == 0
