"""What workers say of themselves to the whole cluster, and what `seawall status` makes of it."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis

from seawall import settings
from seawall.cli import group
from seawall.cli.status import NOTHING_RUNS
from seawall.cluster import connect, micros
from seawall.database import close
from seawall.memory.learned import Learned, Sample
from seawall.worker import heartbeat
from seawall.worker.heartbeat import ROOT, Heartbeat, workers
from support.nodes import StartWorker
from support.services import bear_start_and_stop
from support.waiting import wait_until


@pytest.fixture
def _configured(redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    monkeypatch.setenv("SEAWALL_DATABASE_URL", database_url)
    monkeypatch.setenv("SEAWALL_STARTUP__MIGRATIONS", "ignore")  # workers inherit both
    settings.cache_clear()
    yield
    close()  # the command opens it in this process


def status(*options: str) -> Any:
    """`seawall status`; its sections."""
    done = CliRunner().invoke(group, ["status", "--json", *options])
    assert done.exit_code in {0, NOTHING_RUNS}, done.output
    return json.loads(done.stdout)


@pytest.mark.usefixtures("_configured")
def test_a_heartbeat_is_seen_until_it_stops_and_a_silent_one_is_forgotten(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(redis_url, timeout=10)
    beat = Heartbeat("a@host", lambda: {"state": "ready"}, every=0.01)
    beat.start()
    wait_until(lambda: workers(client) == {"a@host": {"state": "ready"}}, what="the heartbeat")
    beat.stop()
    assert workers(client) == {}

    heartbeat._beat(client, [ROOT], ["killed@host", "{}", micros(0.2)])
    heartbeat._beat(client, [ROOT], ["lives@host", "{}", micros(60)])
    wait_until(lambda: set(workers(client)) == {"lives@host"}, what="the killed one to be forgotten")
    heartbeat._beat(client, [ROOT], ["lives@host", "{}", micros(60)])
    assert client.zrange(f"{ROOT}:names", 0, -1) == [b"lives@host"]
    bear_start_and_stop(lambda: Heartbeat("a@host", dict, every=0.001))
    client.close()


def test_a_redis_that_is_away_is_told_once_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", "redis://127.0.0.1:1/0")
    settings.cache_clear()
    asked: list[int] = []

    def describe() -> dict[str, Any]:
        asked.append(caplog.text.count("does not hear"))
        return {}

    with caplog.at_level(logging.INFO):
        beat = Heartbeat("a@host", describe, every=0.001)
        beat.start()
        wait_until(lambda: len(asked) > 3, what="it to go on")
        beat.stop()
    assert asked[:2] == [0, 0], "a busy machine misses one"
    assert caplog.text.count("the cluster does not hear of this worker") == 1


@pytest.mark.usefixtures("_configured")
def test_status_shows_every_worker_with_state_load_pressure_and_breakers(
    start_worker: StartWorker, redis_url: str
) -> None:
    start_worker("support.dependants", "--concurrency=2")
    start_worker("support.dependants", "--concurrency=3", "-P", "threads")

    def shown() -> list[dict[str, Any]]:
        return sorted(status()["workers"], key=lambda one: str(one["pool"]))

    wait_until(lambda: [one["state"] for one in shown()] == ["ready"] * 2, timeout=60, what="two workers")
    cells, threads = shown()
    assert (cells["pool"], cells["busy"], cells["slots"]) == ("cells", 0, 2)
    assert (threads["pool"], threads["busy"], threads["slots"]) == ("threads", 0, 3)
    assert cells["pressure"] == "normal"
    assert 0 < cells["used"] < cells["budget"]
    assert cells["breakers"] == {}
    opened = CliRunner().invoke(group, ["breakers", "open", "payments", "--reason", "a test", "--for", "1m"])
    assert opened.exit_code == 0, opened.output
    wait_until(
        lambda: [one["breakers"] for one in shown()] == [{"payments": "forced_open"}] * 2,
        timeout=60,
        what="the heartbeats to tell of it",
    )
    table = CliRunner().invoke(group, ["status"])
    assert table.exit_code == 0
    assert table.output.startswith("a fleet runs: 2 workers, 0 of 5 busy\n")
    assert "payments forced_open" in table.output


@pytest.mark.usefixtures("_configured")
def test_status_names_the_tasks_that_leak(redis_url: str) -> None:
    assert status()["leaks"] == []
    with connect(redis_url, timeout=10) as client:
        learned = Learned(client)
        learned.add([Sample("shop.leaky", 1 << 20, kept=100_000)] * 12)
        learned.add([Sample("shop.clean", 1 << 20, kept=0)] * 12)
    assert status()["leaks"] == [{"task": "shop.leaky", "growth": 100_000, "runs": 12}]


def test_a_worker_that_waits_for_its_start_is_seen_waiting(
    start_worker: StartWorker, redis_url: str, database_url: str
) -> None:
    start_worker("support.shop", env={"SEAWALL_DATABASE_URL": database_url}, wait=False)
    with Redis.from_url(redis_url) as client:
        wait_until(
            lambda: [one["state"] for one in workers(client).values()] == ["starting"],
            timeout=60,
            what="the worker that waits for its migrations",
        )
