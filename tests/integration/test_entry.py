"""Whatever a message holds, it ends as one outcome, in every pool, and its neighbours run."""

# mypy: disable-error-code="var-annotated"
import base64
import json
import uuid
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery.exceptions import InvalidTaskError
from click.testing import CliRunner
from kombu import Exchange
from kombu.exceptions import EncodeError
from redis import Redis

from seawall import ConfigError
from seawall.cli import group
from seawall.delivery import Queues
from seawall.delivery.submission import DEEPEST
from support.nodes import StartWorker
from support.shop import WRONG_RETRIES
from support.waiting import wait_until

POOLS = {
    "cells": ("--concurrency=2",),
    "prefork": ("--pool=prefork", "--concurrency=2"),
    "threads": ("--pool=threads", "--concurrency=2"),
    "solo": ("--pool=solo",),
    "gevent": ("--pool=gevent", "--concurrency=2"),
}
in_every_pool = pytest.mark.parametrize(
    "pool",
    [pytest.param(pool, marks=() if pool in {"cells", "prefork"} else pytest.mark.slow) for pool in POOLS],
)
in_cells_and_slowly_elsewhere = pytest.mark.parametrize(
    "pool", [pytest.param(pool, marks=() if pool == "cells" else pytest.mark.slow) for pool in POOLS]
)
DEEP = "[" * 3000 + "]" * 3000
HUGE = 10**400
DIGITS = "9" * 5000
"""More than Python makes a number of."""

FIELDS: list[tuple[str, Any]] = [
    *(("id", value) for value in (42, [], {}, "", "x" * 3000, "a\0b", "caf\udce9", True)),
    *(("task", value) for value in (42, {}, ["shop.add"])),
    *((name, 7) for name in ("lang", "root_id", "parent_id", "group", "argsrepr", "origin", "shadow")),
    *(("eta", value) for value in (HUGE, [], {}, "no time", "99999-01-01")),
    *(("expires", value) for value in (HUGE, [], {}, "no time", "99999-01-01")),
    *(("retries", value) for value in ("many", -1, HUGE, 1.5, [], float("nan"))),
    *(
        ("timelimit", value)
        for value in (
            *("5m", 5, ["5m", None], [1], [1, 2, 3], [HUGE, None], [float("nan"), None]),
            *([None, float("inf")], [-1, None], {"hard": 1}),
        )
    ),
    *((name, value) for name in ("stamped_headers", "stamps") for value in (3, "text")),
    *(("ignore_result", value) for value in ("yes", [])),
    *(("replaced_task_nesting", value) for value in ("deep", [], HUGE)),
    *(("seawall-submitted", value) for value in ("now", [], float("nan"))),
    ("delayed_until", "now"),
    ("stamped_headers", [[1], {}]),
    ("is_eager", True),
]
BODIES: list[Any] = [
    *(5, None, "text", [], {}, [[], {}], [1, {}, {}], [[], [], {}], [[], {}, 5], [None, None, None]),
    *([[], {}, {"callbacks": 3}], [[], {}, {"errbacks": ["x"]}], [[], {}, {"chain": {}}]),
    *([[], {}, {"chord": 3}], {"args": 5, "kwargs": {}}),
    *([[], {}, {"chain": [{"task": None}]}], [[], {}, {"callbacks": [{"task": "shop.add", "args": 5}]}]),
    *([[], {}, {"errbacks": [{"task": "x", "options": 5}]}], [[], {}, {"chord": {"kwargs": {}}}]),
    *({"args": [1, 2], "timelimit": "5m"}, {"args": [1, 2], "callbacks": 5}),  # half of protocol 1
]
TYPED: list[Any] = [
    {"__type__": "uuid", "__value__": "x"}, {"__type__": "datetime", "__value__": 5},
    {"__type__": [], "__value__": 1}, {"__type__": "none of these", "__value__": 1},
]  # fmt: skip
BROADCASTS: list[str | bytes] = [
    *("5", "[]", "null", '"text"', "{", "{}", DEEP, b"\xff\xfe", json.dumps({"body": "x", "properties": 5})),
    json.dumps({"body": "=x", "headers": {}, "properties": {"body_encoding": "base64", "delivery_tag": "t"}}),
    *(json.dumps({"body": value, "headers": {}, "properties": {"delivery_tag": "t"}}) for value in TYPED),
]


