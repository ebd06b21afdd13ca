"""The formatter of every line, without a worker."""

import io
import json
import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import structlog

import seawall
from seawall import logs
from seawall.config import settings
from seawall.logs import console
from seawall.redaction import is_plain
from support import secret_forms
from support.harmless_fields import fields


class Running:
    """A scope as a task's."""

    fields = {"task": "shop.charge", "task_id": "4711", "attempt": 2}  # noqa: RUF012
    secrets = ("tell-nobody",)
    began: float | None = None


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Logs through our formatter in the format asked for, and returns the text."""

    def write(chosen: str, act: Any) -> str:
        monkeypatch.setenv("SEAWALL_LOG__FORMAT", chosen)
        settings.cache_clear()
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logs.formatter_for(handler))
        logger = logging.getLogger("tests.logs")
        logger.propagate, logger.handlers = False, [handler]
        logger.setLevel(logging.INFO)
        act(logger)
        return stream.getvalue()

    yield write
    settings.cache_clear()
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_a_line_is_one_json_object_with_its_context(written: Any) -> None:
    token = logs.scope.set(Running())
    structlog.contextvars.bind_contextvars(tenant="acme")
    text = written("json", lambda logger: logger.info("order %d of tell-nobody", 17, extra={"rows": 3}))
    logs.scope.reset(token)
    line = json.loads(text)
    assert line["event"] == "order 17 of ***"
    expected = {"level": "info", "rows": 3, "tenant": "acme", "task_id": "4711", "attempt": 2}
    assert line.items() >= expected.items()


def test_a_traceback_is_part_of_the_line_and_holds_no_secret(written: Any) -> None:
    def fail(logger: logging.Logger) -> None:
        try:
            raise ValueError("redis://:" + "word@cache is away")  # noqa: TRY301
        except ValueError:
            logger.exception("it failed", extra={"api_key": "abc"})

    text = written("json", fail)
    line = json.loads(text)
    assert "redis://:***@cache" in line["exception"]
    assert line["api_key"] == "***"
    assert text.count("\n") == 1


def test_structlog_ends_in_the_same_lines_and_nobody_else_s_configuration_is_touched(written: Any) -> None:
    def act(logger: logging.Logger) -> None:
        logs.configure_structlog()
        structlog.get_logger("tests.logs").warning("charged", amount=5, password="x")
        structlog.get_logger("tests.logs").debug("not this")

    line = json.loads(written("json", act))
    assert (line["event"], line["amount"], line["password"], line["level"]) == (
        "charged",
        5,
        "***",
        "warning",
    )
    structlog.reset_defaults()
    structlog.configure(processors=[])
    logs.configure_structlog()
    assert structlog.get_config()["processors"] == []


def test_what_json_does_not_know_is_shown_and_breaks_nothing(written: Any) -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    line = json.loads(
        written("json", lambda logger: logger.info("x", extra={"one": Broken(), "two": {1, 2}}))
    )
    assert line["one"] == "unprintable: RuntimeError"
    assert line["two"] == [1, 2]


def test_console_lines_are_for_people_and_uncoloured_where_no_terminal_is(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    text = written("console", lambda logger: logger.info("ready", extra={"rows": 3}))
    assert "ready" in text
    assert "rows=3" in text
    assert "\x1b" not in text


def test_without_a_terminal_auto_means_json(written: Any) -> None:
    assert json.loads(written("auto", lambda logger: logger.info("ready")))["event"] == "ready"


def test_a_root_logger_with_handlers_is_left_alone() -> None:
    root = logging.getLogger()
    before = [*root.handlers]
    assert before  # pytest's own
    assert logs.setup() is False
    assert root.handlers == before


SUCCEEDED = "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s"
FAILED = "Task %(name)s[%(id)s] %(description)s: %(exc)s"
TASK = {"name": "shop.charge", "id": "3d4a27b1-5e56-492c-a376-6ce4a8bee58d"}
ENDINGS: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "success": (
        SUCCEEDED,
        {"runtime": 0.41206401100004996, "return_value": "{'paid': 5}"},
        {"event": "succeeded", "seconds": 0.412064, "result": "{'paid': 5}"},
        "succeeded  shop.charge        0.41 s  3d4a27b1  {'paid': 5}",
    ),
    "nothing returned": (
        SUCCEEDED,
        {"runtime": 0.0012, "return_value": "None"},
        {"event": "succeeded", "seconds": 0.0012},
        "succeeded  shop.charge          1 ms  3d4a27b1",
    ),
    "failure": (
        FAILED,
        {"description": "raised unexpected", "exc": "ValueError('no')"},
        {"event": "failed", "reason": "ValueError: no"},
        "failed     shop.charge                3d4a27b1  ValueError: no",
    ),
    "failure of the worker": (
        FAILED,
        {"description": "INTERNAL ERROR", "exc": "KeyError('x')"},
        {"event": "failed", "reason": "INTERNAL ERROR: KeyError: x"},
        "failed     shop.charge                3d4a27b1  INTERNAL ERROR: KeyError: x",
    ),
    "retry": (
        "Task %(name)s[%(id)s] retry: %(exc)s",
        {"exc": "Retry in 0.0996797s: ConnectionError('away')"},
        {"event": "retried", "again_in": 0.09968, "reason": "ConnectionError: away"},
        "retried    shop.charge                3d4a27b1  again in 100 ms: ConnectionError: away",
    ),
    "soft limit": (
        FAILED,
        {"description": "raised unexpected", "exc": "SoftTimeLimitExceeded(300.0)"},
        {"event": "failed", "reason": "soft time limit of 300 s exceeded"},
        "failed     shop.charge                3d4a27b1  soft time limit of 300 s exceeded",
    ),
    "hard limit": (
        FAILED,
        {"description": "raised unexpected", "exc": "TimeLimitExceeded(310.5,)"},
        {"event": "failed", "reason": "hard time limit of 310.5 s exceeded"},
        "failed     shop.charge                3d4a27b1  hard time limit of 310.5 s exceeded",
    ),
    "several lines": (
        FAILED,
        {"description": "raised unexpected", "exc": "ValueError('no\\nnot ever')"},
        {"event": "failed", "reason": "ValueError: no\nnot ever"},
        "failed     shop.charge                3d4a27b1  ValueError: no not ever",
    ),
    "no argument": (
        FAILED,
        {"description": "raised unexpected", "exc": "SoftTimeLimitExceeded()"},
        {"event": "failed", "reason": "soft time limit exceeded"},
        "failed     shop.charge                3d4a27b1  soft time limit exceeded",
    ),
    "another's class of that name": (
        FAILED,
        {"description": "raised unexpected", "exc": "TimeLimitExceeded('of this month')"},
        {"event": "failed", "reason": "TimeLimitExceeded: of this month"},
        "failed     shop.charge                3d4a27b1  TimeLimitExceeded: of this month",
    ),
    "several arguments": (
        FAILED,
        {"description": "raised unexpected", "exc": "Refused('no', 5)"},
        {"event": "failed", "reason": "Refused('no', 5)"},
        "failed     shop.charge                3d4a27b1  Refused('no', 5)",
    ),
}


@pytest.mark.parametrize("kind", ENDINGS)
def test_the_end_of_a_task_is_a_word_and_fields_and_says_name_and_id_once(
    written: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    template, args, expected, shown = ENDINGS[kind]

    def act(logger: logging.Logger) -> None:
        logger.name = "celery.app.trace"
        logger.info(template, {**TASK, **args}, extra={"data": {**TASK, **args}})
        logger.name = "tests.logs"

    text = written("json", act)
    line = json.loads(text)
    assert line.items() >= {**expected, "task": TASK["name"], "task_id": TASK["id"], "level": "info"}.items()
    assert (text.count(TASK["id"]), text.count(TASK["name"])) == (1, 1)
    assert written("console", act).rstrip().endswith(shown)


def test_what_a_run_took_is_known_where_celery_does_not_say(written: Any) -> None:
    scope = Running()
    scope.began = time.monotonic() - 2
    token = logs.scope.set(scope)
    args = {**TASK, "description": "raised unexpected", "exc": "x"}
    text = written("json", lambda logger: logger.info(FAILED, args))
    logs.scope.reset(token)
    assert 2 <= json.loads(text)["seconds"] < 60


def test_an_ending_fits_its_line_and_what_led_to_the_task_is_left_out_of_its_traceback(
    written: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def act(logger: logging.Logger) -> None:
        logger.name = "celery.app.trace"
        args = {**TASK, "description": "raised unexpected", "exc": "x" * 500}
        try:
            raise ValueError("no")  # noqa: TRY301
        except ValueError:
            logger.exception(FAILED, args)
        logger.name = "tests.logs"

    monkeypatch.setenv("COLUMNS", "90")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    head, *below = written("console", act).splitlines()
    assert len(head) == 90
    assert head.endswith("…")
    assert [each.strip() for each in (below[0], below[-1])] == [
        "Traceback (most recent call last):",
        "ValueError: no",
    ]
    ours = Path(seawall.__file__).parent
    frames = (f"{ours}/worker/task.py", "/srv/shop/tasks.py", f"{ours}/breaker/calls.py")
    shown = console._without_ours(
        "Traceback (most recent call last):\n"
        + "".join(f'  File "{each}", line 1, in it\n    it()\n' for each in frames)
        + "ValueError: no"
    )
    assert "task.py" not in shown.replace("tasks.py", "")
    assert "/srv/shop/tasks.py" in shown
    assert "breaker/calls.py" in shown  # what the task itself has called


def test_a_terminal_is_spared_what_says_nothing_to_people() -> None:
    def record(name: str, message: str, level: int = logging.INFO) -> logging.LogRecord:
        return logging.LogRecord(name, level, "", 0, message, None, None)

    assert not console.is_worth_reading(record("celery.worker.strategy", "Task %(name)s[%(id)s] received"))
    assert console.is_worth_reading(record("celery.app.trace", SUCCEEDED))
    assert console.is_worth_reading(record("celery.worker.strategy", "Task", logging.WARNING))


def test_a_word_of_an_application_is_no_ending(written: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    text = written("console", lambda logger: logger.info("failed"))
    assert "info       failed" in text


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError


def _loop() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


@pytest.mark.parametrize("chosen", ["json", "console"])
@pytest.mark.parametrize(
    "extra",
    [
        {"event": "overwritten"},
        {"level": "x", "timestamp": "y", "logger": "z", "task": 1, "worker": 2, "exception": 3},
        {"value": float("nan")},
        {"value": [float("inf"), {"x": float("-inf")}]},
        {"value": {(1, 2): 3, None: 4, Broken: 5}},
        {"value": Broken()},
        {"value": {Broken(): Broken()}},
        {"value": _loop()},
        {"value": 10**5000},
        {"value": "\ud800"},
        {"\udfff": "x"},
        {5: "x"},
        {"value": b"\xff"},
        {"value": "x" * 1_000_000},
        {"value": list(range(100_000))},
    ],
)
def test_a_line_is_written_whatever_was_added_to_it(
    written: Any, monkeypatch: pytest.MonkeyPatch, chosen: str, extra: Any
) -> None:
    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    text = written(chosen, lambda logger: logger.info("the message", extra=extra))
    text.encode()
    assert "the message" in text
    assert len(text) < 100_000
    if chosen == "json":
        assert "\n" not in text[:-1]
        line = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        assert (line["event"], line["level"], line["logger"]) == ("the message", "info", "tests.logs")


def test_what_was_added_under_a_name_of_ours_is_kept_beside_it(written: Any) -> None:
    line = json.loads(written("json", lambda logger: logger.info("paid", extra={"event": "x", "task": 5})))
    assert (line["event"], line["extra_event"], line["extra_task"]) == ("paid", "x", 5)


def test_a_line_of_a_megabyte_is_cut_without_half_a_secret(written: Any) -> None:
    text = "y" * (65_536 - 20) + " token=" + "4711-0815" * 5 + "y" * 1_000_000
    line = json.loads(written("json", lambda logger: logger.info("%s", text)))
    assert "4711" not in line["event"]
    assert len(line["event"]) < 66_000


def test_a_traceback_of_structlog_stays_the_line_s_own(written: Any) -> None:
    def act(_: logging.Logger) -> None:
        logs.configure_structlog()
        try:
            raise ValueError("no")  # noqa: TRY301
        except ValueError:
            structlog.get_logger("tests.logs").exception("it failed")

    assert "ValueError: no" in json.loads(written("json", act))["exception"]


def _records() -> list[logging.LogRecord]:
    """Records of texts with secrets and without, of arguments, of fields and of errors."""
    texts = [text for _, text, _ in islice(secret_forms.texts(), 0, None, 11)] + [*fields()[::11]]
    added: list[dict[str, Any]] = [
        {},
        {"order": 17, "ratio": 0.5, "paid": True, "note": None},
        {"password": "open sesame"},
        {"note": "tell-nobody", "task": "mine"},
        {"rows": ["tell-nobody", {"token": "abc"}]},
        {"data": {"id": "4711", "name": "shop.charge"}},
    ]
    long: dict[str, Any] = {"note": "x" * 70_000}  # forty times as dear as the others
    made = [
        logging.makeLogRecord({"name": "shop", "levelno": 20, "levelname": "INFO", "msg": text, **more})
        for number, text in enumerate(texts)
        for more in (long if number % 50 == 0 else added[number % len(added)],)
    ]
    try:
        raise ValueError("redis://:" + "word@cache is away")  # noqa: TRY301
    except ValueError:
        made.append(logging.makeLogRecord({"msg": "failed", "exc_info": sys.exc_info(), "stack_info": "at"}))
    made.append(logging.makeLogRecord({"msg": "%s of %(x)", "args": (), "name": "x" * 70_000}))
    return made


@pytest.mark.parametrize("scope", [None, Running()])
def test_lines_are_the_same_with_the_quick_look_and_without(
    scope: Running | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = logging.StreamHandler(io.StringIO())
    formatter = logs.formatter_for(handler)
    records = _records()
    token = logs.scope.set(scope)
    looks: list[bool] = []

    def looked(*given: Any) -> bool:
        looks.append(is_plain(*given))
        return looks[-1]

    try:
        monkeypatch.setattr(logs, "is_plain", looked)
        quick = [formatter.format(record) for record in records]
        monkeypatch.setattr(logs, "is_plain", lambda *_: False)
        assert [formatter.format(record) for record in records] == quick
    finally:
        logs.scope.reset(token)
    assert min(Counter(looks).values()) > 20
    assert set(looks) == {True, False}


def test_a_line_holds_what_structlogs_formatter_finds_in_a_record(written: Any) -> None:
    def render(_logger: Any, _name: str, event: Any) -> str:
        record = event.pop("_record")
        event.pop("_from_structlog")
        if raised := event.pop("exc_info", None):
            event["exception"] = logging.Formatter().formatException(raised)
        return json.dumps({"logger": record.name, **event})

    def act(logger: logging.Logger) -> None:
        logs.configure_structlog()
        reference.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[render]))
        logger.addHandler(reference)
        bound = structlog.get_logger("tests.logs").bind(order=17)
        try:
            raise ValueError("away")  # noqa: TRY301
        except ValueError:
            bound.exception("failed %s", "badly", stack_info=True)
            logger.exception("failed %s", "badly", stack_info=True)
        logger.info("said %(this)s", {"this": "that"})
        logger.info("100 %")
        bound.info("done", rows=3)

    reference = logging.StreamHandler(io.StringIO())
    ours = written("json", act).splitlines()
    expected = reference.stream.getvalue().splitlines()
    assert len(expected) == len(ours) == 5
    for own, other in zip(map(json.loads, ours), map(json.loads, expected), strict=True):
        assert own.items() >= other.items()
