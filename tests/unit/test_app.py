"""`Seawall` and `install`: what an app is given, what it keeps, what is refused. No broker is needed."""

import functools
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, shared_task
from celery import Task as CeleryTask
from celery.local import Proxy
from celery.worker import control
from kombu import Queue
from kombu.exceptions import OperationalError

from seawall import ConfigError, Priority, Retry, Seawall, install, policy
from seawall.worker import older
from seawall.worker.defaults import LazyDefaults
from seawall.worker.task import SeawallTask
from seawall.worker.time_limits import limits_of
from support.nodes import ROOT
from support.waiting import busyness

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def app() -> Seawall:
    made = Seawall("unit", set_as_current=False)
    made.conf.update(broker_url=NOWHERE, result_backend="cache+memory://")
    return made


def plain(**options: Any) -> Celery:
    return Celery("plain", broker=NOWHERE, set_as_current=False, **options)


@pytest.mark.parametrize("kind", ["classic", "quorum", "stream"])
def test_only_queues_that_know_priorities_are_declared_with_them(app: Seawall, kind: str) -> None:
    app.conf.task_queues = [Queue("q", queue_arguments={"x-queue-type": kind})]
    assert ("x-max-priority" in (app.amqp.queues["q"].queue_arguments or {})) == (kind == "classic")


@pytest.mark.parametrize("setting", ["task_default_queue_type", "task_create_missing_queue_type"])
@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_so_are_queues_that_celery_makes_up(app: Seawall, setting: str, kind: str) -> None:
    app.conf[setting] = kind
    made = app.amqp.queues["celery" if setting == "task_default_queue_type" else "new"]
    assert ("x-max-priority" in (made.queue_arguments or {})) == (kind == "classic")


def test_a_policy_becomes_the_attributes_celery_reads(app: Seawall) -> None:
    @app.task(shared=False)
    @policy(priority=Priority.HIGH, timeout=60, retry=Retry(max_attempts=5))
    def charge() -> None: ...

    assert (charge.priority, charge.soft_time_limit, charge.time_limit, charge.max_retries) == (7, 60, 70, 4)


def test_a_task_without_policy_has_the_defaults(app: Seawall) -> None:
    @app.task(shared=False)
    def bare() -> None: ...

    assert (bare.priority, bare.soft_time_limit, bare.time_limit) == (Priority.NORMAL, 300, 310)


@pytest.mark.parametrize(
    ("option", "value", "fields"),
    [
        ("priority", 3, {"priority": 7}),
        ("priority", 5, {"priority": 7}),
        ("time_limit", 5, {"timeout": 60}),
        ("soft_time_limit", 5, {"timeout": 60}),
        ("max_retries", 9, {"retry": Retry()}),
    ],
)
@pytest.mark.filterwarnings("ignore::celery.exceptions.CDeprecationWarning")
def test_the_same_thing_said_twice_is_refused(
    app: Seawall, option: str, value: Any, fields: dict[str, Any]
) -> None:
    @policy(**fields)
    def charge() -> None: ...

    options: dict[str, Any] = {"shared": False, "lazy": False, option: value}
    with pytest.raises(ConfigError, match=rf"{option}={value}") as caught:
        app.task(**options)(charge)
    assert "keep one" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_annotations_of_an_operator_beat_the_policy(app: Seawall) -> None:
    app.conf.task_annotations = {"charge": {"priority": 1, "time_limit": 7}}

    @app.task(shared=False, name="charge")
    @policy(priority=Priority.HIGH, timeout=60)
    def charge() -> None: ...

    assert (charge.priority, charge.time_limit) == (1, 7)


def test_shared_tasks_and_tasks_with_a_base_of_their_own_have_policies_too(app: Seawall) -> None:
    class Audited(CeleryTask):  # type: ignore[type-arg] # generic from Celery 5.7 on
        abstract = True
        audited = True

    @app.task(shared=False, base=Audited)
    @policy(priority=Priority.LOW)
    def own_base() -> None: ...

    @shared_task(name="unit.shared")
    @policy(priority=Priority.CRITICAL)
    def shared() -> None: ...

    assert own_base.audited
    assert own_base.priority == Priority.LOW
    assert app.tasks["unit.shared"].priority == Priority.CRITICAL


