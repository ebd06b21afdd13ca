"""What the application, the command line or the environment says counts in a worker, against our defaults."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from billiard.exceptions import WorkerLostError
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded

from support.nodes import StartWorker
from support.shop import journal
from support.waiting import busyness, wait_until

APPLICATION = """
import os
import signal
import time

import seawall
from celery import Celery, signals
from support.shop import note

app = seawall.install(Celery("says", broker={url!r}, backend={url!r}))
app.conf.update({settings!r})


@signals.celeryd_init.connect
def say_late(conf, **_):
    conf.update({late!r})


@app.task(**{options!r})
def nap(seconds):
    time.sleep(seconds)


@app.task(bind=True, **{options!r})
def die(self):
    note(self, "dies")
    os.kill(os.getpid(), signal.SIGKILL)


@app.task
def numbers():
    return {{1, 2}}


assert nap.name  # bound at import, before the worker has read its command line
"""

Says = Callable[..., Celery]


@pytest.fixture
def says(tmp_path: Path, redis_url: str) -> Says:
    """Write the application, which says these settings, with these options of its tasks; a client of it.

    Those that it says late come from a receiver of `celeryd_init`.
    """

    def write(
        options: Mapping[str, Any] | None = None, late: Mapping[str, Any] | None = None, **settings: Any
    ) -> Celery:
        text = APPLICATION.format(
            url=redis_url, settings=settings, options=dict(options or {}), late=dict(late or {})
        )
        (tmp_path / "says.py").write_text(text)
        return Celery("caller", broker=redis_url, backend=redis_url, set_as_current=False, changes=settings)

    return write


@pytest.mark.parametrize(
    ("arguments", "env", "error"),
    [
        (["--time-limit=1"], {}, TimeLimitExceeded),
        (["--soft-time-limit=1"], {}, SoftTimeLimitExceeded),
        ([], {"CELERY_WORKER_TIME_LIMIT": "1"}, TimeLimitExceeded),
        pytest.param(["-P", "prefork", "--time-limit=1"], {}, TimeLimitExceeded, marks=pytest.mark.slow),
        pytest.param(
            ["-P", "prefork", "--soft-time-limit=1"], {}, SoftTimeLimitExceeded, marks=pytest.mark.slow
        ),
    ],
    ids=["hard", "soft", "environment", "hard prefork", "soft prefork"],
)
def test_a_time_limit_of_the_command_line_holds_for_all_tasks(
    says: Says, start_worker: StartWorker, arguments: list[str], env: dict[str, str], error: type[Exception]
) -> None:
    with says() as caller:
        start_worker("says", "--concurrency=1", *arguments, env=env)
        with pytest.raises(error):
            caller.send_task("says.nap", (60,)).get(timeout=30)


@pytest.mark.parametrize("typed", [[], ["--time-limit=60"]], ids=["conf", "conf and typed"])
def test_a_time_limit_that_a_receiver_of_celeryd_init_sets_holds(
    says: Says, start_worker: StartWorker, typed: list[str]
) -> None:
    with says(late={"task_soft_time_limit": 1, "task_acks_late": False}) as caller:
        start_worker("says", "--concurrency=1", *typed)
        with pytest.raises(SoftTimeLimitExceeded):
            caller.send_task("says.nap", (60,)).get(timeout=30)
        if not typed:
            with pytest.raises(WorkerLostError):
                caller.send_task("says.die").get(timeout=30)
            assert journal(caller) == ["dies"]


def test_a_task_that_says_its_own_limit_keeps_it_whatever_the_command_line_says(
    says: Says, start_worker: StartWorker
) -> None:
    with says({"soft_time_limit": 1}) as caller:
        start_worker("says", "--concurrency=1", "--time-limit=60")
        with pytest.raises(SoftTimeLimitExceeded):
            caller.send_task("says.nap", (60,)).get(timeout=30)


@pytest.mark.parametrize(
    ("said", "pool"),
    [
        pytest.param(
            (["-P", "prefork"], {}, {}), "celery.concurrency.prefork:TaskPool", marks=pytest.mark.slow
        ),
        pytest.param(
            ([], {"CELERY_WORKER_POOL": "prefork"}, {}),
            "celery.concurrency.prefork:TaskPool",
            marks=pytest.mark.slow,
        ),
        (([], {}, {"worker_pool": "prefork"}), "celery.concurrency.prefork:TaskPool"),
        ((["-P", "threads"], {}, {"worker_pool": "prefork"}), "celery.concurrency.thread:TaskPool"),
        (([], {"CELERY_WORKER_POOL": "threads"}, {}), "celery.concurrency.thread:TaskPool"),
    ],
    ids=["typed", "environment", "conf", "typed and conf", "threads by the environment"],
)
def test_the_pool_is_the_one_that_was_asked_for(
    says: Says, start_worker: StartWorker, said: tuple[list[str], dict[str, str], dict[str, Any]], pool: str
) -> None:
    arguments, env, settings = said
    with says(**settings) as caller:
        start_worker("says", "--concurrency=1", "--prefetch-multiplier=7", *arguments, env=env)
        answers = wait_until(lambda: caller.control.inspect().stats(), what="an answer")
    (stats,) = answers.values()
    assert stats["pool"]["implementation"] == pool
    assert stats["prefetch_count"] == 7


@pytest.mark.parametrize("pool", ["cells", pytest.param("prefork", marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["option", "conf"])
def test_a_task_that_is_not_to_run_again_when_its_process_is_lost_fails_at_once(
    says: Says, start_worker: StartWorker, pool: str, way: str
) -> None:
    option = {"reject_on_worker_lost": False}
    with says(option) if way == "option" else says(task_reject_on_worker_lost=False) as caller:
        start_worker("says", "--concurrency=1", *(["-P", "prefork"] if pool == "prefork" else []))
        with pytest.raises(WorkerLostError):
            caller.send_task("says.die").get(timeout=30)
        assert journal(caller) == ["dies"]


def test_results_come_in_what_the_application_accepts(says: Says, start_worker: StartWorker) -> None:
    with says(accept_content=["json", "pickle"], result_serializer="pickle") as caller:
        start_worker("says", "--concurrency=1", env={"C_FORCE_ROOT": "1"})
        assert caller.send_task("says.numbers").get(timeout=30) == {1, 2}


@pytest.mark.parametrize("pool", ["threads", pytest.param("cells", marks=pytest.mark.slow)])
def test_a_worker_that_is_not_to_retry_its_connection_ends_where_there_is_no_broker(
    says: Says, start_worker: StartWorker, pool: str
) -> None:
    says(broker_connection_retry=False, broker_url="redis://127.0.0.1:1/0", result_backend="disabled://")
    options = [] if pool == "cells" else ["-P", pool]
    worker = start_worker("says", "--concurrency=1", *options, wait=False)
    worker.container.wait(15 * busyness())
    assert "Retrying to establish a connection to the message broker" in worker.logs()
