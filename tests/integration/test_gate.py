"""The gate, in every pool: what accounts say is done, and every ending gives its share back."""

import re
import time

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError

from seawall import delivery
from seawall.delivery import Queues
from seawall.errors import MemoryBudgetExceeded
from support import reef
from support.nodes import StartWorker, producer_of
from support.shop import journal, store
from support.waiting import wait_until

POOLS = ("cells", "prefork", *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("threads", "solo")))
ACCOUNTS = {"REEF_ACCOUNTS": "1"}

app = producer_of(reef.create)


def options(pool: str) -> list[str]:
    return ["--concurrency=2", *([] if pool == "cells" else ["-P", pool])]


@pytest.mark.parametrize("pool", POOLS)
def test_an_account_is_kept_to_and_others_pass(app: Celery, start_worker: StartWorker, pool: str) -> None:
    start_worker("support.reef", *options(pool), env=ACCOUNTS)
    results = [app.tasks["reef.through"].delay(f"t{number}") for number in range(4)]
    refused = app.tasks["reef.mark"].delay("refused")
    with pytest.raises(MemoryBudgetExceeded, match="not here"):
        refused.get(timeout=20)
    assert [result.get(timeout=30) for result in results] == ["t0", "t1", "t2", "t3"]
    assert all(line.endswith("beside 0") for line in journal(app) if line.startswith("t"))
    # Nothing is left of any share, and nothing in the broker but the refused one, a dead letter.
    wait_until(lambda: not store(app).exists("through"), what="the last share to go back")
    wait_until(lambda: store(app).hlen("seawall:{celery}:messages") == 1, what="the messages to be settled")
    wait_until(lambda: store(app).zcard("seawall:{celery}:dead") == 1, what="the refused one to be dead")


@pytest.mark.parametrize("pool", ["cells", pytest.param("prefork", marks=pytest.mark.slow)])
def test_a_parked_request_comes_back_by_itself_or_on_release(
    app: Celery, start_worker: StartWorker, pool: str
) -> None:
    worker = start_worker("support.reef", *options(pool), env=ACCOUNTS)
    parked = app.tasks["reef.mark"].delay("parked")
    with app.connection_for_write() as connection, delivery.Queues.open(connection) as queues:
        wait_until(lambda: queues.counts("celery").parked.get("harbour"), what="the request to be parked")
        # It costs no slot: others run, and it is asked about again without anybody's doing.
        assert app.tasks["reef.mark"].delay("other").get(timeout=20) == "other"
        assert not parked.ready()
        store(app).set("open", 1)
        assert parked.get(timeout=20) == "parked"
        assert journal(app).count("parked") == 1
        assert not queues.counts("celery").parked
    assert "1 parked: it is closed (1)" in worker.logs()


def test_many_parked_requests_are_told_in_a_line_a_second(app: Celery, start_worker: StartWorker) -> None:
    worker = start_worker("support.reef", "--concurrency=1", env=ACCOUNTS)
    began = time.monotonic()
    results = [app.tasks["reef.mark"].delay("parked") for _ in range(100)]
    pattern = re.compile(r"(\d+) parked: it is closed")
    wait_until(
        lambda: sum(map(int, pattern.findall(worker.logs()))) >= 100, timeout=30, what="all to be told"
    )
    assert len(pattern.findall(worker.logs())) <= 2 + (time.monotonic() - began)
    store(app).set("open", 1)
    assert [result.get(timeout=30) for result in results] == ["parked"] * 100


@pytest.mark.parametrize("pool", ["cells", "threads"])
def test_held_requests_keep_nobody_and_expire(app: Celery, start_worker: StartWorker, pool: str) -> None:
    start_worker("support.reef", *options(pool), env=ACCOUNTS)
    held = [app.tasks["reef.mark"].delay("held") for _ in range(80)]  # more than one worker holds
    expiring = app.tasks["reef.mark"].apply_async(("held",), expires=1.0)
    assert app.tasks["reef.mark"].delay("free").get(timeout=20) == "free"
    with pytest.raises(TaskRevokedError):
        expiring.get(timeout=20)
    store(app).set("open", 1)
    assert [result.get(timeout=30) for result in held] == ["held"] * 80
    assert journal(app).count("held") == 80


def test_what_is_held_in_a_cell_goes_back_when_another_task_runs_long_there(
    app: Celery, start_worker: StartWorker
) -> None:
    start_worker("support.reef", "--concurrency=1", env=ACCOUNTS)
    app.tasks["reef.mark"].delay("held")
    app.tasks["reef.nap"].delay(600)
    with Queues.open(app.connection_for_read()) as queues:

        def back() -> bool:
            counts = queues.counts("celery")
            return (counts.ready, counts.held) == (1, 1)

        wait_until(lambda: journal(app) and back(), timeout=20, what="it to be in line for others")


def test_a_held_request_can_be_revoked(app: Celery, start_worker: StartWorker) -> None:
    start_worker("support.reef", *options("threads"), env=ACCOUNTS)
    wait_until(lambda: app.control.ping(timeout=1), timeout=20, what="the worker to answer")
    held = app.tasks["reef.mark"].delay("held")
    reserved = wait_until(
        lambda: [each for found in (app.control.inspect().reserved() or {}).values() for each in found],
        timeout=20,
        what="the request to be held",
    )
    assert reserved[0]["id"] == held.id
    held.revoke()
    with pytest.raises(TaskRevokedError):
        held.get(timeout=20)


def test_a_share_goes_back_when_its_task_is_killed_or_out_of_time(
    app: Celery, start_worker: StartWorker
) -> None:
    worker = start_worker("support.reef", "--concurrency=1", env=ACCOUNTS)
    timed_out = app.tasks["reef.through"].apply_async(("slow", 60), soft_time_limit=1)
    wait_until(timed_out.ready, timeout=20, what="the limit")
    assert app.tasks["reef.through"].delay("next").get(timeout=20) == "next"
    app.tasks["reef.through"].apply_async(("held up", 60))
    wait_until(lambda: any("held up" in line for line in journal(app)), what="the task")
    worker.kill("SIGQUIT")
    worker.container.wait(20)
