"""Secrets that are planted in real tasks are found nowhere: not in logs, events, results or other keys."""

import contextlib
import html
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
from celery import Celery
from click.testing import CliRunner
from redis import Redis

from seawall import settings
from seawall.cli import group
from seawall.database import close
from seawall.delivery import Queues
from support import shop
from support.delivery import ROOT, free_port
from support.listening import listening
from support.nodes import StartWorker, environment
from support.processes import Proc
from support.recorded import Recorded
from support.waiting import wait_until

TOKEN, CARD = "planted-as-token", "4711-planted-card"
ORDER = {"id": 17, "password": "planted-in-nested-argument"}


def everything(store: "Redis") -> Iterator[str]:
    """Each key of a server with what it holds, as text."""
    client: Any = store
    read = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"list": lambda key: client.lrange(key, 0, -1),
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1),
        b"stream": client.xrange,
    }
    for key in client.scan_iter(count=1000):
        if (kind := client.type(key)) != b"none":  # it has expired meanwhile
            yield f"{key!r} {read[kind](key)!r}"


def tables(recorded: Recorded) -> Iterator[str]:
    """Every row of the platform's tables, as text."""
    for (name,) in recorded.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'seawall'"):
        for (row,) in recorded.sql(f"SELECT t::text FROM seawall.{name} AS t"):  # noqa: S608 - the catalog's
            yield f"{name} {row}"


def commands(app: Celery, recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """What the commands print that show failures."""
    monkeypatch.setenv("SEAWALL_REDIS_URL", app.conf.broker_url)
    monkeypatch.setenv("SEAWALL_DATABASE_URL", recorded.url)
    settings.cache_clear()
    close()
    with Queues.open(app.connection_for_read()) as queues:
        (letter,) = queues.dead("celery")
    ((fingerprint,),) = recorded.sql("SELECT fingerprint FROM seawall.error_groups")
    for command in (
        ["dead", "list"],
        ["dead", "list", "--json"],
        ["dead", "show", letter.id],
        ["errors", "list"],
        ["errors", "list", "--json"],
        ["errors", "show", fingerprint],
    ):
        result = CliRunner().invoke(group, command, obj=SimpleNamespace(app=app))
        assert result.exit_code == 0, result.output
        yield result.output
    close()


@pytest.mark.parametrize(
    "options",
    [pytest.param((), id="cells"), pytest.param(("--pool=prefork",), marks=pytest.mark.slow, id="prefork")],
)
def test_planted_secrets_are_found_nowhere(  # noqa: PLR0913, PLR0917 - fixtures
    options: tuple[str, ...],
    shop_app: Celery,
    start_worker: StartWorker,
    recorded: Recorded,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    env = {"SEAWALL_LOG__FORMAT": "json", **recorded.env}
    worker = start_worker("support.shop", "--concurrency=1", "-E", *options, env=env)
    with listening(shop_app) as events:
        result = shop_app.tasks["shop.outspoken"].delay(TOKEN, CARD, order=ORDER)
        with pytest.raises(shop.GatewayError) as caught:
            result.get(timeout=60)
        shop_app.tasks["shop.hesitant"].delay(TOKEN, CARD).get(timeout=60)
        wait_until(lambda: any(event["type"] == "task-failed" for event in events), timeout=30)
        wait_until(lambda: '"event": "failed"' in worker.logs(), timeout=30)

    wait_until(lambda: {"dead", "parked"} <= set(recorded.states()), timeout=30, what="the account of it")
    assert "cannot reach https://u:***@gateway/pay" in str(caught.value), (
        "the caller still learns what it was"
    )
    assert {"task-received", "task-retried", "task-failed"} <= {event["type"] for event in events}
    redis = shop.store(shop_app)
    with Queues.open(shop_app.connection_for_read()) as queues:
        (letter,) = queues.dead("celery")  # it holds what was submitted, and nothing else does
    assert json.loads(letter.message["body"])[0] == [TOKEN, CARD]
    (message,) = [line for line in everything(redis) if "planted-as-token" in line]
    assert message.startswith("b'seawall:{celery}:messages'")
    places = {
        "log": worker.logs(),
        "events": repr(events),
        "redis": "\n".join(line for line in everything(redis) if line != message),
        "tables": "\n".join(tables(recorded)),
        "spool": "\n".join(path.read_text() for path in tmp_path.rglob("*.rows")),
        "commands": "\n".join(commands(shop_app, recorded, monkeypatch)),
        "result": repr(caught.value.args) + str(result.traceback),
    }
    for place, text in places.items():
        assert "outspoken" in text or place in {"redis", "spool"}, place
        found = [line for line in text.splitlines() if "planted" in line and "planted_secrets" not in line]
        # A traceback shows the lines of code as they are written, placeholders included.
        assert not [line for line in found if "planted-" in _without_source(line)], place


PAGES = (
    "/", "/workers", "/workers?json=1", "/worker/{worker}", "/tasks", "/task/{task}", "/broker", "/metrics",
    "/api/tasks", "/api/task/info/{task}", "/api/task/types", "/api/workers?refresh=1", "/api/queues/length",
)  # fmt: skip


def pages(port: int, worker: str, task: str) -> Iterator[str]:
    """What Flower answers, as text."""
    for page in PAGES:
        url = f"http://127.0.0.1:{port}{page.format(worker=worker, task=task)}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            yield f"{page} {answer.read().decode()}"


def lists_of_processes(*roots: int) -> Iterator[str]:
    """What `ps` shows of these processes and all below them: names, titles and arguments."""
    for root in map(psutil.Process, roots):
        for each in (root, *root.children(recursive=True)):
            yield f"{each.pid} {each.name()} {' '.join(each.cmdline())}"


def test_planted_secrets_are_on_no_page_of_flower_in_no_list_of_processes_and_in_no_setting_shown(
    shop_app: Celery, start_worker: StartWorker, recorded: Recorded, tmp_path: Path
) -> None:
    env = environment(shop_app.conf.broker_url, FLOWER_UNAUTHENTICATED_API="true", **recorded.env)
    passwords = {urlsplit(url).password for url in (shop_app.conf.broker_url, recorded.url)}
    assert None not in passwords
    worker = start_worker("support.shop", "--concurrency=1", "-E", env=recorded.env)
    port = free_port()
    argv = (*(sys.executable, "-m", "seawall.dashboard", "-A", "support.shop", "flower"), f"--port={port}")
    flower = Proc((*argv, "--address=127.0.0.1"), log=tmp_path / "flower.log", env=env, cwd=ROOT)
    try:
        name = wait_until(lambda: known_to(port), timeout=60, what="Flower to know the worker")
        result = shop_app.tasks["shop.outspoken"].delay(TOKEN, CARD, order=ORDER)
        with pytest.raises(shop.GatewayError):
            result.get(timeout=60)
        wait_until(lambda: "FAILURE" in asked(port, f"/api/task/info/{result.id}"), timeout=60)
        places = {
            "Flower": "\n".join(pages(port, name, result.id)),
            "ps": "\n".join(lists_of_processes(worker.container.pid, flower.pid)),
            "config": shown_by("config", env),
            "config --json": shown_by("config", env, "--json"),
        }
    finally:
        flower.destroy()
    assert places["Flower"].count("outspoken") > 4
    assert "-A support.shop worker" in places["ps"]
    assert "redis://" in places["config"]
    for place, text in places.items():
        for secret in ("planted-", *passwords):
            lines = [_without_source(html.unescape(line)) for line in text.splitlines()]
            assert not [line[:500] for line in lines if str(secret) in line], (place, secret)


def asked(port: int, path: str) -> str:
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer,
    ):
        text: str = answer.read().decode()
        return text
    return ""


def known_to(port: int) -> str:
    """The worker that Flower knows, once its events are heard too."""
    found = json.loads(asked(port, "/workers?json=1") or '{"data": []}')["data"]
    return next((str(each["hostname"]) for each in found if each.get("status")), "")


def shown_by(command: str, env: dict[str, str], *options: str) -> str:
    settings.cache_clear()
    told = CliRunner().invoke(group, [command, *options], env=env)
    settings.cache_clear()
    assert told.exit_code == 0, told.output
    return told.output


def _without_source(line: str) -> str:
    """The line without the source of `shop.outspoken`, which plants."""
    for literal in ("Bearer planted-in-header", "planted-in-args", "planted-by-name"):
        line = line.replace(f'"{literal}"', "")
    return line


def written_by(worker: Any) -> list[dict[str, Any]]:
    """The lines of its log that are whole by now."""
    text = worker.logs()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.startswith("{")]


