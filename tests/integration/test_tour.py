"""`seawall demo tour` as its user meets it: what it says was seen, and it leaves nothing behind."""

import re
import sys
from pathlib import Path

import psutil
import pytest

from support.nodes import ROOT
from support.processes import started
from support.waiting import busyness, wait_until

CHAPTERS = {
    "servers and a migrated database": ("migrate status", r"seawall: \d+ applied"),
    "a task retries": ("errors list", "attempt 3 succeeded"),
    "an error group and dead letters": ("dead show", "ValueError, 3 times"),
    "a breaker opens, parks and releases": ("breakers history", "12 of 12 orders are charged"),
    "a memory hog is stopped alone": ("memory list", "its neighbour ran on: attempt 1 succeeded"),
    "a cell is killed and its task comes back": ("status", "the task is back, in cell"),
}
LONGEST = 60.0


@pytest.mark.slow
def test_the_tour_shows_it_all_within_a_minute_and_leaves_nothing(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "seawall.cli", "demo", "tour", "--end"]
    with started(argv, log=tmp_path / "log", env={"TMPDIR": str(tmp_path)}, cwd=ROOT) as tour:
        tour.wait_for("a task retries", timeout=LONGEST)
        family = tour.tree()
        assert tour.wait(LONGEST) == 0, tour.output
        lines = tour.output.splitlines()
    assert max(len(each) for each in lines if "export SEAWALL_HOME=" not in each) <= 80
    for title, (command, said) in CHAPTERS.items():
        chapter = tour.output.partition(f"\n{title}\n")[2].partition("\n\n")[0]
        assert f"$ seawall {command}" in chapter
        assert re.search(said, chapter), chapter
    took = re.search(r"6 of 6 seen in (\d+) s", tour.output)
    assert took
    assert int(took[1]) < LONGEST * busyness()
    wait_until(lambda: not any(map(psutil.Process.is_running, family)), what="every process to be gone")
    assert list(tmp_path.iterdir()) == [tmp_path / "log"]


def test_the_tour_knows_what_it_has_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from workers.demo import tour  # imported here, as it reads the application

    with pytest.raises(tour.UnseenError, match=r"a whale was not seen within 0\.05 s"):
        tour.Tour().wait(lambda: None, "a whale", seconds=0.05)
    with pytest.raises(tour.UnseenError, match="two whales"):
        tour._require([], "two whales")
