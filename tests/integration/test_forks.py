"""Processes that a task starts behave as those of a plain script, and never as the worker's own."""

import os
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
from amqp.transport import TCPTransport
from celery import Celery

from seawall import Seawall
from support import offspring
from support.nodes import StartWorker
from support.shop import journal, store
from support.waiting import wait_until

FORMS = {form.__name__: said for form, said in offspring.FORMS.items()}
PLAIN = ("exits", "returns", "raises")


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    made = offspring.create(redis_url)
    yield made
    made.close()


def of_pool(worker: Any) -> set[int]:
    return {each.pid for each in worker.container.children() if _counts(each)}


def _counts(process: psutil.Process) -> bool:
    """Not multiprocessing's tracker of resources, which a process that has spawned another keeps."""
    try:
        tracker = any("resource_tracker" in word for word in process.cmdline())
        return process.status() != psutil.STATUS_ZOMBIE and not tracker
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("pool", ["cells", pytest.param("prefork", marks=pytest.mark.slow)])
def test_a_child_of_a_task_is_as_one_of_a_plain_script(
    app: Celery, start_worker: StartWorker, pool: str
) -> None:
    options = ["-P", "prefork"] if pool == "prefork" else []
    worker = start_worker("support.offspring", "--concurrency=1", *options)
    before = wait_until(lambda: of_pool(worker), what="a process that runs tasks")
    start: Any = app.tasks["offspring.start"].apply_async
    limits: Any = {form: {"soft_time_limit": 60} for form in FORMS}
    limits["outlives_its_soft_limit"] = {"soft_time_limit": 1}
    asked = {form: start((form,), **limits[form]) for form in FORMS}
    wait_until(lambda: all(each.ready() for each in asked.values()), timeout=60, what="every form to be done")
    said = {form: result.get(propagate=False) for form, result in asked.items()}
    plain: Any = app.tasks["offspring.plain"]
    classic = {form: plain.delay(form).get(timeout=60) for form in PLAIN}
    assert said == FORMS
    assert classic == {form: FORMS[form] for form in PLAIN}
    wait_until(lambda: store(app).llen("added") == 1, timeout=20, what="what a child submitted")
    assert Counter(journal(app)) == Counter([*FORMS, *PLAIN]), "each ran once, in one process"
    assert of_pool(worker) == before, "none is left, and none was replaced"
    log = worker.logs()
    assert "the child's last words" in log
    assert "LookupError: the child's own" in log
    assert [line for line in log.splitlines() if "_after_fork failed" in line or "Errno 9" in line] == []
    worker.kill("SIGTERM")
    assert worker.container.wait(20) == 0


HOOKS = ("task_prerun", "before_start", "after_return", "task_postrun")


@pytest.mark.parametrize(
    "pool",
    ["cells", "prefork", *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("threads", "solo"))],
)
def test_a_child_of_a_hook_or_a_receiver_does_not_settle_its_parents_task(
    app: Celery, start_worker: StartWorker, pool: str
) -> None:
    worker = start_worker("support.offspring", "--concurrency=1", *([] if pool == "cells" else ["-P", pool]))
    before = of_pool(worker)
    if pool in ("cells", "prefork"):
        before = wait_until(lambda: of_pool(worker), what="a process that runs tasks")
    plain, ours = (app.tasks[f"offspring.{name}"] for name in ("hooked", "hooked_too"))
    forms: Any = [(plain, each) for each in (*HOOKS, "plain")]
    forms += [(ours, each + how) for each in HOOKS for how in ("", " returns")]
    for task, each in forms:
        assert task.delay(each).get(timeout=60) == each
    assert Counter(journal(app)) == Counter(each for _, each in forms)
    wait_until(lambda: of_pool(worker) == before, what="none to be left, and none to be replaced")
    worker.kill("SIGTERM")
    assert worker.container.wait(20) == 0


@pytest.mark.parametrize("returns", [False, True])
@pytest.mark.parametrize("signal", ["worker_process_init", "worker_init", "worker_ready"])
@pytest.mark.parametrize("pool", ["cells", "prefork", pytest.param("threads", marks=pytest.mark.slow)])
def test_a_child_of_what_starts_a_worker_is_no_second_one(
    app: Celery, start_worker: StartWorker, pool: str, signal: str, *, returns: bool
) -> None:
    starts = f"{signal} returns" if returns else signal
    options = [] if pool == "cells" else ["-P", pool]
    worker = start_worker("support.offspring", "--concurrency=2", *options, env={"OFFSPRING_STARTS": starts})
    if pool != "threads":
        wait_until(lambda: len(of_pool(worker)) == 2, what="two processes that run tasks")
    hooked: Any = app.tasks["offspring.hooked"]
    assert [hooked.delay(f"plain {each}").get(timeout=60) for each in range(5)] == [
        f"plain {each}" for each in range(5)
    ]
    assert Counter(journal(app)) == Counter(f"plain {each}" for each in range(5))
    assert len(of_pool(worker)) == (0 if pool == "threads" else 2)
    worker.kill("SIGTERM")
    assert worker.container.wait(20) == 0


def test_a_child_that_closes_what_it_inherited_leaves_its_parents_connection_to_rabbitmq_open() -> None:
    Seawall("forks", broker="memory://", set_as_current=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        transport: Any = TCPTransport(f"127.0.0.1:{server.getsockname()[1]}")
        transport.connect()
        peer, _ = server.accept()
        with peer:
            peer.settimeout(20)
            child = os.fork()
            if child == 0:
                transport.close()  # as kombu does with the connections of its pools
                os._exit(0)
            os.waitpid(child, 0)
            transport.write(b"still open")
            heard = b""
            while not heard.endswith(b"still open"):
                more = peer.recv(100)
                assert more, f"it ended after {heard!r}"
                heard += more
        transport.close()
