"""Memory in real workers: limits, admission, pressure, leaks; cells and stock prefork."""

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from pytest_celery import CeleryTestWorker
from redis import Redis

from seawall import MemoryBudgetExceeded
from seawall.delivery import Queues
from seawall.memory import Pressure
from seawall.memory.board import Board, Kind
from seawall.memory.learned import Learned
from seawall.memory.meter import started_at
from support.hunger import MB, hungry_producer, hungry_worker
from support.nodes import StartWorker
from support.waiting import wait_until

PLENTY = 64 << 30


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    with hungry_producer(redis_url) as producer:
        yield producer


class Journal:
    """What the tasks of `support.hungry` wrote: what ran, and in which process."""

    def __init__(self, redis_url: str) -> None:
        self._client = Redis.from_url(redis_url)

    def lines(self, what: str = "") -> list[str]:
        lines: Any = self._client.lrange("ran", 0, -1)
        return [line.decode() for line in lines if line.decode().startswith(what)]

    def clear(self) -> None:
        self._client.delete("ran")


@pytest.fixture
def journal(redis_url: str) -> Journal:
    return Journal(redis_url)


@pytest.mark.parametrize(
    "pool", [pytest.param((), id="cells"), pytest.param(("-P", "prefork"), id="prefork")]
)
def test_limits_stop_the_task_that_passes_them_and_nobody_else(
    app: Celery, journal: Journal, start_worker: StartWorker, pool: tuple[str, ...]
) -> None:
    worker = start_worker("support.hungry", "-c", "2", *pool)
    # A budget is told inside the task, whose process lives.
    assert app.send_task("hungry.careful").get(timeout=60) == "cleaned up"
    with pytest.raises(MemoryBudgetExceeded, match=r"40 MiB are allowed \(arguments 0: 8 B, 1: 2 B\)"):
        app.send_task("hungry.greedy", ("python", 50)).get(timeout=60)
    before = {process.pid for process in worker.container.children()}
    # So is a lack of memory that the task met by itself.
    broken = [app.send_task("hungry.exhaust") for _ in range(5)]
    for each in broken:
        with pytest.raises(MemoryBudgetExceeded, match="ran out of memory: cannot allocate"):
            each.get(timeout=60)
    assert {process.pid for process in worker.container.children()} == before
    # The limit costs one process, once; whatever runs beside it finishes.
    neighbours = [app.send_task("hungry.small", (n,)) for n in range(20)]
    greedy = app.send_task("hungry.greedy", ("c", 200))
    neighbours += [app.send_task("hungry.small", (n,)) for n in range(20, 40)]
    with pytest.raises(
        MemoryBudgetExceeded, match=r"process was killed: hungry.greedy used .*60 MiB are allowed"
    ):
        greedy.get(timeout=60)
    assert [each.get(timeout=60) for each in neighbours] == list(range(40))
    assert len(journal.lines("greedy c")) == 1
    assert len({process.pid for process in worker.container.children()} & before) == 1
    assert worker.container.status == "running"


@pytest.mark.parametrize(
    ("pool", "ways"),
    [
        pytest.param((), ("program", "fork"), id="cells"),
        pytest.param((), ("program of a shell",), id="cells, a grandchild", marks=pytest.mark.slow),
        pytest.param(("-P", "prefork"), ("program",), id="prefork", marks=pytest.mark.slow),
    ],
)
def test_what_a_child_takes_is_its_tasks_and_the_child_ends_with_it(
    app: Celery, journal: Journal, start_worker: StartWorker, pool: tuple[str, ...], ways: tuple[str, ...]
) -> None:
    start_worker("support.hungry", "-c", "1", *pool)
    for way in ways:
        journal.clear()
        with pytest.raises(
            MemoryBudgetExceeded, match=r"process was killed: hungry.parent used .*120 MiB are allowed"
        ):
            app.send_task("hungry.parent", (way, 300)).get(timeout=120)
        (line,) = journal.lines("child")
        child = int(line.split()[1])
        wait_until(lambda: started_at(child) is None, what=f"the end of the child, a {way}")  # noqa: B023


def test_only_what_a_task_and_its_children_add_counts_and_no_page_cache(
    app: Celery, start_worker: StartWorker
) -> None:
    start_worker("support.hungry", "-c", "1")
    assert app.send_task("hungry.maps", (300,)).get(timeout=120) == 300
    assert app.send_task("hungry.told").get(timeout=120) == "cleaned up"
    assert app.send_task("hungry.shares", (100,)).get(timeout=120) == 100
    app.send_task("hungry.helper", (150,)).get(timeout=120)
    assert app.send_task("hungry.beside").get(timeout=120) == "done"


