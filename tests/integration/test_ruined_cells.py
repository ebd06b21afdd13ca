"""A cell that its task has ruined, in any way, is named and mended or replaced, and its worker goes on.

Whoever finds another way adds it to `support.ruined`.
"""

import pytest
from celery import Celery

from seawall.delivery import Queues
from support import ruined
from support.nodes import StartWorker, producer_of
from support.waiting import wait_until

app = producer_of(ruined.create)

QUICK = {
    "set_an_alarm",
    "close_descriptors",
    "allow_no_files",
    "block_signals",
    "leave_directory",
    "overwrite_with_ones",
}
LONG = {"hold_the_logs", "overwrite_and_go_on"}
"""A minute until nobody believes any more that it is a slow hook; three cells that are killed."""


@pytest.mark.parametrize(
    "ways",
    [
        pytest.param([way for way in ruined.WAYS if way in QUICK], id="one after another"),
        *(pytest.param([way], marks=pytest.mark.slow, id=way) for way in ruined.WAYS),
    ],
)
def test_a_cell_that_its_task_has_ruined_is_named_and_the_worker_goes_on(
    app: Celery, start_worker: StartWorker, ways: list[str]
) -> None:
    """And the tasks after it find a process as any other, and SIGTERM ends the worker."""
    worker = start_worker("support.ruined", "--concurrency=1")
    look, ruin = app.tasks["ruined.look"], app.tasks["ruined.ruin"]
    for way in ways:
        before = look.delay().get(timeout=20)
        told = len(worker.logs())
        done = ruin.delay(way)
        after = look.delay().get(timeout=90 if way in LONG else 30)
        assert after["wrong"] == [], way
        assert (after["pid"] == before["pid"]) == (way in ruined.UNDONE), way
        wait_until(done.ready, timeout=90 if way in LONG else 20, what=f"{way} to end, somehow")
        said, log = ruined.SAID[ruined.WAYS[way]], worker.logs()[told:]
        assert said in log, way
        assert not said.startswith("has ") or f"ruined.ruin[{done.id}] {said}" in log, way
    worker.kill("SIGTERM")
    assert worker.container.wait(20) == 0
    with Queues.open(app.connection_for_read()) as queues:
        counts = queues.counts("celery")
    assert (counts.ready, counts.held) == (0, 0)
