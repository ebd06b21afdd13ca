"""Each default gives way to whatever the application says about the same thing: the table of decision 0001.

The table is compared with the code, and every way that it names for a setting is tried: a default without its
row, or a row without a value to try, fails here.
"""

import contextlib
import functools
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery import Task as CeleryTask
from celery._state import _task_stack  # type: ignore[attr-defined]
from celery.app.defaults import _TO_OLD_KEY  # type: ignore[attr-defined]
from kombu import Queue
from kombu.exceptions import OperationalError

from seawall import ConfigError, Seawall, install
from seawall.delivery.bulk import _Batch
from seawall.delivery.envelope import SUBMITTED
from seawall.worker import lifecycle, older
from seawall.worker.defaults import PLAIN, LazyDefaults
from seawall.worker.task import SeawallTask
from seawall.worker.time_limits import NAMES, NOTHING, limits_of
from support.nodes import ROOT

BROKER = "memory://"

OTHERS: Mapping[str, Any] = {
    "accept_content": ["json", "yaml"],
    "task_serializer": "yaml",
    "result_serializer": "yaml",
    "event_serializer": "yaml",
    "task_acks_late": False,
    "worker_deduplicate_successful_tasks": False,
    "worker_cancel_long_running_tasks_on_connection_loss": True,
    "task_soft_time_limit": 17,
    "task_time_limit": 18,
    "worker_prefetch_multiplier": 7,
    "task_default_priority": 2,
    "task_queue_max_priority": 3,
    "task_publish_retry": False,
    "task_publish_retry_policy": {"max_retries": 1},
    "broker_connection_timeout": 1.5,
    "broker_connection_retry": False,
    "broker_connection_retry_on_startup": False,
    "broker_connection_max_retries": 5,
    "redis_socket_connect_timeout": 2.5,
    "redis_socket_timeout": 2.5,
    "redis_socket_keepalive": False,
    "redis_retry_on_timeout": False,
    "worker_proc_alive_timeout": 9.0,
    "worker_pool": "solo",
    "worker_send_task_events": True,
    "broker_url": "memory://elsewhere",
    "result_backend": "cache+memory://",
    "broker_transport": "redis",
    "broker_transport_options": {"visibility_timeout": 7},
    "result_backend_transport_options": {"retry_policy": {"timeout": 3.0}},
}
"""What an application may say instead of ours, by setting."""

ATTRIBUTES = {name: attribute for attribute, name in CeleryTask.from_config}
ATTRIBUTES |= {f"task_{name}": name for name in NAMES}  # Celery 5.6 gives a task no limits; we do


def rows() -> dict[str, list[str]]:
    """The table: by each default who may say something else."""
    page = (ROOT / "docs/decisions/0001-celery-defaults.md").read_text().partition("## What gives way")[2]
    found = re.findall(r"^\| `(\w+)` \| ([a-z, ]+) \| .*\|$", page, re.MULTILINE)
    return {name: ways.split(", ") for name, ways in found}


def settings_said_by(way: str) -> list[str]:
    return [name for name, ways in rows().items() if way in ways]


def plain(**options: Any) -> Any:
    return Celery("plain", set_as_current=False, **{"broker": BROKER, "backend": "disabled://", **options})


def said(**settings: Any) -> Any:
    """An application that said `settings` before it became one of ours."""
    app = Celery("plain", set_as_current=False)
    app.conf.update({"broker_url": BROKER, "result_backend": "disabled://", **settings})
    return installed(app)


def installed(app: Celery) -> Seawall:
    made = install(app)
    assert isinstance(made, Seawall)
    return made


def test_the_table_has_every_default_and_each_has_something_to_try() -> None:
    defaults = {*PLAIN, *LazyDefaults(plain())}
    assert set(rows()) == defaults
    assert set(OTHERS) == defaults


def test_a_task_and_a_call_can_say_what_the_table_says() -> None:
    """Settings that Celery gives to tasks as an attribute, and no others."""
    assert {name for name in rows() if name in ATTRIBUTES} == set(settings_said_by("task"))
    assert set(settings_said_by("call")) - set(settings_said_by("task")) == {
        "task_publish_retry",
        "task_publish_retry_policy",
    }


