"""A Redis that has reached its maxmemory: what makes room goes through, what fills it is refused."""

from typing import Any

import pytest
from celery import Celery, chain, chord
from celery.exceptions import BackendStoreError
from kombu.exceptions import OperationalError

from seawall.delivery import Queues
from support import brimful
from support.nodes import StartWorker, producer_of
from support.waiting import wait_until

ONE = ("small", "flaky", "guarded", "chained", "chord")
"""Those whose result is 1."""

app = producer_of(brimful.create)


def task(app: Celery, name: str) -> Any:
    return app.tasks[f"brimful.{name}"]


def empty(app: Celery) -> bool:
    with Queues.open(app.connection_for_write()) as queues:
        counts = queues.counts("celery")
        return not (counts.ready or counts.held or counts.delayed)


@pytest.mark.parametrize("pool", ["cells", pytest.param("prefork", marks=pytest.mark.slow), "threads"])
@pytest.mark.parametrize("many", [60, pytest.param(10_000, marks=pytest.mark.slow)])
def test_a_full_server_drains_with_workers_from_before_and_after(
    app: Celery, start_worker: StartWorker, redis_url: str, pool: str, many: int
) -> None:
    options = [] if pool == "cells" else ["-P", pool]
    names = ["small", "large", "flaky", "fails", "submits", "guarded"]
    kinds = [task(app, name) for name in names]
    start_worker("support.brimful", "--concurrency=2", *options)
    small = task(app, "small")
    with Queues.open(app.connection_for_write()) as queues:
        queues.pause("celery")
        found = {name: kind.delay() for name, kind in zip(names, kinds, strict=True)}
        found["chord"] = chord([small.s(), small.s()], small.s()).apply_async()
        found["chained"] = chain(small.s(), small.s(), small.s()).apply_async()
        if pool != "threads":
            task(app, "kills").delay()
        plain = [kinds[number % len(kinds)].delay() for number in range(many)]
        with brimful.full(redis_url):
            queues.resume("celery")
            start_worker("support.brimful", "--concurrency=2", *options)
            wait_until(lambda: empty(app), timeout=60 + many / 20, what="the server to drain")
            with pytest.raises(OperationalError, match="has reached its maxmemory"):
                small.delay()
            wait_until(lambda: all(each.ready() for each in found.values()), what="results")
            ends = {name: each.get(propagate=False) for name, each in found.items()}
            assert {name: ends[name] for name in ONE} == dict.fromkeys(ONE, 1)
            assert isinstance(ends["large"], BackendStoreError)
            assert "its backend was full" in str(ends["large"])
            assert isinstance(ends["fails"], ValueError)
            assert "has reached its maxmemory" in ends["submits"]
            assert all(each.ready() for each in plain)
            dead = {letter.task for letter in queues.dead("celery", limit=len(plain) + len(found))}
            assert dead == {"brimful.fails", *(["brimful.kills"] if pool != "threads" else [])}
