"""Calling tasks: `delay`, `apply_async` and each of its options, `send_task`, `apply`."""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from celery import signals, uuid

from support.features.application import app
from support.features.look import Look, feature, raised, short


def told(look: Look, *args: Any, **options: Any) -> Any:
    """What the task sees of a request made with these options; its priority is a feature of its own."""
    seen = look.task("tell").apply_async(args, **options).get(timeout=look.patience)
    if "priority" not in options:
        seen["no priority"] = seen.pop("priority")
    return seen


def sent(call: Any) -> dict[str, Any]:
    """What a submission is published with."""
    seen: dict[str, Any] = {}

    def see(sender: Any = None, **fields: Any) -> None:
        seen.update(fields)

    signals.before_task_publish.connect(see)
    try:
        call()
    finally:
        signals.before_task_publish.disconnect(see)
    return seen


@short
def delay(look: Look) -> Any:
    seen = look.task("tell").delay(1, "two", three=[4]).get(timeout=look.patience)
    return {name: value for name, value in seen.items() if name != "priority"}


def after(look: Look, **options: Any) -> Any:
    begun = time.time()
    result = look.task("tell").apply_async(**options)
    seen = result.get(timeout=look.patience)
    return [time.time() - begun >= 0.3, seen["eta"], seen["retries"], result.state]


@short
def countdown(look: Look) -> Any:
    return after(look, countdown=0.4)


@feature
def eta(look: Look) -> Any:
    return after(look, eta=datetime.now(UTC) + timedelta(seconds=0.4))


@feature
def eta_that_is_over(look: Look) -> Any:
    return told(look, eta=datetime.now(UTC) - timedelta(hours=1))["args"]


@feature
def expires_in_seconds(look: Look) -> Any:
    return told(look, expires=60)["expires"]


@feature
def expires_at_a_moment(look: Look) -> Any:
    return told(look, expires=datetime.now(UTC) + timedelta(minutes=1))["expires"]


@short
def expires_before_it_runs(look: Look) -> Any:
    late = look.task("noted").apply_async((look.key,), expires=datetime.now(UTC) - timedelta(seconds=1))
    return [look.end(late), look.store.llen(f"notes {look.key}")]


@feature
def expires_before_its_eta(look: Look) -> Any:
    return look.end(look.task("echo").apply_async(countdown=0.6, expires=0.1))


@short
def link(look: Look) -> Any:
    look.task("add").apply_async((1, 2), link=look.task("told").s(look.key))
    return look.notes(1)


@feature
def link_several(look: Look) -> Any:
    look.task("add").apply_async(
        (1, 2), link=[look.task("told").s(look.key), look.task("noted").si(look.key)]
    )
    return sorted(look.notes(2))


@short
def link_error(look: Look) -> Any:
    look.task("fail").apply_async(("no",), link_error=look.task("errback").s(look.key))
    return look.notes(1)


@feature
def link_error_of_the_old_kind(look: Look) -> Any:
    look.task("fail").apply_async(("no",), link_error=look.task("old_errback").s(look.key))
    return look.notes(1)


@feature
def link_error_several(look: Look) -> Any:
    errback = look.task("errback")
    look.task("fail").apply_async(("no",), link_error=[errback.s(look.key), errback.s(look.key)])
    return look.notes(2)


@feature
def link_and_link_error_shown(look: Look) -> Any:
    seen = told(look, link=look.task("noted").si(look.key), link_error=look.task("errback").s(look.key))
    return [[each["task"] for each in seen[name]] for name in ("callbacks", "errbacks")]


@short
def ignore_result(look: Look) -> Any:
    result = look.task("noted").apply_async((look.key,), ignore_result=True)
    return [look.notes(1), result.state, result.result, told(look, ignore_result=False)["ignore_result"]]


@feature
def serializer(look: Look) -> Any:
    seen = sent(lambda: look.task("echo").apply_async((1,), serializer="json"))
    return [
        seen["headers"]["argsrepr"],
        look.end(look.task("echo").apply_async(((1, 2),), serializer="json")),
    ]


@feature
def serializer_that_is_unknown(look: Look) -> Any:
    return raised(lambda: look.task("echo").apply_async((1,), serializer="nonsense"))


@feature
def argument_that_cannot_be_serialized(look: Look) -> Any:
    return raised(lambda: look.task("echo").delay(object())).partition(":")[0]


@feature
def argument_types_of_json(look: Look) -> Any:
    moment = datetime(2030, 1, 2, 3, tzinfo=UTC)
    return look.end(
        look.task("echo").delay({"at": moment, "many": (1, 2), "none": None, "text": "\u00e9\U0001f600"})
    )


@feature
def compression(look: Look) -> Any:
    return look.end(look.task("echo").apply_async(("x" * 10_000,), compression="gzip"))[1] == "x" * 10_000


@short
def queue(look: Look) -> Any:
    return told(look, queue="first")["place"]


