"""Celery's own integration tests against workers of ours and stock ones: `make test-celery`.

Fetches the source distribution of the installed Celery into `.bench/` (nothing of it is part of this
repository), runs its `t/integration` once on each kind of worker, on one server, and prints what differs.
Exit status 1 if a test passes on prefork and not on cells, unless `known.txt` beside this file names it.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path
from xml.etree import ElementTree

from support.delivery import own_server

ROOT = Path(__file__).resolve().parents[2]
_STORE = ROOT / ".bench"
# What the tests import and we do not; without it a plugin's marks are unknown or whole files are skipped.
_EXTRA = ("pytest-rerunfailures==16.7", "sqlalchemy>=2,<3", "python-dateutil", "pymemcache")
# They test other backends, brokers of their own or no worker.
_LEFT_OUT = (
    "test_backend.py",
    "test_backend_leak_in_fixture_teardown.py",
    "test_cache_backend.py",
    "test_connection_recovery.py",
    "test_mem_leak_in_exception_handling.py",
    "test_security.py",
)


def fetch() -> Path:
    """The unpacked source distribution."""
    name = f"celery-{version('celery')}"
    place = _STORE / name
    if not place.is_dir():
        _STORE.mkdir(exist_ok=True)
        _pip("download", "--no-deps", "--no-binary", "celery", "--dest", str(_STORE), name.replace("-", "=="))
        with tarfile.open(_STORE / f"{name}.tar.gz") as archive:
            archive.extractall(_STORE, filter="data")
    if not (extra := _STORE / "celery-extra").is_dir():
        _pip("install", "--target", str(extra), "--no-deps", *_EXTRA)
    return place


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True)


def run(place: Path, pool: str, url: str, folder: Path, chosen: list[str]) -> dict[str, str]:
    """Outcome by test: "passed", "skipped", or the first line of what went wrong."""
    report = folder / f"{pool}.xml"
    (folder / pool).mkdir()
    paths = [ROOT / "tests", ROOT, place, _STORE / "celery-extra"]
    environment = {
        **os.environ,
        "TEST_BROKER": url,
        "TEST_BACKEND": url,
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": url.rpartition(":")[2].partition("/")[0],
        "SUITE_POOL": pool,
        "SUITE_FOLDER": str(folder / pool),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "PYTHONWARNINGS": "ignore",
    }
    argv = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "celery_suite.shared_worker"]
    argv += [
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:valkey",
        "--timeout",
        "60",
        "--reruns",
        "1",
    ]
    argv += [f"--ignore=t/integration/{name}" for name in _LEFT_OUT]
    argv += [f"--junitxml={report}", *(chosen or ["t/integration"])]
    with (folder / f"{pool}.log").open("wb") as log:
        subprocess.run(argv, cwd=place, env=environment, stdout=log, stderr=subprocess.STDOUT, check=False)
    return _outcomes(report)


def _outcomes(report: Path) -> dict[str, str]:
    found = {}
    for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - pytest's own
        name = f"{case.get('classname', '').removeprefix('t.integration.')}::{case.get('name')}"
        bad = case.find("failure") if case.find("failure") is not None else case.find("error")
        if bad is not None:
            found[name] = (bad.get("message") or "failed").splitlines()[0][:150]
        else:
            found[name] = "passed" if case.find("skipped") is None else "skipped"
    return found


def main() -> None:
    """Run both, and tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tests", nargs="*", help="as pytest takes them, under t/integration")
    parser.add_argument("--pools", default="prefork,cells", help="on which workers, with commas")
    chosen = parser.parse_args()
    place = fetch()
    found: dict[str, dict[str, str]] = {}
    folder = Path(tempfile.mkdtemp(prefix="celery-", dir=_STORE))
    for pool in chosen.pools.split(","):
        with own_server(folder / f"server-{pool}", fsync="everysec") as server:
            found[pool] = run(place, pool, server.url, folder, chosen.tests)
    sys.exit(tell(found, folder))


def tell(found: dict[str, dict[str, str]], folder: Path) -> int:
    """Print the counts and the differences; the exit status."""
    for pool, outcomes in found.items():
        failed = {name: outcome for name, outcome in outcomes.items() if outcome not in {"passed", "skipped"}}
        skipped = sum(outcome == "skipped" for outcome in outcomes.values())
        print(
            f"{pool}: {len(outcomes) - len(failed) - skipped} passed, {len(failed)} failed, {skipped} skipped"
        )
        for name, why in failed.items():
            print(f"  {name}: {why}")  # noqa: T201
    known = set((Path(__file__).parent / "known.txt").read_text().split())
    base, ours = found.get("prefork", {}), found.get("cells", {})
    worse = [name for name, outcome in base.items() if outcome == "passed" and ours.get(name) != "passed"]
    unknown = [name for name in worse if name.partition("[")[0] not in known and ours]
    for name in unknown:
        print(f"passes on prefork, not on cells: {name}: {ours.get(name)}")  # noqa: T201
    print(f"logs: {folder}")  # noqa: T201
    return 1 if unknown else 0


if __name__ == "__main__":
    main()
