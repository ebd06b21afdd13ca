"""Containers of one host name are killed, restarted in place and lose cells: none is taken for another.

CONTAINER_ROUNDS says how many rounds the slow test has.
"""

from pathlib import Path

import pytest

from support.containers import entering, storm, summary
from support.suspects import from_environment
from support.waiting import busyness

LATE = 1.0  # seconds after the end of its lease by which what a dead worker held is back in line


def weather(folder: Path, rounds: int) -> None:
    if why := entering()[1]:
        pytest.skip(f"no PID namespace can be made here: {why}")
    account = storm(folder, rounds)
    print(f"\n{summary(account)}")  # noqa: T201 - the figures are the point
    assert account.busy > 0, "a storm in which nothing struck is none"
    assert (account.lost, account.given_up) == (0, 0)
    assert account.twice == []
    assert max(account.back) <= LATE * busyness()


@pytest.mark.timeout(240)
def test_namesakes_in_containers_lose_nothing(tmp_path: Path) -> None:
    weather(tmp_path, 2)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_rounds_of_namesakes_in_containers_lose_nothing(tmp_path: Path) -> None:
    weather(tmp_path, from_environment("CONTAINER_ROUNDS", 50))
