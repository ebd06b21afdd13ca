import logging
from types import SimpleNamespace
from typing import Any

import pytest

from seawall import Seawall, policy
from seawall.worker import unkept

POOLS = ("cells", "prefork", "threads", "solo", "gevent")


def worker_of(app: Any, pool: str, **options: Any) -> Any:
    app.finalize()
    limits = {"time_limit": app.conf.task_time_limit, "soft_time_limit": app.conf.task_soft_time_limit}
    # Without the tasks that others of this process share with every application.
    tasks = {name: task for name, task in app.tasks.items() if name in {"own", "plain"}}
    known = SimpleNamespace(conf=app.conf, tasks=tasks)
    return SimpleNamespace(app=known, pool_cls=pool, **{**limits, **options})


def said(caplog: pytest.LogCaptureFixture, worker: Any) -> list[logging.LogRecord]:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="seawall.worker.unkept"):
        unkept.check(worker)
    return list(caplog.records)


def application(**settings: Any) -> Seawall:
    return Seawall("unkept", set_as_current=False, broker_url="redis://localhost:1/0", **settings)


@pytest.mark.parametrize("pool", ["cells", "prefork"])
def test_a_pool_that_keeps_everything_says_nothing(caplog: pytest.LogCaptureFixture, pool: str) -> None:
    app = application(task_time_limit=5)
    assert said(caplog, worker_of(app, unkept_class(pool))) == []


def declare(app: Seawall, name: str, **options: Any) -> None:
    @app.task(name=name, shared=False, **options)
    def nothing() -> None: ...


def unkept_class(pool: str) -> Any:
    if pool != "cells":
        return pool
    from seawall.worker.cells.pool import Pool

    return Pool


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_our_own_defaults_are_worth_one_line_that_is_no_warning(
    caplog: pytest.LogCaptureFixture, pool: str
) -> None:
    app = application()
    declare(app, "plain")
    (line,) = said(caplog, worker_of(app, pool))
    assert line.levelname == "INFO"
    assert f"the pool {pool}" in line.message


def own_task(app: Seawall) -> None:
    @app.task(name="own", time_limit=5, shared=False)
    def own() -> None: ...


def own_policy(app: Seawall) -> None:
    @app.task(name="own", shared=False)
    @policy(timeout=5)
    def own() -> None: ...


def own_memory(app: Seawall) -> None:
    @app.task(name="own", shared=False)
    @policy(memory="64MiB")
    def own() -> None: ...


def annotated(app: Seawall) -> None:
    app.conf.task_annotations = {"own": {"soft_time_limit": 3}}
    declare(app, "own")


@pytest.mark.parametrize(
    ("add", "limit"),
    [
        (own_task, "hard time limit of 1 task (own)"),
        (own_policy, "soft time limit of 1 task (own); hard time limit of 1 task (own)"),
        (own_memory, "memory limit of 1 task (own)"),
        (annotated, "soft time limit of 1 task (own)"),
    ],
)
def test_a_limit_of_a_task_is_named_however_it_was_given(
    caplog: pytest.LogCaptureFixture, add: Any, limit: str
) -> None:
    app = application()
    add(app)
    (line,) = said(caplog, worker_of(app, "threads"))
    assert line.levelname == "WARNING"
    assert f"does not keep the {limit}." in line.message


def test_a_limit_of_all_tasks_is_named(caplog: pytest.LogCaptureFixture) -> None:
    (line,) = said(caplog, worker_of(application(task_time_limit=5), "threads"))
    assert "hard time limit of all tasks (task_time_limit)." in line.message
    (line,) = said(caplog, worker_of(application(), "threads", soft_time_limit=7))
    assert "soft time limit of all tasks (--soft-time-limit)." in line.message


def test_gevent_keeps_hard_limits(caplog: pytest.LogCaptureFixture) -> None:
    app = application()
    own_policy(app)
    (line,) = said(caplog, worker_of(app, "gevent"))
    assert "does not keep the soft time limit of 1 task (own)." in line.message


def test_thousands_of_tasks_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    worker = worker_of(application(), "threads")
    task = SimpleNamespace(limit_layers=((None, None), (None, None), (None, 5.0)))
    conf, tasks = worker.app.conf, {f"task_{number:04}": task for number in range(2_000)}
    worker.app = SimpleNamespace(conf=conf, tasks=tasks)
    (line,) = said(caplog, worker)
    assert "2,000 tasks (task_0000, " in line.message
    assert "and 1,990 more" in line.message
    assert len(line.message) < 600


def test_by_a_setting_such_a_worker_does_not_start(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWALL_WORKER__UNKEPT_POLICIES", "refuse")
    app = application()
    own_task(app)
    with pytest.raises(SystemExit):
        unkept.check(worker_of(app, "threads"))
    assert "own" in caplog.text
    unkept.check(worker_of(application(), "threads"))  # nobody asks for anything
    unkept.check(worker_of(app, "prefork"))
