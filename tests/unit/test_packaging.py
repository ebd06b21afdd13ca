"""The tree and the wheel: `platform/` never shadows the standard library; everything needed is shipped."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.nodes import ROOT

PROBE = "import platform; print(platform.system())"
WAYS = {
    "python -c": [sys.executable, "-c", PROBE],
    "python -m pytest": [sys.executable, "-m", "pytest", "-q", "-c", "/dev/null", "probe_test.py"],
    "celery -A": [sys.executable, "-m", "celery", "-A", "probe_app", "report"],
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of this repository's `platform/`, with something small for each way of starting Python."""
    shutil.copytree(ROOT / "platform", tmp_path / "platform", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "probe_test.py").write_text(f"def test_probe():\n    {PROBE}\n")
    (tmp_path / "probe_app.py").write_text(f"{PROBE}\nfrom celery import Celery\napp = Celery('probe')\n")
    return tmp_path


def run(argv: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    variables = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("SEAWALL_", "PYTEST_", "COV"))  # coverage imports platform first
    }
    return subprocess.run(argv, cwd=directory, env=variables, capture_output=True, text=True, check=False)


def test_platform_is_no_package() -> None:
    assert not (ROOT / "platform" / "__init__.py").exists()


@pytest.mark.parametrize("way", WAYS)
def test_the_standard_librarys_platform_wins(tree: Path, way: str) -> None:
    done = run(WAYS[way], tree)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("way", WAYS)
def test_with_an_init_file_it_would_break(tree: Path, way: str) -> None:
    (tree / "platform" / "__init__.py").touch()
    done = run(WAYS[way], tree)
    assert done.returncode != 0
    assert "platform" in done.stdout + done.stderr


def test_the_standard_librarys_platform_wins_in_this_repository() -> None:
    done = run([sys.executable, "-c", PROBE], ROOT)
    assert done.stdout.strip() == os.uname().sysname, done.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("hatchling") is None, reason="hatchling, which builds the wheel, is missing"
)
def test_the_wheel_ships_what_is_no_python_too(tmp_path: Path) -> None:
    done = run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)], ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    shipped = {
        str(path.relative_to(ROOT / "platform"))
        for path in (ROOT / "platform" / "seawall").rglob("*")
        if path.suffix in {".py", ".sql", ".lua", ".typed"} and "__pycache__" not in path.parts
    }
    migrations = {f"seawall/_migrations/{path.name}" for path in (ROOT / "migrations").glob("*.sql")}
    assert migrations
    assert shipped | migrations <= names
    assert not any(name.startswith(("workers/", "tests/")) for name in names)


def test_importing_seawall_is_light_and_does_nothing() -> None:
    code = """
import os, sys, threading
class Refusing(dict):
    def __getitem__(self, key):
        assert not str(key).startswith("SEAWALL"), key
        return dict.__getitem__(self, key)
    def get(self, key, default=None):
        assert not str(key).startswith("SEAWALL"), key
        return dict.get(self, key, default)
os.environ = Refusing(os.environ)
import seawall
heavy = {"celery", "kombu", "billiard", "psycopg", "psycopg_pool", "redis", "flower"} & set(sys.modules)
assert not heavy, heavy
assert threading.active_count() == 1
"""
    done = run([sys.executable, "-c", code], ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", ["seawall.database.migrations", "seawall.breaker.events"])
def test_what_is_below_a_package_whose_place_a_function_takes_can_be_imported_by_another_name(
    module: str,
) -> None:
    code = f"import {module} as m; import sys; assert m is sys.modules['{module}']"
    done = run([sys.executable, "-c", code], ROOT)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "first",
    [
        "import seawall.policies",
        "import seawall.database",
        "from seawall.policies import Retry",
        "from seawall import Seawall",
    ],
)
def test_policy_and_database_are_callables_whatever_was_imported_first(first: str) -> None:
    code = f"{first}; import seawall; assert callable(seawall.policy); assert callable(seawall.database)"
    done = run([sys.executable, "-c", code], ROOT)
    assert done.returncode == 0, done.stderr
