"""`submit_many` beside `apply_async`: the same messages, whatever an application puts in between."""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery, Task, signals
from celery import _state as celery_state
from celery.app.amqp import AMQP
from celery.app.routes import Router
from kombu import Queue
from kombu.messaging import Producer
from redis import Redis

import seawall
from seawall import Priority, Retry, policy, submit_many

pytestmark = pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")

Prepare = Callable[[Celery, pytest.MonkeyPatch], None]
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT[\d:.+]+|^\d{10}\.\d+$")
stack: Any = celery_state._task_stack  # type: ignore[attr-defined]
VARYING = {"id", "root_id", "correlation_id", "delivery_tag", "submission", "seawall-submitted", "origin"}


class Tenanted(Task[Any, Any]):
    """Says whose a task is, as applications do."""

    abstract = True

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:  # type: ignore[override]
        headers = {**(options.pop("headers", None) or {}), "tenant": "acme"}
        return super().apply_async(args, kwargs, headers=headers, **options)


class Telling(Celery):
    """Puts a header of its own into everything."""

    def send_task(self, *args: Any, **options: Any) -> Any:
        options["headers"] = {**(options.get("headers") or {}), "told": 1}
        return super().send_task(*args, **options)


class Amqp(AMQP):
    """Names its messages' origin."""

    def as_task_v2(self, *args: Any, **options: Any) -> Any:
        message = super().as_task_v2(*args, **options)
        message.headers["made_by"] = "ours"
        return message


class ByArguments(Router):
    """Sends even numbers elsewhere."""

    def route(
        self, options: Any, name: Any, args: Any = (), kwargs: Any = None, task_type: Any = None
    ) -> Any:
        routed = super().route(options, name, args, kwargs, task_type)
        if args and args[0] == 0:
            routed["queue"] = Queue("even")
        return routed


def patched(owner: type, name: str, change: Callable[[tuple[Any, ...], dict[str, Any]], None]) -> Prepare:
    """Somebody's wrapper around a method of Celery's."""

    def prepare(_app: Celery, patch: pytest.MonkeyPatch) -> None:
        original = getattr(owner, name)

        def wrapped(self: Any, *args: Any, **options: Any) -> Any:
            change(args, options)
            return original(self, *args, **options)

        patch.setattr(owner, name, wrapped)

    return prepare


def add_header(_args: tuple[Any, ...], options: dict[str, Any]) -> None:
    options["headers"] = {**(options.get("headers") or {}), "traced": "yes"}


def on_the_object(app: Celery, patch: pytest.MonkeyPatch) -> None:
    original = app.send_task

    def send_task(*args: Any, **options: Any) -> Any:
        options["headers"] = {**(options.get("headers") or {}), "object": "yes"}
        return original(*args, **options)

    patch.setattr(app, "send_task", send_task)


def published(_app: Celery, patch: pytest.MonkeyPatch) -> None:
    def before(headers: Any = None, **_: Any) -> None:
        headers["seen"] = "yes"

    patch.setattr(signals.before_task_publish, "receivers", [])
    signals.before_task_publish.connect(before, weak=False)


def configured(**settings: Any) -> Prepare:
    return lambda app, _: app.conf.update(settings)


def routed_by_arguments(app: Celery, patch: pytest.MonkeyPatch) -> None:
    amqp: Any = app.amqp
    patch.setattr(amqp, "_rtable", None)
    patch.setattr(type(amqp), "Router", lambda *_: ByArguments((), amqp.queues, app=app), raising=False)
    amqp.router = ByArguments((), amqp.queues, app=app)


def within_a_task(app: Celery, patch: pytest.MonkeyPatch) -> None:
    task: Any = app.tasks["bulk.plain"]
    delivered = {"priority": 9}
    task.push_request(
        id="parent", root_id="root", delivery_info=delivered, children=[], called_directly=False
    )
    stack.push(task)
    patch.setattr(celery_state, "_task_join_will_block", True)


def inheriting(app: Celery, patch: pytest.MonkeyPatch) -> None:
    app.conf.task_inherit_parent_priority = True
    within_a_task(app, patch)


def nothing(_app: Celery, _patch: pytest.MonkeyPatch) -> None:
    """An application without anything of its own."""


HOOKS: dict[str, Prepare] = {
    "none": nothing,
    "apply_async patched": patched(Task, "apply_async", add_header),
    "send_task patched": patched(Celery, "send_task", add_header),
    "send_task on the object": on_the_object,
    "publish patched": patched(Producer, "publish", add_header),
    "signal": published,
    "protocol 1": configured(task_protocol=1),
    "routes": configured(task_routes={"bulk.*": {"queue": "elsewhere"}}),
    "router": routed_by_arguments,
    "compressed": configured(task_compression="gzip"),
    "no results": configured(task_ignore_result=True),
    "default priority": configured(task_default_priority=2),
    "sent events": configured(task_send_sent_event=True),
    "within a task": within_a_task,
    "inheriting priority": inheriting,
}
TASKS = ("plain", "urgent", "policed", "elsewhere", "tenanted", "quiet", "expiring", "strict", "limited")
OPTIONS: dict[str, dict[str, Any]] = {
    "no options": {},
    "priority": {"priority": 8},
    "headers": {"headers": {"mine": [1, {"a": None}]}},
    "countdown": {"countdown": 60},
    "shadow": {"shadow": "other"},
    "queue": {"queue": "third"},
    "limits": {"time_limit": 60, "soft_time_limit": 50},
    "expires": {"expires": 60},
    "ignored": {"ignore_result": True},
    "reply": {"reply_to": "somewhere"},
    "serialised": {"serializer": "yaml"},
    "retried": {"retries": 2},
    "own id": {"task_id": "mine"},
}


