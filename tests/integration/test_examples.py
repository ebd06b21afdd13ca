"""The examples of the documentation run as they stand."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from seawall import settings
from seawall.database.migrations import Migrations
from seawall.startup import histories
from support.waiting import wait_until

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture
def _configured(redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    monkeypatch.setenv("SEAWALL_DATABASE_URL", database_url)
    monkeypatch.setenv("SEAWALL_FLEET", str(tmp_path / "none.toml"))
    settings.cache_clear()
    Migrations(database_url, histories()).up()


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.usefixtures("_configured")
def test_the_web_application_submits_and_says_how_it_is() -> None:
    web = load("web")
    statuses: list[str] = []

    def call(path: str) -> dict[str, object]:
        [body] = web.application({"PATH_INFO": path}, lambda status, _headers: statuses.append(status))
        answer: dict[str, object] = json.loads(body)
        return answer

    assert "task" in call("/charge/42")
    wait_until(lambda: call("/ready")["ok"], what="readiness")
    call("/nothing")

    assert (statuses[0], statuses[-2], statuses[-1]) == ("202 Accepted", "200 OK", "404 Not Found")
    web.seawall.bootstrap().shutdown()
    web.app.close()


@pytest.mark.usefixtures("_configured")
def test_the_script_is_ready_and_ends() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "script.py"], capture_output=True, text=True, check=True, env=os.environ
    )
    assert "tables, ready in" in done.stdout
