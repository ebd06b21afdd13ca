"""What workers say of the names of tasks that they know, and what who submits hears of it."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from seawall import Seawall, settings
from seawall.cluster import connect, micros
from seawall.delivery import submit_many
from seawall.worker import heartbeat
from seawall.worker.heartbeat import ROOT, Heartbeat, workers
from seawall.worker.names import Known, submissions, unknown_among
from support.waiting import wait_until


@pytest.fixture
def _redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    settings.cache_clear()


def names_of(redis_url: str, worker: str, *names: str) -> Heartbeat:
    """A worker of these names, which beats."""
    app = SimpleNamespace(tasks=dict.fromkeys(names))
    client = connect(redis_url, timeout=10)
    beat = Heartbeat(worker, lambda: {"state": "ready"}, known=Known(app), every=0.01)
    beat.start()
    wait_until(lambda: worker in workers(client), what="the heartbeat")
    client.close()
    return beat


def calls(client: Any, command: str) -> int:
    """How often the server has run it."""
    return int(client.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


@pytest.mark.usefixtures("_redis")
def test_two_thousand_names_are_sent_once_and_kept_as_long_as_somebody_has_them(redis_url: str) -> None:
    client = connect(redis_url, timeout=10)
    before = calls(client, "sadd")
    many = [f"shop.task_{number}" for number in range(2000)]
    beats = [names_of(redis_url, name, *many) for name in ("a@host", "b@host")]
    sent, beaten = calls(client, "sadd") - before, calls(client, "zremrangebyscore")
    assert 1 <= sent <= 2 * 5  # some hundred at once, and two may find that they are missing
    wait_until(lambda: calls(client, "zremrangebyscore") > beaten + 20, what="some more beats")
    assert calls(client, "sadd") - before == sent
    said = workers(client)
    assert all(len(json.dumps(each)) < 200 for each in said.values())
    lists = {f"{ROOT}:known:{each['names']}" for each in said.values()}
    assert len(lists) == 1
    listed: Any = client.smembers(lists.pop())
    assert set(many) <= {name.decode() for name in listed}
    for beat in beats:
        beat.stop()
    assert [key for key in client.scan_iter(f"{ROOT}*") if client.pttl(key) == -1] == []
    client.close()


@pytest.mark.usefixtures("_redis")
def test_who_submits_what_no_living_worker_knows_is_warned_once(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    submissions.forget()
    client = connect(redis_url, timeout=10)
    beats = [names_of(redis_url, "a@host", "old"), names_of(redis_url, "b@host", "old", "new")]
    app = Seawall("producer", set_as_current=False, broker=redis_url)
    before = calls(client, "zrange")
    for _ in range(50):
        for name in ("old", "new", "never"):
            app.send_task(name)
    submit_many([app.signature("never in bulk")] * 50, app=app)
    wait_until(lambda: "'never in bulk'" in caplog.text, what="the warning")
    assert caplog.text.count("no worker that runs now knows the task 'never':") == 1
    assert caplog.text.count("no worker that runs now knows") == 2
    assert calls(client, "zrange") - before <= 4  # a look per name at most
    for beat in beats:
        beat.stop()
    app.close()
    client.close()


@pytest.mark.parametrize("beat", [None, "{}"], ids=["nobody lives", "one of an older release lives"])
@pytest.mark.usefixtures("_redis")
def test_nobody_is_warned_where_nobody_can_know(redis_url: str, beat: str | None) -> None:
    client = connect(redis_url, timeout=10)
    if beat is not None:
        heartbeat._beat(client, [ROOT], ["old@host", beat, micros(60)])
        listing = names_of(redis_url, "new@host", "new")
        listing.stop()
    assert unknown_among(client, ["never"]) == []
    client.close()
