"""A prefix of all keys, for an application that shares its Redis: its user may touch no others."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import group
from click.testing import CliRunner
from redis import Redis

from seawall import cluster
from seawall.breaker.face import close
from seawall.cli import group as commands
from seawall.config import settings
from seawall.database import close as close_database
from seawall.delivery import Queues
from support.delivery import own_server
from support.nodes import environment
from support.processes import started
from support.tenant import app, charge, gateway
from support.waiting import wait_until

PREFIX = "shop:"


@pytest.fixture
def _leave_the_app_as_it_was(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    yield
    app.close()
    close()  # while the variables still say which server: without, both would start one
    close_database()


@pytest.mark.usefixtures("_leave_the_app_as_it_was")
def test_a_user_of_one_prefix_s_keys_can_do_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    argv = [sys.executable, "-m", "seawall.worker", "-A", "support.tenant", "worker", "-c", "2", "-l", "INFO"]
    with own_server(tmp_path / "server") as server, server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "shop", "on", ">word", f"~{PREFIX}*", "&*", "+@all")
        url = server.url.replace("redis://", "redis://shop:word@")
        variables = environment(url, SEAWALL_REDIS_PREFIX=PREFIX)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        settings.cache_clear()
        cluster.client.cache_clear()

        with started(argv, log=tmp_path / "log", env=variables, cwd=tmp_path) as worker:
            worker.wait_for(" ready.", timeout=60)
            monkeypatch.setenv("SEAWALL_DATABASE_URL", database_url)  # which status asks for
            settings.cache_clear()
            use_everything(tmp_path)
        assert [each for each in admin.keys("*") if not each.startswith(PREFIX.encode())] == []
        assert [(each["username"], each["object"]) for each in _refused(admin)] == []


def use_everything(folder: Path) -> None:
    calls = group(charge.s("acme", str(folder / f"flag {number}")) for number in range(3))
    assert calls.apply_async().get(timeout=60) == ["acme"] * 3
    assert app.control.ping(timeout=2)
    shown = CliRunner().invoke(commands, ["status", "--json"])
    assert json.loads(shown.output)["workers"], shown.output
    gateway.force_open("a test")
    charge.delay("acme", str(folder / "waits"))
    with app.connection_for_read() as connection, Queues.open(connection) as queues:
        wait_until(lambda: queues.counts("celery").parked, timeout=30, what="what waits for the breaker")
    gateway.reset()


def _refused(admin: "Redis") -> list[dict[str, str]]:
    return [{name: str(value) for name, value in each.items()} for each in admin.acl_log()]
