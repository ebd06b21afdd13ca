"""What no worker could ever run is refused where it is submitted; what Celery understands stays."""

import datetime as dt
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from celery import chain, chord, group
from celery.utils.functional import regen
from kombu import Queue

from seawall import ConfigError, Seawall
from seawall.delivery import submission
from seawall.delivery.submission import DEEPEST, check_arguments

NOW = dt.datetime(2040, 1, 1, tzinfo=dt.UTC)
INF, NAN = float("inf"), float("nan")


class Shows:
    """A date of a library that is no `datetime`, such as arrow's."""

    def isoformat(self) -> str:
        return NOW.isoformat()


class Raises:
    def __repr__(self) -> str:
        raise ValueError("no words")


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value += [value, value]
    return value


REFUSED: dict[str, list[Any]] = {
    "task_id": [42, b"id", [], {}, 1.5, "x" * 3000, "é" * 128, "a\0b", "caf\udce9", True, Raises()],
    "time_limit": ["5m", "300", NAN, INF, -INF, -1, 10**400, [], {}, True, dt.timedelta(minutes=5), b"5"],
    "soft_time_limit": ["5m", NAN, INF, -1, [], True],
    "countdown": ["5m", "5", NAN, INF, -INF, 10**400, 1e300, [], dt.timedelta(minutes=5), NOW, 1j],
    "eta": ["5m", "tomorrow", 5.0, 5, [1], "99999-01-01", "\udce9", dt.timedelta(minutes=5), b"2030-01-01"],
    "expires": ["5m", "tomorrow", NAN, INF, 10**400, [], dt.timedelta(minutes=5), dt.date(2030, 1, 1), b"5"],
    "priority": ["urgent", -1, 10, NAN, INF, 10**400, [], 5.0, b"high"],
    "queue": [5, b"q", [], {}, 1.5, "q\udce9", "q\0", "q" * 256, Queue("q\udce9")],
    "headers": [5, "text", [1]],
    **{field: [42, [], "x" * 3000, "\udce9"] for field in ("root_id", "parent_id", "group_id")},
    **{field: [5, ["x"], b"x"] for field in ("shadow", "reply_to")},
    **{field: ["many", -1, 1.5, NAN, []] for field in ("retries", "group_index")},
}
KEPT: dict[str, list[Any]] = {
    "task_id": ["plain", "é" * 100, uuid.uuid4(), "", None, "order 7/2"],
    "time_limit": [None, 0, 5, 5.5, 86_400],
    "soft_time_limit": [None, 1, 0.5],
    "countdown": [None, 0, 5, 0.5, -3, -3.5, True],
    "eta": [
        None,
        NOW,
        NOW.replace(tzinfo=None),
        NOW.isoformat(),
        NOW.date(),
        Shows(),
        "2030-01-01T00:00:00Z",
    ],
    "expires": [None, 0, 60, -5, 1.5, NOW, NOW.replace(tzinfo=None), NOW.isoformat()],
    "priority": [None, 0, 9, "high", "CRITICAL"],
    "queue": [None, "other", "größe", Queue("made")],
    "headers": [None, {"unique_key": 7}],
}
WAYS: dict[str, Callable[[Any, dict[str, Any]], Any]] = {
    "apply_async": lambda task, options: task.apply_async((1,), **options),
    "send_task": lambda task, options: task.app.send_task("another's", (1,), **options),
    "a signature": lambda task, options: task.s(1).set(**options).delay(),
    "a link": lambda task, options: task.apply_async((1,), link=task.s().set(**options)),
    "a chain's second": lambda task, options: chain(task.s(1), task.s().set(**options)).delay(),
    "a chain's group": lambda task, options: chain(
        task.s(1), group(task.s().set(**options), task.s()), task.s(), app=task.app
    ).delay(),
    "a group's first": lambda task, options: group(task.s(1).set(**options), task.s(2)).delay(),
    "a chord's body": lambda task, options: chord([task.s(1), task.s(2)], task.s().set(**options)).delay(),
}


