"""deploy/ and the pages that speak of it say what the code does."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from celery.app.defaults import NAMESPACES, flatten
from packaging.requirements import Requirement
from packaging.version import Version

from seawall import Seawall
from seawall.cli import group
from seawall.config import FILE_VARIABLE, keys, settings
from seawall.policies import DEFAULT
from seawall.quantity import parse_duration
from seawall.worker.defaults import PLAIN, LazyDefaults

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
FILES = [*UNITS, *DEPLOY.glob("systemd/*.example"), DEPLOY / "compose.yaml", DEPLOY / "Dockerfile"]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _check(deploy: Path) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        [deploy / "check"],
        cwd="/",
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def _tools() -> None:
    beside = str(Path(sys.executable).parent)
    for tool in ("hadolint", "docker-compose", "check-jsonschema"):
        if shutil.which(tool, path=beside) is None and shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


@pytest.mark.usefixtures("_tools")
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("Dockerfile", "WORKDIR /app", "WORKDIR app"),
        ("compose.yaml", "restart: unless-stopped", "restat: unless-stopped"),
        ("compose.yaml", "condition: service_healthy", "condition: service_hearty"),
        ("compose.yaml", "postgres: { condition", "postgress: { condition"),
        ("systemd/seawall.service", "KillMode=mixed", "KillMod=mixed"),
        ("systemd/seawall.service", "TimeoutStopSec=330", "TimeoutStopSec=later"),
    ],
)
def test_the_check_finds_a_mistake_in_a_copy(tmp_path: Path, file: str, right: str, wrong: str) -> None:
    if "systemd" in file and shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not on this machine")
    copy = tmp_path / "deploy"
    shutil.copytree(DEPLOY, copy)
    text = (copy / file).read_text()
    assert right in text
    (copy / file).write_text(text.replace(right, wrong))

    done = _check(copy)

    assert done.returncode == 1, done.stdout
    assert done.stdout.count("FAIL") >= 1
    assert done.stderr == ""


@pytest.mark.parametrize("file", [*FILES, *PAGES], ids=_name)
def test_every_variable_is_a_setting(file: Path) -> None:
    named = set(re.findall(r"\bSEAWALL_[A-Z][A-Z_]*[A-Z]\b", file.read_text()))

    assert named <= {key.variable for key in keys()} | {FILE_VARIABLE}


@pytest.mark.parametrize("file", [*FILES, *PAGES], ids=_name)
def test_every_command_exists(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("SEAWALL_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(ROOT)
    named = set(re.findall(r"(?:`|bin/|\n)seawall ([a-z]+)", file.read_text()))

    settings.cache_clear()
    try:
        assert named <= set(group.list_commands(click.Context(group))), named
    finally:
        settings.cache_clear()


def test_stopping_takes_longer_than_the_longest_default_task() -> None:
    compose = re.findall(r"stop_grace_period: (\d+s)", (DEPLOY / "compose.yaml").read_text())
    unit = re.findall(r"TimeoutStopSec=(\d+)", (DEPLOY / "systemd/seawall.service").read_text())

    assert compose
    assert unit
    for patience in (*compose, *unit):
        assert parse_duration(patience) > DEFAULT.hard_timeout


def test_the_fleet_unit_waits_for_the_drain() -> None:
    unit = (DEPLOY / "systemd/seawall-fleet.service").read_text()
    fleet = tomllib.loads((ROOT / "workers/fleet.toml").read_text())
    patience = re.findall(r"TimeoutStopSec=(\d+)", unit)

    assert int(patience[0]) > parse_duration(fleet["drain_timeout"]) + 10  # what `stop` adds


def test_units_are_hardened_alike() -> None:
    parts = {
        unit.read_text().partition("StateDirectory=")[2].partition("\n\n[Install]")[0].strip()
        for unit in UNITS
    }

    assert len(parts) == 1
    assert "NoNewPrivileges=yes" in parts.pop()


def test_the_oldest_lock_has_the_lower_bounds_and_the_newest_has_later_ones() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {one.name: one.specifier for one in map(Requirement, project["dependencies"])}
    asked, oldest, newest = (
        dict(re.findall(r"^([\w-]+)==([\w.]+)", (DEPLOY / "locks" / name).read_text(), re.MULTILINE))
        for name in ("oldest.in", "oldest.txt", "dev.txt")
    )
    assert {"celery", "kombu", "redis", "structlog"} <= set(asked)
    told = (ROOT / "docs/decisions/0006-dependencies.md").read_text().partition("| oldest | newest |")[2]
    for name, release in asked.items():
        assert oldest[name] == release
        assert {release, newest[name]} <= set(re.findall(r"[\d.]+\d", told)), name
        assert Version(newest[name]) > Version(release)
        if name in declared:
            lowest = [part.version for part in declared[name] if part.operator == ">="]
            assert [Version(release)] == [Version(bound) for bound in lowest], name


def test_0001_lists_every_default_with_our_value_and_celerys() -> None:
    page = (ROOT / "docs/decisions/0001-celery-defaults.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| `(.+?)` \| \S", page, re.MULTILINE)
    celery = dict(flatten(NAMESPACES))

    app = Seawall("defaults", set_as_current=False)
    ours = {**PLAIN, **{name: app.conf[name] for name in LazyDefaults(app) if name.startswith(_KNOWN)}}
    expected = {name: (_value(value), _value(celery[name].default)) for name, value in ours.items()}
    told = {name: (ours, theirs) for name, ours, theirs in rows}
    assert {name: row for name, row in told.items() if name in celery} == expected
    assert len(rows) == len(told)


def test_0006_gives_a_reason_for_every_dependency() -> None:
    page = (ROOT / "docs/decisions/0006-dependencies.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \| \S", page, re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    wanted = [*project["dependencies"], *(one for extra in extras for one in extra)]

    assert set(rows) == {re.split(r"[\[<>=!~ ;]", one)[0] for one in wanted}


_KNOWN = ("task_", "broker_connection_", "redis_")
"""Of the defaults that are worked out on first use, those that depend on no server."""


def _value(value: Any) -> str:
    """A setting as the page writes it."""
    match value:
        case tuple():
            return str(list(value))
        case dict():
            return str(value)
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return str(value)
