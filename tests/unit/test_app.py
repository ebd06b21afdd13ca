"""`Seawall` and `install`: what an app is given, what it keeps, what is refused. No broker is needed."""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, shared_task
from celery import Task as CeleryTask
from kombu.exceptions import OperationalError

from seawall import ConfigError, Priority, Retry, Seawall, install, policy
from seawall.worker.task import SeawallTask
from support.nodes import ROOT

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def app() -> Seawall:
    made = Seawall("unit", set_as_current=False)
    made.conf.update(broker_url=NOWHERE, result_backend="cache+memory://")
    return made


def plain(**options: Any) -> Celery:
    return Celery("plain", broker=NOWHERE, set_as_current=False, **options)


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
    class Audited(CeleryTask[Any, Any]):
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


@pytest.mark.parametrize(("namespace", "key"), [(None, "task_time_limit"), ("SHOP", "SHOP_TASK_TIME_LIMIT")])
def test_install_keeps_config_from_object(namespace: str | None, key: str) -> None:
    app = plain()
    app.config_from_object({key: 42}, namespace=namespace)
    assert install(app).conf.task_time_limit == 42
    assert app.conf.task_acks_late is True


def _by_path() -> Celery:
    return plain(task_cls="celery.app.task:Task")


def _by_class() -> Celery:
    class Own(CeleryTask[Any, Any]):
        abstract = True
        own = True

    return plain(task_cls=Own)


def _by_subclass() -> Celery:
    class Own(CeleryTask[Any, Any]):
        abstract = True
        own = True

    class Company(Celery):
        task_cls = Own  # type: ignore[assignment] # Celery takes a class as well as its path

    return Company("company", broker=NOWHERE, set_as_current=False)


@pytest.mark.parametrize("make", [plain, _by_path, _by_class, _by_subclass])
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
    assert getattr(charge, "own", True)
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


def test_a_producer_hears_within_fifteen_seconds_that_the_broker_is_down(app: Seawall) -> None:
    before = time.monotonic()
    with pytest.raises(OperationalError, match="refused"):
        app.send_task("any")
    assert time.monotonic() - before < 15


def test_creating_an_app_reads_no_environment_and_starts_no_thread() -> None:
    code = (
        "import threading; from seawall import Seawall, settings; app = Seawall('quiet')\n"
        "@app.task\ndef task(): ...\n"
        "assert threading.active_count() == 1, threading.enumerate()\n"
        "assert settings.cache_info().currsize == 0\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