def test_a_task_bound_twice_is_no_conflict(app: Seawall) -> None:
    @app.task(shared=False)
    @policy(priority=Priority.LOW)
    def again() -> None: ...

    again.bind(app)
    assert again.priority == Priority.LOW


def test_what_the_application_sets_wins_over_the_defaults() -> None:
    app = install(plain())
    app.conf.update(task_acks_late=False, accept_content=["json", "yaml"])
    assert app.conf.task_acks_late is False
    assert app.conf.accept_content == ["json", "yaml"]
    assert app.conf.worker_prefetch_multiplier == 1
    assert app.conf.broker_url == NOWHERE


def test_an_app_without_its_defaults_is_no_app(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyError("task_acks_on_failure")  # as with a version of Celery that nobody knew

    monkeypatch.setattr(LazyDefaults, "__init__", fail)
    app = Seawall("shop", set_as_current=False)
    with pytest.raises(ConfigError, match="task_acks_on_failure"):
        _ = app.conf.task_acks_late


@pytest.mark.parametrize(("namespace", "key"), [(None, "task_time_limit"), ("SHOP", "SHOP_TASK_TIME_LIMIT")])
def test_install_keeps_config_from_object(namespace: str | None, key: str) -> None:
    app = plain()
    app.config_from_object({key: 42}, namespace=namespace)
    assert install(app).conf.task_time_limit == 42
    assert app.conf.task_acks_late is True


def _by_path() -> Celery:
    return plain(task_cls="celery.app.task:Task")


def _by_class() -> Celery:
    class Own(CeleryTask):  # type: ignore[type-arg] # generic from Celery 5.7 on
        abstract = True
        own = True

    return plain(task_cls=Own)


def _by_subclass() -> Celery:
    class Own(CeleryTask):  # type: ignore[type-arg] # generic from Celery 5.7 on
        abstract = True
        own = True

    class Company(Celery):
        task_cls = Own  # type: ignore[assignment] # Celery takes a class as well as its path

    return Company("company", broker=NOWHERE, set_as_current=False)


def _by_placing() -> Celery:
    """As Flask's older documentation has it: each task runs in the application's context."""
    app = plain()

    class Own(app.Task):  # type: ignore[name-defined,misc]
        abstract = True
        own = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return "in context", super().__call__(*args, **kwargs)

    app.Task = Own  # type: ignore[misc]
    return app


def test_a_task_class_that_stands_in_place_of_the_apps_stays() -> None:
    app = install(_by_placing())
    app.conf.update(task_always_eager=True, result_backend="cache+memory://")

    @app.task(shared=False)
    def charge() -> int:
        return 1

    assert charge.delay().get() == ("in context", 1)


class Extension(Celery):
    """As the extensions of Flask have it, flask-celery-helper for one: the app is made a second time."""

    def init_app(self, broker: str) -> None:
        Celery.__init__(self, "extension", broker=broker, set_as_current=False)
        self.conf.update(task_always_eager=True, result_backend="cache+memory://")

        class Own(self.Task):  # type: ignore[name-defined,misc]
            abstract = True

            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                return "in context", super().__call__(*args, **kwargs)

        self.Task = Own  # type: ignore[misc]


def test_an_app_that_is_made_a_second_time_stays_installed() -> None:
    app = Extension(set_as_current=False)
    install(app)

    steps = {kind: set(names) for kind, names in app.steps.items()}
    app.init_app(NOWHERE)

    @app.task(shared=False)
    def charge() -> int:
        return 2

    assert app.steps == steps
    assert app.conf.task_acks_late is True
    assert app.conf.broker_url == NOWHERE
    assert app.conf.broker_transport == install(plain()).conf.broker_transport
    assert charge.delay().get() == ("in context", 2)


@pytest.mark.parametrize("make", [plain, _by_path, _by_class, _by_subclass, _by_placing])
def test_install_puts_policies_in_front_of_any_task_class(make: Callable[[], Celery]) -> None:
    app = make()
    kind = type(app)
    assert install(app) is app
    assert isinstance(app, Seawall)
    assert isinstance(app, kind)

    @app.task(shared=False)
    @policy(priority=Priority.HIGH)
    def charge() -> None: ...

    assert isinstance(charge, SeawallTask)
    assert charge.priority == Priority.HIGH
    assert getattr(charge, "own", make is plain or make is _by_path)
    assert install(app) is app


def test_install_that_comes_too_late_is_refused() -> None:
    app = plain()
    app.finalize()
    with pytest.raises(
        ConfigError, match=r"install\(app='plain'\) came too late: call it right after Celery"
    ):
        install(app)
    with pytest.raises(ConfigError, match=r"is no celery\.Celery"):
        install("app")  # type: ignore[arg-type]


@pytest.mark.parametrize("use", [lambda task: task.name, lambda task: task.s()], ids=["name", "signature"])
def test_install_after_a_task_was_used_is_refused_with_its_name(use: Callable[[Any], Any]) -> None:
    app: Any = plain()
    tasks = [app.task(shared=False, name=f"unit.t{number}")(a_function()) for number in range(8)]
    for task in tasks[:7]:
        use(task)
    with pytest.raises(ConfigError, match=r"too late.*: unit\.t0, .*unit\.t4 and 2 more used already"):
        install(app)
    assert type(app) is Celery


def test_install_takes_tasks_that_nobody_has_used_and_leaves_classes_as_they_are() -> None:
    app: Any = plain()

    class Own(CeleryTask):  # type: ignore[type-arg] # generic from Celery 5.7 on
        name = "unit.own"

        def run(self) -> None: ...

    app._tasks.register(Own())
    task = app.task(shared=False, name="unit.unused")(a_function())
    install(app)
    assert isinstance(task, SeawallTask)
    assert not isinstance(app.tasks["unit.own"], SeawallTask)


def test_a_configuration_hook_that_was_connected_before_install_finds_the_defaults() -> None:
    app: Any = plain()
    found: list[Any] = []

    def setup(sender: Any, **_: Any) -> None:
        found.append(sender.conf.worker_prefetch_multiplier)
        sender.conf.task_default_priority = 8
        sender.add_periodic_task(10.0, task.s(), name="often")

    app.on_after_configure.connect(setup)
    task = app.task(shared=False, name="unit.often")(a_function())
    install(app)
    assert app.conf.beat_schedule["often"]["task"] == "unit.often"
    assert found == [1]
    assert (task.acks_late, task.soft_time_limit, task.priority) == (True, 300, 8)


def test_the_app_behind_a_proxy_is_installed() -> None:
    app = plain()
    assert install(Proxy(lambda: app)) is app  # type: ignore[arg-type]
    assert isinstance(app, Seawall)
    assert install(Proxy(lambda: app)) is app  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"is no celery\.Celery"):
        install(Proxy(lambda: "app"))  # type: ignore[arg-type]


