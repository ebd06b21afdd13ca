"""Celery's own integration tests, run against this worker and against Celery's prefork pool.

    PYTHONPATH=tests .venv/bin/python tests/conformance/celery_integration.py [--only cells]

The tests are those of Celery's source distribution, unchanged, and get an environment of their own under
.bench/ on the first run. With cells, the app of the tests is a `Seawall` on our transport; in the settings
that the tests assert (`seawall_in_celerys_tests.py`) it starts from Celery's values. What passes with prefork
and fails with cells must be in `EXPLAINED`, which is the list in docs/worker.md.
"""

import argparse
import os
import subprocess
import sys
import tarfile
import tempfile
import venv
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.delivery import ROOT, own_server
from support.processes import Proc
from support.waiting import busyness

CELERY: Final = "5.7.0"
HERE: Final = Path(__file__).parent
STORE: Final = ROOT / ".bench" / "celery-integration"
NEEDS: Final = (
    f"celery[redis]=={CELERY}", "pytest==9.1.1", "pytest-rerunfailures==16.7", "pytest-subtests==0.15.0",
    "pytest-timeout==2.4.0", "pytest-order", "pytest-click", "pydantic", "django", "sqlalchemy", "pymemcache",
    "cryptography", "freezegun", "tblib",
)  # fmt: skip

_IN_PROCESS: Final = (
    "asks the worker's memory, which the tests share with prefork's main process: a cell has its own"
)
_AFTER_FORK: Final = (
    "connects to `task_received` when the worker runs: prefork sends it in the process of the test"
)
EXPLAINED: Final = {
    "test_send_task_without_ignore_result_uses_task_ignore_result": _IN_PROCESS,
    "test_send_task_without_ignore_result_stores_result": _IN_PROCESS,
    "test_retry_preserves_ignore_result_false": _IN_PROCESS,
    "test_retry_preserves_ignore_result_true": _IN_PROCESS,
    "test_revoked_by_headers_simple_canvas": "clears the worker's revoked stamps: a cell has its own",
    "test_each_instance_receives": _AFTER_FORK,
    "test_disconnect_leaves_other_instance_connected": _AFTER_FORK,
    "test_other_instance_receives_after_garbage_collection": _AFTER_FORK,
    "test_replaced_task_nesting_level_0": _AFTER_FORK,
    "test_replaced_task_nesting_level_1": _AFTER_FORK,
    "test_replaced_task_nesting_chain": _AFTER_FORK,
    "test_task_received_has_access_to_stamps": _AFTER_FORK,
    "test_linking_stamped_sig": _AFTER_FORK,
    "test_err_linking_stamped_sig": _AFTER_FORK,
    "test_security_task_done": "passes; Celery expects it to fail, as with prefork (issue 5269)",
}
"""Tests that end otherwise than with prefork. Those that fail look into the worker's own process."""

_CANVAS: Final = "t/integration/test_canvas.py"
_TASKS: Final = ("t/integration/test_tasks.py", "t/integration/test_inspect.py")
_BACKEND: Final = "t/integration/test_redis_backend.py"
_WORKER: Final = "t/integration/test_worker.py"
PARTS: Final[dict[str, tuple[str, ...]]] = {
    "tasks and remote control": _TASKS,
    "chains": (f"{_CANVAS}::test_chain",),
    "groups": (f"{_CANVAS}::test_group",),
    "chords": (f"{_CANVAS}::test_chord",),
    "other canvas": (_CANVAS, "-k", "not (test_chain or test_group or test_chord)"),
    # These two by themselves: after all others some of them fail, with prefork as well.
    "the Redis backend": (_BACKEND,),
    "workers": (_WORKER,),
    # test_backend.py needs an account at Azure.
    "the rest": (
        "t/integration",
        *(
            f"--ignore={each}"
            for each in (*_TASKS, _CANVAS, _BACKEND, _WORKER, "t/integration/test_backend.py")
        ),
    ),
}
_PART_TAKES: Final = 1500.0
_BUSY: Final = 1.5  # processes that want each core: more, and ten seconds are no longer ten


class Unavailable(Exception):  # noqa: N818 - what is missing, not what went wrong
    """The tests cannot be had here."""


