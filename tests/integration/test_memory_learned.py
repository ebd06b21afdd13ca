"""Records of what tasks use, in a real Redis."""

import random
from typing import Any

import pytest
from redis import Redis

from seawall import Seawall, events, policy
from seawall.memory import leaks
from seawall.memory.board import Board, Kind
from seawall.memory.events import BudgetFarOff
from seawall.memory.learned import ENOUGH, WINDOW, Judged, Learned, Sample
from seawall.memory.runs import Reports
from seawall.worker.memory import _Records

MB = 1 << 20


@pytest.fixture
def learned(redis_url: str) -> Learned:
    return Learned(Redis.from_url(redis_url), base="seawall:memory:test")


def test_what_a_task_needs_is_the_p95_of_its_peaks_over_all_who_add(learned: Learned, redis_url: str) -> None:
    other = Learned(
        Redis.from_url(redis_url), base="seawall:memory:test"
    )  # another worker, or this one later
    peaks = [n * MB for n in range(1, 101)]
    random.Random(1).shuffle(peaks)  # noqa: S311
    for n, peak in enumerate(peaks):
        (learned if n % 2 else other).add([Sample("shop.big", peak)])
    record = Learned(Redis.from_url(redis_url), base="seawall:memory:test").record("shop.big")
    assert record.runs == 100
    assert record.peak() == pytest.approx(95 * MB, rel=0.02)
    assert record.peak(0.5) == pytest.approx(50 * MB, rel=0.02)


def test_a_few_runs_are_not_believed(learned: Learned) -> None:
    learned.add([Sample("shop.new", MB)] * (ENOUGH - 1))
    assert learned.record("shop.new").peak() is None
    learned.add([Sample("shop.new", MB)])
    assert learned.record("shop.new").peak() == pytest.approx(MB, rel=0.02)


def test_a_task_that_has_changed_is_known_again_after_a_window_of_runs(learned: Learned) -> None:
    for _ in range(20):
        learned.add([Sample("shop.changed", 400 * MB)] * 100)
    for _ in range(5 * WINDOW // 100):
        learned.add([Sample("shop.changed", 10 * MB)] * 100)
    record = learned.record("shop.changed")
    assert record.peak() == pytest.approx(10 * MB, rel=0.02)
    assert record.runs <= 2 * WINDOW


def declaring(memory: int) -> Any:
    @policy(memory=memory)
    def work() -> None: ...

    return work


def test_a_declaration_is_far_off_if_it_is_too_small_or_keeps_others_waiting(learned: Learned) -> None:
    """With 1 GiB for four slots, 64 MiB that nobody needs are in nobody's way, and 512 MiB are."""
    app = Seawall("declares", set_as_current=False, broker="memory://")
    for name, megabytes in (("generous", 64), ("greedy", 512), ("tight", 1)):
        app.task(name=name, shared=False)(declaring(megabytes * MB))
        learned.add([Sample(name, 2 * MB)] * 100)
    board = Board.create(1024 * MB)
    with board.locked():
        board.take(Kind.WORKER, slots=4)
    heard: list[BudgetFarOff] = []
    stop = events.subscribe(BudgetFarOff, heard.append)
    reports = Reports()
    try:
        _Records(app, board, reports)._publish(learned.records())
    finally:
        stop()
        reports.close()
    assert sorted(each.task for each in heard) == ["greedy", "tight"]


def test_only_the_task_that_leaks_is_flagged_and_is_cleared_when_mended(learned: Learned) -> None:
    leaker = [Sample("shop.leaker", MB, kept=200_000)] * 3
    clean = [Sample("shop.clean", MB, kept=0)] * 3
    seen = [judged for _ in range(4) for judged in learned.add([*leaker, *clean])]
    assert Judged("shop.leaker", before=False, leaking=True) in seen
    assert not any(judged.leaking for judged in seen if judged.name == "shop.clean")
    record = {each.name: each for each in learned.records()}
    assert record["shop.leaker"].growth == 200_000
    assert record["shop.leaker"].retained() == pytest.approx(200_000, rel=0.02)
    assert not record["shop.clean"].leaking

    mended = [learned.add([Sample("shop.leaker", MB, kept=0)] * 60)[0] for _ in range(2)]
    assert [(judged.before, judged.leaking) for judged in mended] == [(True, False), (False, False)]


def test_the_server_scores_as_the_formula_says(learned: Learned) -> None:
    rand, score = random.Random(5), 0.0  # noqa: S311
    for _ in range(30):
        batch = [rand.choice([0, 0, 100_000]) for _ in range(rand.randrange(1, 6))]
        learned.add([Sample("shop.mixed", MB, kept=kept) for kept in batch])
        for kept in batch:
            score = leaks.step(score, kept)
        assert learned.record("shop.mixed").score == pytest.approx(score)


def test_a_record_can_be_forgotten_and_one_that_expired_is_listed_no_more(
    learned: Learned, redis_url: str
) -> None:
    learned.add([Sample("shop.a", MB), Sample("shop.b", MB)])
    learned.forget("shop.a")
    assert [record.name for record in learned.records()] == ["shop.b"]
    assert learned.record("shop.a").runs == 0
    assert Redis.from_url(redis_url).smembers("seawall:memory:test:tasks") == {b"shop.b"}
