"""Tasks on a real worker, submitted and run the way an application does it."""

from celery import chain, chord, group
from pytest_celery import CeleryTestSetup
from support import shop
from support.waiting import wait_until

from seawall import Priority


def test_a_worker_runs_what_is_submitted(celery_setup: CeleryTestSetup) -> None:
    assert celery_setup.ready(control=True)
    tasks = celery_setup.app.tasks
    assert tasks["shop.add"].delay(2, 2).get(timeout=20) == 4
    celery_setup.worker.assert_log_exists("shop.add")


def test_a_critical_task_overtakes_two_hundred_low_ones(celery_setup: CeleryTestSetup) -> None:
    app = celery_setup.app
    tasks = app.tasks
    blockers = [tasks["shop.wait_for"].delay("go", f"blocker {n}") for n in range(2)]
    wait_until(lambda: len(shop.journal(app)) == 2, what="both processes to be busy")
    low = [tasks["shop.low"].delay(f"low {n}") for n in range(200)]
    urgent = tasks["shop.record"].apply_async(("urgent",), priority=Priority.CRITICAL)
    shop.store(app).set("go", 1)
    assert urgent.get(timeout=30) == "urgent"
    for result in [*blockers, *low]:
        result.get(timeout=60)
    order = [line for line in shop.journal(app) if line.startswith(("low", "urgent"))]
    assert len(order) == 201
    # Two are running and each process may have fetched one more.
    assert order.index("urgent") <= 4


def test_the_canvas_works(celery_setup: CeleryTestSetup) -> None:
    app = celery_setup.app
    add, total = app.tasks["shop.add"], app.tasks["shop.total"]
    assert chain(add.s(1, 2), add.s(3), add.s(4)).delay().get(timeout=20) == 10
    assert group(add.s(n, n) for n in range(5)).delay().get(timeout=20) == [0, 2, 4, 6, 8]
    assert chord((add.s(n, 1) for n in range(10)), total.s()).delay().get(timeout=20) == 55
    assert chain(group(add.s(1, 1), add.s(2, 2)), total.s(), add.s(1)).delay().get(timeout=20) == 7


def test_an_errback_hears_of_the_failure_after_the_last_attempt(celery_setup: CeleryTestSetup) -> None:
    app = celery_setup.app
    app.tasks["shop.unreachable"].apply_async(link_error=app.tasks["shop.record_failure"].s())
    wait_until(lambda: "errback ConnectionError" in shop.journal(app), timeout=20, what="the errback")
    assert [line.split()[0] for line in shop.journal(app)] == ["attempt"] * 3 + ["errback"]


def test_a_restarted_worker_takes_up_what_was_submitted_meanwhile(celery_setup: CeleryTestSetup) -> None:
    app, worker = celery_setup.app, celery_setup.worker
    worker.kill("SIGKILL")
    assert worker.container.status == "exited"
    late = app.tasks["shop.add"].delay(20, 3)
    worker.container.restart()
    assert late.get(timeout=20) == 23
