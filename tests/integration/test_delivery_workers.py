"""What Celery offers, over our transport and real workers."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chain, chord, group

from seawall.delivery import Queues
from support.delivery import OURS, Site, site
from support.listening import listening
from support.waiting import wait_until

POOLS = ("prefork", *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("threads", "solo", "gevent")))


@pytest.fixture
def place(redis_url: str, tmp_path: Path) -> Iterator[Site]:
    conf = {"result_backend": redis_url, "task_ignore_result": False, "task_track_started": True}
    with site(redis_url, tmp_path / "site", conf=conf) as opened:
        yield opened


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    with Celery("client", broker=redis_url, backend=redis_url) as client:
        client.conf.broker_transport = OURS
        yield client


def task(app: Celery, name: str, *args: Any, **options: Any) -> Any:
    return app.signature(f"support.delivery_app.{name}", args=args, **options)


@pytest.mark.parametrize("pool", POOLS)
def test_the_canvas_works(place: Site, app: Celery, pool: str) -> None:
    place.worker(pool=pool)
    assert task(app, "add", 1, 2).delay().get(timeout=20) == 3
    assert chain(task(app, "add", 1), task(app, "add", 2)).delay().get(timeout=20) == 3
    assert group(task(app, "add", n) for n in range(5)).delay().get(timeout=20) == list(range(5))
    assert chord([task(app, "add", n) for n in range(5)])(task(app, "add")).get(timeout=20) == 10


def test_workers_answer_and_obey(place: Site, app: Celery) -> None:
    place.worker()
    place.worker(pool="threads")
    # A worker may say that it is ready a moment before it hears broadcasts.
    wait_until(lambda: len(app.control.ping(timeout=2, limit=2) or ()) == 2, timeout=60)
    inspected = app.control.inspect(timeout=20, limit=2)
    assert set(inspected.active_queues() or ()) == {"w1@test", "w2@test"}
    app.control.cancel_consumer("celery", reply=True, timeout=20, limit=2)
    waiting = task(app, "add", 1).delay()
    with Queues.open(app.connection_for_read()) as queues:
        assert queues.counts("celery").ready == 1
        assert app.control.purge() == 1
        assert queues.counts("celery").ready == 0
    waiting.forget()
    app.control.add_consumer("celery", reply=True, timeout=20, limit=2)
    assert task(app, "add", 2).delay().get(timeout=20) == 2


def test_a_revoked_task_does_not_run_when_its_delay_ends(place: Site, app: Celery) -> None:
    place.worker()
    delayed = task(app, "work", "revoked").apply_async(countdown=1.5)
    app.control.revoke(delayed.id, reply=True)
    after = task(app, "work", "kept").apply_async(eta=datetime.now(UTC) + timedelta(seconds=1.6))
    after.get(timeout=20)
    wait_until(lambda: delayed.state == "REVOKED")
    assert place.marks.counts("start")["revoked"] == 0


def test_a_worker_that_came_later_knows_what_was_revoked(place: Site, app: Celery) -> None:
    waiting = task(app, "work", "revoked").delay()
    app.control.revoke(waiting.id)
    task(app, "work", "kept").delay()
    place.worker()
    wait_until(lambda: place.marks.counts("end")["kept"], timeout=20)
    wait_until(lambda: waiting.state == "REVOKED")
    assert place.marks.counts("start")["revoked"] == 0


def test_a_unique_task_may_retry(place: Site, app: Celery) -> None:
    place.worker(pool="threads")
    task(app, "again", "unique").apply_async(headers={"unique_key": "once", "unique_for": 60})
    wait_until(lambda: place.marks.counts("end")["unique"], timeout=20)
    assert place.marks.counts("start")["unique"] == 2


def test_events_are_heard(place: Site, app: Celery) -> None:
    place.worker("-E")
    with listening(app) as seen:

        def heard() -> set[str]:
            return {event["type"] for event in seen}

        wait_until(lambda: "worker-heartbeat" in heard(), timeout=20)
        task(app, "add", 1).delay().get(timeout=20)
        wait_until(lambda: {"task-received", "task-started", "task-succeeded"} <= heard(), timeout=20)


def test_a_paused_queue_rests_and_resumes_within_a_moment(place: Site, app: Celery) -> None:
    place.worker()
    assert task(app, "add", 0).delay().get(timeout=20) == 0
    with Queues.open(app.connection_for_read()) as queues:
        queues.pause("celery")
        waiting = task(app, "work", "paused").delay()
        assert app.control.ping(timeout=1)
        assert place.marks.counts("start")["paused"] == 0
        queues.resume("celery")
        waiting.get(timeout=20)


def test_an_urgent_task_overtakes_a_full_queue(place: Site, app: Celery) -> None:
    for number in range(60):
        task(app, "work", number, 0.05).apply_async(priority=3)
    place.worker("--prefetch-multiplier=1")
    wait_until(lambda: len(place.marks.counts("end")) >= 4, timeout=20)
    before = len(place.marks.counts("end"))
    task(app, "work", "urgent").apply_async(priority=9).get(timeout=20)
    assert len(place.marks.counts("end")) - before < 12


def test_slow_tasks_are_shared_and_not_hoarded(place: Site, app: Celery) -> None:
    for _ in range(2):
        place.worker("--prefetch-multiplier=1", wait=False)
    for worker in place.workers:
        worker.wait_for("ready.")
    for number in range(8):
        task(app, "work", number, 0.4).delay()
    wait_until(lambda: len(place.marks.counts("end")) == 8, timeout=30)
    by_process = {line[3] for line in place.marks.lines() if line[0] == "start"}
    assert len(by_process) >= 3