@feature
def exchange_and_routing_key(look: Look) -> Any:
    exchange = app.amqp.queues["warnings"].exchange
    return told(look, exchange=exchange, routing_key="log.disk.warning", declare=[exchange])["place"]


@short
def priority(look: Look) -> Any:
    return told(look, priority=3)["priority"]


@feature
def no_priority(look: Look) -> Any:
    return told(look)["no priority"]


@short
def headers(look: Look) -> Any:
    seen = told(look, headers={"tenant": "acme", "trace": "1"})
    return [seen["headers"], seen["tenant"]]


@feature
def shadow(look: Look) -> Any:
    return told(look, shadow="another name")["shadow"]


@short
def time_limits(look: Look) -> Any:
    return told(look, time_limit=20, soft_time_limit=10)["timelimit"]


@feature
def no_time_limits(look: Look) -> Any:
    return told(look)["timelimit"]


@short
def soft_time_limit(look: Look) -> Any:
    state, value = look.end(look.task("naps").apply_async(soft_time_limit=0.3))
    return [state, value.partition(":")[0]]


@feature
def time_limit(look: Look) -> Any:
    return look.end(look.task("naps").apply_async(time_limit=1))


@short
def task_id(look: Look) -> Any:
    own = uuid()
    result = look.task("tell").apply_async(task_id=own)
    return [result.id == own, result.get(timeout=look.patience)["correlation_id"]]


@feature
def reply_to(look: Look) -> Any:
    return told(look, reply_to="somebody")["reply_to"]


@feature
def ids_of_a_parent(look: Look) -> Any:
    seen = told(look, root_id="root", parent_id="parent")
    return [seen["is root"], seen["parent_id"]]


@feature
def group_id_and_index(look: Look) -> Any:
    seen = told(look, group_id="a-group", group_index=4)
    return [seen["group"], seen["group_index"]]


@feature
def argsrepr_and_kwargsrepr(look: Look) -> Any:
    seen = look.task("tell").apply_async(
        ("secret",), {"pin": 1234}, argsrepr="('***',)", kwargsrepr="{'pin': '***'}"
    )
    shown = seen.get(timeout=look.patience)
    return [shown["args"], shown["argsrepr"], shown["kwargsrepr"]]


@feature
def retry_policy_of_publishing(look: Look) -> Any:
    return told(look, retry=True, retry_policy={"max_retries": 1, "interval_start": 0})["args"]


@feature
def producer_of_ones_own(look: Look) -> Any:
    with app.producer_pool.acquire() as producer:
        return told(look, "by", producer=producer)["args"]


@feature
def connection_of_ones_own(look: Look) -> Any:
    with app.connection_for_write() as connection:
        return told(look, "by", connection=connection)["args"]


@feature
def unknown_options_reach_the_message(look: Look) -> Any:
    seen = sent(lambda: look.task("echo").apply_async((1,), mandatory=True, expiration=60))["properties"]
    return [seen["mandatory"], seen["expiration"]]


@short
def send_task_by_its_name(look: Look) -> Any:
    return look.end(app.send_task("look.add", (1, 2)))


@feature
def task_of_no_worker(look: Look) -> Any:
    result = app.send_task("look.nowhere")
    look.settled()
    return [result.state, result.result]


@short
def apply_here(look: Look) -> Any:
    done = look.task("tell").apply((1,), task_id="eager")
    failed = look.task("fail").apply(("here",))
    return [
        type(done).__name__,
        done.get()["is_eager"],
        done.get()["called_directly"],
        failed.state,
        failed.result,
    ]


@feature
def apply_and_throw(look: Look) -> Any:
    return raised(lambda: look.task("fail").apply(("here",), throw=True))


@feature
def apply_with_retries(look: Look) -> Any:
    return look.end(look.task("again").apply((look.key, 2)))


@feature
def call_as_a_function(look: Look) -> Any:
    seen = look.task("tell")(1, two=2)
    return [
        seen["called_directly"],
        seen["args"],
        seen["kwargs"],
        seen["id"],
        raised(lambda: look.task("fail")("no")),
    ]


@feature
def typing_checks_arguments(look: Look) -> Any:
    return [
        raised(lambda: look.task("add").delay(1)),
        raised(lambda: look.task("add").delay(1, 2, 3)),
        raised(lambda: look.task("add").delay(1, wrong=2)),
    ]


@feature
def typing_switched_off(look: Look) -> Any:
    return look.end(look.task("untyped").delay(1, 2))


@feature
def options_of_the_task(look: Look) -> Any:
    seen = sent(lambda: look.task("optioned").delay())
    return [seen["routing_key"], seen["headers"]["expires"] is not None, seen["properties"].get("priority")]


@feature
def chained_options_of_a_signature(look: Look) -> Any:
    signature = look.task("tell").s(1).set(headers={"tenant": "acme"}, priority=4)
    seen = signature.apply_async(priority=6).get(timeout=look.patience)
    return [seen["tenant"], seen["priority"], seen["args"]]