def define(app: Any) -> None:
    def body(x: int = 0, card: str = "") -> None:
        """Never runs."""

    def careful(x: int = 0, card: str = "") -> None:
        """Never runs, under a policy."""

    def strict(x: int, /) -> None:
        """Takes no card."""

    policy(priority=Priority.LOW, retry=Retry(max_attempts=2), redact=["card"])(careful)
    ways: dict[str, tuple[Any, dict[str, Any]]] = {
        "plain": (body, {}),
        "urgent": (body, {"priority": 7, "soft_time_limit": 20, "time_limit": 30}),
        "policed": (careful, {}),
        "elsewhere": (body, {"queue": "second"}),
        "tenanted": (body, {"base": Tenanted}),
        "quiet": (body, {"ignore_result": True}),
        "expiring": (body, {"expires": 90}),
        "strict": (strict, {}),
        "limited": (body, {"rate_limit": "1/s", "serializer": "json"}),
    }
    for name, (function, options) in ways.items():
        app.task(name=f"bulk.{name}", shared=False, **options)(function)


@pytest.fixture
def made(redis_url: str, request: pytest.FixtureRequest) -> Iterator[Celery]:
    kind: Any = getattr(request, "param", Celery)
    app: Any = kind("bulk", broker=redis_url, backend=redis_url, set_as_current=False)
    with seawall.install(app) as installed:
        define(installed)
        yield installed
        while stack.top is not None:
            stack.pop()


def shown(value: Any, key: str = "") -> Any:
    """A message without what differs between any two submissions."""
    if isinstance(value, dict):
        return {name: shown(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [shown(each) for each in value]
    if key in VARYING and value is not None and value not in ("mine", "root"):
        return "..."
    return "moment" if MOMENT.search(str(value)) else value


def read(message: dict[str, Any]) -> Any:
    """A message with its body taken apart."""
    if message["properties"]["body_encoding"] == "utf-8" and message["content-type"] == "application/json":
        message["body"] = json.loads(message["body"])
    return shown(message)


def differences(one: Any, other: Any, path: str = "") -> list[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        missing = object()
        names = sorted({*one, *other})
        found = (
            differences(one.get(name, missing), other.get(name, missing), f"{path}.{name}") for name in names
        )
        return [each for those in found for each in those]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        found = (
            differences(*pair, f"{path}[{place}]") for place, pair in enumerate(zip(one, other, strict=True))
        )
        return [each for those in found for each in those]
    return [] if one == other else [f"{path}: {one!r} and {other!r}"]


def submitted(url: str, submit: Callable[[], Any]) -> Any:
    """What is in line after it, by queue, or the error that it ended with."""
    with Redis.from_url(url) as client:
        client.flushall()
        try:
            submit()
        except Exception as exc:  # noqa: BLE001 - whatever it is, it is compared
            return type(exc), str(exc)
        found: dict[str, list[Any]] = {}
        for key in sorted(client.scan_iter("*:messages")):
            values: Any = client.hvals(key)
            messages = [json.loads(each) for each in values]
            found[key.decode()] = sorted(
                map(read, messages), key=lambda each: json.dumps(each, sort_keys=True)
            )
        return found


def compare(app: Celery, url: str, options: dict[str, Any]) -> None:
    for name in TASKS:
        task: Any = app.tasks[f"bulk.{name}"]
        arguments = [((0,), {"card": "4111"})] if "task_id" in options else [((x,), {}) for x in range(3)]
        signatures = [task.s(*args, **kwargs).set(**options) for args, kwargs in arguments]
        compare_ways(app, url, signatures, name)


def compare_ways(app: Celery, url: str, signatures: list[Any], name: str) -> None:
    one_by_one = submitted(url, lambda: [each.clone().apply_async() for each in signatures])
    together = submitted(url, lambda: submit_many([each.clone() for each in signatures], app=app))
    assert differences(one_by_one, together, name) == []
    assert one_by_one, name


def test_celery_publishes_the_first_of_many_that_are_alike(
    made: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    published: list[str] = []
    monkeypatch.setattr(made, "note_submission", published.append)
    submit_many(
        (made.tasks[f"bulk.{name}"].s(x) for x in range(50) for name in ("plain", "urgent")), app=made
    )
    assert published == ["bulk.plain", "bulk.urgent"]
    submit_many((made.tasks["bulk.tenanted"].s(x) for x in range(50)), app=made)
    assert len(published) == 52


@pytest.mark.parametrize("hook", HOOKS)
def test_a_hook_is_there_for_each_task_of_many(
    hook: str, made: Celery, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made.tasks["bulk.plain"]  # as in any process that submits, all are bound
    with monkeypatch.context() as patch:
        HOOKS[hook](made, patch)
        compare(made, redis_url, {})


@pytest.mark.parametrize("options", OPTIONS)
def test_options_mean_the_same_for_each_task_of_many(options: str, made: Celery, redis_url: str) -> None:
    compare(made, redis_url, OPTIONS[options])


@pytest.mark.parametrize("made", [Telling], indirect=True)
def test_an_application_class_is_asked_for_each_task_of_many(made: Celery, redis_url: str) -> None:
    compare(made, redis_url, {})


def test_a_message_format_of_an_applications_own_is_kept(made: Celery, redis_url: str) -> None:
    vars(made)["amqp"] = Amqp(made)
    compare(made, redis_url, {})


def test_what_a_task_submits_together_is_in_its_trail(made: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    within_a_task(made, monkeypatch)
    task: Any = made.tasks["bulk.plain"]
    ids = submit_many((made.tasks["bulk.quiet"].s(x) for x in range(3)), app=made)
    assert [child.id for child in task.request.children] == ids
