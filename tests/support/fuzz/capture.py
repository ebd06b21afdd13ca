"""Records the corpus: what real clients and workers put into Redis, kind by kind.

    PYTHONPATH=tests python -m support.fuzz.capture

Clients are Celery's own on the stock transport and ours; what only a worker sends (retries, the parts that
follow a chain, callbacks, a chord's body) comes from a real worker, on queues that nobody consumes.
"""

import contextlib
import datetime as dt
import decimal
import functools
import gc
import json
import re
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from celery import Celery, chain, chord, group
from redis import Redis

from seawall import Seawall
from seawall.delivery.bulk import submit_many
from seawall.embedded import attach
from support.fuzz import app as fuzz_app
from support.nodes import ProcessContainer, environment
from support.servers import temporary_home
from support.waiting import wait_until

CORPUS = Path(__file__).with_name("corpus.json")
STEPS = ("", "\x06\x163", "\x06\x166", "\x06\x169")
"""What the stock transport appends to a queue's name for its four priorities."""

_VARYING = re.compile(r"[0-9a-f-]{8,}|[0-9.]+")
FUTURE = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)


def stock(url: str, **settings: Any) -> Celery:
    """Celery as it is, on the stock transport."""
    app = Celery("stock", broker=url, backend=url, set_as_current=False)
    app.conf.update(settings)
    return app


