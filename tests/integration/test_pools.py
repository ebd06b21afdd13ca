"""The table "Which pool keeps what" of docs/delivery.md, tried cell by cell with real workers."""

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, states
from celery.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from pytest_celery import CeleryTestWorker
from redis import Redis

from seawall import MemoryBudgetExceeded, Poisoned
from seawall.delivery import Queues
from seawall.delivery.queues import Counts
from seawall.memory.board import Board, Kind
from seawall.worker.heartbeat import workers
from support import kept
from support.listening import listening
from support.nodes import ROOT, StartWorker, environment, producer_of
from support.shop import journal, store
from support.waiting import wait_until

PAGE = ROOT / "docs" / "delivery.md"
HEADING = "## Which pool keeps what"


def table() -> dict[str, dict[str, str]]:
    """What the page says: row, column, word."""
    text = PAGE.read_text().partition(HEADING)[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line] for line in lines]
    return {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rows}


class Trial:
    """One worker and what can be found out about it."""

    def __init__(self, app: Celery, redis_url: str, start: StartWorker, pool: str) -> None:
        self.app = app
        self.redis_url = redis_url
        self.pool = pool
        self._start = start
        self.worker = self.another()

    def another(self, **env: str) -> CeleryTestWorker:
        """A worker, beside or after the last one."""
        options = ["--concurrency=1", "-E", *([] if self.pool == "cells" else ["-P", self.pool])]
        return self._start("support.kept", *options, env=env)

    def submit(self, name: str, *args: Any, **options: Any) -> Any:
        return self.app.tasks[f"kept.{name}"].apply_async(args, **options)

    def switch(self, *, on: bool) -> None:
        if on:
            store(self.app).set(kept.SWITCH, 1)
        else:
            store(self.app).delete(kept.SWITCH)

    def running(self, **options: Any) -> Any:
        """A task that runs now."""
        self.switch(on=False)
        task = self.submit("wait", "it", **options)
        wait_until(lambda: journal(self.app, task.id), timeout=30, what="it to run")
        return task

    def counts(self) -> Counts:
        with Queues.open(self.app.connection_for_read()) as queues:
            return queues.counts("celery")

    def purge(self) -> None:
        with Queues.open(self.app.connection_for_read()) as queues:
            queues.purge("celery")

    def ended(self) -> bool:
        return bool(self.worker.container.status == "exited")


def soft_limit(trial: Trial) -> str:
    task = trial.running(soft_time_limit=0.5, time_limit=300)
    line = f"exceeded for kept.wait[{task.id}], which this pool cannot interrupt"
    wait_until(lambda: task.ready() or line in trial.worker.logs(), timeout=30, what="something at the limit")
    if task.ready():
        return "yes" if isinstance(task.result, SoftTimeLimitExceeded) else "no"
    trial.switch(on=True)
    assert task.get(timeout=20) == "waited"
    return "named"


def hard_limit(trial: Trial) -> str:
    task = trial.running(time_limit=1)
    with pytest.raises(TimeLimitExceeded):
        task.get(timeout=30)
    trial.switch(on=True)
    after = trial.submit("echo", "after")
    wait_until(lambda: trial.ended() or after.ready(), timeout=30, what="the worker to end or go on")
    if not trial.ended():
        return "yes"
    trial.worker.container.restart()
    return "the worker is replaced" if after.get(timeout=20) == "after" else "no"


def memory_limit(trial: Trial) -> str:
    task = trial.submit("hunger")
    try:
        return "no" if task.get(timeout=30) == "fed" else "?"
    except MemoryBudgetExceeded:
        return "yes"


def terminate(trial: Trial) -> str:
    task = trial.running()
    trial.app.control.revoke(task.id, terminate=True, reply=True, timeout=2.0)
    trial.switch(on=True)
    wait_until(task.ready, timeout=20, what="it to end")
    return "yes" if task.state == states.REVOKED else "no"


def revoke(trial: Trial) -> str:
    first, waiting = trial.running(), trial.submit("echo", "revoked")
    trial.app.control.revoke(waiting.id)
    trial.switch(on=True)
    first.get(timeout=20)
    wait_until(waiting.ready, timeout=20, what="it to end")
    return "yes" if waiting.state == states.REVOKED else "no"


def dead_letters(trial: Trial) -> str:
    task = trial.submit("fail")
    wait_until(task.ready, timeout=20, what="it to fail")

    def letters() -> list[str]:
        with Queues.open(trial.app.connection_for_read()) as queues:
            return [letter.message["headers"]["id"] for letter in queues.dead("celery")]

    wait_until(lambda: task.id in letters(), what="the dead letter")
    return "yes"


def unknown_names(trial: Trial) -> str:
    trial.app.send_task("kept.unheard_of")
    wait_until(lambda: "name:kept.unheard_of" in trial.counts().parked, what="it to be parked")
    return "yes"


def strangers(trial: Trial) -> str:
    dead = trial.counts().dead
    Redis.from_url(trial.redis_url).lpush("celery", json.dumps({"headers": [], "body": 5}))
    wait_until(lambda: trial.counts().dead == dead + 1, timeout=20, what="a dead letter")
    return "yes"


