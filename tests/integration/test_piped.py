"""What programs write where nobody reads along: lines of JSON, each with its program, and nothing else."""

import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

from celery import Celery

from support.nodes import StartWorker, environment, start_worker
from support.processes import started
from support.waiting import wait_until

__all__ = ["start_worker"]  # a fixture

FLEET = """
app = "support.shop"
[workers.fast]
concurrency = 2
[beat]
enabled = true
[flower]
enabled = false
"""


def objects(text: str) -> list[dict[str, Any]]:
    """Every line; one that is no JSON fails."""
    found = [json.loads(line) for line in text.splitlines()]
    assert all(each["program"] and each["timestamp"].endswith("Z") for each in found)
    return found


def run_some(app: Celery) -> None:
    """One that succeeds, one that is retried and fails, and one that prints."""
    results = [app.tasks["shop.add"].delay(1, 2), app.tasks["shop.unreachable"].delay()]
    results.append(app.tasks["shop.outspoken"].delay("open-sesame", "4711", order={}))
    for result in results:
        result.get(timeout=60, propagate=False)


def endings(lines: list[dict[str, Any]], name: str) -> list[str]:
    return [
        each["event"] for each in lines if each.get("task") == name and each["logger"] == "celery.app.trace"
    ]


def test_a_worker_writes_nothing_but_json(shop_app: Celery, start_worker: StartWorker) -> None:
    worker = start_worker("support.shop", "--concurrency=2")
    run_some(shop_app)
    wait_until(lambda: len(endings(objects(worker.logs()), "shop.outspoken")) == 2)
    worker.container.kill("SIGTERM")
    wait_until(lambda: worker.container.status == "exited", timeout=30)
    lines = objects(worker.logs())
    assert endings(lines, "shop.add") == ["succeeded"]
    assert endings(lines, "shop.unreachable") == ["retried", "retried", "failed"]
    assert {each["program"] for each in lines} == {"shop"}
    assert any("Warm shutdown" in each["event"] for each in lines)
    assert any("application shop, 2 cells, queues celery" in each["event"] for each in lines)


def test_people_read_one_line_for_each_end_of_a_task(shop_app: Celery, start_worker: StartWorker) -> None:
    env = {"SEAWALL_LOG__FORMAT": "console", "COLUMNS": "100", "NO_COLOR": "1"}
    worker = start_worker("support.shop", "--concurrency=2", env=env)
    run_some(shop_app)
    wait_until(lambda: "failed     shop.outspoken" in worker.logs())
    lines = [each for each in worker.logs().splitlines() if " shop." in each and each[:8].count(":") == 2]
    ended = [each for each in lines if each.split()[2] not in {"info", "warning", "error"}]
    assert max(map(len, ended)) <= 100
    word, took = r"(succeeded|retried  |failed   )", r"\d+(\.\d\d s| ms)"
    expected = rf"\d\d:\d\d:\d\d  shop      {word}  shop\.\w+ +{took}  [0-9a-f]{{8}}.*"
    assert [each for each in ended if not re.fullmatch(expected, each)] == []
    told = sorted(each.split()[2:4] for each in ended)
    assert told.count(["retried", "shop.unreachable"]) == 2
    assert told.count(["failed", "shop.unreachable"]) == told.count(["succeeded", "shop.add"]) == 1


def test_a_fleet_writes_nothing_but_json(
    shop_app: Celery, redis_url: str, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "fleet.toml").write_text(FLEET)
    env = environment(redis_url, SEAWALL_FLEET=str(tmp_path / "fleet.toml"))
    env["SEAWALL_HOME"] = str(tmp_path / "home")
    env["SEAWALL_DATABASE_URL"] = database_url
    argv = [sys.executable, "-m", "seawall.cli", "up"]
    with started(argv, log=tmp_path / "log", env={**os.environ, **env}, cwd=tmp_path) as fleet:
        fleet.wait_for("fleet ready", timeout=60)
        run_some(shop_app)
        wait_until(lambda: len(endings(objects(fleet.output), "shop.outspoken")) == 2)
        fleet.signal(signal.SIGTERM)
        assert fleet.wait() == 0
        lines = objects(fleet.output)
    assert {each["program"] for each in lines} == {"fleet", "beat", "fast1"}
    assert endings(lines, "shop.unreachable") == ["retried", "retried", "failed"]
