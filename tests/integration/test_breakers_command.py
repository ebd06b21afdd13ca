"""`seawall breakers` as an operator types it."""

import json

import pytest
from click.testing import CliRunner

from seawall import settings
from seawall.breaker.machine import Rules
from seawall.breaker.store import Store
from seawall.cli import group
from seawall.cluster import connect


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
    assert run("list") == "breaker  state  for  left  trips  cause  reason  author\n"
    with connect(url) as client:
        Store(client, "me/1").sync([("payments", Rules(open_for=7), "")])
        assert run("open", "payments", "--reason", "gateway moves", "--for", "10m") == (
            "payments is forced_open for 600 s\n"
        )
        assert json.loads(run("list", "--json"))[0]["reason"] == "gateway moves"
        assert "payments  forced_open  0 s  600 s" in run("list")
        assert run("close", "payments", "--reason", "it works") == "payments is forced_closed\n"
        assert run("reset", "payments") == "payments is closed\n"
        assert Store(client, "me/1").rules("payments").open_for == 7


def test_an_unknown_breaker_and_a_wrong_duration_are_one_clear_line(url: str) -> None:
    assert "no breaker 'payment' was used" in run("open", "payment", "--reason", "x", status=1)
    assert "--for': 'soon' is not a duration" in run("open", "p", "--reason", "x", "--for", "soon", status=2)


def test_redis_away_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", "redis://127.0.0.1:1/0")
    settings.cache_clear()
    assert "Redis cannot be reached" in run("list", status=1)
