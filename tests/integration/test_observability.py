"""Tools that observe Celery, each in plain prefork and in cells: the same arrives from both."""

import importlib.util
import itertools
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.observed import TASKS, TOOLS
from support.processes import started

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "sentry": "sentry_sdk",
    "opentelemetry": "opentelemetry.instrumentation.celery",
    "datadog": "ddtrace",
    "newrelic": "newrelic",
    "elastic": "elasticapm",
}
SHORT = {("sentry", "celeryd_init")}
MOMENTS = ("import", "celeryd_init", "worker_process_init")
CASES = [
    pytest.param(tool, moment, marks=[] if (tool, moment) in SHORT else pytest.mark.slow)
    for tool, moment in itertools.product(TOOLS, MOMENTS)
    if (tool, moment) != ("elastic", "worker_process_init")  # it wants to hear of `worker_init`
]
ENVIRONMENT = {
    "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}",
    "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
    "DD_REMOTE_CONFIGURATION_ENABLED": "false",
    "NEW_RELIC_LICENSE_KEY": "0" * 40,
    "NEW_RELIC_APP_NAME": "observed",
    "NEW_RELIC_DEVELOPER_MODE": "true",
}


def run(environment: Mapping[str, str], directory: Path, *, plain: bool) -> tuple[list[Any], list[Any]]:
    """What the tool records in the processes of a worker that ends warmly, and in one that submits."""
    directory.mkdir()
    environment = {**ENVIRONMENT, **environment, **({"OBSERVED_PLAIN": "1"} if plain else {})}
    worker, producer = directory / "worker", directory / "producer"
    argv = [sys.executable, "-m", "celery", "-A", "support.observed", "worker", "-c", "1", "-l", "WARNING"]
    with started(
        [*argv, "--without-mingle", "--without-gossip", *(["-P", "prefork"] if plain else [])],
        log=directory / "log",
        env={**environment, "OBSERVED_BY": str(worker)},
        cwd=directory,
    ) as proc:
        with started(
            [sys.executable, "-c", "from support.observed import submit; submit()"],
            log=directory / "producer.log",
            env={**environment, "OBSERVED_AT": "import", "OBSERVED_BY": str(producer)},
            cwd=directory,
        ) as submitting:
            assert submitting.wait(90) == 0, submitting.output + proc.output
        proc.popen.terminate()
        assert proc.wait(60) == 0, proc.output
    return records(worker), records(producer)


def records(path: Path) -> list[Any]:
    """In an order of their own, as processes write beside each other; traces as the first, the second, ..."""
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    for each in found:
        each.pop("trace", None)
    return sorted(found, key=lambda each: json.dumps(each, sort_keys=True))


def traces(path: Path) -> set[str]:
    return {each["trace"] for line in path.read_text().splitlines() if "trace" in (each := json.loads(line))}


@pytest.mark.parametrize(("tool", "moment"), CASES)
def test_what_a_tool_sees_of_prefork_it_sees_of_cells(
    tool: str, moment: str, redis_url: str, tmp_path: Path
) -> None:
    """Names, arguments, errors, parents, spans: all fields that say the same in two runs.

    Prefork is shown at its best: set up by `worker_process_init`, Sentry and New Relic see none of its tasks.
    """
    if importlib.util.find_spec(PACKAGES[tool].partition(".")[0]) is None:
        pytest.skip(f"needs {PACKAGES[tool]} (make tools)")
    environment = {"OBSERVED": tool, "SEAWALL_REDIS_URL": redis_url}
    found = {}
    for database, (name, at) in enumerate((("plain", "import"), ("cells", moment)), 1):
        url = urlsplit(redis_url)._replace(path=f"/{database}").geturl()
        asked = {**environment, "OBSERVED_BROKER": url, "OBSERVED_AT": at}
        found[name] = run(asked, tmp_path / name, plain=name == "plain")
    assert found["cells"] == found["plain"]
    worker, producer = found["cells"]
    assert all(any(task in json.dumps(each) for each in worker) for task in TASKS), worker
    if (
        producer and tool != "datadog"
    ):  # a task belongs to its submission's trace; Datadog's has to be asked to
        assert traces(tmp_path / "cells" / "producer") & traces(tmp_path / "cells" / "worker")
