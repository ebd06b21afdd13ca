"""`seawall dead` over a real server."""

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from seawall import delivery
from seawall.cli import group
from seawall.delivery import Queues
from support.delivery import OURS

Seawall = Callable[..., Result]


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """Two queues with dead letters: three of `shop.pay` and one of `shop.mail`."""
    with Celery("dead", broker=redis_url) as made:
        made.conf.broker_transport = OURS
        with made.connection_for_write() as connection, connection.Producer() as producer:
            channel: Any = connection.default_channel
            tasks = [("shop.pay", f"p{n}", "payments") for n in range(3)] + [("shop.mail", "m", "celery")]
            for name, task_id, queue in tasks:
                made.send_task(name, (), task_id=task_id, queue=queue, producer=producer)
                message = channel.basic_get(queue)
                assert delivery.bury(message, "the disk is full")
            channel.claimant.flush()
        yield made


@pytest.fixture
def seawall(app: Celery) -> Seawall:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(group, ["dead", *arguments], obj=SimpleNamespace(app=app))

    return run


def dead(app: Celery) -> dict[str, int]:
    with Queues.open(app.connection_for_read()) as queues:
        return {name: queues.counts(name).dead for name in ("celery", "payments")}


def test_dead_letters_are_listed_and_shown(seawall: Seawall) -> None:
    table = seawall("list").output
    assert table.count("the disk is full") == 4
    listed = json.loads(seawall("list", "--task", "shop.p*", "--limit", "2", "--json").output)
    assert [entry["task_id"] for entry in listed] == ["p2", "p1"]
    shown = json.loads(seawall("show", "m", "--json").output)
    assert (shown["queue"], shown["message"]["headers"]["task"]) == ("celery", "shop.mail")
    assert shown["history"][0][2] == "the disk is full"


def test_text_that_no_encoding_carries_is_shown_escaped(seawall: Seawall, app: Celery) -> None:
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        app.send_task("shop.odd", ("caf\udce9.csv",), task_id="odd", queue="odd", serializer="json")
        assert delivery.bury(channel.basic_get("odd"), "validation: no such file: caf\udce9.csv")
        channel.claimant.flush()
    for arguments in (("list",), ("list", "--json"), ("show", "odd"), ("list", "--task", "shop.\udce9*")):
        result = seawall(*arguments)
        assert (result.exit_code, result.exception) == (0, None), arguments
    assert "no such file: caf\\udce9.csv" in seawall("list").output
    (found,) = json.loads(seawall("list", "--task", "shop.odd", "--json").output)
    assert found["reason"].endswith("caf\\udce9.csv")


def test_some_are_requeued_and_others_discarded(seawall: Seawall, app: Celery) -> None:
    assert seawall("requeue", "p1").output == "requeued 1 dead letter\n"
    assert dead(app) == {"celery": 1, "payments": 2}
    assert seawall("discard", "--all", "--queue", "payments", "--yes").output == "discarded 2 dead letters\n"
    assert seawall("requeue", "--all", "--task", "shop.mail").output == "requeued 1 dead letter\n"
    assert dead(app) == {"celery": 0, "payments": 0}
    with Queues.open(app.connection_for_read()) as queues:
        assert (queues.counts("celery").ready, queues.counts("payments").ready) == (1, 1)


def test_they_are_chosen_by_category_and_age(seawall: Seawall, app: Celery) -> None:
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        app.send_task("shop.pay", (), task_id="refused", queue="payments")
        assert delivery.bury(channel.basic_get("payments"), "network: ConnectionError: refused\nTraceback")
        channel.claimant.flush()
    (found,) = json.loads(seawall("list", "--category", "network", "--json").output)
    assert (found["task_id"], found["reason"]) == ("refused", "network: ConnectionError: refused")
    assert json.loads(seawall("list", "--older-than", "1h", "--json").output) == []
    assert (
        seawall("requeue", "--all", "--category", "network", "--newer-than", "1h").output
        == "requeued 1 dead letter\n"
    )
    assert dead(app) == {"celery": 1, "payments": 3}


def test_one_that_is_requeued_and_dies_again_keeps_its_lineage(seawall: Seawall, app: Celery) -> None:
    assert seawall("requeue", "m").output == "requeued 1 dead letter\n"
    with app.connection_for_write() as connection:
        channel: Any = connection.default_channel
        message = channel.basic_get("celery")
        assert "strikes" not in message.properties["delivery_info"]
        assert delivery.bury(message, "the disk is full again")
        channel.claimant.flush()
    reasons = [why for _, _, why in json.loads(seawall("show", "m", "--json").output)["history"]]
    assert reasons == ["the disk is full", "requeued", "the disk is full again"]
    with Queues.open(app.connection_for_read()) as queues:
        assert queues.discard("celery", [queues.dead("celery")[0].id]) == 1
        assert not queues._client.exists("seawall:{celery}:lineage")


def test_the_oldest_go_when_there_are_too_many(app: Celery) -> None:
    with Queues.open(app.connection_for_read()) as queues:
        assert queues.prune("payments", older_than=3600, most=3) == 0
        assert queues.prune("payments", older_than=3600, most=1) == 2
        assert [letter.task_id for letter in queues.dead("payments")] == ["p2"]
        assert queues.prune("payments", older_than=0, most=10) == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["requeue"], "name the dead letters by id, or give --all"),
        (["requeue", "p1", "--all"], "name the dead letters by id, or give --all"),
        (["requeue", "p1", "p9"], "no dead letter p9"),
        (["show", "p9"], "no dead letter p9"),
    ],
)
def test_what_is_not_meant_changes_nothing(
    seawall: Seawall, app: Celery, arguments: list[str], why: str
) -> None:
    refused = seawall(*arguments)
    assert refused.exit_code == 2
    assert why in refused.output
    assert dead(app) == {"celery": 1, "payments": 3}
