"""Hostile calls of the public API: what an application may pass to `apply_async` and `send_task`."""

import contextlib
import datetime as dt
import decimal
import uuid
from collections.abc import Iterator
from typing import Any

from celery import Celery, chain, chord, group

from seawall.delivery.bulk import submit_many
from support.fuzz.mutations import DEEP, Dice, any_value

_TASKS = (
    *("echo", "fail", "again", "limited", "brief", "budgeted", "early", "quiet", "paced", "tracked"),
    *("flaky", "fails_somehow"),
)
_OPTIONS = (
    *("countdown", "eta", "expires", "priority", "task_id", "time_limit", "soft_time_limit", "serializer"),
    *(
        "compression",
        "headers",
        "link",
        "link_error",
        "shadow",
        "reply_to",
        "correlation_id",
        "ignore_result",
    ),
    *(
        "retries",
        "group_id",
        "group_index",
        "root_id",
        "parent_id",
        "chord",
        "chain",
        "argsrepr",
        "kwargsrepr",
    ),
    *("stamped_headers", "expiration", "delivery_mode", "content_type", "unique_key", "unique_for"),
    *("add_to_parent", "mandatory", "immediate", "timestamp", "replaced_task_nesting", "origin"),
)


class _Odd:
    def __repr__(self) -> str:
        raise ValueError("has no representation")


_PLAIN = 0.9
_UNUSUAL: tuple[Any, ...] = (
    *(b"\xff\0", {1, 2}, frozenset(), decimal.Decimal("NaN"), uuid.UUID(int=5), object(), _Odd(), print),
    *(dt.datetime.max, dt.datetime(2026, 1, 1), dt.date.min, dt.timedelta.max),  # noqa: DTZ001, DTZ901
    *(dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, tzinfo=dt.UTC)),
    *({1: 2}, {(1, 2): 3}, {None: 1}, (1, (2,)), 1j, range(3), bytearray(b"x"), "\ud800" * 50),
)


def python_value(dice: Dice) -> Any:
    """Something that an application may pass and JSON may lack."""
    value = any_value(dice)
    if value == DEEP:
        nested: list[Any] = []
        for _ in range(dice.choice((50, 900, 3000))):
            nested = [nested]
        return nested
    if dice.random() < 0.7:
        return value
    return dice.choice(_UNUSUAL)


def call(app: Celery, dice: Dice) -> Iterator[str]:
    """Make one call; yields the ids that it may put in line, before it is made.

    Raises:
        Exception: whatever the API answers to what it refuses.
    """
    task_id = str(uuid.UUID(int=dice.getrandbits(128), version=4))
    options: dict[str, Any] = {"task_id": task_id}
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3))):
        options[dice.choice(_OPTIONS)] = python_value(dice)
    args: Any = [python_value(dice) for _ in range(dice.choice((0, 1, 1, 2)))]
    kwargs: Any = {"key": python_value(dice)} if dice.random() < 0.3 else {}
    if dice.random() < 0.05:
        args = python_value(dice)
    if dice.random() < 0.05:
        kwargs = python_value(dice)
    name, how = f"fuzz.{dice.choice(_TASKS)}", dice.random()
    if (
        options["task_id"] and isinstance(options["task_id"], str) and how < _PLAIN
    ):  # a canvas need not reach all of its parts
        yield options["task_id"]
    if how < 0.5:
        app.tasks[name].apply_async(args, kwargs, **options)
    elif how < 0.8:
        app.send_task(name, args, kwargs, **options)
    elif how < _PLAIN:
        submit_many([app.signature(name, args, kwargs, options=options)], app=app)
    else:
        first = app.signature(name, args, kwargs, options={})
        rest = app.signature("fuzz.echo", (), options={})
        first.set(**options)
        made = dice.choice((chain(first, rest), group(first, rest), chord([rest], first)))
        made.apply_async()


def submitted(app: Celery, dice: Dice) -> tuple[str | None, Exception | None]:
    """Make one call: its id if it has one, and the refusal if there was one."""
    steps, task_id = call(app, dice), None
    try:
        for task_id in steps:  # noqa: B007 - the last one
            pass
    except Exception as exc:  # noqa: BLE001 - every refusal is an answer
        return task_id, exc
    finally:
        with contextlib.suppress(Exception):
            steps.close()  # type: ignore[attr-defined]
    return task_id, None