def _before(said: dict[str, Any]) -> Celery:
    app = plain()
    app.conf.update(said)
    return install(app)


def _after(said: dict[str, Any]) -> Celery:
    app = install(plain())
    app.conf.update(said)
    return app


def _after_it_was_read(said: dict[str, Any]) -> Celery:
    app = install(plain())
    assert app.conf.task_acks_late is True
    for name, value in said.items():
        setattr(app.conf, name, value)
    return app


def _keywords(said: dict[str, Any]) -> Celery:
    return install(Celery("plain", set_as_current=False, **said))


def _keywords_of_ours(said: dict[str, Any]) -> Celery:
    return Seawall("ours", set_as_current=False, **said)


def _changes(said: dict[str, Any]) -> Celery:
    return install(plain(changes=said))


def _class(said: dict[str, Any]) -> Celery:
    app = plain()
    app.config_from_object(type("Config", (), said))
    return install(app)


def _module(said: dict[str, Any]) -> Celery:
    module = ModuleType("seawall_test_config")
    vars(module).update(said)
    sys.modules[module.__name__] = module
    try:
        app = install(plain())
        app.config_from_object(module.__name__)
        assert app.conf.task_protocol
    finally:
        del sys.modules[module.__name__]
    return app


def _namespace(said: dict[str, Any]) -> Celery:
    app = plain()
    app.config_from_object(
        SimpleNamespace(**{f"CELERY_{name.upper()}": value for name, value in said.items()}),
        namespace="CELERY",
    )
    return install(app)


def _namespace_after(said: dict[str, Any]) -> Celery:
    app = install(plain())
    app.config_from_object(
        {f"CELERY_{name.upper()}": value for name, value in said.items()}, namespace="CELERY"
    )
    return app


def _old_names(said: dict[str, Any]) -> Celery:
    app = plain()
    app.config_from_object({_TO_OLD_KEY.get(name, name.upper()): value for name, value in said.items()})
    return install(app)


def _add_defaults(said: dict[str, Any]) -> Any:
    app: Any = install(plain())
    app.add_defaults(said)
    return app


def _add_defaults_when_it_was_read(said: dict[str, Any]) -> Any:
    app: Any = install(plain())
    assert app.conf.task_acks_late is True
    app.add_defaults(said)
    return app


CONF: list[Callable[[dict[str, Any]], Any]] = [
    *(_before, _after, _after_it_was_read, _keywords, _keywords_of_ours, _changes),
    *(_class, _module, _namespace, _namespace_after, _old_names),
    *(_add_defaults, _add_defaults_when_it_was_read),
]
_SAYS_NO_NONE = {_keywords, _keywords_of_ours}
"""To Celery, a keyword argument that is None is one that is not given."""

_NAMES_SERVERS = (_after, _after_it_was_read, _keywords, _keywords_of_ours)
"""The ways that do not begin with `Celery(broker=..., backend=...)`, which would say it already."""


@pytest.mark.parametrize(
    ("name", "way"),
    [
        pytest.param(name, way, id=f"{name}-{way.__name__.strip('_')}")
        for name in settings_said_by("conf")
        for way in (_NAMES_SERVERS if name in {"broker_url", "result_backend"} else CONF)
    ],
)
@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
@pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning")
def test_what_conf_says_counts(name: str, way: Callable[[dict[str, Any]], Any]) -> None:
    app = way({name: OTHERS[name]})
    assert app.conf[name] == OTHERS[name]
    assert getattr(app.conf, name) == OTHERS[name]


# What a task says


def _option(app: Any, said: dict[str, Any]) -> Any:
    return app.task(shared=False, name="work", **said)(a_function())


def _base(app: Any, said: dict[str, Any]) -> Any:
    base: Any = type("Base", (CeleryTask,), {"abstract": True, **said})
    return app.task(shared=False, name="work", base=base)(a_function())


def _base_of_ours(app: Any, said: dict[str, Any]) -> Any:
    base: Any = type("Base", (app.Task,), {"abstract": True, **said})
    return app.task(shared=False, name="work", base=base)(a_function())


