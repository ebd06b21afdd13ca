"""Workers that are far from their server: a real proxy makes every round trip long."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from support import mixture
from support.delivery import Site, site
from support.proxy import Proxy, proxy
from support.waiting import wait_until


@contextmanager
def far_away(redis_url: str, folder: Path, *, cells: int, round_trip: float) -> Iterator[tuple[Site, Proxy]]:
    """A worker with `cells` that have started; from now on a round trip takes so many seconds."""
    with proxy(redis_url) as way, Redis.from_url(redis_url) as client:
        conf = {"task_ignore_result": False, "result_backend": way.url}
        with site(way.url, folder, conf=conf) as place:
            mixture.start(place, folder, cells=cells)
            consumers = "seawall:{celery}:consumers"
            wait_until(lambda: client.zcard(consumers) == cells, timeout=60, what="the cells to consume")
            way.delay = round_trip / 2
            yield place, way


def scripts_run(client: "Redis") -> int:
    stats = client.info("commandstats")
    return sum(stats.get(f"cmdstat_{name}", {}).get("calls", 0) for name in ("eval", "evalsha"))


@pytest.mark.parametrize(("many", "round_trip"), [(100, 0.1), pytest.param(300, 0.2, marks=pytest.mark.slow)])
def test_tasks_far_away_share_round_trips(
    redis_url: str, tmp_path: Path, many: int, round_trip: float
) -> None:
    with (
        far_away(redis_url, tmp_path, cells=2, round_trip=round_trip) as (place, _),
        Redis.from_url(redis_url) as client,
    ):
        before = scripts_run(client)
        mixture.submit(place, short=many - 1, long=1, takes=0.02, short_takes=0.02)
        wait_until(lambda: len(place.marks.counts("end")) == many, timeout=90, what="the tasks")
        wait_until(lambda: not client.exists("seawall:{celery}:messages"), what="the acknowledgements")
        run = scripts_run(client) - before
        assert max(place.marks.counts("start").values()) == 1
        assert len(client.keys("celery-task-meta-*")) == many
    took = max(map(max, place.marks.times("end").values())) - min(
        map(min, place.marks.times("start").values())
    )
    print(  # noqa: T201 - the figures are the point
        f"{many} tasks of 20 ms at {round_trip * 1e3:.0f} ms: {took:.1f} s, {run / many:.2f} round trips each"
    )
    # A claim, a result and an acknowledgement for each: 3 and more if nothing travelled together.
    assert run < many


@pytest.mark.slow
def test_far_away_a_short_task_does_not_wait_for_a_long_one_and_none_runs_twice(
    redis_url: str, tmp_path: Path
) -> None:
    with far_away(redis_url, tmp_path, cells=2, round_trip=0.1) as (place, _):
        mixture.submit(place, short=60, long=1, takes=4.0, short_takes=0.02)
        wait_until(lambda: len(place.marks.counts("end")) == 61, timeout=90, what="the tasks")
        counts, ends = place.marks.counts("start"), place.marks.times("end")
    assert max(counts.values()) == 1
    [long_ended] = ends["l0"]
    late = [name for name, times in ends.items() if max(times) > long_ended]
    assert not late, "they stood behind it in the claim of its cell"
