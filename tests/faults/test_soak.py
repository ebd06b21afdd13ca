"""A minute of `make soak`: mixed load, every kind of fault, and an account that must come out right."""

import random
from pathlib import Path

import pytest

from support.soak import RATE, soak


@pytest.mark.parametrize(
    ("seconds", "rate"),
    [
        # Which of the nine kinds come first is another choice in each run.
        pytest.param(20.0, 20.0, id="short"),
        pytest.param(50.0, RATE, id="a minute", marks=pytest.mark.slow),  # all nine kinds on an idle machine
    ],
)
@pytest.mark.timeout(600)
def test_a_fleet_that_is_harmed_all_the_time_accounts_for_every_task(
    tmp_path: Path, seconds: float, rate: float
) -> None:
    seed = random.randrange(1 << 32)  # noqa: S311 - printed, to run it again
    account = soak(tmp_path, seconds, seed, rate=rate)

    assert not account.problems(), "\n".join([*account.problems(), *account.lines()])
    assert account.faults
