"""Flower beside our transport, as a real process."""

import contextlib
import http.cookiejar
import json
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.delivery import ROOT, Site, free_port, site
from support.notifying import notified
from support.processes import Proc, started
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


FLOWER = (sys.executable, "-m", "seawall.dashboard", "-q", "-A", "support.delivery_app", "flower")


class Browser:
    """One with cookies of its own."""

    def __init__(self) -> None:
        self.cookies = http.cookiejar.CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.cookies))

    def get(self, url: str, data: bytes | None = None, **headers: str) -> tuple[int, str]:
        try:
            asked = urllib.request.Request(url, data, headers)  # noqa: S310 - http, of a server of this test
            with self._opener.open(asked, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()


def announced(said: set[bytes], key: str) -> set[str]:
    return {text.partition("=")[2] for each in said if (text := each.decode()).startswith(f"{key}=")}


def test_without_a_password_a_link_lets_one_in_once_and_no_log_has_it(redis_url: str, tmp_path: Path) -> None:
    with (
        site(redis_url, tmp_path / "site", transport="ours") as place,
        socket.create_server(("127.0.0.1", 0)) as other,
        notified(tmp_path / "n") as said,
    ):
        place.submit("nothing", [()], queue="mail")
        taken = other.getsockname()[1]
        argv = [*FLOWER, "--address=127.0.0.1", f"--port={taken}", "--xheaders"]
        environment = {**place.environment, "NOTIFY_SOCKET": str(tmp_path / "n")}
        with started(argv, log=tmp_path / "log", env=environment, cwd=ROOT) as flower:
            wait_until(lambda: announced(said, "X_SEAWALL_URL"), timeout=60, what="Flower to say where it is")
            (url,), (link,) = announced(said, "X_SEAWALL_URL"), announced(said, "X_SEAWALL_LINK")
            assert f"port {taken} is taken by another program: Flower listens on {url[17:]}" in flower.output
            assert link.startswith(f"{url}/login?token=")

            stranger, guest = Browser(), Browser()
            for page in ("/", "/tasks", "/api/workers", "/api/queues/length", "/login?token=guessed"):
                code, text = stranger.get(url + page)
                assert (code, "seawall dashboard --link" in text) == (403, True), page
            assert stranger.get(f"{url}/api/task/revoke/1", b"")[0] == 403

            assert stranger.get(f"{url}/metrics")[0] == 200, "Prometheus of this machine has no link"
            elsewhere = {"X-Real-Ip": "192.0.2.1"}
            assert stranger.get(f"{url}/metrics", None, **elsewhere)[0] == 403

            assert guest.get(link)[0] == 200
            code, queues = guest.get(f"{url}/api/queues/length")
            assert code == 200
            assert "mail" in {queue["name"] for queue in json.loads(queues)["active_queues"]}
            code, page = guest.get(f"{url}/broker")
            assert (code, "redis://" in page, "Transport" in page) == (200, True, False)
            assert guest.get(f"{url}/api/task/revoke/1", b"")[0] == 403, (
                "a forged request has no token of the page"
            )
            (token,) = (cookie.value for cookie in guest.cookies if cookie.name == "_xsrf")
            assert guest.get(f"{url}/api/task/revoke/1", b"", **{"X-XSRFToken": str(token)})[0] == 200

            assert stranger.get(link)[0] == 403, "the link was used"
            assert stranger.get(url)[0] == 403
            wait_until(lambda: len(announced(said, "X_SEAWALL_LINK")) == 2, what="another link")
            (second,) = announced(said, "X_SEAWALL_LINK") - {link}
            assert stranger.get(second)[0] == 200
            assert "Connected to" not in flower.output
            assert not any(each.partition("token=")[2] in flower.output for each in (link, second))


def test_who_sets_a_password_gets_no_link(redis_url: str, tmp_path: Path) -> None:
    with (
        site(redis_url, tmp_path / "site", transport="ours") as place,
        notified(tmp_path / "n") as said,
        started(
            [*FLOWER, "--address=127.0.0.1", f"--port={free_port()}"],
            log=tmp_path / "log",
            env={
                **place.environment,
                "NOTIFY_SOCKET": str(tmp_path / "n"),
                "FLOWER_BASIC_AUTH": "ann:secret",
            },
            cwd=ROOT,
        ),
    ):
        wait_until(lambda: announced(said, "X_SEAWALL_URL"), timeout=60, what="Flower to say where it is")
        (url,) = announced(said, "X_SEAWALL_URL")
        assert not announced(said, "X_SEAWALL_LINK")
        basic = {"Authorization": "Basic YW5uOnNlY3JldA=="}
        for page in ("/api/queues/length", "/metrics"):
            assert Browser().get(url + page, None, **basic)[0] == 200, page
            assert Browser().get(url + page)[0] == 401, page
        assert Browser().get(f"{url}/healthcheck")[0] == 200
