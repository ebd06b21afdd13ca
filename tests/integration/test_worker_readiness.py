"""Real workers that wait for what they need, and tell whoever watches them."""

import os
from pathlib import Path

import pytest
from celery import Celery

from seawall.database.migrations import Migrations
from seawall.health import Question, ask
from seawall.startup import histories
from seawall.worker.readiness import Watchdog, watchdog_interval
from support.nodes import StartWorker
from support.notifying import notified
from support.services import bear_start_and_stop
from support.shop import journal
from support.waiting import wait_until


def asked(address: str, question: Question) -> tuple[bool, list[str]]:
    ok, answer = ask(address, question, timeout=30)
    return ok, [check["name"] for check in answer["checks"] if not check["ok"]]


def test_a_worker_consumes_only_once_the_database_is_migrated_and_tells_its_watchers(
    start_worker: StartWorker, shop_app: Celery, database_url: str, tmp_path: Path
) -> None:
    address = f"unix:{os.path.relpath(tmp_path / 'h')}"
    with notified(tmp_path / "n") as said:
        shop_app.send_task("shop.record", ("early",))
        worker = start_worker(
            "support.shop",
            "--concurrency=1",
            env={
                "SEAWALL_DATABASE_URL": database_url,
                "SEAWALL_HEALTH__ADDRESS": "unix:h",
                "NOTIFY_SOCKET": str(tmp_path / "n"),
                "WATCHDOG_USEC": "600000",
            },
            wait=False,
        )
        wait_until(lambda: "services" in asked(address, Question.READY)[1], timeout=60, what="its health")
        assert asked(address, Question.LIVE) == (True, [])
        assert asked(address, Question.STARTUP) == (False, ["started"])
        assert said == {b"WATCHDOG=1"}
        assert journal(shop_app) == []

        Migrations(database_url, histories()).up()

        wait_until(lambda: asked(address, Question.READY)[0], timeout=60, what="readiness")
        wait_until(lambda: journal(shop_app) == ["early"], timeout=60, what="the task to run")
        live, answer = ask(address, Question.LIVE, timeout=30)
        assert (live, [check["name"] for check in answer["checks"]]) == (True, ["consumer"])
        wait_until(lambda: b"READY=1" in said, timeout=60, what="READY=1")
        assert b"STOPPING=1" not in said
        worker.container.kill("SIGTERM")
        assert worker.container.wait(60) == 0
        wait_until(lambda: b"STOPPING=1" in said, what="STOPPING=1")
    assert not (tmp_path / "h").exists()


def test_a_worker_that_cannot_start_names_what_is_missing_and_exits_with_1(
    start_worker: StartWorker, database_url: str
) -> None:
    worker = start_worker(
        env={"SEAWALL_DATABASE_URL": database_url, "SEAWALL_STARTUP__MIGRATIONS": "refuse"}, wait=False
    )

    assert worker.container.wait(60) == 1
    assert "this worker does not start: service 'migrations' did not start" in worker.container.logs()


def test_the_watchdog_is_told_only_while_it_lives_and_bears_start_and_stop() -> None:
    told: list[str] = []

    def notify(word: str) -> bool:
        told.append(word)
        return True

    watchdog = Watchdog(lambda: True, notify, 0.001)
    watchdog.start()
    wait_until(lambda: len(told) > 2, what="words")
    watchdog.stop()
    assert set(told) == {"WATCHDOG=1"}

    told.clear()
    asked: list[int] = []
    hung = Watchdog(lambda: asked.append(1), notify, 0.001)  # which says no
    hung.start()
    wait_until(lambda: len(asked) > 2, what="it to be asked")
    hung.stop()
    assert told == []
    bear_start_and_stop(lambda: Watchdog(lambda: True, notify, 0.001))


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "3000000"}, 1.0),
        ({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_told_thrice_in_its_time_if_it_is_ours(
    environment: dict[str, str], interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCHDOG_USEC", "WATCHDOG_PID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert watchdog_interval() == interval
