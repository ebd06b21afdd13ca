"""The circuit as a pure state machine, with time as an argument."""

import random
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from seawall.breaker.hub import Tracked
from seawall.breaker.machine import (
    HALF_OPEN_LEASES,
    LEGAL,
    Cause,
    Machine,
    Report,
    Rules,
    State,
    open_time,
    ramp,
)
from seawall.breaker.table import Record, View

RULES = Rules(window=10, min_calls=10, open_for=60, max_open_for=600, probe_for=5, ramp_for=8, quorum=1)


def seen(machine: Machine, now: float, **counts: int) -> None:
    machine.report(now, machine.epoch, [Report(reporter="host/1", **counts)])


def tripped(now: float = 100.0, **changes: float) -> Machine:
    machine = Machine(replace(RULES, **changes))  # type: ignore[arg-type]
    seen(machine, now, failed=10)
    assert machine.state is State.OPEN
    return machine


def test_ten_failures_in_a_row_trip_at_once_however_many_successes_came_before() -> None:
    machine = Machine(RULES)
    seen(machine, 1, earlier=1_000_000)
    for _ in range(9):
        seen(machine, 1, failed=1)
    assert machine.state is State.CLOSED
    seen(machine, 1, failed=1)
    assert (machine.state, machine.cause) == (State.OPEN, Cause.BURST)


def test_a_success_takes_two_failures_off_the_score() -> None:
    machine = Machine(RULES)
    seen(machine, 1, earlier=1000)
    for _ in range(20):
        seen(machine, 1, failed=2)
        seen(machine, 1, succeeded=1)
    assert (machine.state, machine.score) == (State.CLOSED, 0)


@pytest.mark.parametrize("percent", [20, 30])
def test_noise_below_the_rate_does_not_trip_in_ninety_thousand_calls(percent: int) -> None:
    rand = random.Random(percent)  # noqa: S311
    machine = Machine(replace(RULES, window=30))
    seen(machine, 0, earlier=20)
    for number in range(90_000):
        failed = rand.random() * 100 < percent
        seen(machine, number / 1500, failed=failed, succeeded=not failed)
    assert machine.state is State.CLOSED


def test_sixty_percent_failures_trip_within_a_second_of_calls() -> None:
    for seed in range(20):
        rand = random.Random(seed)  # noqa: S311
        machine = Machine(replace(RULES, window=30))
        seen(machine, 0, earlier=40_000)
        for number in range(1500):
            failed = rand.random() < 0.6
            seen(machine, number / 1500, failed=failed, succeeded=not failed)
        assert machine.state is State.OPEN, seed


def test_the_rate_of_a_window_trips_where_failures_and_successes_alternate() -> None:
    machine = Machine(RULES)
    for _ in range(5):
        seen(machine, 1, succeeded=1)
        seen(machine, 1, failed=1)
    assert (machine.state, machine.cause) == (State.OPEN, Cause.FAILURE_RATE)


def test_failures_that_left_the_window_count_no_more() -> None:
    machine = Machine(RULES)
    seen(machine, 1, failed=5, earlier=4)
    seen(machine, 12, succeeded=4, failed=1)
    assert machine.state is State.CLOSED
    assert machine.counts(12).calls == 5


def test_slow_calls_trip_if_they_are_configured_to() -> None:
    for slow_rate, state in ((0.5, State.OPEN), (0.0, State.CLOSED)):
        machine = Machine(replace(RULES, slow_rate=slow_rate))
        seen(machine, 1, succeeded=10, slow=5)
        assert machine.state is state


def test_a_quorum_of_hosts_or_of_processes_on_the_only_host_has_to_see_the_trouble() -> None:
    two = replace(RULES, quorum=2)

    def after(reporters: list[str], healthy: str = "") -> State:
        machine = Machine(two)
        if healthy:
            machine.report(1, 0, [Report(reporter=healthy, succeeded=1)])
        for number in range(20):
            machine.report(1, machine.epoch, [Report(reporter=reporters[number % len(reporters)], failed=1)])
        return machine.state

    assert after(["a/1"]) is State.CLOSED
    assert after(["a/1", "a/2"]) is State.OPEN
    assert after(["a/1", "a/2"], healthy="b/1") is State.CLOSED, "one bad host of two"
    assert after(["a/1", "b/1"]) is State.OPEN