def breakers(trial: Trial) -> str:
    def turn(*arguments: str) -> None:
        argv = [sys.executable, "-m", "seawall.cli", "breakers", *arguments]
        subprocess.run(
            argv, env={**environment(trial.redis_url), "PATH": ""}, check=True, capture_output=True
        )

    turn("open", kept.BREAKER, "--reason", "test")
    task = trial.submit("dependent")
    wait_until(
        lambda: trial.counts().parked.get(f"breaker:{kept.BREAKER}"), timeout=20, what="it to be parked"
    )
    turn("reset", kept.BREAKER)
    return "yes" if task.get(timeout=30) == "ran" else "no"


def rates(trial: Trial) -> str:
    for _ in range(40):
        trial.submit("rated")
    return "yes" if trial.submit("echo", "passes").get(timeout=20) == "passes" else "no"


def told(trial: Trial) -> str:
    with listening(trial.app) as seen:
        wanted = {trial.submit("echo", "told").id: "task-succeeded", trial.submit("fail").id: "task-failed"}

        def heard() -> bool:
            found = {
                event["uuid"]: event["type"] for event in seen if "runtime" in event or "exception" in event
            }
            return all(found.get(task) == kind for task, kind in wanted.items())

        wait_until(heard, timeout=20, what="both endings")
    return "yes"


def pressure(trial: Trial) -> str:
    """A worker that has more memory than its budget from its start, while something runs elsewhere.

    If nothing ran anywhere, waiting would free nothing, and it would begin one task after a while.
    """
    trial.worker.kill("SIGTERM")
    trial.worker.container.wait(30)
    trial.purge()  # what earlier trials left would be counted
    board = Board.create(8 << 20)
    with board.locked():
        assert board.take(Kind.SHARE, size=1) is not None
    other = trial.another(SEAWALL_MEMORY__BOARD=board.path)
    client: Any = Redis.from_url(trial.redis_url)
    wait_until(
        lambda: any(each["state"] == "paused" for each in workers(client).values()),
        timeout=30,
        what="the worker to pause",
    )
    task = trial.submit("echo", "too much")

    def waits() -> bool:
        """A worker that was about to claim gives back what it holds once it has paused."""
        counts = trial.counts()
        return (counts.ready, counts.held) == (1, 0)

    wait_until(lambda: waits() or task.ready(), timeout=10, what="it to wait in the broker")
    ran = task.ready()
    other.kill("SIGKILL")
    client.close()
    trial.purge()
    trial.worker = trial.another()
    return "no" if ran else "yes"


def killers(trial: Trial) -> str:
    """What kills whatever runs it; a worker that is gone is started again, as its supervisor would do."""
    task = trial.submit("kill")

    def given_up() -> bool:
        if trial.ended():
            trial.worker = trial.another()
        return bool(task.ready())

    wait_until(given_up, timeout=120, what="it to be given up")
    return "yes" if isinstance(task.result, Poisoned) else "no"


def sigterm(trial: Trial) -> str:
    trial.running(time_limit=2, soft_time_limit=1.9)
    trial.worker.kill("SIGTERM")
    ended = trial.worker.container.wait(30)
    trial.switch(on=True)
    trial.worker = trial.another()
    return "yes" if ended == 0 else "no"


TRIALS: dict[str, Callable[[Trial], str]] = {
    "soft time limit": soft_limit,
    "hard time limit": hard_limit,
    "memory limit": memory_limit,
    "terminate what runs": terminate,
    "revoke what waits": revoke,
    "a failure leaves a dead letter": dead_letters,
    "a name nobody knows waits": unknown_names,
    "a stranger's message is a dead letter": strangers,
    "what requires an open breaker is parked": breakers,
    "a rate limit keeps no other task waiting": rates,
    "every ending has its event": told,
    "exhausted memory pauses it": pressure,
    "what kills its process is given up": killers,
    "SIGTERM ends it": sigterm,
}
LONG = {pressure, killers, sigterm, hard_limit, memory_limit}
"""Those that start another worker, or take seconds by themselves."""

SHORT = [row for row, trial in TRIALS.items() if trial not in LONG]

app = producer_of(kept.create)


def test_the_table_names_every_trial_and_every_pool() -> None:
    known = table()
    assert list(known) == list(TRIALS)
    assert {tuple(row) for row in known.values()} == {("cells", "prefork", "threads", "solo", "gevent")}


@pytest.mark.parametrize(
    ("pool", "rows"),
    [
        pytest.param("threads", SHORT, id="threads-short"),
        *(
            pytest.param(pool, list(TRIALS), id=pool, marks=pytest.mark.slow)
            for pool in ("cells", "prefork", "threads", "solo", "gevent")
        ),
    ],
)
def test_each_pool_keeps_what_the_table_says(
    app: Celery, redis_url: str, start_worker: StartWorker, pool: str, rows: list[str]
) -> None:
    trial = Trial(app, redis_url, start_worker, pool)
    known = table()
    assert {row: TRIALS[row](trial) for row in rows} == {row: known[row][pool] for row in rows}
