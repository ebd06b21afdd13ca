"""Programs on kombu's stock Redis transport, beside ours on one server: each hears and answers the other."""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery.worker import state
from kombu import Connection, Queue
from kombu.transport import redis as kombus
from redis import Redis

from seawall import Priority
from seawall.cluster import connect
from seawall.delivery import older
from support import reef
from support.delivery import OURS, Site, site
from support.listening import listening
from support.nodes import StartWorker
from support.processes import started
from support.shop import journal
from support.waiting import wait_until

POOLS = ["cells", *(pytest.param(each, marks=pytest.mark.slow) for each in ("threads", "prefork", "solo"))]
ASKERS = ("redis", OURS)


@pytest.fixture
def client(redis_url: str) -> Iterator["Redis"]:
    with connect(redis_url, timeout=10) as connected:
        yield connected


@pytest.fixture
def askers(redis_url: str) -> Iterator[list[Celery]]:
    """One on kombu's transport, and one on ours."""
    with contextlib.ExitStack() as stack:
        found = []
        for transport in ASKERS:
            app = stack.enter_context(Celery(transport, broker=redis_url, set_as_current=False))
            app.conf.broker_transport = transport
            found.append(app)
        yield found


@pytest.fixture
def stock_site(redis_url: str, tmp_path: Path) -> Iterator[Site]:
    with site(redis_url, tmp_path / "stock", transport="redis") as opened:
        yield opened


def ask(app: Celery, question: str = "ping") -> Any:
    """One answer, as `inspect` collects it; None if nobody answers."""
    return getattr(app.control.inspect(timeout=20, limit=1), question)()


def wait_for_answers(app: Celery) -> None:
    """A worker may say that it is ready a moment before it hears broadcasts."""
    wait_until(lambda: app.control.ping(timeout=1, limit=1), timeout=60, what="the first answer")


def without_end(client: "Redis", only: Callable[[str], bool]) -> set[str]:
    """The keys of which no expiry says when they go."""
    found: list[Any] = list(client.scan_iter(count=1000))
    names = [key.decode() for key in found]
    return {name for name in names if only(name) and client.pttl(name) == -1}


def is_reply(name: str) -> bool:
    return ".reply." in name


@pytest.mark.parametrize("pool", POOLS)
def test_whoever_asks_is_answered(start_worker: StartWorker, askers: list[Celery], pool: str) -> None:
    start_worker("support.reef", "--concurrency=1", *([] if pool == "cells" else ["-P", pool]))
    for asker in askers:
        wait_for_answers(asker)
        for question in ("ping", "active_queues", "stats", "registered"):
            assert len(ask(asker, question)) == 1, (asker.main, question)


def test_a_stock_worker_answers_too(stock_site: Site, askers: list[Celery]) -> None:
    stock_site.worker(pool="threads")
    for asker in askers:
        wait_for_answers(asker)
        assert set(ask(asker)) == {"w1@test"}, asker.main
        assert set(ask(asker, "active_queues")) == {"w1@test"}, asker.main


@pytest.fixture
def before(start_worker: StartWorker, askers: list[Celery], client: "Redis") -> set[str]:
    """The keys without an end while a worker of ours is there and nobody has asked more than that."""
    start_worker("support.reef", "--concurrency=1")
    for asker in askers:
        wait_for_answers(asker)
    wait_until(lambda: client.exists("seawall:{celery}:consumers"), timeout=30, what="its cell to consume")
    return without_end(client, lambda _: True)


def test_fifty_questions_leave_no_key_that_nobody_owns(
    before: set[str], askers: list[Celery], client: "Redis"
) -> None:
    for asker in askers:
        for _ in range(50):
            assert ask(asker)
        assert without_end(client, lambda _: True) <= before, asker.main
        assert not without_end(client, is_reply), asker.main


def test_an_answer_whose_asker_is_gone_does_not_stay(
    before: set[str], askers: list[Celery], client: "Redis"
) -> None:
    for asker in askers:
        with asker.connection_for_write() as connection, connection.channel() as channel:
            control: Any = asker.control
            mailbox = control.mailbox(connection)
            mailbox.reply_queue(channel).declare()
            mailbox._publish("ping", {}, reply_ticket="gone", channel=channel)
            name = mailbox.reply_queue.name
            wait_until(lambda: list(client.scan_iter(f"*{name}*")), what="the answer")  # noqa: B023
            kept = without_end(client, lambda _: True) - before
            assert not {key for key in kept if name in key}, asker.main


