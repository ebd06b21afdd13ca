"""Flower beside our transport, as a real process."""

import contextlib
import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.delivery import ROOT, Site, free_port, site
from support.processes import Proc
from support.waiting import wait_until


@pytest.fixture(params=["ours", "stock"])
def place(request: pytest.FixtureRequest, redis_url: str, tmp_path: Path) -> Iterator[Site]:
    with site(redis_url, tmp_path / "site", transport=request.param) as opened:
        yield opened


def test_flower_shows_how_much_waits(place: Site) -> None:
    place.submit("nothing", [()] * 3)
    place.submit("nothing", [()], queue="celery", priority=3)
    port = free_port()
    argv = [sys.executable, "-m", "seawall.dashboard", "-A", "support.delivery_app", "flower"]
    argv += ["--address=127.0.0.1", f"--port={port}"]
    environment = {**place.environment, "FLOWER_UNAUTHENTICATED_API": "true"}
    flower = Proc(argv, log=place.folder / "flower.log", env=environment, cwd=ROOT)

    def lengths() -> Any:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/queues/length", timeout=5) as answer,
        ):
            return json.load(answer)["active_queues"]
        return None

    try:
        (queue,) = wait_until(lengths, timeout=40, what="Flower to answer")
        assert (queue["name"], queue["messages"]) == ("celery", 4)
    finally:
        flower.destroy()
