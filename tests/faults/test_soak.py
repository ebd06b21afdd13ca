"""Two minutes of `make soak`: mixed load, every kind of fault, and an account that must come out right."""

import random
from pathlib import Path

import pytest

from support.soak import soak


@pytest.mark.timeout(600)
def test_a_fleet_that_is_harmed_for_a_minute_accounts_for_every_task(tmp_path: Path) -> None:
    account = soak(tmp_path, 50.0, random.randrange(1 << 32))  # noqa: S311 - printed, to run it again

    assert not account.problems(), "\n".join([*account.problems(), *account.lines()])
    assert account.faults  # all nine kinds on an idle machine
