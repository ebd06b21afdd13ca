"""`seawall memory`, as its user meets it."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from redis import Redis

from seawall import settings
from seawall.cli import group
from seawall.memory.learned import Learned, Sample
from support import leaky
from support.nodes import environment


@pytest.fixture
def run(redis_url: str, tmp_path: Path) -> "Run":
    return Run(redis_url, tmp_path)


class Run:
    def __init__(self, redis_url: str, folder: Path) -> None:
        self._env = environment(redis_url)
        settings.cache_clear()
        self._folder = folder

    def program(self, *arguments: str) -> str:
        """What is said by a process of its own, whose memory is nobody else's."""
        argv = [sys.executable, "-m", "celery", "-A", "support.leaky", "seawall", "memory", *arguments]
        done = subprocess.run(
            argv,
            env={**os.environ, **self._env},
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def __call__(self, *arguments: str, fails: bool = False) -> str:
        about = SimpleNamespace(app=leaky.app)
        told = CliRunner().invoke(group, ["memory", *arguments], env=self._env, obj=about)
        assert bool(told.exit_code) is fails, told.output
        return told.stderr if fails else told.stdout


def test_profile_names_file_and_line_of_the_growth(run: Run) -> None:
    lines = run.program("profile", "leaky.leak", "--args", "[300000]", "--runs", "8").splitlines()
    source = Path(__file__).parents[1] / "support" / "leaky.py"
    line = next(
        n for n, text in enumerate(source.read_text().splitlines(), 1) if "the line that leaks" in text
    )
    assert lines[0].startswith("leaky.leak: 8 runs kept ")
    assert lines[1].startswith(f"{source}:{line}  29")


def test_a_wrong_task_or_argument_is_one_line_with_the_fix(run: Run) -> None:
    assert "no task 'leaky.none': did you mean" in run("profile", "leaky.none", fails=True)
    assert "--args='{}' is no list: write []" in run("profile", "leaky.leak", "--args", "{}", fails=True)
    deep = run("profile", "leaky.leak", "--args", "[" * 5000, fails=True)
    assert "is not JSON" in deep
    assert len(deep) < 1000


def test_list_shows_what_was_learned_and_forget_begins_again(run: Run, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        learned = Learned(client)
        learned.add([Sample("leaky.leak", 1 << 20, kept=100_000)] * 12)
        learned.add([Sample("leaky.clean", 1 << 20)] * 2)
    table = run("list").splitlines()
    assert table[1].endswith("leaks 97.66 KiB a run")
    assert table[2].split()[:2] == ["leaky.clean", "2"]
    listed = {row["task"]: row for row in json.loads(run("list", "--json"))}
    assert listed["leaky.clean"]["p95"] is None
    assert listed["leaky.leak"]["leaking"] is True
    run("forget", "leaky.leak")
    assert [row["task"] for row in json.loads(run("list", "--json"))] == ["leaky.clean"]
