"""What memory promises, at length: each measurement of `benchmarks/memory.py`, held to its promise."""

from pathlib import Path

import pytest
from benchmarks import memory

from support.waiting import busyness

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize(
    "pool", [pytest.param((), id="cells"), pytest.param(("-P", "prefork"), id="prefork")]
)
def test_200_tasks_stay_below_a_budget_that_plain_celery_goes_over(
    redis_url: str, tmp_path: Path, pool: tuple[str, ...]
) -> None:
    ours = memory.budget(redis_url, tmp_path / "ours", plain=False, pool=pool)
    plain = memory.budget(redis_url, tmp_path / "plain", plain=True)
    assert ours["done"] == 200
    assert ours["peak, MiB"] <= 400
    assert ours["lost processes"] == 0
    if "killed by the kernel" in ours:  # both were in a control group of 400 MiB
        assert ours["killed by the kernel"] == 0 < plain["killed by the kernel"]
    else:
        assert (plain["done"], plain["peak, MiB"] > 400) == (200, True)


@pytest.mark.parametrize("way", ["python", "numpy", "c"])
def test_a_task_that_wants_two_gigabytes_is_stopped_near_its_limit(
    redis_url: str, tmp_path: Path, way: str
) -> None:
    found = memory.greedy(redis_url, tmp_path, way)
    assert (found["neighbours done"], found["MEMORY failures"], found["runs of it"]) == (100, 1, 1)
    assert found["most beyond idle, MiB"] < 512


def test_a_memory_error_each_second_harms_nobody_else(redis_url: str, tmp_path: Path) -> None:
    found = memory.errors(redis_url, tmp_path)
    assert found["others done"] == found["of"] == 1200
    assert found["MEMORY failures"] == 60
    assert found["worker lives"]


def test_a_pause_is_quick_and_nothing_starts_twice(redis_url: str, tmp_path: Path) -> None:
    found = memory.pause(redis_url, tmp_path)
    assert found["started once"]
    assert found["pressure to last start, ms"] < 1000 * busyness()


def test_memory_is_flat_over_50_000_tasks(redis_url: str, tmp_path: Path) -> None:
    found = memory.soak(redis_url, tmp_path, plain=False)
    assert found["grown in the second half, KiB"] < 1024  # 40 bytes a task
