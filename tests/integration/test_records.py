"""Real workers write down what became of their tasks."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from celery import Celery
from click.testing import CliRunner, Result

from seawall import settings
from seawall.breaker.store import CHANGES
from seawall.cli import group
from seawall.cluster import connect
from seawall.database import close
from seawall.delivery import Queues
from support import dependants
from support.nodes import StartWorker
from support.proxy import proxy
from support.recorded import Recorded
from support.shop import store
from support.waiting import wait_until

POOLS = pytest.mark.parametrize(
    "options",
    [(), ("--pool=prefork",), pytest.param(("--pool=threads",), marks=pytest.mark.slow)],
    ids=str,
)


def dead(app: Celery) -> list[Any]:
    with Queues.open(app.connection_for_read()) as queues:
        return queues.dead("celery")


@POOLS
def test_every_end_of_a_task_is_one_row(
    options: tuple[str, ...], shop_app: Celery, start_worker: StartWorker, recorded: Recorded
) -> None:
    env = {**recorded.env, "SEAWALL_WORKER__UNKNOWN_FOR": "0.001"}
    worker = start_worker("support.shop", "--concurrency=1", *options, env=env)
    tasks = shop_app.tasks
    for _ in range(20):
        tasks["shop.add"].delay(1, 2)
    tasks["shop.recovering"].delay()
    tasks["shop.mistaken"].delay()
    tasks["shop.outspoken"].delay("planted-token", "planted-card", order={"id": 17})
    tasks["shop.add"].apply_async((1, 1), expires=-1)
    shop_app.send_task("shop.nobody", ("who",))
    shop_app.send_task("shop.record", serializer="pickle", args=("unpickled",))
    expected = {"success": 21, "retried": 3, "dead": 4, "cancelled": 1}
    wait_until(lambda: recorded.states() == expected, timeout=60, what=f"{expected}, {recorded.states()}")

    runs = recorded.sql(
        "SELECT name, attempt, queue, worker, priority, wait_ms, run_ms, started_at - enqueued_at"
        " FROM seawall.task_runs WHERE state = 'success' AND name = 'shop.add'"
    )
    assert {run[:2] for run in runs} == {("shop.add", 1)}
    assert {run[2:5] for run in runs} == {("celery", f"shop@{worker.container.id[:12]}", 5)}
    assert all(run[5] >= 0 and 0 <= run[6] < 1000 for run in runs)
    attempts = recorded.sql(
        "SELECT attempt, state FROM seawall.task_runs WHERE name = 'shop.recovering' ORDER BY 1"
    )
    assert attempts == [(1, "retried"), (2, "retried"), (3, "success")]

    letters = {row[0]: row[1:] for row in recorded.sql(LETTERS)}
    assert set(letters) == {"shop.mistaken", "shop.outspoken", "shop.nobody", "shop.record"}
    reason, category, args, traceback, attempts_made, count = letters["shop.outspoken"]
    assert reason.startswith("network: GatewayError: ")
    assert "cannot reach https://u:***@gateway" in reason
    assert (category, attempts_made, count) == ("network", 2, 2)
    assert args == ["***", "***"]
    assert "GatewayError" in traceback
    assert letters["shop.nobody"][0].startswith("validation: NotRegistered")
    assert letters["shop.record"][0].startswith("validation: ContentDisallowed")

    in_broker = {letter.task: letter for letter in dead(shop_app)}
    assert set(in_broker) == set(letters)
    assert in_broker["shop.mistaken"].history[-1][2].startswith("internal: ValueError: trying again")
    assert "planted-" not in in_broker["shop.outspoken"].history[-1][2].replace("planted-in-args", "")


LETTERS = """
    SELECT d.name, reason, category, args, traceback, attempts, g.count
    FROM seawall.dead_letters d JOIN seawall.error_groups g ON g.id = d.error_group_id