def test_an_application_that_bootstraps_where_it_is_imported_is_watched_by_its_worker(
    app: Celery, redis_url: str, tmp_path: Path
) -> None:
    with hungry_worker(
        redis_url, tmp_path, "-c", "1", HUNGRY="bootstrapped", SEAWALL_MEMORY__BUDGET="3GiB"
    ) as worker:
        assert app.send_task("hungry.budget").get(timeout=60) == 3 << 30
        assert app.send_task("hungry.careful").get(timeout=60) == "cleaned up"
        worker.proc.popen.terminate()
        assert worker.proc.popen.wait(60) == 0


def test_tasks_that_do_not_fit_together_run_one_after_the_other(
    app: Celery, redis_url: str, tmp_path: Path
) -> None:
    """Four at a time would need 4 x 60 MiB beside the 100 MiB of the worker itself."""
    with hungry_worker(redis_url, tmp_path, "-c", "4", SEAWALL_MEMORY__BUDGET="260MiB") as worker:
        results = [app.send_task("hungry.hold_60", (60, 0.1)) for _ in range(12)]
        assert [each.get(timeout=90) for each in results] == [60 * MB] * 12
        assert worker.peak < 260 * MB


@pytest.mark.parametrize("clean", [3, pytest.param(9, marks=pytest.mark.slow)])
def test_the_task_that_leaks_is_flagged_and_no_other(
    app: Celery, redis_url: str, start_worker: StartWorker, clean: int
) -> None:
    start_worker("support.hungry", "-c", "2")
    names = ["hungry.leak", *(f"hungry.clean_{n}" for n in range(1, clean + 1))]
    for _ in range(60):
        for name in names:
            app.send_task(name, ignore_result=True)
    with Redis.from_url(redis_url) as client:
        learned = Learned(client)
        wait_until(lambda: learned.record("hungry.leak").leaking, timeout=90, what="the leak to be noticed")
        flagged = [record for record in learned.records() if record.leaking]
    assert [record.name for record in flagged] == ["hungry.leak"]
    assert flagged[0].growth == pytest.approx(200_000, rel=0.15)


@pytest.mark.parametrize("broker", ["redis", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq)])
def test_exhausted_workers_pause_survive_sigkill_in_between_and_resume_by_themselves(
    redis_url: str, journal: Journal, start_worker: StartWorker, request: pytest.FixtureRequest, broker: str
) -> None:
    url = redis_url if broker == "redis" else request.getfixturevalue("rabbitmq_url")
    board = Board.create(PLENTY)  # ours, so that its budget can be made small for a while

    def start() -> CeleryTestWorker:
        shared = {"SEAWALL_MEMORY__BOARD": board.path, "SEAWALL_BROKER_URL": url}
        return start_worker("support.hungry", "-c", "2", env=shared, queue="exhausted")

    with hungry_producer(redis_url, broker=url) as app:

        def nothing_is_held() -> None:
            """What a paused worker does not run, others may."""
            if broker == "redis":
                with Queues.open(app.connection_for_read()) as queues:
                    wait_until(lambda: queues.counts("exhausted").held == 0, timeout=20, what="no holder")

        small = app.signature("hungry.small", queue="exhausted", ignore_result=True)
        first = start()
        small.apply_async((-1,))
        wait_until(journal.lines, timeout=60, what="the first task")
        board._header.budget = MB
        wait_until(lambda: board.level is Pressure.EXHAUSTED, timeout=30, what="the pressure")
        board._header.level_since += 3600  # pressure that has lasted STUCK seconds lets one at a time start
        for number in range(100):
            small.apply_async((number,))
        assert len(_quiet(journal)) == 1
        nothing_is_held()
        first.kill()
        with board.locked(patience=5):
            board.sweep()
        assert list(board.rows(Kind.WORKER)) == []
        second = start()
        assert len(_quiet(journal)) == 1
        nothing_is_held()  # nor taken by a worker that is paused from its start
        board._header.budget = PLENTY

        wait_until(lambda: len(journal.lines()) == 101, timeout=60, what="all tasks")
        runs = Counter(line.split()[1] for line in _quiet(journal))
        assert runs == {str(number): 1 for number in range(-1, 100)}
        assert second.container.status == "running"


def _quiet(journal: Journal) -> list[str]:
    """What ran until nothing has for a second and a half."""
    seen, since = journal.lines(), time.monotonic()

    def settled() -> bool:
        nonlocal seen, since
        now = journal.lines()
        if now != seen:
            seen, since = now, time.monotonic()
        return time.monotonic() - since > 1.5

    wait_until(settled, timeout=30, what="a pause")
    return seen
