"""The pure parts: levels, quantiles, the score of leaks."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall import ConfigError
from seawall.memory import Marks, Pressure, leaks, quantiles
from seawall.memory.levels import NEVER


@pytest.mark.parametrize(
    ("share", "before", "level"),
    [
        (0.49, Pressure.NORMAL, Pressure.NORMAL),
        (0.50, Pressure.NORMAL, Pressure.WARNING),
        (0.46, Pressure.WARNING, Pressure.WARNING),
        (0.44, Pressure.WARNING, Pressure.NORMAL),
        (0.80, Pressure.WARNING, Pressure.CRITICAL),
        (0.76, Pressure.CRITICAL, Pressure.CRITICAL),
        (0.95, Pressure.NORMAL, Pressure.EXHAUSTED),
        (0.91, Pressure.EXHAUSTED, Pressure.EXHAUSTED),
        (0.89, Pressure.EXHAUSTED, Pressure.CRITICAL),
        (0.10, Pressure.EXHAUSTED, Pressure.NORMAL),
        (1.70, Pressure.NORMAL, Pressure.EXHAUSTED),
    ],
)
def test_a_level_is_entered_at_its_mark_and_left_below_it(
    share: float, before: Pressure, level: Pressure
) -> None:
    assert Marks().level(share, before=before) is level


@given(st.lists(st.floats(0, 2), max_size=50), st.sampled_from(Pressure))
def test_a_level_is_never_below_what_use_alone_says_nor_held_by_more_than_the_hysteresis(
    shares: list[float], level: Pressure
) -> None:
    marks = Marks()
    for share in shares:
        level = marks.level(share, before=level)
        assert marks.level(share) <= level <= marks.level(share + marks.hysteresis)


def test_the_floor_rises_with_pressure_and_exhausted_lets_nobody_start() -> None:
    assert [Marks().floor(level) for level in Pressure] == [0, 5, 9, NEVER]


@pytest.mark.parametrize(
    "wrong",
    [{"warning": 0.9}, {"exhausted": 1.2}, {"warning": 0.0}, {"hysteresis": 0.5}, {"hysteresis": -0.1}],
)
def test_marks_out_of_order_are_refused_with_their_names(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=r"memory\.(warning|hysteresis|exhausted).*use"):
        Marks(**wrong)  # type: ignore[arg-type]


@given(st.lists(st.integers(1, 1 << 45), min_size=1, max_size=300), st.sampled_from([0.01, 0.5, 0.95, 1.0]))
def test_a_quantile_is_within_its_error_of_the_observation_at_that_rank(
    sizes: list[int], share: float
) -> None:
    counts: dict[int, int] = {}
    for size in sizes:
        number = quantiles.bucket(size)
        counts[number] = counts.get(number, 0) + 1
    found, exact = quantiles.quantile(counts, share), sorted(sizes)[math.ceil(share * len(sizes)) - 1]
    assert found is not None
    assert abs(found - exact) <= quantiles.ERROR * exact + 0.5


def test_nothing_observed_has_no_quantile() -> None:
    assert quantiles.quantile({}, 0.5) is None
    assert quantiles.bucket(0) == 0


KEPT = st.lists(st.integers(0, 1 << 20), max_size=60)


@given(st.floats(0, 2 * leaks.THRESHOLD), KEPT)
def test_a_batch_of_steps_does_what_the_steps_do(score: float, kept: list[int]) -> None:
    batch, expected = leaks.Batch(), score
    for size in kept:
        batch.add(size)
        expected = leaks.step(expected, size)
    assert batch.apply(score) == pytest.approx(expected)


def runs_until_flagged(grows: float, rand: random.Random, limit: int) -> int | None:
    score = 0.0
    for run in range(1, limit + 1):
        score = leaks.step(score, 200_000 if rand.random() < grows else 0)
        if leaks.leaking(score):
            return run
    return None


def test_a_task_that_always_keeps_something_is_flagged_by_its_ninth_run() -> None:
    assert runs_until_flagged(1.0, random.Random(1), 200) == 9  # noqa: S311


def test_of_100_tasks_that_leak_in_every_second_run_all_are_flagged_within_200_runs() -> None:
    rand = random.Random(2)  # noqa: S311
    assert all(runs_until_flagged(0.5, rand, 200) for _ in range(100))


def test_of_100_clean_tasks_that_grow_in_one_run_of_ten_none_is_flagged_within_2000_runs() -> None:
    rand = random.Random(3)  # noqa: S311
    assert [runs_until_flagged(0.1, rand, 2000) for _ in range(100)] == [None] * 100


def test_a_flag_goes_once_a_filled_cache_has_stopped_growing() -> None:
    score, flagged = 0.0, False
    for kept in [50_000] * 30 + [0] * 60:
        score = leaks.step(score, kept)
        flagged = leaks.leaking(score, before=flagged)
    assert (score, flagged) == (0.0, False)