def calls(app: Celery) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What an application submits, by kind."""

    def task(name: str, *args: Any, **options: Any) -> Any:
        return app.signature(f"fuzz.{name}", args, **options)

    yield "plain", lambda: task("echo", 1, "two", [3.5, None, True]).apply_async()
    yield "keywords", lambda: app.send_task("fuzz.echo", ("ä",), {"left": {"right": [1]}})
    yield (
        "typed",
        lambda: task("echo", dt.datetime.now(dt.UTC), uuid.uuid4(), decimal.Decimal("1.5")).apply_async(),
    )
    yield "bytes", lambda: task("echo", b"\xff\0").apply_async()
    yield "eta", lambda: task("echo", 1).apply_async(countdown=0.2)
    yield "far eta", lambda: task("echo", 1).apply_async(eta=FUTURE)
    yield "expires", lambda: task("echo", 1).apply_async(expires=60)
    yield "expired", lambda: task("echo", 1).apply_async(expires=-5)
    yield "eta and expires", lambda: task("echo", 1).apply_async(countdown=0.1, expires=30)
    yield "limits", lambda: task("brief", 1).apply_async(time_limit=30, soft_time_limit=20)
    yield "hard limit", lambda: task("brief", 1).apply_async(time_limit=30)
    for level in (0, 3, 6, 9):
        yield f"priority {level}", functools.partial(task("echo", 1).apply_async, priority=level)
    yield "quiet", lambda: task("quiet", 1).apply_async(ignore_result=True)
    yield "early", lambda: task("early", 1).apply_async()
    yield "paced", lambda: task("paced", 1).apply_async()
    yield "tracked", lambda: task("tracked", 1).apply_async()
    yield "fails", lambda: task("fail", "dsn=postgresql://u:pw@db", 2).apply_async()
    yield "retries", lambda: task("again", 1).apply_async()
    yield "limited", lambda: task("limited", "tenant").apply_async()
    yield "requires", lambda: task("require", 1).apply_async()
    yield "budgeted", lambda: task("budgeted", [0] * 50, kwargs={"secret": "planted"}).apply_async()
    yield "kills", lambda: task("kill").apply_async()
    yield "unknown", lambda: task("nobody.knows", 1).apply_async()
    yield "headers", lambda: task("echo", 1).apply_async(headers={"tenant": "a", "trace": {"id": 1}})
    yield "replies", lambda: task("echo", 1).apply_async(reply_to="somewhere", correlation_id="c-1")
    yield "shadow", lambda: task("echo", 1).apply_async(shadow="fuzz.shown")
    yield "compressed", lambda: task("echo", "x" * 400).apply_async(compression="zlib")
    yield "pickled", lambda: task("echo", {1}).apply_async(serializer="pickle")
    yield "yaml", lambda: task("echo", 1).apply_async(serializer="yaml")
    if isinstance(app, Seawall):
        yield "large", lambda: task("echo", "y" * 66_000).apply_async()
    yield "link", lambda: task("echo", 1).apply_async(link=task("echo"), link_error=task("on_error"))
    yield "error link", lambda: task("fail", 1).apply_async(link_error=task("on_error"))
    yield "chain", lambda: chain(task("echo", 1), task("echo"), task("quiet")).apply_async()
    yield "group", lambda: group(task("echo", 1), task("limited", "g")).apply_async()
    yield "chord", lambda: chord([task("echo", 1), task("echo", 2)], task("echo")).apply_async()
    yield "failing chord", lambda: chord([task("fail", 1), task("echo")], task("echo")).apply_async()
    yield "nested", lambda: chain(task("echo", 1), group(task("echo"), task("quiet"))).apply_async()
    yield "stamped", lambda: _stamped(task("echo", 1))
    yield "map", lambda: app.send_task("celery.map", (task("echo"), [1, 2]))
    yield "chunks", lambda: app.send_task("celery.starmap", (task("echo"), [[1, 2], [3, 4]]))
    yield (
        "unique",
        lambda: task("echo", 1).apply_async(headers={"unique_key": uuid.uuid4().hex, "unique_for": 5}),
    )


def _stamped(signature: Any) -> Any:
    signature.stamp(tenant="a", append_stamps=True)
    return signature.apply_async()


def _taken(client: "Redis", queue: str = "celery") -> list[str]:
    """All messages of a queue, of both transports, which are removed."""
    found: list[Any] = []
    for step in STEPS:
        found += client.lrange(f"{queue}{step}", 0, -1)
        client.delete(f"{queue}{step}")
    base = f"seawall:{{{queue}}}"
    found += client.hvals(f"{base}:messages")
    for key in client.scan_iter(f"{base}:*"):
        client.delete(key)
    return [body.decode() for body in found]


def submitted(url: str) -> Iterator[dict[str, str]]:
    """What clients send."""
    clients = {
        "stock": stock(url),
        "protocol 1": stock(url, task_protocol=1),
        "seawall": fuzz_app.create(url),
    }
    with Redis.from_url(url) as client:
        for name, app in clients.items():
            for kind, call in calls(app):
                with contextlib.suppress(Exception):  # not every client can send every kind
                    call()
                for text in _taken(client):
                    yield {"kind": f"{name}: {kind}", "text": text}
        seawall = clients["seawall"]
        submit_many([seawall.signature("fuzz.echo", (each,)) for each in range(2)], app=seawall)
        submit_many([seawall.signature("fuzz.quiet", (), countdown=0.2)], app=seawall)
        for text in _taken(client):
            yield {"kind": "seawall: bulk", "text": text}


def followed(url: str, folder: Path) -> Iterator[dict[str, str]]:
    """What a worker sends because of what it ran, and what workers broadcast."""
    app = fuzz_app.create(url)
    aside = {"queue": "aside"}

    def task(name: str, *args: Any, **options: Any) -> Any:
        return app.signature(f"fuzz.{name}", args, **options)

    with Redis.from_url(url) as client, client.pubsub() as heard:
        heard.psubscribe("*")
        worker = ProcessContainer(
            "support.fuzz.app", "--concurrency=1", "-E", directory=folder, env=environment(url)
        )
        try:
            worker.ready()
            echo = task("echo").set(**aside)
            results = [
                chain(task("echo", 1), echo, echo.clone()).apply_async(),
                task("echo", 1).apply_async(link=echo.clone()),
                chord([task("echo", 1), task("echo", 2)], echo.clone()).apply_async(),
                chord([task("echo", 1), task("fail", 2)], echo.clone()).apply_async(
                    link_error=task("on_error").set(**aside)
                ),
                chain(task("echo", 1), group(echo.clone(), echo.clone())).apply_async(),
            ]
            app.tasks["fuzz.again"].apply_async(kwargs={"wait": 3600})
            commands(app)
            commands(stock(url))
            wait_until(lambda: client.hlen("seawall:{aside}:messages") >= 5, timeout=30, what="what follows")
            results.clear()
            said = list(_heard(heard))
        finally:
            worker.teardown()
        for text in [*_taken(client, "aside"), *_taken(client)]:
            yield {"kind": "worker: what follows", "text": text}
        for place, text in said:
            if "pidbox" in place or "celeryev" in place:
                kind = "broadcast: control" if "pidbox" in place else "broadcast: events"
                yield {"kind": kind, "text": text, "place": place}


def _heard(listener: Any, quiet: float = 2.0) -> Iterator[tuple[str, str]]:
    """Channel and text of what was published, until nothing comes for so many seconds."""
    until = time.monotonic() + quiet
    while time.monotonic() < until:
        said = listener.get_message(timeout=0.2)
        if said is not None and said["type"] == "pmessage":
            until = time.monotonic() + quiet
            yield said["channel"].decode(), said["data"].decode(errors="replace")


def commands(app: Celery) -> None:
    """Remote control that harms no worker."""
    control: Any = app.control
    inspect = control.inspect(timeout=0.3)
    for question in (
        "ping",
        "active",
        "scheduled",
        "reserved",
        "stats",
        "registered",
        "active_queues",
        "conf",
    ):
        getattr(inspect, question)()
    inspect.query_task("some-id")
    inspect.hello("fuzz@nowhere", {})
    control.revoke("some-id")
    control.revoke(["some-id", "another"], terminate=True, signal="TERM")
    control.revoke_by_stamped_headers({"tenant": "nobody"})
    control.terminate("some-id")
    control.rate_limit("fuzz.paced", "1000/s")
    control.time_limit("fuzz.brief", soft=20, hard=30)
    control.enable_events()
    control.heartbeat()
    control.broadcast("election", {"id": "e", "topic": "t", "action": None})


def capture(url: str, folder: Path) -> list[dict[str, str]]:
    """The corpus; of the same kind and shape one is enough."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for entry in [*submitted(url), *followed(url, folder)]:
        found.setdefault((entry["kind"], _VARYING.sub("", entry["text"])[:2000]), entry)
    gc.collect()  # results say goodbye to their server
    return list(found.values())


def main() -> None:
    """Capture and write."""
    with tempfile.TemporaryDirectory() as folder, temporary_home() as home, attach(home) as attachment:
        corpus = capture(str(attachment.servers.redis_url), Path(folder))
    CORPUS.write_text(json.dumps(corpus, indent=0, ensure_ascii=True) + "\n")


if __name__ == "__main__":
    main()
