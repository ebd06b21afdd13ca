"""Celery's features one by one, in plain Celery (prefork, the stock transport) and in cells, compared."""

import json
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.processes import Proc, started
from support.waiting import busyness

ROOT = Path(__file__).resolve().parents[2]
PLAIN = {"FEATURES_PLAIN": "1"}
GUIDE = ROOT / "docs/guides/adopt.md"
WORKER = [sys.executable, "-m", "celery", "-A", "support.features.app", "worker", "-l", "INFO"]
ONE = ["-n", "one@features", "-c", "2", "-E", "-X", "second,third"]
TWO = [
    *(
        "-n",
        "two@features",
        "-Q",
        "second,third",
        "-X",
        "third",
        "--purge",
        "--max-tasks-per-child",
        "2",
        "-E",
        "-B",
    ),
    *(
        "--autoscale",
        "2,1",
        "--max-memory-per-child",
        "500000",
        "--time-limit",
        "2",
        "--soft-time-limit",
        "1",
    ),
    *("--without-gossip", "--without-mingle", "--without-heartbeat"),
]


def found(url: str, directory: Path, which: str, *, plain: bool) -> Mapping[str, Any]:
    """What comes of each feature there."""
    directory.mkdir()
    env = {
        "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}",
        "FEATURES_BROKER": url,
        "SEAWALL_REDIS_URL": url,
        "SEAWALL_HOME": "unused",
        **(PLAIN if plain else {}),
    }

    def start(name: str, *argv: str) -> Any:
        return started(argv, log=directory / name, env=env, cwd=directory)

    asking = [
        sys.executable,
        "-m",
        "support.features.run",
        which,
        str(10 * busyness() if "PAT" not in __import__("os").environ else __import__("os").environ["PAT"]),
    ]
    with start("one", *WORKER, *ONE) as one:
        one.wait_for("ready.", timeout=60)
        with start("run", *asking) as run:
            if which == "short":
                return ended(run, one)
            run.wait_for("submitted", timeout=60)
            with start("two", *WORKER, *TWO) as two:
                return ended(run, one, two)


def ended(run: Proc, *workers: Proc) -> Mapping[str, Any]:
    """The last line of its output, once it has ended."""
    assert run.wait(300) == 0, "\n".join(each.output for each in (run, *workers))
    found: dict[str, Any] = json.loads(run.output.splitlines()[-1])
    return found


def both(redis_url: str, tmp_path: Path, which: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """In plain Celery and in cells, beside each other: they wait more than they compute."""
    urls = [urlsplit(redis_url)._replace(path=f"/{database}").geturl() for database in (1, 2)]
    with ThreadPoolExecutor() as threads:
        plain = threads.submit(found, urls[0], tmp_path / "plain", which, plain=True)
        cells = threads.submit(found, urls[1], tmp_path / "cells", which, plain=False)
        return plain.result(), cells.result()


def explained() -> set[str]:
    """Features of which the guide says that another thing comes of them."""
    section = GUIDE.read_text().partition("## Feature by feature")[2].partition("\n## ")[0]
    return set(re.findall(r"`(\w+: [\w ]+)`", section))


def differences(plain: Mapping[str, Any], cells: Mapping[str, Any]) -> dict[str, Any]:
    return {name: (plain[name], cells[name]) for name in plain if plain[name] != cells[name]}


def test_a_cross_section_of_celerys_features_is_the_same_in_cells(redis_url: str, tmp_path: Path) -> None:
    plain, cells = both(redis_url, tmp_path, "short")
    assert len(plain) == len(cells) > 40
    different = differences(plain, cells)
    assert not different.keys() - explained(), different


@pytest.mark.slow
def test_what_differs_of_all_of_celerys_features_is_what_the_guide_says(
    redis_url: str, tmp_path: Path
) -> None:
    plain, cells = both(redis_url, tmp_path, "all")
    assert plain.keys() == cells.keys()
    assert len(plain) > 250
    assert not [name for name, each in plain.items() if str(each).startswith("raised")]
    different = differences(plain, cells)
    assert different.keys() == explained(), different