def _task_cls(app: Celery, said: dict[str, Any]) -> Any:
    own = type("Own", (CeleryTask,), {"abstract": True, **said})
    app = install(plain(task_cls=own, changes=dict(app.conf.changes or {})))
    return app.task(shared=False, name="work")(a_function())


def _annotated(app: Celery, said: dict[str, Any]) -> Any:
    app.conf.task_annotations = {"work": said}
    return app.task(shared=False, name="work")(a_function())


def _all_annotated(app: Celery, said: dict[str, Any]) -> Any:
    app.conf.task_annotations = {"*": said}
    return app.task(shared=False, name="work")(a_function())


def _annotated_by_an_object(app: Celery, said: dict[str, Any]) -> Any:
    class Annotate:
        def annotate(self, task: Any) -> dict[str, Any] | None:
            return said if task.name == "work" else None

    app.conf.task_annotations = [Annotate()]
    return app.task(shared=False, name="work")(a_function())


TASK: list[Callable[[Celery, dict[str, Any]], Any]] = [
    *(_option, _base, _base_of_ours, _task_cls),
    *(_annotated, _all_annotated, _annotated_by_an_object),
]


def a_function() -> Any:
    """A function of its own each time: a policy hangs on it."""

    def work() -> None:
        """Does nothing."""

    return work