LASTING = re.compile(
    r"seawall:(queues|paused)"  # which queues there are
    r"|seawall:\{(celery)\}:.+"  # what they hold: those that were declared to last
    r"|_kombu\.binding.+"  # kombu's tables of who is bound to an exchange
    r"|unacked(_index|_mutex)?|celery(\x06\x16\d)?"  # the stock transport's own
    + ("" if older.Channel is kombus.Channel else "|fleeting-redis")  # kombu 5.6's queues do not expire
)
"""The keys that may stay for ever, by docs/delivery.md."""


def test_whoever_is_killed_leaves_no_key_that_nobody_owns(
    redis_url: str, tmp_path: Path, client: "Redis"
) -> None:
    """Askers, listeners, clients that wait for results, queues that expire, on both transports."""
    conf = {"result_backend": "rpc://", "task_ignore_result": False}
    with site(redis_url, tmp_path / "ours", conf=conf) as ours, contextlib.ExitStack() as stack:
        worker = ours.worker("-E", pool="threads")
        clients = [
            stack.enter_context(
                started(
                    [sys.executable, "-m", "support.passerby", redis_url, transport],
                    log=tmp_path / f"{number}.log",
                    env=ours.environment,
                )
            )
            for number, transport in enumerate(ASKERS)
        ]
        for each in clients:
            for done in ("ask", "await_result", "keep_queue", "listen"):
                each.wait_for(f"{done}\n", timeout=60)
        for each in clients:
            each.destroy()
        ours.submit("add", [(1, 2)] * 3, reply_to="0b5c1a52-5a1c-3d3e-9d2f-1c2d3e4f5a6b")  # nobody is there
        wait_until(lambda: client.exists("0b5c1a52-5a1c-3d3e-9d2f-1c2d3e4f5a6b"), what="results for nobody")
        wait_until(lambda: not client.exists("seawall:{celery}:ready"), what="the tasks to be taken")
        assert without_end(client, lambda name: LASTING.fullmatch(name) is None) == set()
        worker.destroy()
        assert without_end(client, lambda name: LASTING.fullmatch(name) is None) == set()


def test_a_queue_that_expires_is_kept_while_somebody_uses_it_and_goes_with_all_it_holds(
    redis_url: str, client: "Redis"
) -> None:
    queue = Queue("fleeting", expires=0.5)
    with Connection(redis_url, transport=OURS) as connection, connection.channel() as channel:
        bound = queue(channel)
        bound.declare()
        connection.Producer().publish("one", routing_key="fleeting")
        message: Any = bound.get()
        assert message.payload == "one"
        names = {key.decode() for key in client.scan_iter("seawall:{fleeting}:*")}
        assert {"seawall:{fleeting}:consumers", "seawall:{fleeting}:messages"} <= names
        assert without_end(client, lambda name: "fleeting" in name) == set()
        assert (
            client.pttl("seawall:{fleeting}:messages") > 1000
        )  # the lease of its consumer, and then its own
        message.ack()
    wait_until(lambda: not client.keys("seawall:{fleeting}:*"), what="the queue to be gone")


def test_events_are_heard_across_transports(
    start_worker: StartWorker, stock_site: Site, askers: list[Celery]
) -> None:
    start_worker("support.reef", "--concurrency=1", "-E")
    stock_site.worker("-E", pool="threads")

    def hearts(seen: list[dict[str, Any]]) -> set[str]:
        return {event["hostname"] for event in seen if event["type"] == "worker-heartbeat"}

    with listening(askers[0]) as stock, listening(askers[1]) as ours:
        for seen in (stock, ours):
            wait_until(lambda: len(hearts(seen)) == 2, timeout=30, what="heartbeats of both workers")  # noqa: B023


def test_a_stock_clients_revocation_reaches_workers_that_come_later(
    start_worker: StartWorker, redis_url: str, client: "Redis"
) -> None:
    app = reef.create(redis_url)
    start_worker("support.reef", "--concurrency=1")
    wait_for_answers(app)
    with Celery("stock", broker=redis_url, set_as_current=False) as stock:
        stock.conf.broker_transport = "redis"
        stock.control.revoke("some-id")
    wait_until(lambda: client.zscore("seawall:revoked", "some-id"), timeout=20, what="it to be on record")
    assert client.pttl("seawall:revoked") > 0
    app.close()


UNSAID: list[dict[str, Any]] = [{}, {"priority": None}, {"priority": 0}]


