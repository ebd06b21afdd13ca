"""Results of cells: stored together, never late, never lost with a cell, and counted right."""

import threading
import time
from typing import Any

import pytest
from celery import Celery, Task, chord, group
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from seawall.worker import results
from seawall.worker.cells.table import Table
from support.nodes import StartWorker
from support.shop import journal, store
from support.waiting import wait_until


def scripts_run(app: Celery) -> int:
    """Scripts that the server has run; what they call themselves is counted elsewhere."""
    stats: Any = store(app).info("commandstats")
    return int(stats.get("cmdstat_evalsha", {}).get("calls", 0))


@pytest.mark.parametrize("many", [400, pytest.param(1000, marks=pytest.mark.slow)])
def test_results_of_quick_tasks_travel_together(
    shop_app: Celery, start_worker: StartWorker, many: int
) -> None:
    add = shop_app.tasks["shop.add"]
    found = [add.delay(number, 1) for number in range(many)]
    submitted = scripts_run(shop_app)
    start_worker("support.shop", "--concurrency=1")
    wait_until(lambda: all(result.ready() for result in found), timeout=60, what="the results")
    assert [result.get() for result in found] == [number + 1 for number in range(many)]
    # Claims, settlements and results: three a task if nothing travelled together, 0.6 on an idle machine; 2.6
    # were seen on a busy one, where there is less to take along each time.
    assert scripts_run(shop_app) - submitted < 2.9 * many


def test_a_result_does_not_wait_for_the_task_behind_it(shop_app: Celery, start_worker: StartWorker) -> None:
    add, wait_for = shop_app.tasks["shop.add"], shop_app.tasks["shop.wait_for"]
    quick = [add.delay(number, 1) for number in range(20)]
    long = wait_for.delay("go", "long")
    start_worker("support.shop", "--concurrency=1")
    wait_until(lambda: "started long" in journal(shop_app), timeout=30, what="the long task")
    wait_until(lambda: all(result.ready() for result in quick), timeout=1.0, what="the results before it")
    assert not long.ready()
    store(shop_app).set("go", 1)
    assert long.get(timeout=30) == "long"


@pytest.mark.parametrize("rounds", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_what_ended_before_its_cell_was_killed_is_stored_and_not_run_again(
    shop_app: Celery, start_worker: StartWorker, rounds: int
) -> None:
    record, refuses = shop_app.tasks["shop.record"], shop_app.tasks["shop.refuses_once"]
    found = [(record.delay(f"quick {number}"), refuses.delay(f"killer {number}")) for number in range(rounds)]
    start_worker("support.shop", "--concurrency=1")
    for number, (quick, killer) in enumerate(found):
        assert killer.get(timeout=60) == f"killer {number}"
        assert quick.get(timeout=1) == f"quick {number}"
    lines = journal(shop_app)
    assert [lines.count(f"quick {number}") for number in range(rounds)] == [1] * rounds


def test_chords_count_results_that_are_stored(shop_app: Celery, start_worker: StartWorker) -> None:
    start_worker("support.shop", "--concurrency=3")
    add, total = shop_app.tasks["shop.add"], shop_app.tasks["shop.total"]
    for many in (1, 2, 50):
        assert chord([add.s(number, 1) for number in range(many)])(total.s()).get(timeout=60) == sum(
            range(1, many + 1)
        )
    nested = chord([group(add.s(1, 1), add.s(2, 2)) | total.s(), add.s(3, 3)])(total.s())
    assert nested.get(timeout=60) == 12


class Server:
    """A backend that can be away."""

    def __init__(self) -> None:
        self.away = False
        self.refuses = b""
        self.stored: list[bytes] = []
        self.asked, self.answers = threading.Event(), threading.Event()
        self.answers.set()

    def store(self, found: list[results.Result]) -> None:
        self.asked.set()
        assert self.answers.wait(30)
        if self.refuses in [result.key for result in found]:
            raise ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value")
        if self.away:
            raise RedisConnectionError("away")
        self.stored += [result.key for result in found]


class Quiet:
    """A task whose hooks are Celery's."""

    on_success = Task.on_success
    after_return = Task.after_return


class Loud(Quiet):
    def on_success(self, *_: object) -> None:
        """Tells somebody."""


def result(key: str, size: int = 10) -> results.Result:
    return results.Result(key.encode(), 60, b"x" * size)


def test_what_waits_is_on_the_table_until_it_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_TOLD", ())
    now = [0.0]
    row, server = Table(1).rows[0], Server()
    batch = results.Batch(row, stopping=lambda: False, clock=lambda: now[0])
    batch.begin(Quiet())
    assert batch.put(server, result("a"))
    batch.end(more=True)
    assert row.unstored_results() == [result("a")]
    batch.begin(Quiet())
    assert batch.put(server, result("b", 5000))
    assert not batch.put(server, result("large", 10_000)), "stored at once"
    assert row.unstored_results() == [result("a"), result("b", 5000)]
    batch.end(more=False)
    assert server.stored == [b"a", b"b"]
    assert row.unstored_results() == []


def test_results_that_a_hook_may_tell_about_are_stored_at_once() -> None:
    batch = results.Batch(Table(1).rows[0], stopping=lambda: False)
    assert not batch.put(Server(), result("no task")), "nobody's result"
    batch.begin(Loud())
    assert not batch.put(Server(), result("loud"))


def test_what_the_server_refuses_for_ever_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_TOLD", ())
    row, server = Table(1).rows[0], Server()
    batch = results.Batch(row, stopping=lambda: False)
    batch.begin(Quiet())
    server.refuses = b"refused"
    assert batch.put(server, result("refused"))
    assert batch.put(server, result("next"))
    batch.end(more=False)
    assert server.stored == [b"next"]
    assert row.unstored_results() == []


def test_a_batch_that_cannot_be_stored_is_kept_and_stops_settlements(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(results, "_TOLD", ())
    row, server = Table(1).rows[0], Server()
    server.away = True
    stopping = [True]
    batch = results.Batch(row, stopping=lambda: stopping[0])
    batch.begin(Quiet())
    batch.put(server, result("a"))
    with pytest.raises(RedisConnectionError):
        batch.flush()
    assert row.unstored_results() == [result("a")]
    stopping[0] = False
    waits = iter(range(20))

    def back_later(_seconds: float) -> None:
        server.away = next(waits) < 19

    monkeypatch.setattr(time, "sleep", back_later)
    with caplog.at_level("ERROR"):
        batch.flush()  # waits for the server
    assert server.stored == [b"a"]
    assert len(caplog.messages) == 5, "after attempts 1, 2, 4, 8 and 16"


def test_no_task_waits_for_results_that_are_on_their_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "_TOLD", ())
    row, server = Table(1).rows[0], Server()
    batch = results.Batch(row, stopping=lambda: False)
    batch.begin(Quiet())
    batch.put(server, result("a"))
    server.answers.clear()
    far = threading.Thread(target=batch.flush)
    far.start()
    assert server.asked.wait(30)
    assert batch.put(server, result("b"))  # returns, although the server has not answered
    batch.end(more=False, aside=True)
    server.answers.set()
    far.join(30)
    assert server.stored == [b"a"]
    assert row.unstored_results() == [result("a"), result("b")], "one too many is harmless"
    batch.flush()
    assert server.stored == [b"a", b"b"]
    assert row.unstored_results() == []