def test_reports_of_another_epoch_are_late_and_change_nothing() -> None:
    machine = Machine(RULES)
    seen(machine, 1, succeeded=1)
    machine.report(1, machine.epoch - 1, [Report(reporter="a/1", failed=100)])
    assert machine.state is State.CLOSED


def test_an_open_circuit_lets_exactly_the_probes_through_when_its_time_is_over() -> None:
    machine = tripped(100, probes=2)
    assert machine.ask(159.9, "a") == "refused"
    assert [machine.ask(160, lease) for lease in "abc"] == ["granted", "granted", "refused"]
    machine.finish(161, "a", machine.epoch, "succeeded")
    assert machine.ask(161, "d") == "refused", "one success, one under way: there are two probes"
    machine.finish(161, "b", machine.epoch, "succeeded")
    assert (machine.state, machine.cause) == (State.CLOSED, Cause.PROBES_SUCCEEDED)


def test_a_failed_probe_opens_it_for_longer_up_to_a_cap() -> None:
    machine, now, times = tripped(100), 100.0, []
    for _ in range(6):
        times.append(machine.open_time)
        now += machine.open_time
        machine.ask(now, "a")
        machine.finish(now, "a", machine.epoch, "failed")
    assert times == [60, 120, 240, 480, 600, 600]
    assert open_time(RULES, 10_000) == 600


def test_open_time_grows_if_it_trips_again_soon_and_starts_anew_after_a_healthy_time() -> None:
    for healthy, trips in ((10.0, 2), (69.0, 1)):
        machine = tripped(100)
        machine.ask(160, "a")
        machine.finish(160, "a", machine.epoch, "succeeded")
        seen(machine, 160 + healthy, failed=10)
        assert machine.trips == trips


def test_stragglers_and_released_probes_do_not_decide() -> None:
    machine = tripped(100)
    before = machine.epoch
    machine.ask(160, "a")
    machine.finish(160, "a", before, "succeeded")
    machine.finish(160, "unknown", machine.epoch, "failed")
    assert machine.state is State.HALF_OPEN
    machine.finish(160, "a", machine.epoch, "released")
    assert (machine.state, machine.ask(160, "b")) == (State.HALF_OPEN, "granted")


def test_the_lease_of_a_lost_probe_is_free_again_and_half_open_does_not_last_for_ever() -> None:
    machine = tripped(100)
    machine.ask(160, "a")
    assert machine.ask(164.9, "b") == "refused"
    assert machine.ask(165, "b") == "granted"
    machine.finish(165, "a", machine.epoch, "failed")
    assert machine.state is State.HALF_OPEN, "the lease of a has ended"
    machine.refresh(160 + HALF_OPEN_LEASES * RULES.probe_for)
    assert (machine.state, machine.cause, machine.trips) == (State.OPEN, Cause.PROBES_LOST, 2)


def test_a_closed_circuit_ramps_up_after_its_probes_and_after_a_forced_outage() -> None:
    machine = tripped(100)
    machine.ask(160, "a")
    machine.finish(160, "a", machine.epoch, "succeeded")
    assert [machine.admitted_share(160 + passed) for passed in (0, 2, 4, 8, 100)] == [0.05, 0.25, 0.5, 1, 1]
    machine.force(200, State.FORCED_OPEN, for_=10, reason="repair", author="me")
    machine.refresh(210)
    assert (machine.state, machine.cause, machine.ramping) == (State.CLOSED, Cause.FORCE_ENDED, True)
    assert ramp(0, 0) == 1


def test_forced_states_hold_until_their_time_or_a_reset_and_see_no_failures() -> None:
    machine = Machine(RULES)
    machine.force(1, State.FORCED_CLOSED, for_=None, reason="we know", author="me")
    seen(machine, 2, failed=1000)
    assert (machine.state, machine.ask(1e6, "a")) == (State.FORCED_CLOSED, "closed")
    machine.force(3, State.FORCED_OPEN, for_=None, reason="stop", author="me")
    assert machine.ask(1e6, "a") == "refused"
    machine.reset(5, reason="done", author="me")
    assert (machine.state, machine.reason, machine.ramping) == (State.CLOSED, "done", False)