def message(headers: Any = None, body: Any = None) -> dict[str, Any]:
    """One of `shop.add`, as kombu's stock transport writes it."""
    text = body if isinstance(body, str) and body.startswith("[[[") else json.dumps(body)
    fields = {"id": str(uuid.uuid4()), "task": "shop.add", "lang": "py", "argsrepr": "()", "kwargsrepr": "{}"}
    place = {"exchange": "", "routing_key": "celery"}
    return {
        "body": base64.b64encode(text.encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {**fields, **headers} if isinstance(headers, dict) else headers,
        "properties": {
            "body_encoding": "base64", "priority": 0, "delivery_tag": "t", "delivery_info": place,
        },
    }  # fmt: skip


def hostile() -> Iterator[str | bytes]:
    """What lies in the list of the stock transport."""
    good = [[1, 2], {}, {}]
    yield from ("5", "null", "[]", '"text"', "{", "", "true", "1e999", DEEP, DIGITS, b"\xff\xfe\0")
    yield json.dumps({"properties": {"priority": float("nan")}})
    for headers in ([], None, 5, "text", {"task": None}):
        yield json.dumps(message(headers, good))
    for name, value in FIELDS:
        yield json.dumps(message({name: value}, good))
    for body in BODIES:
        yield json.dumps(message({}, body))
    yield json.dumps(message({}, DEEP))
    yield json.dumps(message({"retries": "DIGITS"}, good)).replace('"DIGITS"', DIGITS)
    for name, value in [
        *(("properties", value) for value in (None, [], 5)),
        *((name, value) for name in ("content-type", "content-encoding") for value in (5, [])),
        ("content-type", "no/such"),
        ("body", 5), ("body", {}), ("body", "%%%"),
    ]:  # fmt: skip
        yield json.dumps({**message({}, good), name: value})
    for name, value in [
        *(("priority", value) for value in ("high", -HUGE, [], float("nan"))),
        *(("delivery_info", value) for value in (5, [], "text")),
        *(("reply_to", value) for value in (5, [])), ("correlation_id", 5), ("body_encoding", 5),
        ("body_encoding", "rot13"),
    ]:  # fmt: skip
        each = message({}, good)
        each["properties"][name] = value
        yield json.dumps(each)
    follows: dict[str, Any] = {"task": "shop.add", "args": [], "kwargs": {}, "options": {}}
    yield json.dumps({**message({"compression": "no/such"}, good), "body": None})
    # It fails, and then what is to be done about that fails as well.
    yield json.dumps(message({}, [[1], {}, {"errbacks": [{**follows, "options": {"queue": 1e-9}}]}]))
    yield json.dumps(message({"group": "\ud800"}, [[1], {}, {"chord": follows}]))
    for value in TYPED:
        yield json.dumps(message({"tenant": value}, good))
        yield json.dumps(message({}, [[value], {}, {}]))
    yield json.dumps({**message([], {"id": "p1", "task": "shop.add", "args": []}), "headers": {"id": 5}})
    for name, value in [*FIELDS[:11], ("timelimit", "5m"), ("retries", "x"), ("args", 5), ("kwargs", [1])]:
        yield json.dumps(message([], {"id": "p1", "task": "shop.add", "args": [1, 2], name: value}))
        yield json.dumps(message({"task": 5}, {"id": "p1", "task": "shop.add", "args": [1, 2], name: value}))


@in_every_pool
def test_every_hostile_message_is_one_dead_letter_and_its_neighbours_run(
    start_worker: StartWorker, shop_app: Celery, redis_url: str, pool: str
) -> None:
    sent = list(hostile())
    with Redis.from_url(redis_url) as client:
        client.rpush("celery", *sent)
        worker = start_worker("support.shop", *POOLS[pool])
        neighbours = [shop_app.tasks["shop.add"].delay(1, each) for each in range(10)]
        assert [each.get(timeout=60) for each in neighbours] == [1 + each for each in range(10)]
        letters = "seawall:{celery}:dead"
        wait_until(lambda: client.zcard(letters) >= len(sent), timeout=30, what=f"{len(sent)} dead letters")
        assert client.zcard(letters) == len(sent)
        # A result is heard a moment before its message is acknowledged.
        messages = "seawall:{celery}:messages"
        wait_until(
            lambda: client.hlen(messages) == len(sent), timeout=30, what="the neighbours' acknowledgements"
        )
    with Queues.open(shop_app.connection_for_read()) as queues:
        found = list(queues.dead_letters("celery"))
    assert all(letter.reason for letter in found)
    run, about = CliRunner(), SimpleNamespace(app=shop_app)
    listed = run.invoke(group, ["dead", "list", "--limit", "1000"], obj=about)
    assert len(listed.output.splitlines()) == len(sent) + 1
    for letter in found[::12]:
        shown = run.invoke(group, ["dead", "show", letter.id, "--json"], obj=about, catch_exceptions=False)
        assert json.loads(shown.stdout)["id"] == letter.id
    assert "exited" not in worker.logs()


def test_who_waits_for_the_result_of_a_message_that_no_task_takes_hears_of_it(
    start_worker: StartWorker, shop_app: Celery, redis_url: str
) -> None:
    wrong = message({"id": "of-headers", "timelimit": "5m"}, [[1, 2], {}, {}])
    body = {"id": "of-a-body", "task": "shop.add", "args": [1, 2], "retries": "three"}
    first = {**message(body=body), "headers": {}}
    with Redis.from_url(redis_url) as client:
        client.rpush("celery", json.dumps(wrong), json.dumps(first))
        start_worker("support.shop", "--concurrency=1")
        for task_id, field in (("of-headers", "timelimit"), ("of-a-body", "retries")):
            with pytest.raises(InvalidTaskError, match=field):
                shop_app.AsyncResult(task_id).get(timeout=20)


ASTRAY: list[dict[str, Any]] = [
    {"exchange": "", "routing_key": "elsewhere"},
    {"exchange": "nobody's", "routing_key": "celery"},
    {"exchange": 1 << 63, "routing_key": "celery"},
    {"exchange": "\ud800"},
    {"exchange": "celery", "routing_key": "elsewhere"},
    {"exchange": "made meanwhile", "routing_key": "celery"},
    {},
]


def test_a_retry_goes_to_the_queue_that_held_its_message(
    start_worker: StartWorker, shop_app: Celery, redis_url: str
) -> None:
    start_worker("support.shop", "--concurrency=1")
    follows = shop_app.signature("shop.echo", (), queue="made meanwhile")  # the process knows that queue then
    shop_app.tasks["shop.echo"].apply_async((1,), link=follows).get(timeout=20)
    with Redis.from_url(redis_url) as client:
        for number, place in enumerate(ASTRAY):
            sent = message({"task": "shop.retries_by_hand", "id": f"astray {number}"}, [[], {}, {}])
            sent["properties"]["delivery_info"] = place
            client.rpush("celery", json.dumps(sent))
    for number in range(len(ASTRAY)):
        with pytest.raises(ValueError, match="by hand"):
            shop_app.AsyncResult(f"astray {number}").get(timeout=20)


def test_a_retry_of_what_a_topic_exchange_brought_goes_to_no_other_queue(
    start_worker: StartWorker, shop_app: Celery, redis_url: str
) -> None:
    env, taken = {"FEATURES_BROKER": redis_url}, ("warnings", "everything")
    start_worker("support.features.app", "--concurrency=1", env=env, queue=",".join(taken))
    exchange: Any = Exchange("topical", type="topic")
    way = {"exchange": exchange, "routing_key": "log.disk.warning", "declare": [exchange]}
    shop_app.send_task("look.again", ("copies",), **way)
    with Redis.from_url(redis_url) as client, Queues.open(shop_app.connection_for_read()) as queues:

        def waits() -> int:
            counts = [queues.counts(name) for name in taken]
            return sum(each.ready + each.delayed + each.held for each in counts)

        wait_until(lambda: client.llen("notes copies") >= 4, timeout=20, what="a retry of each copy")
        wait_until(lambda: not waits(), timeout=20, what="the end of all runs")
        assert sorted(client.lrange("notes copies", 0, -1)) == [b"0", b"0", b"1", b"1"]


def test_arguments_too_deep_to_reach_a_process_cost_no_slot(
    start_worker: StartWorker, shop_app: Celery, redis_url: str
) -> None:
    deep = f"[[{'[' * 900}{']' * 900}], {{}}, {{}}]"
    names = ["shop.echo", "shop.echo_early"] * 2
    sent = [json.dumps(message({"task": name}, deep)) for name in names]
    with Redis.from_url(redis_url) as client:
        client.rpush("celery", *sent)
        worker = start_worker("support.shop", *POOLS["prefork"])
        assert shop_app.tasks["shop.add"].delay(1, 2).get(timeout=30) == 3
        with Queues.open(shop_app.connection_for_read()) as queues:
            wait_until(lambda: queues.counts("celery").dead == len(sent), timeout=30, what="the dead letters")
            wait_until(lambda: queues.counts("celery").held == 0, timeout=30, what="the acknowledgements")
    worker.kill("SIGTERM")
    assert worker.container.wait(30) == 0


@in_every_pool
def test_text_that_utf8_cannot_carry_passes_limits_and_errors(
    start_worker: StartWorker, shop_app: Celery, redis_url: str, pool: str
) -> None:
    worker = start_worker("support.shop", *POOLS[pool])
    tasks = shop_app.tasks
    assert tasks["shop.limited"].delay("caf\udce9").get(timeout=30) == "done"
    tasks["shop.unreadable"].delay("/data/caf\udce9.csv")
    with Redis.from_url(redis_url) as client:
        wait_until(lambda: client.zcard("seawall:{celery}:dead"), timeout=30, what="the dead letter")
    with Queues.open(shop_app.connection_for_read()) as queues:
        (letter,) = queues.dead_letters("celery")
    assert r"cannot parse /data/caf\udce9.csv" in letter.reason
    assert len(letter.history) == 1, "it ran once"
    assert "exited" not in worker.logs()


@in_cells_and_slowly_elsewhere
def test_what_may_be_submitted_ends_as_it_should(
    start_worker: StartWorker, shop_app: Celery, redis_url: str, pool: str
) -> None:
    start_worker("support.shop", *POOLS[pool])
    tasks = shop_app.tasks
    deep: Any = 1
    for _ in range(DEEPEST - 3):
        deep = [deep]
    own: Any = uuid.uuid4()
    assert tasks["shop.add"].apply_async((1, 2), task_id=own).get(timeout=30) == 3
    assert shop_app.AsyncResult(str(own)).result == 3
    assert tasks["shop.echo"].delay(deep).get(timeout=30) == deep
    for kind in WRONG_RETRIES:
        with pytest.raises((ConfigError, EncodeError), match=kind if kind != "args" else "object"):
            tasks["shop.retries_wrongly"].delay(kind).get(timeout=30)
    with Redis.from_url(redis_url) as client:
        letters = "seawall:{celery}:dead"
        wait_until(lambda: client.zcard(letters) == len(WRONG_RETRIES), timeout=30, what="the dead letters")


@in_cells_and_slowly_elsewhere
def test_a_broadcast_that_nobody_can_read_ends_no_worker(
    start_worker: StartWorker, shop_app: Celery, redis_url: str, pool: str
) -> None:
    worker = start_worker("support.shop", *POOLS[pool])
    with Redis.from_url(redis_url) as client:
        for place in ("/0.celery.pidbox", "/0.celeryev/worker.heartbeat"):
            for text in BROADCASTS:
                client.publish(place, text)
    assert shop_app.tasks["shop.add"].delay(1, 2).get(timeout=30) == 3
    wait_until(lambda: shop_app.control.ping(timeout=0.5), timeout=30, what="an answer")
    assert "Unrecoverable" not in worker.logs()


@pytest.mark.parametrize("pool", ["cells", pytest.param("prefork", marks=pytest.mark.slow)])
def test_a_killer_of_the_first_protocol_is_given_up_and_holds_nothing_up(
    start_worker: StartWorker, shop_app: Celery, redis_url: str, pool: str
) -> None:
    killer = message([], {"id": "p1", "task": "shop.suicidal", "args": [], "kwargs": {}})
    with Redis.from_url(redis_url) as client:
        client.rpush("celery", json.dumps({**killer, "headers": {}}))
        start_worker("support.shop", *POOLS[pool])
        wait_until(lambda: client.zcard("seawall:{celery}:dead"), timeout=30, what="the first dead letter")
        shop_app.tasks["shop.suicidal"].delay()
        wait_until(lambda: client.zcard("seawall:{celery}:dead") == 2, timeout=30, what="the second")
    with Queues.open(shop_app.connection_for_read()) as queues:
        assert all("3 times" in letter.reason for letter in queues.dead_letters("celery"))
