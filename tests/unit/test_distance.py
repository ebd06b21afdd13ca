"""How much is claimed over a long way, and when."""

import pytest

from seawall.delivery import Options
from seawall.delivery.claimant import Claimant
from seawall.delivery.claimed import Claimed
from seawall.delivery.distance import Distance, Work
from seawall.delivery.line import Line
from support.claimants import Clock


@pytest.fixture
def line(claimant: Claimant, clock: Clock) -> Line:
    """200 ms away, with 50 tasks a second to be done by one at a time."""
    claimant.distance.learn(0.2, awaited=True)
    for number in range(3):
        work(claimant, clock, f"4-{number}")
    line = Line(claimant, clock=clock)
    line._learn_pace()
    return line


def claim(claimant: Claimant, *tags: str) -> None:
    claimant.claimed(Claimed("q", tag, b"{}", b"") for tag in tags)


def work(claimant: Claimant, clock: Clock, tag: str, seconds: float = 0.02) -> None:
    if not claimant.ahead:
        claim(claimant, tag)
    taken = claimant.next()
    assert taken is not None
    clock.now += seconds
    claimant.settle(taken.id, "a")


def test_a_server_beside_us_is_not_far_however_busy_the_machine_is_now_and_then() -> None:
    distance = Distance()
    for lasted in (0.3, 0.0004, 0.2, 0.3, 0.02, 0.001):
        distance.learn(lasted, awaited=True)
    assert distance.seconds == 0


def test_a_server_that_moves_away_is_noticed_and_so_is_its_return() -> None:
    distance = Distance()
    found = []
    for lasted in (0.001, *[0.2] * 4, 0.3, 5.0, 0.002):
        distance.learn(lasted, awaited=True)
        found.append(distance.seconds)
    assert found == [0, 0, 0, 0, 0.2, 0.2, 0.2, 0]
    for _ in range(4):
        distance.learn(50.0, awaited=True)
    assert distance.seconds == 1.0


def test_an_answer_that_waited_for_a_task_says_only_that_the_server_is_no_further() -> None:
    distance = Distance()
    distance.learn(0.3, awaited=False)
    assert distance.seconds == 0
    distance.learn(0.2, awaited=True)
    distance.learn(1.0, awaited=False)
    assert distance.seconds == 0.2
    distance.learn(0.1, awaited=False)
    assert distance.seconds == 0.1


def test_speed_is_that_of_work_and_not_of_waiting_for_it(clock: Clock) -> None:
    busy = Work(clock)
    for _ in range(10):
        clock.now += 10
        busy.begin()
        clock.now += 0.05
        busy.done()
        busy.rest()
        busy.learn()
    assert busy.speed == pytest.approx(20)


def test_a_task_that_does_not_end_makes_it_slow(clock: Clock) -> None:
    busy = Work(clock)
    busy.begin()
    busy.done()
    clock.now += 0.01
    busy.learn()
    clock.now += 0.5
    busy.learn()
    assert busy.speed == pytest.approx(100)
    clock.now += 60
    busy.learn()
    assert busy.speed == pytest.approx(50)


def test_what_is_worked_off_in_a_round_trip_is_claimed_ahead_of_it(line: Line) -> None:
    assert line.wish(room=1) == "claim"
    assert line._appetite(1) == 1 + 1 + 10


def test_who_wants_nothing_ahead_gets_nothing_ahead(line: Line, claimant: Claimant) -> None:
    claimant.options = Options(claim_ahead=0)
    assert line._appetite(1) == 1
    claim(claimant, "4x")
    assert line.wish(room=1) == ""


def test_more_is_asked_for_while_as_much_is_here_as_a_round_trip_takes(
    line: Line, claimant: Claimant, clock: Clock
) -> None:
    claim(claimant, *(f"5-{number}" for number in range(12)))
    assert line.wish(room=1) == ""
    for _ in range(2):
        work(claimant, clock, "")
    assert claimant.ahead == 10
    assert line.wish(room=1) == "claim"
    line.may_have_more = False
    assert line.wish(room=1) == ""  # nor does it wait, which takes a token from others


def test_a_claim_from_afar_carries_no_settlements_which_travel_by_themselves(
    line: Line, claimant: Claimant, clock: Clock
) -> None:
    line.may_have_more = False
    clock.now += 1
    assert claimant.must_settle
    assert line.wish(room=1) == "wait"
    unsettled = claimant.unsettled
    assert unsettled == 3
    line.prepare(["q"], 1, carry=False)
    assert claimant.unsettled == unsettled
    assert len(claimant.take_outbox()["q"]) == unsettled


def test_of_slow_tasks_nothing_is_hoarded_however_far_the_server_is(
    line: Line, claimant: Claimant, clock: Clock
) -> None:
    for number in range(8):
        work(claimant, clock, f"6-{number}", seconds=2.0)
        line._learn_pace()
    assert line._appetite(1) == 1


def test_settlements_wait_for_results_that_cannot_be_stored(
    claimant: Claimant, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(claimant, clock, "4a")

    def decide_more() -> None:
        work(claimant, clock, "4b")

    monkeypatch.setattr(Claimant, "before_settling", decide_more)
    assert claimant.take_outbox() == {"q": {"4a": "a4a"}}, "what is decided meanwhile has another result"

    def cannot() -> None:
        raise OSError("away")

    monkeypatch.setattr(Claimant, "before_settling", cannot)
    with pytest.raises(OSError, match="away"):
        claimant.take_outbox()
    monkeypatch.setattr(Claimant, "before_settling", None)
    assert claimant.take_outbox() == {"q": {"4b": "a4b"}}