def test_illegal_transitions_are_impossible() -> None:
    machine = Machine(RULES)
    with pytest.raises(AssertionError, match="closed to half_open"):
        machine._go(State.HALF_OPEN, 1, Cause.OPEN_LONG_ENOUGH)


class Circuits(RuleBasedStateMachine):
    """Anything may happen in any order; these things hold throughout."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.machine = Machine(replace(RULES, quorum=2, probes=2))
        self.before = (State.CLOSED, 0)
        self.leases: list[tuple[str, int]] = []
        self.granted: dict[int, int] = {}
        self.over: dict[int, int] = {}

    @rule(seconds=st.sampled_from([0, 0.25, 1, 4, 5, 15, 60, 700]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(
        who=st.sampled_from(["a/1", "a/2", "b/1"]),
        ok=st.integers(0, 5),
        failed=st.integers(0, 12),
        late=st.booleans(),
    )
    def report(self, who: str, ok: int, failed: int, late: bool) -> None:
        epoch = self.machine.epoch - late
        self.machine.report(self.now, epoch, [Report(reporter=who, succeeded=ok, failed=failed)])

    @rule()
    def ask(self) -> None:
        lease = f"lease{len(self.leases)}"
        if self.machine.ask(self.now, lease) == "granted":
            self.leases.append((lease, self.machine.epoch))
            assert len(self.machine.leases) + self.machine.succeeded <= self.machine.rules.probes

    @precondition(lambda self: self.leases)
    @rule(
        choice=st.randoms(use_true_random=False), outcome=st.sampled_from(["succeeded", "failed", "released"])
    )
    def finish(self, choice: random.Random, outcome: str) -> None:
        lease, epoch = choice.choice(self.leases)
        state, current = self.machine.state, self.machine.epoch
        self.machine.finish(self.now, lease, epoch, outcome)  # type: ignore[arg-type]
        if epoch != current and state is self.machine.state:
            assert self.machine.epoch == current, "a late probe changed something"

    @rule(to=st.sampled_from([State.FORCED_OPEN, State.FORCED_CLOSED]), for_=st.sampled_from([None, 5.0]))
    def force(self, to: State, for_: float | None) -> None:
        self.machine.force(self.now, to, for_=for_, reason="test", author="me")
        assert self.machine.state is to

    @rule()
    def reset(self) -> None:
        self.machine.reset(self.now)
        assert self.machine.state is State.CLOSED

    @invariant()
    def epochs_name_stays_and_only_grow(self) -> None:
        state, epoch = self.before
        assert self.machine.epoch >= epoch
        if self.machine.epoch == epoch:
            assert self.machine.state is state
        self.before = (self.machine.state, self.machine.epoch)

    @invariant()
    def it_is_consistent(self) -> None:
        machine = self.machine
        assert (machine.state is State.OPEN) <= (machine.until is not None)
        assert not machine.leases or machine.state is State.HALF_OPEN
        assert not machine.window or machine.state is State.CLOSED
        assert 0 <= machine.succeeded < machine.rules.probes
        assert 0.05 <= machine.admitted_share(self.now) <= 1
        assert machine.open_time <= machine.rules.max_open_for


Circuits.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCircuits = Circuits.TestCase


@pytest.mark.parametrize(
    ("earlier", "succeeded", "failed", "due"),
    [(9, 0, 0, 100.0 + 1.0), (9, 1, 0, 100.0 + 0.02), (9, 1, 1, 100.5)],
    ids=["of unknown age", "a fresh success", "a failure"],
)
def test_only_news_are_reported_soon_while_somebody_sees_failures(
    earlier: int, succeeded: int, failed: int, due: float
) -> None:
    tracked = Tracked("payments", RULES, view=View(hot_until=200.0, hot_every=0.02), reported_at=100.0)
    tracked.add(Record(0, 1, 0, earlier, succeeded, failed, 0))
    assert tracked.due(100.5) == due
    tracked.forget()
    assert tracked.due(100.5) == float("inf")


def test_every_state_leads_back_to_closed() -> None:
    assert all(State.CLOSED in targets for targets in LEGAL.values())