"""


@pytest.fixture
def command(
    shop_app: Celery, redis_url: str, recorded: Recorded, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Result]]:
    """`seawall`, with the settings of the workers of this test."""
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    monkeypatch.setenv("SEAWALL_DATABASE_URL", recorded.url)
    settings.cache_clear()
    close()
    yield lambda *arguments: CliRunner().invoke(group, arguments, obj=SimpleNamespace(app=shop_app))
    close()


def test_a_dead_letter_is_looked_at_requeued_and_its_group_resolved(
    command: Callable[..., Result], shop_app: Celery, start_worker: StartWorker, recorded: Recorded
) -> None:
    start_worker("support.shop", "--concurrency=1", env=recorded.env)
    task_id = shop_app.tasks["shop.leaky"].delay("planted-token", "planted-card").id
    state = "SELECT state FROM seawall.dead_letters ORDER BY id"
    wait_until(lambda: recorded.sql(state) == [("open",)], timeout=30, what="a dead letter")
    ((fingerprint,),) = recorded.sql("SELECT fingerprint FROM seawall.error_groups")

    assert "planted" not in command("dead", "show", task_id).output
    shown = command("dead", "show", task_id, "--json").output
    assert "planted" not in shown
    letter = json.loads(shown)
    assert letter["message"]["body"][0] == ["***", "***"]
    assert letter["lineage"][0]["fingerprint"] == fingerprint
    assert [run["state"] for run in letter["attempts"]] == ["dead"]

    assert command("errors", "resolve", fingerprint[:6]).output == "resolved 1 group\n"
    assert json.loads(command("errors", "list", "--json").output) == []
    assert command("dead", "requeue", "--all", "--category", "internal").output == "requeued 1 dead letter\n"
    wait_until(lambda: recorded.sql(state) == [("requeued",), ("open",)], timeout=30, what="it to die again")
    (found,) = json.loads(command("errors", "list", "--task", "shop.le*", "--json").output)
    assert (found["count"], found["status"], found["category"]) == (2, "open", "internal")
    group_shown = json.loads(command("errors", "show", fingerprint, "--json").output)
    assert (len(group_shown["latest_runs"]), group_shown["open_dead_letters"]) == (2, 1)
    assert "ValueError" in group_shown["sample"]
    history = json.loads(command("dead", "show", task_id, "--json").output)["history"]
    assert [why.partition(":")[0] for _, _, why in history] == ["internal", "requeued", "internal"]

    assert command("dead", "discard", task_id, "--yes").output == "discarded 1 dead letter\n"
    assert recorded.sql(state) == [("requeued",), ("discarded",)]
    assert command("errors", "resolve", "--all", "--ignore").output == "ignored 1 group\n"
    assert fingerprint[:8] in command("errors", "list", "--status", "ignored").output
    assert "is no group" in command("errors", "show", "0123").output


def test_what_breakers_do_is_recorded_once_whoever_of_the_workers_lives(
    command: Callable[..., Result], redis_url: str, start_worker: StartWorker, recorded: Recorded
) -> None:
    app = dependants.create(redis_url)
    workers = [start_worker("support.dependants", "--concurrency=1", env=recorded.env) for _ in range(2)]
    assert app.tasks["dependants.pay"].delay(1).get(timeout=30) == 1
    with connect(redis_url) as client:
        wait_until(lambda: client.pubsub_numsub(CHANGES)[0][1] == 2, what="two workers to listen")

    assert command("breakers", "open", "payments", "--reason", "moving").exit_code == 0
    rows = (
        "SELECT before, after, cause, reason FROM seawall.breaker_transitions"
        " WHERE name = 'payments' ORDER BY at"
    )
    opened = ("closed", "forced_open", "forced", "moving")
    wait_until(lambda: recorded.sql(rows) == [opened], timeout=30, what="the first transition")
    workers[0].kill()
    assert command("breakers", "reset", "payments").exit_code == 0
    both = [opened, ("forced_open", "closed", "reset", "")]
    wait_until(lambda: recorded.sql(rows) == both, timeout=30, what="the second transition")

    assert command("breakers", "history", "somewhere").output.count("\n") == 1
    latest, first = json.loads(command("breakers", "history", "payments", "--json").output)
    assert (latest["after"], first["after"], first["reason"]) == ("closed", "forced_open", "moving")
    assert first["author"]
    assert first["worker"] == "seawall breakers"
    assert "moving" in command("breakers", "history").output

    store(app).set("down", 1)
    for number in range(20):
        app.tasks["dependants.pay"].delay(number)
    of_process = ("breakers", "history", "payments", "--scope", "process", "--json")
    wait_until(lambda: json.loads(command(*of_process).output), timeout=30, what="a process's own transition")
    tripped = json.loads(command(*of_process).output)[-1]
    assert (tripped["scope"], tripped["before"], tripped["after"]) == ("process", "closed", "open")
    assert tripped["failed"] > 0
    cell = psutil.Process(int(tripped["worker"].rpartition("/")[2]))
    assert cell.pid != workers[1].container.pid
    assert workers[1].container.pid in {each.pid for each in cell.parents()}
    app.close()
    of_cluster = json.loads(command("breakers", "history", "--scope", "cluster", "--json").output)
    assert {one["scope"] for one in of_cluster} == {"cluster"}


def test_a_killer_is_recorded_attempt_by_attempt_and_so_is_a_task_that_exits(
    shop_app: Celery, start_worker: StartWorker, recorded: Recorded
) -> None:
    start_worker("support.shop", "--concurrency=1", env=recorded.env)
    shop_app.tasks["shop.suicidal"].delay()
    expected = {"retried": 2, "dead": 1}
    wait_until(lambda: recorded.states() == expected, timeout=60, what="a poisoned task's rows")
    ((reason, attempts, headers),) = recorded.sql(
        "SELECT reason, attempts, headers FROM seawall.dead_letters"
    )
    assert "Poisoned: shop.suicidal" in reason
    assert attempts == 3
    assert len(headers["history"]) == 3
    assert len(dead(shop_app)) == 1

    shop_app.tasks["shop.quits"].delay()
    shop_app.tasks["shop.add"].delay(1, 1)
    expected |= {"dead": 2, "success": 1}
    wait_until(lambda: recorded.states() == expected, timeout=30, what="a row for each of them")
    assert {letter.task for letter in dead(shop_app)} == {"shop.suicidal", "shop.quits"}


def test_what_a_killed_worker_left_is_written_once_by_the_next(
    shop_app: Celery, start_worker: StartWorker, recorded: Recorded, tmp_path: Path
) -> None:
    with proxy(recorded.url) as way:
        env = {**recorded.env, "SEAWALL_DATABASE_URL": way.url}
        first = start_worker("support.shop", "--concurrency=2", env=env)
        shop_app.tasks["shop.add"].delay(1, 1)
        wait_until(lambda: recorded.states()["success"] == 1, timeout=30, what="the first row")
        way.die()
        results = [shop_app.tasks["shop.add"].delay(n, n) for n in range(200)]
        shop_app.tasks["shop.mistaken"].delay()
        assert [result.get(timeout=30) for result in results] == [2 * n for n in range(200)]
        wait_until(lambda: "waits on disk" in first.logs(), timeout=30, what="the worker to say so")
        wait_until(lambda: len(dead(shop_app)) == 1, what="the dead letter in the broker")
        first.kill("SIGKILL")
    assert recorded.states() == {"success": 1}
    second = start_worker("support.shop", "--concurrency=1", env=recorded.env)
    expected = {"success": 201, "dead": 1}
    wait_until(lambda: recorded.states() == expected, timeout=30, what="what the killed worker left")
    assert "a worker was killed: what it left in" in second.logs()
    assert recorded.sql("SELECT count FROM seawall.error_groups") == [(1,)]
    second.kill("SIGTERM")
    assert second.container.wait(20) == 0
    assert list((tmp_path / "unused" / "spool").iterdir()) == []
    assert recorded.sql("SELECT count(*) FROM seawall.record_journals") == [(0,)]


def test_rows_wait_while_postgres_is_away_and_none_is_missing_afterwards(
    shop_app: Celery, start_worker: StartWorker, recorded: Recorded
) -> None:
    with proxy(recorded.url) as way:
        worker = start_worker(
            "support.shop", "--concurrency=2", env={**recorded.env, "SEAWALL_DATABASE_URL": way.url}
        )
        results = []
        for phase in (None, way.die, way.revive):
            if phase is not None:
                phase()
            results += [shop_app.tasks["shop.add"].delay(n, n) for n in range(100)]
            assert all(result.get(timeout=30) is not None for result in results)
        wait_until(lambda: recorded.states() == {"success": 300}, timeout=30, what="all rows")
        assert worker.container.status == "running"