@pytest.mark.parametrize("way", TASK, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("name", settings_said_by("task"))
@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
def test_what_a_task_says_counts(name: str, way: Callable[[Celery, dict[str, Any]], Any]) -> None:
    attribute = ATTRIBUTES[name]
    task = way(said(), {attribute: OTHERS[name]})
    assert isinstance(task, SeawallTask)
    assert getattr(task, attribute) == OTHERS[name]


@pytest.mark.parametrize("way", TASK, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize(
    ("told", "limits"),
    [({"time_limit": 60}, (None, 60)), ({"soft_time_limit": 600}, (600, 610))],
    ids=["hard", "soft"],
)
def test_a_limit_that_a_task_has_is_never_beside_a_default_that_contradicts_it(
    way: Callable[[Celery, dict[str, Any]], Any], told: dict[str, Any], limits: tuple[Any, Any]
) -> None:
    task = way(said(), told)
    assert (task.soft_time_limit, task.time_limit) == limits


# What is said late


def _by_attribute(app: Any, said: dict[str, Any]) -> None:
    for name, value in said.items():
        setattr(app.conf, name, value)


def _by_update(app: Any, said: dict[str, Any]) -> None:
    app.conf.update(said)


def _by_object(app: Any, said: dict[str, Any]) -> None:
    app.config_from_object(said)


def _by_namespace(app: Any, said: dict[str, Any]) -> None:
    app.config_from_object({f"SHOP_{name.upper()}": value for name, value in said.items()}, namespace="SHOP")


def _by_defaults(app: Any, said: dict[str, Any]) -> None:
    app.add_defaults(said)


def _begin_worker(app: Any) -> None:
    """What comes of tasks after the receivers of `celeryd_init`, when Celery has bound them all."""
    lifecycle._bind_tasks_anew(SimpleNamespace(app=app))


LATER: list[Callable[[Any, dict[str, Any]], None]] = [
    *(_by_attribute, _by_update, _by_object, _by_namespace, _by_defaults)
]


@pytest.mark.parametrize("worker", [False, True], ids=["before finalize", "before a worker"])
@pytest.mark.parametrize("way", LATER, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("name", settings_said_by("task"))
def test_what_conf_says_after_a_task_was_bound_counts(
    name: str, way: Callable[[Any, dict[str, Any]], None], worker: bool
) -> None:
    app: Any = said()
    task = app.task(shared=False, name="work")(a_function())
    assert getattr(task, ATTRIBUTES[name]) == app.conf[name] != OTHERS[name]
    if worker:
        app.finalize()
        way(app, {name: OTHERS[name]})
        _begin_worker(app)
    else:
        way(app, {name: OTHERS[name]})
        app.finalize()
    assert getattr(task, ATTRIBUTES[name]) == OTHERS[name]
    assert limits_of(task, NOTHING) == (app.conf.task_soft_time_limit, app.conf.task_time_limit)


@pytest.mark.parametrize("way", TASK, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize("name", settings_said_by("task"))
@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
def test_what_a_task_says_counts_more_than_a_late_setting_even_if_it_is_our_default(
    name: str, way: Callable[[Celery, dict[str, Any]], Any]
) -> None:
    ours = said().conf[name]
    task = way(said(), {ATTRIBUTES[name]: ours})
    assert getattr(task, ATTRIBUTES[name]) == ours
    _by_attribute(task.app, {name: OTHERS[name]})
    task.app.finalize()
    _begin_worker(task.app)
    assert getattr(task, ATTRIBUTES[name]) == ours


def test_a_late_setting_leaves_what_on_bound_and_the_application_gave_the_class() -> None:
    class Own(CeleryTask):  # type: ignore[type-arg] # generic from Celery 5.7 on
        abstract = True

        @classmethod
        def on_bound(cls, _app: Celery) -> None:
            cls.time_limit = 77

    app: Any = said()
    task: Any = app.task(shared=False, name="work", base=Own)(a_function())
    task.__class__.priority = 9
    app.conf.update(task_acks_late=False, task_time_limit=18, task_default_priority=2)
    app.finalize()
    _begin_worker(app)
    assert (task.time_limit, task.priority, task.acks_late) == (77, 9, False)


def test_each_task_class_of_a_family_keeps_what_it_says() -> None:
    app: Any = said()

    class First(app.Task):  # type: ignore[misc]
        name = "first"

        def run(self) -> None: ...

    class Second(First):
        name = "second"
        acks_late = True

    first, second = app.register_task(First()), app.register_task(Second())
    app.conf.task_acks_late = False
    _begin_worker(app)
    assert (first.acks_late, second.acks_late) == (False, True)


NEWER = pytest.mark.skipif(not older.TELLS_TIMEOUTS, reason="needs a setting of Celery 5.7")


def acks(task: Any) -> tuple[bool, bool]:
    """Whether a task's message is done with after a failure, and after a hard limit."""
    if older.TELLS_TIMEOUTS:
        return task.acks_on_failure, task.acks_on_timeout
    return task.acks_on_failure_or_timeout, older.acks_on_timeout(task)


@pytest.mark.parametrize("way", TASK, ids=lambda way: way.__name__.strip("_"))
def test_the_older_option_about_failures_speaks_for_both_newer_ones(
    way: Callable[[Celery, dict[str, Any]], Any],
) -> None:
    task = way(said(), {"acks_on_failure_or_timeout": False})
    assert acks(task) == (False, False)


@pytest.mark.parametrize("way", CONF, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, (True, True)),
        ({"task_acks_on_failure_or_timeout": False}, (False, False)),
        pytest.param({"task_acks_on_failure": False}, (False, True), marks=NEWER),
        pytest.param({"task_acks_on_timeout": False}, (True, False), marks=NEWER),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
@pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning")
def test_so_do_the_settings_about_failures(
    way: Callable[[dict[str, Any]], Any], told: dict[str, Any], expected: tuple[bool, bool]
) -> None:
    task = way(dict(told)).task(shared=False, name="work")(a_function())
    assert acks(task) == expected


# What a call says


def published(task: Any, submit: Callable[..., Any] | None = None, /, **options: Any) -> dict[str, Any]:
    """What Celery hands to kombu for one call."""
    sent: list[dict[str, Any]] = []
    with task.app.connection_for_write(url=BROKER) as connection:
        producer = task.app.amqp.Producer(connection)
        producer.publish = lambda _body, **fields: sent.append(fields)
        (submit or task.apply_async)(producer=producer, **options)
    return sent[0]


CALLS: Mapping[str, tuple[str, Any, Callable[[dict[str, Any]], Any]]] = {
    "task_serializer": ("serializer", "yaml", lambda sent: sent["serializer"]),
    "task_soft_time_limit": ("soft_time_limit", 17, lambda sent: sent["headers"]["timelimit"][1]),
    "task_time_limit": ("time_limit", 18, lambda sent: sent["headers"]["timelimit"][0]),
    "task_default_priority": ("priority", 2, lambda sent: sent["priority"]),
    "task_publish_retry": ("retry", False, lambda sent: sent["retry"]),
    "task_publish_retry_policy": (
        "retry_policy",
        {"max_retries": 1},
        lambda sent: {"max_retries": sent["retry_policy"]["max_retries"]},
    ),
}


@pytest.mark.parametrize("way", ["apply_async", "set"])
@pytest.mark.parametrize("name", settings_said_by("call"))
def test_what_a_call_says_counts(name: str, way: str) -> None:
    option, value, found = CALLS[name]
    task = said().task(shared=False, name="work")(a_function())
    if way == "set":
        sent = published(task, task.s().set(**{option: value}).apply_async)
    else:
        sent = published(task, **{option: value})
    assert found(sent) == value


# What a route says


def _router(name: str, *_: Any, **__: Any) -> dict[str, Any] | None:
    return dict(ROUTE) if name == "work" else None


ROUTE: Mapping[str, Any] = {"queue": "q", "priority": 7, "headers": {"tenant": "x"}, "argsrepr": "hidden"}
ROUTES: Mapping[str, Any] = {
    "name": {"work": dict(ROUTE)},
    "pattern": {"other": "p", "wo*": dict(ROUTE)},
    "function": _router,
}
SUBMISSIONS: Mapping[str, Callable[[Any], Callable[..., Any]]] = {
    "apply_async": lambda task: task.apply_async,
    "signature": lambda task: task.s().apply_async,
    "queue": lambda task: functools.partial(task.apply_async, queue="elsewhere"),
    "send_task": lambda task: functools.partial(task.app.send_task, "work"),
    "another router": lambda task: functools.partial(task.apply_async, router=task.app.amqp.Router()),
}


@pytest.mark.parametrize("submission", SUBMISSIONS)
@pytest.mark.parametrize("routes", ROUTES)
def test_what_a_route_says_counts_more_than_what_is_ours(routes: str, submission: str) -> None:
    app: Any = said(task_routes=ROUTES[routes])
    task = app.task(shared=False, name="work")(a_function())
    for _ in range(2):
        sent = published(task, SUBMISSIONS[submission](task))
        assert sent["priority"] == 7
        assert sent["routing_key"] == ("elsewhere" if submission == "queue" else "q")
        assert sent["headers"].keys() >= {"tenant", SUBMITTED}
        assert (sent["headers"]["argsrepr"], sent["headers"]["kwargsrepr"]) == ("hidden", "{}")
    assert published(task, functools.partial(app.send_task, "a.stranger"))["priority"] == 5


@pytest.mark.parametrize(
    ("conf", "options", "call", "priority"),
    [
        ({}, {}, {"priority": 3}, 3),
        ({}, {"priority": 5}, {}, 5),
        ({"task_annotations": {"work": {"priority": 5}}}, {}, {}, 5),
        ({"task_default_priority": 5}, {}, {}, 5),
        ({"task_queue_max_priority": 10}, {}, {}, 7),
        ({"task_inherit_parent_priority": True}, {}, {}, 7),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
def test_what_is_said_of_a_task_or_a_call_counts_more_than_its_route_as_in_celery(
    conf: dict[str, Any], options: dict[str, Any], call: dict[str, Any], priority: int
) -> None:
    conf = {**conf, "task_routes": ROUTES["name"]}
    for app in (said(**conf), plain(changes=conf)):
        task = app.task(shared=False, name="work", **options)(a_function())
        assert published(task, **call)["priority"] == priority


def test_a_priority_said_after_the_first_call_counts() -> None:
    app: Any = said()
    task = app.task(shared=False, name="work")(a_function())
    assert published(task)["priority"] == 5
    app.conf.task_default_priority = 8
    app.finalize()
    assert published(task)["priority"] == 8


@pytest.mark.parametrize("wrong", [{"priority": 11}, {"headers": ["x"]}], ids=str)
def test_a_route_says_nothing_that_a_call_may_not(wrong: dict[str, Any]) -> None:
    task = said(task_routes={"work": wrong}).task(shared=False, name="work")(a_function())
    with pytest.raises(ConfigError, match=f"^{next(iter(wrong))}="):
        published(task)


# What follows from what


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, {"broker_connection_retry_on_startup": True}),
        ({"broker_connection_retry": False}, {"broker_connection_retry_on_startup": False}),
        (
            {"broker_connection_retry": False, "broker_connection_retry_on_startup": True},
            {"broker_connection_retry_on_startup": True},
        ),
        ({}, {"redis_socket_connect_timeout": 4, "redis_socket_timeout": 5}),
        ({"redis_socket_timeout": 1}, {"redis_socket_connect_timeout": 1}),
        ({"redis_socket_timeout": 30}, {"redis_socket_connect_timeout": 30}),
        ({}, {"task_soft_time_limit": 300, "task_time_limit": 310}),
        ({"task_time_limit": 1800}, {"task_soft_time_limit": None}),
        ({"task_time_limit": None}, {"task_soft_time_limit": None}),
        ({"task_soft_time_limit": 600}, {"task_time_limit": 610}),
        ({"task_soft_time_limit": None}, {"task_time_limit": 310}),
        ({}, {"task_default_priority": 5}),
        ({"task_queue_max_priority": 10}, {"task_default_priority": None}),
        ({"task_queue_max_priority": 10, "task_default_priority": 4}, {"task_default_priority": 4}),
        ({"task_queues": [Queue("q", max_priority=3)]}, {"task_default_priority": None}),
        (
            {"task_queues": (Queue("q", queue_arguments={"x-max-priority": 3}),)},
            {"task_default_priority": None},
        ),
        ({"task_queues": {"q": {"queue_arguments": {"x-max-priority": 3}}}}, {"task_default_priority": None}),
        ({"task_queues": [Queue("q")]}, {"task_default_priority": 5}),
        ({}, {"result_accept_content": None, "task_reject_on_worker_lost": None}),
        ({}, {"task_eager_propagates": False}),
    ],
    ids=str,
)
@pytest.mark.parametrize("way", CONF, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
@pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning")
def test_a_default_follows_from_what_the_application_says_about_the_same_thing(
    way: Callable[[dict[str, Any]], Any], told: dict[str, Any], expected: dict[str, Any]
) -> None:
    conf: Any = way(dict(told)).conf
    if None in told.values() and way in _SAYS_NO_NONE:
        expected = {"task_soft_time_limit": 300, "task_time_limit": 310}
    assert {name: conf[name] for name in expected} == expected


@pytest.mark.parametrize("way", CONF, ids=lambda way: way.__name__.strip("_"))
@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
@pytest.mark.filterwarnings("ignore::celery.exceptions.CPendingDeprecationWarning")
def test_an_application_without_a_time_limit_has_none_for_its_tasks(
    way: Callable[[dict[str, Any]], Any],
) -> None:
    if way in _SAYS_NO_NONE:
        return
    task = way({"task_time_limit": None}).task(shared=False, name="work")(a_function())
    assert (task.soft_time_limit or None, task.time_limit or None) == (None, None)


def test_results_may_be_in_whatever_the_application_accepts() -> None:
    app = said(
        accept_content=["json", "pickle"], result_serializer="pickle", result_backend="cache+memory://"
    )
    app.backend.store_result("an-id", {1, 2}, "SUCCESS")
    assert app.AsyncResult("an-id").result == {1, 2}
    assert said(result_backend="cache+memory://").backend.accept == {"application/json"}


# Connections


def connected(app: Any, url: str | None = None, **options: Any) -> tuple[str, dict[str, Any]]:
    made = app.connection_for_write(url=url, **options)
    return made.transport_cls, made.transport_options


def test_options_of_the_transport_that_the_application_does_not_set_are_still_ours() -> None:
    rabbit = said(broker_url="amqp://", broker_transport_options={"max_retries": 3})
    assert connected(rabbit)[1] == {"confirm_publish": True, "max_retries": 3}
    assert connected(rabbit, transport_options={"confirm_publish": False})[1]["confirm_publish"] is False
    unsure = said(broker_url="amqp://", broker_transport_options={"confirm_publish": False})
    assert connected(unsure)[1] == {"confirm_publish": False}
    redis = said(broker_url="redis://", broker_transport_options={"visibility_timeout": 7200})
    assert connected(redis)[1] == {"socket_keepalive": True, "visibility_timeout": 7200}
    assert redis.conf.broker_transport_options == {"visibility_timeout": 7200}


def test_so_are_options_that_it_changes_in_place() -> None:
    app = said(broker_url="redis://")
    app.conf.broker_transport_options["visibility_timeout"] = 7200
    app.conf.broker_transport_options["socket_keepalive"] = False
    assert connected(app)[1] == {"socket_keepalive": False, "visibility_timeout": 7200}
    app.conf.task_publish_retry_policy["max_retries"] = 1
    assert app.conf.task_publish_retry_policy["max_retries"] == 1
    assert said().conf.task_publish_retry_policy["max_retries"] == 12


def test_a_connection_to_another_server_takes_the_transport_of_its_url() -> None:
    app = said(broker_url="redis://")
    ours = "seawall.delivery:Transport"
    assert connected(app)[0] == ours
    assert connected(app, "amqp://elsewhere") == ("amqp", {"confirm_publish": True})
    assert connected(app, "memory://")[0] == "memory"
    both = said(broker_url="redis://", broker_write_url="amqp://", broker_read_url="redis://")
    assert connected(both)[0] == "amqp"
    assert both.connection_for_read().transport_cls == ours
    assert connected(said(broker_url="redis://", broker_transport="redis"))[0] == "redis"
    assert connected(app, transport="redis")[0] == "redis"


def test_options_of_the_result_backend_keep_the_prefix_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("seawall.worker.defaults.settings", lambda: SimpleNamespace(redis_prefix="shop:"))
    redis = {"broker_url": "redis://", "result_backend": "redis://"}
    other = said(**redis, result_backend_transport_options={"retry_policy": {"timeout": 3.0}})
    assert other.backend.task_keyprefix == b"shop:celery-task-meta-"
    assert other.conf.result_backend_transport_options["retry_policy"] == {"timeout": 3.0}
    own = said(**redis, result_backend_transport_options={"global_keyprefix": "own:"})
    assert own.backend.task_keyprefix.startswith(b"own:")


@pytest.mark.parametrize(
    ("query", "parameter", "value"),
    [
        ("socket_connect_timeout=9", "socket_connect_timeout", 9.0),
        ("socket_timeout=9", "socket_timeout", 9.0),
        ("socket_keepalive=False", "socket_keepalive", False),
        ("retry_on_timeout=False", "retry_on_timeout", False),
    ],
)
def test_the_url_of_the_backend_has_the_last_word(query: str, parameter: str, value: Any) -> None:
    assert said(result_backend=f"redis://localhost:1/0?{query}").backend.connparams[parameter] == value


@pytest.mark.parametrize("name", ["broker_url", "result_backend"])
def test_the_environment_names_servers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"CELERY_{name.upper()}", "memory://elsewhere")
    assert getattr(Seawall("ours", set_as_current=False).conf, name) == "memory://elsewhere"


# Priorities


@pytest.fixture
def parent() -> Iterator[Callable[[Celery, int | None], None]]:
    """Have a task of an application run, with this priority."""
    running: list[Any] = []

    def run(app: Celery, priority: int | None) -> None:
        task: Any = app.task(shared=False, name="parent")(a_function())
        task.push_request(
            id="parent", root_id="parent", called_directly=False, delivery_info={"priority": priority}
        )
        _task_stack.push(task)
        running.append(task)

    yield run
    for task in running:
        _task_stack.pop()
        task.pop_request()


@pytest.mark.parametrize("inherits", [True, False])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("priority", [8, None])
@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
def test_a_parents_priority_is_inherited_where_the_application_wants_that(
    parent: Callable[[Celery, int | None], None], inherits: bool, known: bool, priority: int | None
) -> None:
    app = said(task_inherit_parent_priority=inherits)
    child: Any = app.task(shared=False, name="child")(a_function())
    urgent: Any = app.task(shared=False, name="urgent", priority=9)(a_function())

    def submit(**options: Any) -> Any:
        return child.apply_async(**options) if known else app.send_task("a.stranger", **options)

    assert published(child, submit)["priority"] == 5
    parent(app, priority)
    assert published(child, submit)["priority"] == (priority if inherits and priority else 5)
    assert published(child, submit, priority=3)["priority"] == 3
    assert published(urgent)["priority"] == 9


def test_a_task_of_an_application_that_counts_priorities_has_none_by_default() -> None:
    app = said(task_queue_max_priority=10)
    task: Any = app.task(shared=False, name="work")(a_function())
    assert published(task).get("priority") is None
    assert published(task, priority=7)["priority"] == 7


# Attempts


def attempts(app: Any, error: type[Exception], **options: Any) -> int:
    """How often a task that always fails is run, eagerly."""
    runs = []

    def work() -> None:
        runs.append(1)
        raise error

    options = {"shared": False, "name": "work", "default_retry_delay": 0, **options}
    assert app.task(**options)(work).apply().failed()
    return len(runs)


@pytest.mark.parametrize(
    ("options", "error", "runs"),
    [
        ({}, ConnectionError, 3),
        ({}, ValueError, 1),
        ({"max_retries": 0}, ConnectionError, 1),
        ({"max_retries": 1}, ConnectionError, 2),
        ({"max_retries": 9}, ConnectionError, 3),
        ({"max_retries": None}, ConnectionError, 3),
        ({"dont_autoretry_for": (ConnectionError,)}, ConnectionError, 1),
        ({"autoretry_for": (OSError,), "retry_kwargs": {"max_retries": 1}}, ConnectionError, 2),
        ({"autoretry_for": (OSError,), "retry_kwargs": {"max_retries": 4}}, ConnectionError, 5),
        ({"autoretry_for": (KeyError,)}, ConnectionError, 3),
    ],
    ids=str,
)
def test_attempts_that_nobody_asked_for_are_bounded_by_what_the_task_says(
    options: dict[str, Any], error: type[Exception], runs: int
) -> None:
    assert attempts(said(), error, **options) == runs


def test_an_annotation_bounds_them_too() -> None:
    assert attempts(said(task_annotations={"*": {"max_retries": 0}}), ConnectionError) == 1


# Eager mode


@pytest.mark.parametrize(
    ("told", "options", "raises"),
    [
        ({}, {}, False),
        ({}, {"throw": True}, True),
        ({"task_eager_propagates": True}, {}, True),
        ({"task_eager_propagates": True}, {"throw": False}, False),
    ],
    ids=str,
)
@pytest.mark.parametrize("eager", [True, False])
def test_an_eager_task_raises_where_celerys_does(
    told: dict[str, Any], options: dict[str, Any], raises: bool, eager: bool
) -> None:
    def boom() -> None:
        raise ValueError("boom")

    app = said(task_always_eager=eager, **told)
    task = app.task(shared=False, name="boom")(boom)
    submit = task.apply_async if eager and not options else task.apply
    if raises:
        with pytest.raises(ValueError, match="boom"):
            submit(**options)
    else:
        assert isinstance(submit(**options).result, ValueError)


# Submitting


@pytest.mark.parametrize(
    ("policy", "seconds"),
    [
        (None, 10),
        ({"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}, 10),
        ({"max_retries": 100, "interval_start": 0, "interval_step": 1, "interval_max": 1}, 99),
        ({"max_retries": None}, 86400),
        ({"max_retries": 1000000}, 86400),
    ],
)
@pytest.mark.parametrize("way", ["conf", "call"])
def test_a_producer_that_wants_to_try_for_longer_does(
    policy: dict[str, Any] | None, seconds: float, way: str
) -> None:
    app = said(**({"task_publish_retry_policy": policy} if policy and way == "conf" else {}))
    options = {"retry_policy": policy} if policy and way == "call" else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seawall.worker.app.submitting", waits := Recorded())
        published(app.task(shared=False, name="work")(a_function()), **options)
    assert waits.seconds == seconds


class Recorded(contextlib.nullcontext[None]):
    """In place of `submitting`: how long the producer would wait."""

    def __call__(self, seconds: float) -> "Recorded":
        self.seconds = seconds
        return self


def test_many_are_submitted_once_where_publishing_is_not_retried() -> None:
    tries = []

    def submit(_queue: str, _batch: list[Any]) -> None:
        tries.append(1)
        raise ConnectionError

    channel: Any = SimpleNamespace(submit=submit, connection_errors=(ConnectionError,))
    with pytest.raises(OperationalError):
        _Batch(channel, retry=False)._send("celery", [])
    assert len(tries) == 1