@pytest.fixture
def app() -> Seawall:
    made = Seawall("unit", set_as_current=False)
    made.conf.update(broker_url="memory://", result_backend="cache+memory://")

    @made.task(name="unit.add", shared=False)
    def add(number: Any) -> Any:
        return number

    return made


def waiting(app: Seawall) -> int:
    channel: Any = app.connection_for_write().channel()
    return int(channel.queue_purge("celery"))


@pytest.fixture(autouse=True)
def _empty(app: Seawall) -> None:
    waiting(app)


@pytest.mark.parametrize("way", ["apply_async", "send_task"])
@pytest.mark.parametrize("field", REFUSED)
def test_a_value_that_no_worker_could_use_is_refused_by_its_name(app: Seawall, way: str, field: str) -> None:
    for value in REFUSED[field]:
        with pytest.raises(ConfigError, match=rf"(?s)^{field}=.*(give|use) ") as refused:
            WAYS[way](app.tasks["unit.add"], {field: value})
        assert "\n" not in str(refused.value)
        assert len(str(refused.value)) < 400
    assert waiting(app) == 0


@pytest.mark.parametrize("way", WAYS)
def test_so_it_is_wherever_a_canvas_carries_it(app: Seawall, way: str) -> None:
    for field in ("time_limit", "countdown", "eta", "expires", "queue"):
        with pytest.raises(ConfigError, match=f"^{field}="):
            WAYS[way](app.tasks["unit.add"], {field: REFUSED[field][0]})
    assert waiting(app) == 0


@pytest.mark.parametrize("field", KEPT)
def test_what_celery_understands_is_sent(app: Seawall, field: str) -> None:
    for value in KEPT[field]:
        for way in ("apply_async", "send_task", "a signature"):
            sent = WAYS[way](app.tasks["unit.add"], {field: value})
            assert isinstance(sent.id, str)
            if field == "task_id" and value:
                assert sent.id == str(value)


def test_parts_of_a_canvas_that_celery_computes_as_they_are_read_are_looked_at_too(app: Seawall) -> None:
    add: Any = app.tasks["unit.add"]
    for parts in ([add.s(1)], [add.s(1).set(countdown="5m")]):
        lazy = {"tasks": regen(each for each in parts)}
        all_of = {"task": "celery.group", "subtask_type": "group", "args": (), "kwargs": lazy, "options": {}}
        canvas = {"chain": [add.s(2), {**add.s(3), "options": {"chord": all_of, "link": [add.s(4)]}}]}
        found = [*submission._started_by(canvas)]
        assert [each["task"] for each in found].count("unit.add") == 4
        with pytest.raises(ConfigError, match=r"^countdown='5m'") if parts[0].options else nullcontext():
            submission.check("unit.add", (1,), {}, canvas)


def test_options_by_their_place_are_looked_at_too(app: Seawall) -> None:
    with pytest.raises(ConfigError, match=r"^countdown='5m'"):
        app.send_task("unit.add", (1,), {}, "5m")
    assert app.send_task("unit.add", (1,), {}, None, None, "my id").id == "my id"


@pytest.mark.parametrize("value", [nested(DEEPEST + 1), nested(3000), endless()], ids=("a", "b", "endless"))
def test_arguments_that_are_nested_too_deep_are_refused(app: Seawall, value: Any) -> None:
    task: Any = app.tasks["unit.add"]
    calls: list[Callable[[], Any]] = [
        lambda: task.delay(value),
        lambda: task.apply_async(kwargs={"number": {"a": value}}),
        lambda: app.send_task("another's", (value,)),
        lambda: task.apply_async((1,), link=task.si(value)),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="nested more than"):
            call()
    assert waiting(app) == 0
    check_arguments("t", (nested(DEEPEST - 2),), {})


@pytest.mark.parametrize("name", [5, b"name", "", [], None])
def test_a_name_is_text(app: Seawall, name: Any) -> None:
    with pytest.raises(ConfigError, match="the name of a task"):
        app.send_task(name, (1,))
