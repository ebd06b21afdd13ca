"""One value that cannot be read costs `seawall doctor` nothing but a line that names it."""

import ast
import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from celery import Celery

from seawall.doctor import adoption, audit_celery
from seawall.doctor.adoption import Notice, examine_application
from seawall.doctor.adoption.calls import _delays

FOREVER = 10**12 * 86400

BAD: dict[str, tuple[Any, list[str]]] = {
    "broker_url": (["redis://one", 17], ["broker_url has 17"]),
    "accept_content": (["json", ["yaml"]], ["accept_content has ['yaml']"]),
    "task_serializer": (["json"], ["task_serializer is ['json']"]),
    "include": ([17, "later_tasks"], ["include has 17"]),
    "task_time_limit": ("soon", ["task_time_limit is 'soon'"]),
    "task_queues": ({"fast": {}, "slow": 17, 4: {}}, ["task_queues has 17", "task_queues has {}"]),
    "task_routes": (
        [[("a.*", "slow")], 17, {"shop.pay": {"queue": ["x"]}, "b": 5}, [("a", "b", "c")]],
        ["task_routes has 17", "sends 'shop.pay' to ['x']", "sends 'b' to 5", "has ('a', 'b', 'c')"],
    ),
    "task_annotations": (
        {"shop.pay": 17, "*": {"rate_limit": "1/s"}},
        ["task_annotations['shop.pay'] is 17"],
    ),
    "broker_transport_options": (17, ["broker_transport_options is 17"]),
    "beat_schedule": (
        {
            "good": {"task": "shop.gone", "schedule": 5},
            "listed": {"task": ["shop.pay"], "schedule": 5},
            "for ever": {"task": "shop.pay", "schedule": FOREVER},
            "longest": {"task": "shop.pay", "schedule": dt.timedelta.max},
            "words": {"task": "shop.pay", "schedule": "hourly"},
            "no entry": 17,
            "options": {"task": "shop.pay", "schedule": 5, "options": 17},
            4: {"task": ["shop.pay"], "schedule": 5},
        },
        [
            "beat_schedule['listed'] has the task ['shop.pay']",
            "beat_schedule['for ever'] has the schedule",
            "beat_schedule['longest'] has the schedule",
            "beat_schedule['words'] has the schedule",
            "beat_schedule['no entry'] is 17",
            "beat_schedule['options'] has the options 17",
            "beat_schedule[4] has the task",
        ],
    ),
}


def application(conf: dict[Any, Any]) -> Any:
    app: Any = Celery("shop", set_as_current=False)

    @app.task(name="shop.pay", shared=False)  # type: ignore[untyped-decorator]
    def pay() -> None: ...

    app.conf.update(conf)
    return app


def examined(conf: dict[Any, Any]) -> dict[str, list[Notice]]:
    found: dict[str, list[Notice]] = {}
    for each in examine_application(lambda: application(conf)):
        found.setdefault(each.check, []).append(each)
    return found


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(adoption, "_versions", lambda: iter(()))  # it reads all that is installed
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "later_tasks.py").write_text("raise RuntimeError('later_tasks was imported')\n")


@pytest.mark.parametrize("setting", BAD)
def test_each_value_that_cannot_be_read_is_named_and_costs_nothing_else(setting: str) -> None:
    value, faults = BAD[setting]
    found = examined({setting: value})
    assert "doctor" not in found
    said = [each.reason for each in found["settings.value"]]
    assert len(said) == len(faults)
    assert all(fault in reason for fault, reason in zip(faults, said, strict=True)), said
    assert {each.where for each in found["settings.value"]} == {(setting,)}
    tasks = [place for notices in found.values() for each in notices for place in each.where]
    assert any(place.startswith("shop.pay (") for place in tasks)


def test_all_of_them_at_once_leave_what_the_others_say() -> None:
    found = examined({17: 1, **{setting: value for setting, (value, _) in BAD.items()}})
    assert "doctor" not in found
    reasons = [each.reason for each in found["settings.value"]]
    assert len(reasons) == 1 + sum(len(faults) for _, faults in BAD.values())
    assert any("the key 17" in reason for reason in reasons)
    assert [each.where[0] for each in found["settings.schedule"]] == ["beat_schedule: good"]
    assert any("later_tasks was imported" in place for place in found["imports"][0].where)


def test_a_task_with_an_option_that_cannot_be_read_is_named() -> None:
    app = application({})

    @app.task(name="shop.odd", shared=False, serializer=["json"], time_limit=10**400)  # type: ignore[untyped-decorator]
    def odd() -> None: ...

    found = list(examine_application(lambda: app))
    said = [each.reason for each in found if each.check == "settings.value"]
    assert any(reason.startswith("serializer of the task shop.odd is ['json']") for reason in said)
    assert any(reason.startswith("time_limit of the task shop.odd is ") for reason in said)


def test_the_audit_of_settings_before_a_start_names_them_too() -> None:
    conf = {setting: value for setting, (value, _) in BAD.items() if setting != "task_annotations"}
    found = audit_celery(application(conf))
    said = [each.reason for each in found if each.check == "celery.value"]
    assert len(said) == sum(len(faults) for name, (_, faults) in BAD.items() if name in conf)
    assert [each.reason for each in found if each.check == "celery.schedule"]


@pytest.mark.parametrize(
    "delay", ["timedelta(days=1000000000000)", "now + timedelta(10**12)", "9" * 400, "2 * " + "9" * 400]
)
def test_a_delay_beyond_all_calendars_is_a_long_one(delay: str) -> None:
    node: Any = ast.parse(delay, mode="eval").body
    assert all(seconds > 3600 for seconds in _delays(node))