def test_a_producer_hears_within_fifteen_seconds_that_the_broker_is_down(app: Seawall) -> None:
    before = time.monotonic()
    with pytest.raises(OperationalError, match="refused"):
        app.send_task("any")
    assert time.monotonic() - before < 15 * busyness()


def test_creating_an_app_reads_no_environment_and_starts_no_thread() -> None:
    code = (
        "import threading; from seawall import Seawall, settings; app = Seawall('quiet')\n"
        "@app.task\ndef task(): ...\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert settings.cache_info().currsize == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_who_only_submits_imports_no_worker_which_tools_may_still_want_to_wrap() -> None:
    code = (
        "import sys; from seawall import Seawall; app = Seawall('quiet')\n"
        "@app.task\ndef task(): ...\n"
        "assert task.name and app.conf.task_acks_late\n"
        "early = {'celery.worker.consumer', 'celery.concurrency.prefork', 'billiard.pool'}\n"
        "ours = {'seawall.worker.cells', 'seawall.worker.lifecycle', 'seawall.worker.gate'}\n"
        "assert not (early | ours) & set(sys.modules), (early | ours) & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def a_function() -> Any:
    """A function of its own each time: a policy hangs on it."""

    def work() -> None:
        """Does nothing."""

    return work


def limits_of_a_call(task: Any, **options: Any) -> tuple[float | None, float | None]:
    """Soft and hard limit as a worker holds the task to them, after what its message brings along."""
    sent: list[Any] = []
    with task.app.connection_for_write(url="memory://") as connection:
        producer = task.app.amqp.Producer(connection)
        producer.publish = lambda _body, **fields: sent.append(fields["headers"]["timelimit"])
        task.apply_async(producer=producer, **options)
    hard, soft = sent[0]
    return limits_of(task, (soft, hard))


def app_with(before: dict[str, Any], after: dict[str, Any], namespace: str | None = None) -> Any:
    made = Celery("limits", broker="memory://", backend="disabled://", set_as_current=False)
    if namespace:
        made.config_from_object(
            {f"{namespace}_{key.upper()}": value for key, value in before.items()}, namespace=namespace
        )
    else:
        made.conf.update(before)
    install(made)
    made.conf.update(after)
    return made


@pytest.mark.parametrize(
    ("said", "limits"),
    [
        ({}, (300, 310)),
        ({"time_limit": 60}, (None, 60)),
        ({"time_limit": 1800}, (None, 1800)),
        ({"soft_time_limit": 600}, (600, 610)),
        ({"soft_time_limit": 5}, (5, 15)),
        ({"soft_time_limit": 20, "time_limit": 60}, (20, 60)),
    ],
)
@pytest.mark.parametrize(
    "way", ["option", "conf before", "conf after", "namespace", "annotation", "call", "set"]
)
def test_where_one_time_limit_is_given_the_other_follows(
    said: dict[str, Any], limits: tuple[float | None, float | None], way: str
) -> None:
    conf = {f"task_{name}": value for name, value in said.items()}
    before = conf if way in {"conf before", "namespace"} else {}
    after = (
        conf if way == "conf after" else {"task_annotations": {"work": said}} if way == "annotation" else {}
    )
    app = app_with(before, after, "SHOP" if way == "namespace" else None)
    work = app.task(shared=False, name="work", **(said if way == "option" else {}))(a_function())
    if way == "set":
        signature = work.s().set(**said)
        assert limits_of_a_call(work, **signature.options) == limits
    else:
        assert limits_of_a_call(work, **(said if way == "call" else {})) == limits


@pytest.mark.parametrize(
    ("conf", "task", "call", "limits"),
    [
        ({"task_time_limit": 60}, {"soft_time_limit": 600}, {}, (600, 610)),
        ({"task_time_limit": 900}, {"soft_time_limit": 600}, {}, (600, 900)),
        ({"task_soft_time_limit": 600}, {"time_limit": 60}, {}, (None, 60)),
        ({"task_soft_time_limit": 30}, {"time_limit": 60}, {}, (30, 60)),
        ({}, {"time_limit": 60}, {"soft_time_limit": 90}, (90, 100)),
        ({}, {"soft_time_limit": 90}, {"time_limit": 60}, (None, 60)),
        ({}, {"soft_time_limit": 90}, {"time_limit": 120}, (90, 120)),
    ],
)
def test_the_nearer_time_limit_wins_and_the_farther_never_contradicts_it(
    conf: dict[str, Any],
    task: dict[str, Any],
    call: dict[str, Any],
    limits: tuple[float | None, float | None],
) -> None:
    work = app_with({}, conf).task(shared=False, name="work", **task)(a_function())
    assert limits_of_a_call(work, **call) == limits


@pytest.mark.parametrize(
    ("said", "call", "limits"),
    [
        ({"hard": 60}, {}, (20, 60)),
        ({"hard": 10}, {}, (None, 10)),
        ({"soft": 40}, {}, (40, 50)),
        ({"soft": 5, "hard": 8}, {}, (5, 8)),
        ({"hard": 10}, {"time_limit": 60}, (None, 10)),
        ({"soft": 5}, {"time_limit": 60}, (5, 60)),
    ],
)
def test_an_operator_has_the_last_word_about_time_limits(
    said: dict[str, Any], call: dict[str, Any], limits: tuple[float | None, float | None]
) -> None:
    app = app_with({}, {})
    work = app.task(shared=False, name="work", soft_time_limit=20)(a_function())
    assert limits_of_a_call(work) == (20, 30)
    commands: Any = control  # celery-types lacks them
    commands.time_limit(SimpleNamespace(app=app), task_name="work", **said)
    assert limits_of_a_call(work, **call) == limits


def test_a_policy_gives_both_time_limits_and_a_call_may_give_another() -> None:
    app = app_with({}, {})
    work = app.task(shared=False, name="work")(policy(timeout=30)(a_function()))
    assert limits_of_a_call(work) == (30, 40)
    assert limits_of_a_call(work, time_limit=60) == (30, 60)
    assert limits_of_a_call(work, time_limit=20) == (None, 20)


@pytest.mark.parametrize("way", ["option", "conf before", "conf after"])
def test_an_application_that_acknowledges_no_failure_keeps_that(way: str) -> None:
    conf = {"task_acks_on_failure_or_timeout": False}
    app = app_with(conf if way == "conf before" else {}, conf if way == "conf after" else {})
    work = app.task(
        shared=False, name="work", **({"acks_on_failure_or_timeout": False} if way == "option" else {})
    )(a_function())
    plain = app_with({}, {}).task(shared=False, name="plain")(a_function())
    assert (older.acks_on_timeout(work), older.acks_on_timeout(plain)) == (False, True)
    decides = "acks_on_failure" if older.TELLS_TIMEOUTS else "acks_on_failure_or_timeout"
    assert (getattr(work, decides), getattr(plain, decides)) == (False, True)


async def _coroutine() -> None: ...


async def _generator() -> AsyncIterator[int]:
    yield 1


class _Callable:
    __name__ = "called"

    async def __call__(self) -> None: ...


@pytest.mark.parametrize("installed", [False, True])
@pytest.mark.parametrize("body", [_coroutine, _generator, functools.partial(_coroutine), _Callable()])
def test_coroutine_functions_are_refused_where_they_are_defined(body: Any, installed: bool) -> None:
    app: Any = install(plain()) if installed else Seawall("unit", set_as_current=False)
    for decorate in (app.task, app.task(), app.task(name="unit.named", shared=False)):
        with pytest.raises(ConfigError, match=r"coroutine function.*asyncio\.run"):
            decorate(body)
    app.finalize()
    with pytest.raises(ConfigError, match="coroutine function"):
        app.task(body)


@pytest.mark.parametrize("installed", [False, True])
def test_task_classes_with_a_coroutine_as_run_are_refused(installed: bool) -> None:
    class Waiting(CeleryTask):  # type: ignore[type-arg] # generic from Celery 5.7 on  # type: ignore[type-arg]
        name = "unit.waiting"

        async def run(self) -> None: ...

    app: Any = install(plain()) if installed else Seawall("unit", set_as_current=False)
    for task in (Waiting, Waiting()):
        with pytest.raises(ConfigError, match=r"unit\.waiting is a coroutine function"):
            app.register_task(task)


def test_a_function_that_returns_a_coroutine_is_a_failure_and_no_success(app: Seawall) -> None:
    @app.task(shared=False)
    def starts() -> Any:
        return _coroutine()

    with pytest.raises(ConfigError, match="coroutine function"):
        starts.apply(throw=True)


def test_a_shared_coroutine_function_is_refused_by_the_app_that_takes_it() -> None:
    program = (
        "from celery import shared_task\nfrom seawall import Seawall\n"
        "@shared_task\nasync def waits(): ...\n"
        "Seawall('unit').finalize()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode
    assert "waits is a coroutine function" in done.stderr
