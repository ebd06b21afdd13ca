"""PostgreSQL away under load: nothing wrong, nothing lost, no hang, and service soon after it is back.

The seconds until service are measured by tests/benchmarks/database.py; here they are bounded generously.
"""

from functools import partial
from pathlib import Path

import pytest

from support.outages import Report, deaf_proxy, kill_server, own_postgres, survive, terminate_all
from support.waiting import busyness

SIZES = [pytest.param(2, 3, id="short"), pytest.param(4, 20, id="storm", marks=pytest.mark.slow)]


def assert_healed(report: Report) -> None:
    assert (report.wrong, report.lost, report.early) == (0, 0, []), report
    assert report.back < 20 * busyness(), report
    assert report.ok > 100, report


@pytest.mark.parametrize(("processes", "threads"), SIZES)
def test_a_killed_server_costs_errors_only_while_it_is_away(
    home: Path, tmp_path: Path, processes: int, threads: int
) -> None:
    with own_postgres(home) as url:
        killed = partial(kill_server, home, url, seconds=3.0)
        report = survive(url, tmp_path, killed, processes=processes, threads=threads)
    assert_healed(report)
    assert report.errors > 0
    assert report.median_refusal < 0.5 * busyness(), (
        report
    )  # after the first second nobody waits for a refusal


@pytest.mark.parametrize(("processes", "threads"), SIZES)
def test_sessions_ended_by_the_server_are_replaced(
    home: Path, tmp_path: Path, processes: int, threads: int
) -> None:
    with own_postgres(home) as url:
        report = survive(url, tmp_path, lambda: terminate_all(url), processes=processes, threads=threads)
    assert_healed(report)


@pytest.mark.parametrize(("processes", "threads"), SIZES)
def test_a_way_to_the_server_that_goes_deaf_hangs_nobody(
    home: Path, tmp_path: Path, processes: int, threads: int
) -> None:
    with own_postgres(home) as url, deaf_proxy(url, seconds=8.0) as (way, outage):
        report = survive(url, tmp_path, outage, processes=processes, threads=threads, through=way)
    assert_healed(report)
    assert report.slowest_error < 30 * busyness()
