"""The entry over a broker that keeps no dead letters: whatever arrives is done with."""

from types import SimpleNamespace
from typing import Any

import pytest
from celery.exceptions import InvalidTaskError
from kombu import Connection, Queue
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    DataError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from seawall import Seawall, records
from seawall.delivery.refusal import is_outage
from seawall.worker import entry, outcomes
from seawall.worker.request import fail_poisoned
from seawall.worker.strays import bury


@pytest.fixture
def message() -> Any:
    with Connection("memory://") as connection:
        channel: Any = connection.channel()
        queue = Queue("strays", channel=channel)
        queue.declare()
        connection.Producer(channel).publish([[1], {}, {}], routing_key="strays", headers={"task": 5})
        yield queue.get()


class Asked:
    name, id, acknowledged = "t", "i", False
    message: Any = None


def consumer(on_invalid_task: Any) -> Any:
    return SimpleNamespace(connection_errors=(), on_invalid_task=on_invalid_task)


def raises(*_: Any) -> None:
    raise LookupError("Celery's own handling fails")


@pytest.mark.parametrize("handling", [raises, lambda _, message, __: message.reject()])
def test_what_no_dead_letter_can_be_made_of_is_rejected_and_not_kept_unacknowledged(
    message: Any, handling: Any
) -> None:
    take_in = entry.guarded(lambda: pytest.fail, consumer(handling), bury)()
    take_in(message)
    assert message.acknowledged
    message.channel.qos._flush()
    assert not message.channel.qos._delivered


def test_so_is_a_request_that_cannot_be_let_in(message: Any) -> None:
    request = Asked()
    request.message = message
    entry.give_up(request, InvalidTaskError("no"), bury)
    assert message.acknowledged
    assert request.acknowledged


@pytest.mark.parametrize("headers", [None, [], 5, {"task": None}, {"id": "i"}])
def test_what_killed_its_processes_and_is_no_message_of_a_task_is_written_down(headers: Any) -> None:
    rows: list[str] = []
    message = SimpleNamespace(headers=headers, properties={}, body=b"x", delivery_tag="tag")
    told = {"message": {}, "history": [], "strikes": 3, "queue": "where"}
    records.begin(SimpleNamespace(write=rows.append))  # type: ignore[arg-type]
    try:
        fail_poisoned(
            Seawall("unit", set_as_current=False), SimpleNamespace(message_to_python=lambda _: message), told
        )
    finally:
        records.end()
    (written,) = rows
    assert '"where"' in written
    assert [row[:1] for row in written.splitlines()] == ["e", "r", "d"]


def submitted(**fields: Any) -> Any:
    headers = {"id": "i", "task": "t", "retries": 0, "timelimit": [None, None], **fields}
    return SimpleNamespace(headers=headers, properties={}, delivery_info={}, payload=[[], {}, {}])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("retries", -1),
        ("retries", 1 << 50),
        ("timelimit", [-1, None]),
        ("timelimit", [1]),
        ("id", ""),
        ("id", "i" * 256),
        ("task", ""),
        ("delayed_until", "soon"),
    ],
)
def test_a_wrong_value_is_refused_also_in_a_message_whose_like_has_passed(name: str, value: Any) -> None:
    entry.check(submitted(delayed_until="2026-01-01"))
    with pytest.raises(InvalidTaskError, match=name):
        entry.check(submitted(**{"delayed_until": "2026-01-01", name: value}))


def test_a_wrong_type_is_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(InvalidTaskError, match="stamps"):
            entry.check(submitted(stamps="no mapping"))


def test_kinds_of_messages_do_not_fill_the_memory() -> None:
    for number in range(1000):
        entry.check(submitted(**{f"header-{number}": 1, "x" * number: 1}))
    assert len(entry._known) <= 256
    assert max(len(str(each)) for kind in entry._known for each in kind) <= 255


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (KeyError("queue"), False),
        (DataError("Invalid input of type"), False),
        (ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), False),
        (ResponseError("value is not an integer or out of range"), False),
        (ResponseError("BUSY Redis is busy running a script"), True),
        (ResponseError("MISCONF Redis is configured to save RDB snapshots"), True),
        (ReadOnlyError("You can't write against a read only replica."), True),
        (OutOfMemoryError("command not allowed when used memory > 'maxmemory'."), True),
        (NoPermissionError("this user has no permissions"), True),
        (RedisConnectionError("Connection refused"), True),
        (OperationalError("no broker"), True),
        (TimeoutError(), True),
    ],
)
def test_only_what_means_away_is_an_outage(error: Exception, away: bool) -> None:
    with Connection("redis://", transport="seawall.delivery:Transport") as connection:
        errors: Any = connection.connection_errors
        assert is_outage(error, errors) is away


def test_what_a_pool_would_forget_is_its_requests_failure() -> None:
    def tracer(_uuid: str) -> Any:
        raise UnicodeError("no key")

    told: list[Any] = []
    apply = entry.reported(lambda target, args, callback: callback(target(*args)))
    apply(tracer, ("id",), callback=told.append)
    ((failed, info, _),) = told
    assert failed
    assert isinstance(info.exception.exc, UnicodeError)


def test_a_moment_before_all_calendars_delays_nothing() -> None:
    assert outcomes._waited({"delayed_until": "0001-01-01T00:00:00"}, 5.0, 7.0) == 2.0
