"""Task classes of an application's own, as in plain Celery."""

import sys
from pathlib import Path
from typing import Any

import pytest

from support import classes
from support.processes import started

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("own", "passing", "derived", "ending")


def found(url: str, directory: Path, pool: str, *, plain: bool) -> dict[str, Any]:
    directory.mkdir()
    env = {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}", "CLASSES_BROKER": url, "SEAWALL_REDIS_URL": url}
    argv = [
        sys.executable,
        "-m",
        "seawall.worker",
        "-A",
        "support.classes",
        "worker",
        "-c",
        "1",
        "--without-mingle",
    ]
    with (
        started(
            [*argv, *(["-P", pool] if pool != "cells" else [])],
            log=directory / "log",
            env={**env, **({"CLASSES_PLAIN": "1"} if plain else {})},
            cwd=directory,
        ) as proc,
        pytest.MonkeyPatch.context() as patch,
    ):
        if plain:
            patch.setenv("CLASSES_PLAIN", "1")
        with classes.create(url) as app:
            seen: dict[str, Any] = {}
            for name in NAMES:
                seen[name] = app.tasks[f"look.{name}"].delay().get(timeout=30)
                seen[f"{name} nested"] = app.tasks[f"look.{name}"].delay(nested=True).get(timeout=30)
                failed = app.tasks[f"fail.{name}"].delay()
                seen[f"{name} fails"] = repr(failed.get(timeout=30, propagate=False))
                if not plain:  # whatever the class does, the attempt is ours: its failure was tried again
                    assert app.tasks[f"retried.{name}"].delay().get(timeout=30) == seen[name]["contexts"]
        assert "Traceback" in proc.output
    return seen


@pytest.mark.parametrize(
    "pool", ["cells", *(pytest.param(pool, marks=pytest.mark.slow) for pool in ("prefork", "threads"))]
)
def test_a_call_of_a_classs_own_surrounds_the_task(pool: str, redis_url: str, tmp_path: Path) -> None:
    expected = found(redis_url, tmp_path / "plain", "prefork", plain=True)
    assert expected["own"] == {"contexts": ["app"], "known": True}
    assert expected["passing"] == {"contexts": ["base"], "known": True}
    assert found(redis_url, tmp_path / pool, pool, plain=False) == expected
