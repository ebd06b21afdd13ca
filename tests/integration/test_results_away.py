"""Tasks that end while the server of the results is away, and the broker is not: no outcome is lost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery, chord

from seawall.delivery import Queues
from support import owed
from support.delivery import own_server
from support.nodes import StartWorker
from support.proxy import Proxy, proxy
from support.shop import JOURNAL
from support.waiting import wait_until

WAITS = "waits until a server is back"
IN_CELLS = "results cannot be stored, attempt 4"  # later than others give up
POOLS = ["prefork", *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("threads", "solo", "gevent"))]


@pytest.fixture
def way(tmp_path: Path) -> Iterator[Proxy]:
    """To the server of the results."""
    with own_server(tmp_path / "results", fsync="no") as server, proxy(server.url) as found:
        yield found


@pytest.fixture
def app(redis_url: str, way: Proxy) -> Iterator[Celery]:
    made = owed.create(redis_url, way.url)
    yield made
    made.close()


def of(pool: str) -> list[str]:
    return [] if pool == "cells" else ["-P", pool]


def runs(app: Celery) -> int:
    with owed.notes(app) as client:
        return int(client.llen(JOURNAL))


def counts(app: Celery) -> Any:
    with Queues.open(app.connection_for_read()) as queues:
        return queues.counts("celery")


@pytest.mark.parametrize("silent", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("pool", ["cells", *POOLS])
def test_what_ends_while_the_results_are_away_is_stored_and_settled_afterwards(
    app: Celery, start_worker: StartWorker, way: Proxy, pool: str, *, silent: bool
) -> None:
    end: Any = app.tasks["owed.end"]
    many = 1 if pool == "solo" else 5
    worker = start_worker("support.owed", f"--concurrency={many}", *of(pool), env={"OWED_RESULTS": way.url})
    ends = [end.delay(how) for how in ("small", "large", "failure")[:many]]
    body: Any = app.tasks["owed.gather"].s()
    whole: Any = chord([end.s("part"), end.s("part")])(body) if many > 1 else None
    wait_until(lambda: runs(app) == (max(1, many)), timeout=30, what="all to run")
    way.go_deaf() if silent else way.die()
    with owed.notes(app) as client:
        client.set("go", 1)
    waits = IN_CELLS if pool == "cells" else WAITS
    wait_until(lambda: worker.logs().count(waits) == many, timeout=40, what="the ends to wait")
    way.hear_again() if silent else way.revive()
    results = [each.get(timeout=30, propagate=False) for each in ends]
    assert results[0] == "small"
    if many > 1:
        assert results[1] == "x" * owed.LARGE
        assert str(results[2]) == "as asked"
        assert whole.get(timeout=30) == 2
    wait_until(lambda: counts(app).held == counts(app).ready == 0, timeout=20, what="all to be settled")
    assert counts(app).dead == (1 if many > 1 else 0)
    assert runs(app) == many


@pytest.mark.parametrize("pool", POOLS)
def test_what_ended_while_the_results_were_away_is_settled_before_its_worker_leaves(
    app: Celery, start_worker: StartWorker, way: Proxy, pool: str
) -> None:
    end: Any = app.tasks["owed.end"]
    worker = start_worker("support.owed", "--concurrency=2", *of(pool), env={"OWED_RESULTS": way.url})
    ended = end.delay("small")
    wait_until(lambda: runs(app) == 1, timeout=30, what="it to run")
    way.die()
    with owed.notes(app) as client:
        client.set("go", 1)
        wait_until(lambda: WAITS in worker.logs(), timeout=40, what="its end to wait")
        client.delete("go")
        if pool != "solo":  # where the next one ends before anything is heard
            end.delay("longer")
            wait_until(lambda: runs(app) == 2, timeout=30, what="another to run")
        worker.kill("SIGTERM")
        wait_until(lambda: "Warm shutdown" in worker.logs(), what="the signal to be heard")
        way.revive()
        client.set("go", 1)
    worker.container.wait(30)
    assert ended.get(timeout=5) == "small"
    found = counts(app)
    assert (found.ready, found.held, found.dead) == (0, 0, 0)
