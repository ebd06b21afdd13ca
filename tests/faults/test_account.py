"""Every task is accounted for: done and dead letters make up what was submitted, and the ledger agrees."""

import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from seawall import delivery
from seawall.database.migrations import Migrations, platform_history
from seawall.delivery import Queues
from support import mixed
from support.nodes import StartWorker, start_worker
from support.outages import kill_server, own_postgres
from support.recorded import Recorded
from support.waiting import wait_until

__all__ = ["start_worker"]

PAYLOAD = "x" * 10_000_000


@pytest.fixture
def app(redis_url: str) -> Iterator[Any]:
    """The producer's side."""
    made = mixed.create(redis_url)
    yield made
    made.close()


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


@pytest.mark.parametrize("tasks", [2_000, pytest.param(100_000, marks=pytest.mark.slow)])
@pytest.mark.timeout(2400)
def test_done_and_dead_letters_are_what_was_submitted(
    tasks: int, app: Any, redis_url: str, start_worker: StartWorker, recorded: Recorded
) -> None:
    wanted = kinds(tasks)
    submit(app, redis_url, wanted)
    start_worker("support.mixed", "--concurrency=2", env=recorded.env)
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


@pytest.mark.parametrize("seconds", [3.0, pytest.param(30.0, marks=pytest.mark.slow)])
@pytest.mark.timeout(600)
def test_postgres_is_away_and_tasks_do_not_notice(
    seconds: float, app: Any, start_worker: StartWorker, home: Path
) -> None:
    tasks = int(3000 + 700 * seconds)
    with own_postgres(home) as url:
        Migrations(url, [platform_history()]).up()
        recorded = Recorded(url)
        delivery.submit_many((app.tasks["mixed.nap"].s() for _ in range(tasks)), app=app)
        worker = start_worker("support.mixed", "--concurrency=3", env=recorded.env)
        with Queues.open(app.connection_for_read()) as queues:

            def ready() -> int:
                return queues.counts("celery").ready

            def rate(length: float) -> float:
                begun, had = time.monotonic(), ready()
                wait_until(lambda: time.monotonic() > begun + length, timeout=length + 5, what="a while")
                return (had - ready()) / (time.monotonic() - begun)

            wait_until(lambda: ready() < tasks - 300, timeout=60, what="the worker to be busy")
            before = rate(min(seconds / 2, 3.0))
            had, begun = ready(), time.time()
            kill_server(home, url, seconds=seconds)
            assert ready() > 0, "all was done before the outage ended: give it more tasks"
            during = (had - ready()) / (time.time() - begun)
            wait_until(lambda: ready() == 0, timeout=120, what="the rest")
        with contextlib.suppress(AssertionError):  # what there is says more
            wait_until(lambda: recorded.states() == {"success": tasks}, timeout=60, what="a complete ledger")
        assert recorded.states() == {"success": tasks}
        print(f"\n{before:.0f} tasks/s before, {during:.0f} while PostgreSQL was away for {seconds:g} s")  # noqa: T201
        assert "waits on disk" in worker.logs()
        assert during > before * 0.7
        worker.kill("SIGTERM")
        assert worker.container.wait(30) == 0