def test_a_line_written_in_a_task_says_which_task_attempt_queue_and_worker(
    shop_app: Celery, start_worker: StartWorker
) -> None:
    worker = start_worker("support.shop", "--concurrency=1", env={"SEAWALL_LOG__FORMAT": "json"})
    result = shop_app.tasks["shop.outspoken"].delay(TOKEN, CARD, order={})
    with pytest.raises(shop.GatewayError):
        result.get(timeout=60)
    wait_until(lambda: any(line["event"] == "failed" for line in written_by(worker)), timeout=30)
    lines = written_by(worker)
    written = [line for line in lines if line["event"].startswith("charging")]
    assert [line["attempt"] for line in written] == [1, 2]
    for line in written:
        assert (line["task"], line["task_id"], line["queue"]) == ("shop.outspoken", result.id, "celery")
        assert line["worker"].startswith("shop@")
        assert line["process"].startswith("Cell-")
        assert line["level"] == "warning"
        assert line["logger"] == "support.shop"
    (failed,) = [line for line in lines if line["event"] == "failed"]
    assert failed["task_id"] == result.id
    assert "GatewayError" in failed["exception"]


@pytest.mark.parametrize(
    "pool", ["cells", *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("prefork", "solo"))]
)
def test_lines_know_the_task_that_another_runs_itself(
    shop_app: Celery, start_worker: StartWorker, pool: str
) -> None:
    options = () if pool == "cells" else ("-P", pool)
    env = {"SEAWALL_LOG__FORMAT": "json"}
    worker = start_worker("support.shop", "--concurrency=1", *options, env=env)
    result = shop_app.tasks["shop.nesting"].delay()
    result.get(timeout=60)
    wait_until(lambda: sum(line["event"] == "after" for line in written_by(worker)) == 2, timeout=30)
    lines = written_by(worker)
    written = [(line["event"], line["task_id"]) for line in lines if line["event"] in {"before", "after"}]
    assert written == [("before", result.id), ("before", "inner"), ("after", "inner"), ("after", result.id)]
