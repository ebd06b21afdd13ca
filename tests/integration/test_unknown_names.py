"""Tasks whose name a worker does not know, with real workers of two releases."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, chain, chord, group
from click.testing import CliRunner
from redis import Redis

from seawall import settings
from seawall.cli import group as commands
from seawall.delivery import Counts, DeadLetter, Queues
from support import shop
from support.listening import kinds, listening
from support.nodes import StartWorker, producer_of
from support.waiting import wait_until

IN_TIME = 60.0
POOLS = ["cells", "prefork", "threads"]
RAN = ("received", "started", "succeeded")
STRANGE = "shop.new\nline \udcff" + "x" * 2000

app = producer_of(shop.create)


def counts(app: Celery) -> Counts:
    with app.connection_for_write() as connection, Queues.open(connection) as queues:
        return queues.counts("celery")


def dead(app: Celery) -> list[DeadLetter]:
    with app.connection_for_write() as connection, Queues.open(connection) as queues:
        return queues.dead("celery")


def in_order(redis_url: str) -> list[str]:
    with Redis.from_url(redis_url) as client:
        found: Any = client.lrange("marks", 0, -1)
    return [each.decode() for each in found]


def marks(redis_url: str) -> list[str]:
    return sorted(in_order(redis_url))


def options(pool: str, concurrency: int = 1) -> list[str]:
    return [f"--concurrency={concurrency}", *([] if pool == "cells" else ["-P", pool])]


@pytest.mark.parametrize("pool", ["cells", "prefork", pytest.param("threads", marks=pytest.mark.slow)])
def test_a_task_of_the_next_release_waits_for_it(
    app: Celery, redis_url: str, start_worker: StartWorker, pool: str
) -> None:
    old = start_worker("support.releases", *options(pool), env={"NAMES": "old"})
    app.send_task("new")
    wait_until(lambda: counts(app).parked == {"name:new": 1}, timeout=IN_TIME, what="the task to be parked")
    app.send_task("old")
    wait_until(lambda: marks(redis_url) == ["old"], timeout=IN_TIME, what="the task that is known")
    assert "1 parked: nobody here knows new" in old.logs()
    assert counts(app).parked == {"name:new": 1}
    start_worker("support.releases", *options(pool), env={"NAMES": "old,new"})
    wait_until(lambda: marks(redis_url) == ["new", "old"], timeout=IN_TIME, what="the task of the release")
    wait_until(lambda: counts(app).held == 0, timeout=IN_TIME, what="the end of it")
    assert counts(app).parked == {}
    assert dead(app) == []


def test_it_is_a_dead_letter_when_its_time_is_over_and_has_it_all_again_when_it_is_requeued(
    app: Celery, redis_url: str, start_worker: StartWorker
) -> None:
    env = {"NAMES": "old", "SEAWALL_WORKER__UNKNOWN_FOR": "1"}
    worker = start_worker("support.releases", "-E", *options("cells"), env=env)
    wait_until(lambda: app.control.ping(timeout=1), timeout=IN_TIME, what="the worker to answer")
    with listening(app) as seen:
        task_id = app.send_task("new").id
        wait_until(lambda: len(dead(app)) == 1, timeout=IN_TIME, what="the dead letter")
        assert "NotRegistered" in dead(app)[0].history[-1][2]
        assert worker.logs().count("nobody here knows") == 1
        with app.connection_for_write() as connection, Queues.open(connection) as queues:
            assert queues.revive("celery", [dead(app)[0].id]) == 1
        wait_until(lambda: kinds(seen, task_id).count("task-failed") == 2, timeout=IN_TIME, what="both ends")
    assert kinds(seen, task_id) == ["task-parked", "task-failed"] * 2
    wait_until(lambda: counts(app).parked == {}, timeout=IN_TIME, what="nothing to be parked")
    assert marks(redis_url) == []


def test_monitors_are_told_that_it_is_parked_and_released_and_operators_what_to_do(
    app: Celery, redis_url: str, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seawall.doctor import audit_queues  # here, so that the other tests say what older code lacks

    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    settings.cache_clear()
    start_worker("support.releases", "-E", *options("cells"), env={"NAMES": "old"})
    wait_until(lambda: app.control.ping(timeout=1), timeout=IN_TIME, what="the worker to answer")
    with listening(app) as seen:
        task_id = app.send_task("new").id
        wait_until(lambda: "task-parked" in kinds(seen, task_id), timeout=IN_TIME, what="it to be parked")
        finding = audit_queues(app)[0]
        assert "1 task waits in queue celery for a worker that knows new, the oldest for" in finding.reason
        assert "start a worker that knows new" in finding.fix
        listed = CliRunner().invoke(commands, ["queues", "list"], obj=SimpleNamespace(app=app)).output
        assert "celery: 1 parked for name:new, the oldest for" in listed
        assert "start a worker that knows new" in listed
        start_worker("support.releases", "-E", *options("cells"), env={"NAMES": "old,new"})
        wait_until(lambda: "task-succeeded" in kinds(seen, task_id), timeout=IN_TIME, what="its end")
    assert kinds(seen, task_id) == [f"task-{each}" for each in ("parked", "released", *RAN)]
    parked = next(event for event in seen if event["type"] == "task-parked")
    assert (parked["name"], parked["queue"], parked["dependency"]) == ("new", "celery", "name:new")
    assert parked["until"] > parked["timestamp"]
    assert audit_queues(app) == []


@pytest.mark.parametrize(
    "pool", ["cells", *(pytest.param(each, marks=pytest.mark.slow) for each in ("prefork", "threads"))]
)
def test_whatever_a_name_is_part_of_waits_with_it_and_goes_on(
    app: Celery, redis_url: str, start_worker: StartWorker, pool: str
) -> None:
    """Their members are known to the old worker in part; it takes some again before the new one gets them."""

    def call(name: str, label: str, **given: Any) -> Any:
        return app.signature(name, (label,), immutable=True, **given)

    start_worker("support.releases", *options(pool), env={"NAMES": "old"})
    chained = chain(call("old", "first"), call("new", "second"), call("old", "third")).apply_async()
    grouped = group(call("new", "left"), call("old", "right")).apply_async()
    joined = chord([call("old", "part"), call("new", "other part")], call("new", "body")).apply_async()
    later = call("new", "later").apply_async(countdown=0.5)
    again = call("new", "again").apply_async(retries=1)
    ranked = [call("new", f"ranked {level}").apply_async(priority=level) for level in (1, 9, 5)]
    wait_until(lambda: counts(app).parked == {"name:new": 8}, timeout=IN_TIME, what="eight to be parked")
    assert marks(redis_url) == ["first", "part", "right"]
    start_worker("support.releases", *options(pool), env={"NAMES": "old,new"})
    assert chained.get(timeout=IN_TIME) == "third"
    assert grouped.get(timeout=IN_TIME) == ["left", "right"]
    assert joined.get(timeout=IN_TIME) == "body"
    assert [each.get(timeout=IN_TIME) for each in (later, again)] == ["later", "again"]
    assert len([each.get(timeout=IN_TIME) for each in ranked]) == 3
    ran = in_order(redis_url)
    assert len(ran) == len(set(ran)) == 13
    assert dead(app) == []


def test_a_broker_that_parks_nothing_gets_it_back_until_somebody_knows_it(
    redis_url: str, start_worker: StartWorker
) -> None:
    with Celery("client", broker=redis_url, set_as_current=False) as client:
        client.conf.broker_transport = "redis"
        stock = {"STOCK": "1"}
        old = start_worker("support.releases", "-P", "threads", "-c1", env={"NAMES": "old", **stock})
        for number in range(3):
            client.send_task("new", (f"new {number}",))
        client.send_task("old")
        wait_until(lambda: marks(redis_url) == ["old"], timeout=IN_TIME, what="the task that is known")
        start_worker("support.releases", "-P", "threads", "-c1", env={"NAMES": "old,new", **stock})
        expected = ["new 0", "new 1", "new 2", "old"]
        wait_until(lambda: marks(redis_url) == expected, timeout=IN_TIME, what="the others")
        assert "dead letter" not in old.logs()
        assert "Received unregistered task" not in old.logs()


@pytest.mark.slow
@pytest.mark.parametrize("pool", POOLS)
def test_a_release_that_is_rolled_back_and_forward_loses_and_buries_nothing(
    app: Celery, redis_url: str, start_worker: StartWorker, pool: str
) -> None:
    start_worker("support.releases", *options(pool, 2), env={"NAMES": "old"})
    new = start_worker("support.releases", *options(pool, 2), env={"NAMES": "old,new"})
    expected: list[str] = []
    for turn in range(2):
        expected += [f"{name} {turn} {number}" for name in ("new", "old") for number in range(50)]
        for label in expected[-100:]:
            app.send_task(label.partition(" ")[0], (label,))
        new.kill("SIGTERM")
        assert new.container.wait(30) == 0
        for number in range(10):
            expected.append(f"new {turn} late {number}")
            app.send_task("new", (expected[-1],))
        wait_until(lambda: counts(app).parked.get("name:new", 0) >= 10, timeout=IN_TIME, what="them to park")
        new.container.restart()
    wait_until(lambda: len(marks(redis_url)) >= len(expected), timeout=IN_TIME, what="all tasks")
    assert marks(redis_url) == sorted(expected)
    assert dead(app) == []


@pytest.mark.parametrize("many", [40, pytest.param(100, marks=pytest.mark.slow)])
def test_a_release_beside_the_old_one_loses_and_buries_nothing(
    app: Celery, redis_url: str, start_worker: StartWorker, many: int
) -> None:
    old = start_worker("support.releases", *options("cells"), env={"NAMES": "old"})
    start_worker("support.releases", *options("cells"), env={"NAMES": "old,new"})
    for _ in range(many):
        app.send_task("new")
        app.send_task("old")
    old.container.restart()
    expected = ["new"] * many + ["old"] * many
    wait_until(lambda: len(marks(redis_url)) >= 2 * many, timeout=IN_TIME, what="all tasks")
    assert marks(redis_url) == expected
    assert dead(app) == []


def test_a_strange_name_waits_like_any_other(app: Celery, start_worker: StartWorker) -> None:
    from seawall.worker.names import waits_for

    start_worker("support.releases", *options("cells"), env={"NAMES": "old"})
    app.send_task(STRANGE)
    wait_until(lambda: counts(app).parked == {waits_for(STRANGE): 1}, timeout=IN_TIME, what="it to be parked")