def test_what_a_stock_publisher_gives_no_priority_is_as_urgent_as_any_other(
    redis_url: str, client: "Redis"
) -> None:
    def put(body: str, **properties: Any) -> None:
        """As a program without kombu may write it."""
        properties |= {"body_encoding": None, "delivery_tag": body, "delivery_info": {}}
        message = {"body": body, "headers": {}, "content-type": "text/plain", "properties": properties}
        client.lpush("q", json.dumps(message))

    with Connection(redis_url, transport="redis") as stock:
        stock.Producer().publish("stock", routing_key="q", serializer="raw")
    for number, properties in enumerate(UNSAID):
        put(f"raw {number}", **properties)
    put("urgent", priority=int(Priority.HIGH))
    put("idle", priority=int(Priority.IDLE))
    taken: list[tuple[str, Priority]] = []
    with Connection(redis_url, transport=OURS) as connection, connection.channel() as opened:
        channel: Any = opened
        connection.Producer().publish("ours", routing_key="q", priority=int(Priority.LOW))
        for _ in range(7):
            message = channel.basic_get("q")
            taken.append((message.payload, Priority(message.properties["priority"])))
            message.ack()
    assert taken == [
        ("urgent", Priority.HIGH),
        *[(name, Priority.NORMAL) for name in ("stock", "raw 0", "raw 1", "raw 2")],
        ("ours", Priority.LOW),
        ("idle", Priority.IDLE),
    ]


def without_worker(redis_url: str, transport: str, protocol: int = 2) -> Celery:
    app = Celery(transport, broker=redis_url, set_as_current=False)
    app.conf.update(broker_transport=transport, task_protocol=protocol)
    return app


@pytest.mark.parametrize("protocol", [1, 2])
@pytest.mark.parametrize("transport", ASKERS)
@pytest.mark.parametrize("task_id", ["some-id", "café-1", 'a"b', "back\\slash", "\N{FIRE}", "1"])
def test_a_revocation_reaches_a_later_delivery_whatever_its_id_and_protocol(
    redis_url: str, client: "Redis", transport: str, protocol: int, task_id: str
) -> None:
    with (
        without_worker(redis_url, transport, protocol) as app,
        without_worker(redis_url, OURS) as ours,
        ours.connection_for_read() as connection,
        connection.channel() as opened,
    ):
        channel: Any = opened
        for each in ("other", task_id):
            app.send_task("t", ("x" * 3000, '"id": "other"'), task_id=each)
        ours.control.revoke(task_id)
        state.revoked.clear()
        wait_until(lambda: client.zscore("seawall:revoked", task_id), timeout=20, what="it to be on record")
        for _ in range(2):
            assert channel.basic_get("celery", no_ack=True) is not None
        known = set(state.revoked)
        state.revoked.clear()
    assert known == {task_id}


HOUR = timedelta(hours=1)


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-9.5 * HOUR)])
@pytest.mark.parametrize("day", ["2026-12-31", "2028-02-29", "2028-03-01", "2100-03-01", "2031-08-31"])
def test_a_stock_publishers_eta_is_kept_in_the_server(
    redis_url: str, client: "Redis", zone: timezone, day: str
) -> None:
    eta = datetime.fromisoformat(f"{day}T00:30:15.250000").replace(tzinfo=zone)
    with without_worker(redis_url, "redis") as stock, without_worker(redis_url, OURS) as ours:
        stock.send_task("t", ("later",), eta=eta)
        stock.send_task("t", ("now",))
        stock.send_task("t", ("over",), eta=datetime.now(UTC) - HOUR)
        with ours.connection_for_read() as connection, connection.channel() as opened:
            channel: Any = opened
            taken = [channel.basic_get("celery", no_ack=True) for _ in range(3)]
    assert [message and message.decode()[0] for message in taken] == [["now"], ["over"], None]
    delayed: Any = client.zrange("seawall:{celery}:delayed", 0, -1, withscores=True)
    [(_, due)] = delayed
    assert due == pytest.approx(eta.timestamp() * 1e6, abs=2)


def test_what_a_stock_publisher_delays_runs_when_it_is_due(start_worker: StartWorker, redis_url: str) -> None:
    app = reef.create(redis_url)
    start_worker("support.reef", "--concurrency=1")
    due = datetime.now(UTC) + timedelta(seconds=3)
    with without_worker(redis_url, "redis") as stock:
        stock.send_task("reef.mark", ("delayed",), eta=due)
    wait_until(lambda: "delayed" in str(journal(app)), timeout=60, what="it to run")
    assert datetime.now(UTC) >= due
    app.close()
