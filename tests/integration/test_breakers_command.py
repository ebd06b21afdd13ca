"""`seawall breakers` as an operator types it."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from seawall import settings
from seawall.breaker.machine import Rules
from seawall.breaker.store import Store
from seawall.cli import group
from seawall.cluster import connect
from support.waiting import wait_until


@pytest.fixture
def url(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    settings.cache_clear()
    return redis_url


def run(*arguments: str, status: int = 0) -> str:
    result = CliRunner().invoke(group, ["breakers", *arguments])
    assert result.exit_code == status, result.output
    return result.output


def test_breakers_are_listed_opened_closed_and_reset(url: str) -> None:
    assert "no breaker was used in the last 30 days" in run("list")
    with connect(url) as client:
        Store(client, "me/1").sync([("payments", Rules(open_for=7), "")])
        assert run("open", "payments", "--reason", "gateway moves", "--for", "10m") == (
            "payments is forced_open for 10 m\n"
        )
        assert json.loads(run("list", "--json"))[0]["reason"] == "gateway moves"
        assert re.search(r"payments  forced_open  \d+\.\d s  10 m", run("list"))
        assert run("close", "payments", "--reason", "it works") == "payments is forced_closed\n"
        assert run("reset", "payments") == "payments is closed\n"
        assert Store(client, "me/1").rules("payments").open_for == 7


def test_an_unknown_breaker_and_a_wrong_duration_are_one_clear_line(url: str) -> None:
    with connect(url) as client:
        Store(client, "me/1").sync([("payments", Rules(), "")])
    for verb in ("open", "close", "reset"):
        told = run(verb, "payment", "--reason", "x", status=2)
        assert "no breaker 'payment' was used in the last 30 days: did you mean 'payments'?" in told
    assert "--for': 'soon' is not a duration" in run("open", "p", "--reason", "x", "--for", "soon", status=2)


def test_redis_away_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", "redis://127.0.0.1:1/0")
    settings.cache_clear()
    assert "Redis at 127.0.0.1:1 (connection refused) cannot be reached" in run("list", status=1)


ALONE = """
import os, sys
from seawall import breaker
from seawall.breaker import Place, State
from seawall.breaker import place as places
from seawall.cluster import connect

url, word = sys.argv[1:]
places.use(Place(lambda: connect(url), host="web-1"))
payments = breaker("payments", open_for=600, ramp_for=0)

if word == "a cell":
    places._place.shared = True
    places._place.hub.start()
    if (cell := os.fork()):
        status = os.waitpid(cell, 0)[1]
        places.use(None)
        os._exit(status)

def down():
    raise ConnectionError

while payments.circuit.local.state is not State.OPEN:
    try:
        payments.call(down)
    except ConnectionError:
        pass
assert payments.circuit.shared_state is State.CLOSED
print("open", os.getpid(), flush=True)
if sys.stdin.readline().strip() == "reset":
    payments.circuit.reset_locally()
    print("reset", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def alone(url: str, word: str = "") -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A process whose own calls fail, while nobody else's do: it refuses them by itself."""
    argv = [sys.executable, "-c", ALONE, url, word]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            said, _, pid = process.stdout.readline().partition(" ")
            assert said == "open"
            yield process, int(pid)
        finally:
            process.kill()


def held(name: str = "payments") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run("list", "--json"))
    return next(one["held_open"] for one in found if one["name"] == name)


@pytest.mark.parametrize("what", ["a process", "a cell"])
def test_what_a_process_refuses_by_itself_is_listed_until_it_no_longer_does(url: str, what: str) -> None:
    with alone(url, what) as (process, pid):
        assert process.stdin is not None
        wait_until(held, what="the word of the process")
        (one,) = held()
        assert one["by"] == f"web-1/{pid}"
        assert 0 < one["left"] <= 600
        assert f"payments  closed (open on web-1/{pid} for " in run("list")
        process.stdin.write("reset\n")
        process.stdin.flush()
        wait_until(lambda: not held(), what="the end of it")
        assert "payments  closed  " in run("list")


def test_a_killed_process_refuses_nothing_any_more(url: str) -> None:
    with alone(url) as (process, _):
        wait_until(held, what="the word of the process")
        process.kill()
        process.wait(60)
        assert held() == []


def test_an_entry_ends_with_its_time_and_one_that_does_not_change_costs_no_command(url: str) -> None:
    with connect(url) as client:
        store = Store(client, "me/1")
        store.sync([("payments", Rules(), "")])
        store.hold([("payments", Rules(), "web-2/7@elsewhere", 3.0, 0.3)])
        store.hold([("payments", Rules(), "web-3/8@elsewhere", 5.0, 60.0)])
        wait_until(lambda: len(held()) == 1, what="the end of its time")
        assert held()[0]["by"] == "web-3/8"
        assert 0 < client.pttl("seawall:{breakers}:payments:held") <= 60_000
    with alone(url), connect(url) as client:
        wait_until(lambda: any(one["by"].startswith("web-1/") for one in held()), what="its word")
        before = holds(client)
        polled = client.info("commandstats")["cmdstat_get"]["calls"]
        wait_until(
            lambda: client.info("commandstats")["cmdstat_get"]["calls"] > polled + 2, what="some idle seconds"
        )
        assert holds(client) == before


def holds(client: Any) -> int:
    """How often an entry was written."""
    written: int = client.info("commandstats")["cmdstat_hset"]["calls"]
    return written
