"""A Django project in cells and in plain prefork: the same comes of its tasks."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from support.processes import Proc, started
from support.waiting import busyness, wait_until

ROOT = Path(__file__).resolve().parents[2]
RESULTS = pytest.mark.skipif(
    importlib.util.find_spec("django_celery_results") is None,
    reason="needs django-celery-results (make tools)",
)
BEAT = pytest.mark.skipif(
    importlib.util.find_spec("django_celery_beat") is None, reason="needs django-celery-beat (make tools)"
)
WAYS = [
    pytest.param({"QUAY_POOL": "1"}, id="pool", marks=pytest.mark.slow),
    pytest.param({}, id="connections", marks=pytest.mark.slow),
    pytest.param({"QUAY_PERSISTENT": "1"}, id="persistent", marks=pytest.mark.slow),
    pytest.param({"QUAY_RESULTS": "django-db"}, id="results", marks=[RESULTS, pytest.mark.slow]),
]


def environment(database_url: str, **more: str) -> dict[str, str]:
    return {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}", "QUAY_POSTGRES": database_url, **more}


def drive(asked: Mapping[str, str], *arguments: str) -> str:
    argv = [sys.executable, "-m", "support.quay.drive", *arguments]
    done = subprocess.run(argv, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def said(output: str, word: str) -> Any:
    line = next(line for line in output.splitlines() if line.startswith(f"{word}:"))
    return json.loads(line.removeprefix(f"{word}:"))


def use(
    asked: Mapping[str, str], directory: Path, *, plain: bool, what: str = "use"
) -> tuple[Any, set[int], list[int]]:
    """What came of the tasks, the connections they used, and those of the worker's own process."""
    directory.mkdir()
    asked = {**asked, **({"QUAY_PLAIN": "1"} if plain else {})}
    argv = [sys.executable, "-m", "celery", "-A", "support.quay.celery", "worker", "-c", "2", "-l", "WARNING"]
    with started([*argv, "--without-mingle"], log=directory / "log", env=asked, cwd=directory) as proc:
        output = drive(asked, what, str(40 * busyness()))
        proc.popen.terminate()
        assert proc.wait(60) == 0, proc.output
    own = [said(proc.output, "supervisor"), said(proc.output, "supervisor at the end")]
    return said(output, "found"), set(said(output, "backends")), own


@pytest.mark.parametrize("way", WAYS)
def test_a_project_finds_in_cells_what_it_finds_in_prefork(
    way: dict[str, str], redis_url: str, database_url: str, tmp_path: Path
) -> None:
    found = {}
    for number, name in enumerate(("plain", "cells"), 1):
        broker = urlsplit(redis_url)._replace(path=f"/{number}").geturl()
        asked = environment(database_url, QUAY_BROKER=broker, SEAWALL_REDIS_URL=broker, **way)
        drive(asked, "prepare")
        found[name], backends, own = use(asked, tmp_path / name, plain=name == "plain")
        assert not backends & set(own), "a process that runs tasks has the connection of its parent"
        drive({**asked, "QUAY_EAGER": "1"}, "empty")
    assert found["cells"] == found["plain"]
    assert found["cells"]["hangs"] == "TimeLimitExceeded"
    assert found["cells"]["followed"]


def test_a_cell_uses_no_connection_of_its_supervisor(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    asked = environment(database_url, QUAY_BROKER=redis_url, SEAWALL_REDIS_URL=redis_url, QUAY_POOL="1")
    drive(asked, "prepare")
    found, backends, own = use(asked, tmp_path / "cells", plain=False, what="glance")
    assert found == {"recorded": 1, "its rows": 1, "placed": 10, "followed": True}
    assert not backends & set(own)


def test_its_own_tests_pass_with_tasks_that_run_where_they_are_submitted(
    database_url: str, tmp_path: Path
) -> None:
    asked = environment(database_url, QUAY_EAGER="1", DJANGO_SETTINGS_MODULE="support.quay.settings")
    argv = [sys.executable, "-m", "django", "test", "support.quay", "--noinput"]
    done = subprocess.run(argv, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Ran 4 tests" in done.stderr


def test_tasks_can_be_submitted_on_commit_however_the_application_was_made() -> None:
    script = (
        "import celery, seawall\n"
        "for app in seawall.Seawall('quay'), seawall.install(celery.Celery('quay')):\n"
        "    print(hasattr(app.Task, 'delay_on_commit'), app.Task.policy)"
    )
    asked = {**os.environ, "DJANGO_SETTINGS_MODULE": "support.quay.settings"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=asked, capture_output=True, text=True, check=False
    )
    said = [line.startswith("True Policy(") for line in done.stdout.splitlines()]
    assert said == [True, True], done.stdout + done.stderr


def sends(beat: Proc) -> int:
    return beat.output.count("Sending due task often")


@BEAT
@pytest.mark.slow
def test_one_beat_sends_what_its_tables_say_and_another_takes_over(
    redis_url: str, database_url: str, tmp_path: Path
) -> None:
    asked = environment(
        database_url, QUAY_BROKER=redis_url, SEAWALL_REDIS_URL=redis_url, SEAWALL_BEAT__LEASE="2s"
    )
    drive(asked, "prepare")
    drive(asked, "schedule")

    def start(name: str, *options: str) -> AbstractContextManager[Proc]:
        argv = [sys.executable, "-m", "celery", "-A", "support.quay.celery", *options, "-l", "INFO"]
        return started(argv, log=tmp_path / name, env=asked, cwd=tmp_path)

    with (
        psycopg.connect(database_url, autocommit=True) as connection,
        start("worker", "worker", "-c", "1", "--without-mingle"),
        start("first", "beat", "--pidfile=") as first,
    ):

        def ran(number: int) -> int:
            count = "SELECT count(*) FROM orders_order WHERE number = %s"
            return int(connection.execute(count, [number]).fetchall()[0][0])

        def runs_on() -> None:
            most = ran(1) + 2
            wait_until(lambda: ran(1) >= most, timeout=60, what="more runs")

        runs_on()
        with start("second", "beat", "--pidfile=") as second:
            second.wait_for("beat: waits while", timeout=60)
            runs_on()
            assert sends(second) == 0
            first.signal(signal.SIGKILL)
            runs_on()
            assert sends(second) > 0
            changes = second.output.count("Schedule changed")
            drive(asked, "stop")
            wait_until(
                lambda: second.output.count("Schedule changed") > changes, timeout=60, what="it to be read"
            )
            sent = sends(second)
            second.signal(signal.SIGTERM)
            assert second.wait(60) == 0, second.output
            assert sends(second) == sent
        assert (ran(2), ran(3)) == (1, 0)
    assert said(drive(asked, "scheduled"), "found")["often"] >= sent