@dataclass(frozen=True)
class Suite:
    """The tests, unpacked, and the interpreter that has what they need."""

    python: Path
    source: Path

    def run(self, part: str, *, cells: bool, folder: Path) -> dict[str, str]:
        """Each test of a part: passed, failed or skipped."""
        return self._run(part, PARTS[part], cells=cells, folder=folder)

    def surprises(self, outcomes: dict[str, str], *, folder: Path) -> list[str]:
        """The tests that failed with cells although nothing in `EXPLAINED` says why.

        They wait for ten seconds and no longer, whatever else a machine does. On one that is busy, those
        count that fail by themselves too, and pass with prefork at the same load.
        """
        for kind, cells, counts in (("cells", True, "failed"), ("prefork", False, "passed")):
            late = unexplained(outcomes)
            if not late or busyness() < _BUSY:
                break
            ids = [_node_id(test) for test in late]
            again = self._run(f"{kind}, again", ids, cells=cells, folder=folder)
            outcomes = {test: "failed" if again.get(test) == counts else "passed" for test in late}
        return unexplained(outcomes)

    def _run(self, name: str, tests: Sequence[str], *, cells: bool, folder: Path) -> dict[str, str]:
        report = folder / "report.xml"
        report.unlink(missing_ok=True)
        argv = [
            str(self.python),
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "celery.contrib.pytest",
        ]
        argv += ["-p", "seawall_in_celerys_tests"] if cells else []
        argv += [*tests, "--tb=short", "--show-capture=no", "-W", "ignore", f"--junitxml={report}"]
        with own_server(folder / "server", fsync="everysec") as server:
            proc = Proc(
                argv,
                log=folder / f"{name}.log",
                env=self._environment(server.url, server.port),
                cwd=self.source,
            )
            try:
                proc.wait(_PART_TAKES)
            finally:
                proc.destroy()
        if not report.exists():
            raise AssertionError(f"pytest made no report:\n{proc.output[-3000:]}")
        return dict(_outcomes(report))

    def _environment(self, url: str, port: int) -> dict[str, str]:
        return {
            "TEST_BROKER": url,
            "TEST_BACKEND": url,
            "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(port),
            "WORKER_LOGLEVEL": "INFO",  # as in Celery's own tox.ini
            "CELERYS_DEFAULTS": "1",
            "C_FORCE_ROOT": "1",
            "SEAWALL_HOME": "unused",
            "PATH": os.pathsep.join([str(self.python.parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(HERE)]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }


def _outcomes(report: Path) -> list[tuple[str, str]]:
    """By test; one that passes although it was marked as failing has passed."""
    words = {"failure": "failed", "error": "failed", "skipped": "skipped"}
    found = []
    for case in ET.parse(report).getroot().iter("testcase"):  # noqa: S314 - we had it written
        kinds = [
            words[child.tag]
            for child in case
            if child.tag in words and not child.get("message", "").startswith("[XPASS")
        ]
        found.append(
            (
                f"{case.get('classname', '').removeprefix('t.integration.')}::{case.get('name')}",
                kinds[-1] if kinds else "passed",
            )
        )
    return found


def unexplained(outcomes: dict[str, str]) -> list[str]:
    """The tests that failed although nothing in `EXPLAINED` says why."""
    failed = (test for test, outcome in outcomes.items() if outcome == "failed")
    return [test for test in failed if test.rpartition("::")[2] not in EXPLAINED]


def _node_id(test: str) -> str:
    """How pytest is told to run it; its report says `test_canvas.test_chord::test_x`."""
    owner, _, name = test.partition("::")
    module, *classes = owner.split(".")
    return "::".join((f"t/integration/{module}.py", *classes, name))


def suite() -> Suite:
    """The tests; downloaded and installed on the first call.

    Raises:
        Unavailable: they cannot be downloaded, with the reason.
    """
    python, source = STORE / "venv" / "bin" / "python", STORE / f"celery-{CELERY}"
    if not (STORE / "complete").exists():
        STORE.mkdir(parents=True, exist_ok=True)
        venv.create(STORE / "venv", with_pip=True, clear=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
        _pip(
            [
                *pip,
                "download",
                "--no-binary",
                "celery",
                "--no-deps",
                "--dest",
                str(STORE),
                f"celery=={CELERY}",
            ]
        )
        _pip([*pip, "install", *NEEDS, str(ROOT)])
        with tarfile.open(STORE / f"celery-{CELERY}.tar.gz") as archive:
            wanted = [
                each
                for each in archive.getmembers()
                if each.name.split("/")[1:2] in (["t"], ["pyproject.toml"])
            ]
            archive.extractall(STORE, members=wanted, filter="data")
        (STORE / "complete").touch()
    return Suite(python, source)


def _pip(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"Celery's tests cannot be installed: {done.stderr.strip()[-300:]}")


def main() -> None:
    """Run all parts with both, print the differences, and exit 1 if one of them is not explained."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=["cells", "prefork"])
    parser.add_argument("--part", choices=PARTS, action="append")
    chosen = parser.parse_args()
    found: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="seawall-") as name:
        for kind in [chosen.only] if chosen.only else ["prefork", "cells"]:
            found[kind] = {}
            for part in chosen.part or PARTS:
                folder = Path(name) / f"{kind}-{part.replace(' ', '-')}"
                folder.mkdir()
                outcomes = suite().run(part, cells=kind == "cells", folder=folder)
                found[kind] |= outcomes
                print(f"{kind}, {part}: {_counted(outcomes)}", flush=True)  # noqa: T201 - it is a report
    sys.exit(_compare(found))


def _counted(outcomes: dict[str, str]) -> str:
    return ", ".join(f"{count} {outcome}" for outcome, count in sorted(Counter(outcomes.values()).items()))


def _compare(found: dict[str, dict[str, str]]) -> int:
    surprises = 0
    for test in sorted({test for outcomes in found.values() for test in outcomes}):
        outcomes = {kind: by_test.get(test, "not run") for kind, by_test in found.items()}
        if len(set(outcomes.values())) > 1 or "failed" in outcomes.values():
            why = EXPLAINED.get(test.rpartition("::")[2])
            surprises += (
                why is None and outcomes.get("cells") == "failed" and outcomes.get("prefork") != "failed"
            )
            print(f"{test}: {outcomes}: {why or 'NOT EXPLAINED'}")  # noqa: T201
    return 1 if surprises else 0


if __name__ == "__main__":
    main()
