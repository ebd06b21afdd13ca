"""Alerts over a real HTTP server, and workers whose threads and tasks fail."""

import http.server
import itertools
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from pydantic import SecretStr

from seawall import events
from seawall.records.alerts import AlertRaised, Alerts
from seawall.sections import AlertSettings
from support.nodes import StartWorker
from support.recorded import Recorded
from support.waiting import wait_until


class Hook:
    """Receives POSTs; answers 500 while `broken`."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.broken = False
        hook = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.bodies.append(body)
                self.send_response(500 if hook.broken else 200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Silence."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/alerts"


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def seen(fingerprint: str, category: str = "network") -> dict[str, str]:
    return {
        "fingerprint": fingerprint,
        "category": category,
        "task": "shop.pay",
        "exception": "builtins.OSError",
    }


def test_a_group_and_a_category_beyond_their_thresholds_raise_one_alert_each(hook: Hook) -> None:
    now = [0.0]
    told: list[AlertRaised] = []
    stop = events.subscribe(AlertRaised, told.append)
    chosen = AlertSettings(group=10, category=25, quiet=300, webhook=SecretStr(hook.url))
    alerts = Alerts(chosen, worker="w@here", clock=lambda: now[0])
    for n in range(30):
        alerts.count(seen(f"f{n % 2}"))
    stop()
    kinds = [(each.kind, each.fingerprint, each.count) for each in told]
    assert kinds == [("group", "f0", 10), ("group", "f1", 10), ("category", "", 25)]
    wait_until(lambda: len(hook.bodies) == 3, what="the webhook to hear of them")
    assert hook.bodies[0] == {
        "event": "alert",
        "kind": "group",
        "category": "network",
        "fingerprint": "f0",
        "task": "shop.pay",
        "exception": "builtins.OSError",
        "count": 10,
        "worker": "w@here",
    }
    now[0] = 299.0
    for _ in range(20):
        alerts.count(seen("f0"))
    assert len(told) == 3
    now[0] = 301.0
    stop = events.subscribe(AlertRaised, told.append)
    alerts.count(seen("f0"))
    stop()
    assert len(told) == 4


def test_errors_of_the_last_minute_count_and_older_ones_do_not() -> None:
    now = [0.0]
    told: list[AlertRaised] = []
    stop = events.subscribe(AlertRaised, told.append)
    alerts = Alerts(AlertSettings(group=3, category=0), clock=lambda: now[0])
    for at in (0.0, 50.0, 70.0, 120.0, 125.0):
        now[0] = at
        alerts.count(seen("f"))
    stop()
    assert [each.count for each in told] == [3]


def test_groups_that_have_been_quiet_are_forgotten() -> None:
    clock = itertools.count(step=1.0)
    alerts = Alerts(AlertSettings(group=1, category=0, quiet=60.0), clock=lambda: next(clock))
    for number in range(1000):
        alerts.count(seen(f"f{number}"))
    assert len(alerts._raised) <= 61


def test_a_broken_webhook_harms_nobody(hook: Hook) -> None:
    hook.broken = True
    alerts = Alerts(AlertSettings(group=1, quiet=0, webhook=SecretStr(hook.url)))
    for n in range(3):
        alerts.count(seen(f"f{n}"))
    wait_until(lambda: len(hook.bodies) == 3, what="all attempts")


def test_what_is_said_of_a_broken_webhook_has_no_path_of_it(caplog: pytest.LogCaptureFixture) -> None:
    url = "http://127.0.0.1:9/services/T0/hunter2 hunter3?token=hunter4"
    Alerts(AlertSettings(group=1, quiet=0, webhook=SecretStr(url))).count(seen("f"))
    wait_until(lambda: "did not reach the webhook" in caplog.text, what="the warning")
    assert "hunter" not in caplog.text


def test_workers_raise_alerts_and_count_what_escapes_in_threads(
    shop_app: Celery, start_worker: StartWorker, recorded: Recorded, hook: Hook
) -> None:
    env = {**recorded.env, "SEAWALL_ALERTS__GROUP": "5", "SEAWALL_ALERTS__WEBHOOK": hook.url}
    worker = start_worker("support.shop", "--concurrency=2", env=env)
    for _ in range(6):
        shop_app.tasks["shop.mistaken"].delay()
    wait_until(lambda: hook.bodies, timeout=30, what="an alert")
    assert (hook.bodies[0]["task"], hook.bodies[0]["category"]) == ("shop.mistaken", "internal")
    assert "alert: 5 errors in a minute" in worker.logs()

    shop_app.tasks["shop.lets_escape"].delay().get(timeout=30)
    places = "SELECT task, count, exception FROM seawall.error_groups WHERE task NOT LIKE 'shop.mis%%'"
    wait_until(lambda: len(recorded.sql(places)) == 2, timeout=20, what="two groups")
    assert {row[0].partition(" ")[0] for row in recorded.sql(places)} == {"thread", "shop.lets_escape"}
    assert worker.logs().count("failed: LookupError") == 2
