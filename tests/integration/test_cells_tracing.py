"""A cell's tracer beside Celery's: the same tasks, the same signals, states, results and lines."""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
from celery import Celery, signals
from celery import _state as celery_state
from celery.app.trace import build_tracer
from celery.exceptions import Ignore, Reject
from kombu.exceptions import OperationalError
from redis.exceptions import ConnectionError as RedisConnectionError

from seawall.worker import older, repeats, results
from seawall.worker.cells.tracing import Outcome, Tracer
from seawall.worker.defaults import PLAIN
from seawall.worker.task import Postponed
from support.shop import store

HOST = "cell@here"
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # Celery's

SIGNALS = ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry", "task_internal_error")
FIRST = {"exchange": "", "routing_key": "celery", "priority": 5, "redelivered": False}
HOWS = (
    "well",
    "headers",
    "unencodable",
    "nested",
    "retry",
    "fail",
    "declared",
    "ignore",
    "reject",
    "memory",
    "exit",
)

Trace = Callable[[Any, Any, dict[str, Any]], Outcome]
Make = Callable[[Celery, str], Trace]


class DeclaredError(Exception):
    """One that its task expects."""


def act(self: Any, how: str) -> Any:
    """End in one of many ways."""
    if how == "retry":
        raise self.retry(exc=ValueError(how), countdown=60, max_retries=3)
    raised = {
        "fail": ValueError("no"),
        "declared": DeclaredError("as expected"),
        "ignore": Ignore(),
        "reject": Reject("no", requeue=False),
        "memory": MemoryError("none left"),
        "exit": SystemExit(3),
    }
    if how in raised:
        raise raised[how]
    if how == "headers":
        return [self.request.headers, self.request.hostname, self.request.called_directly]
    if how == "nested":
        return self.app.tasks["inner"].apply(("well",), task_id="id-2").result
    return object() if how == "unencodable" else [how, self.request.id, celery_state.get_current_task().name]


VARIES = re.compile(r" in [\d.e-]+s| at 0x\w+")


def said_beside(line: logging.LogRecord) -> Any:
    """What handlers find in `data`, but for how long it took and where it failed."""
    said = vars(line).get("data", {})
    names = ("id", "name", "return_value", "args", "kwargs")
    return [VARIES.sub("", str(said.get(name))) for name in names]


def shown(value: Any) -> str:
    return repr(value) if isinstance(value, dict | list | tuple | str | None) else type(value).__name__


def celerys(app: Celery, name: str) -> Trace:
    task = app.tasks[name]
    task.__trace__ = build_tracer(name, task, app.loader, HOST, app=app)

    def trace(args: Any, kwargs: Any, fields: dict[str, Any]) -> Outcome:
        result, failure, runtime, _ = task.__trace__("id-1", args, kwargs, fields)
        return Outcome(failure is not None, result, runtime)

    return trace


def ours(app: Celery, name: str) -> Trace:
    tracer = Tracer(app.tasks[name], pid=os.getpid(), hostname=HOST)
    return lambda args, kwargs, fields: tracer("id-1", args, kwargs, fields)


class Stage:
    """An application, and what can be seen and heard of a run of its tasks."""

    def __init__(self, app: Celery, lines: pytest.LogCaptureFixture) -> None:
        self.app = app
        self.told: list[tuple[str, Any]] = []
        self._lines = lines
        self._receivers = {name: self._hear(name) for name in SIGNALS}

    def _hear(self, name: str) -> Callable[..., None]:
        keys = ("retval", "state", "result", "args")
        return lambda **said: self.told.append((name, {key: shown(said[key]) for key in keys if key in said}))

    def open(self) -> None:
        for name, receiver in self._receivers.items():
            getattr(signals, name).connect(receiver)

    def close(self) -> None:
        for name, receiver in self._receivers.items():
            getattr(signals, name).disconnect(receiver)

    def run(
        self, make: Callable[[Celery, str], Trace], how: str, name: str = "act", **more: Any
    ) -> dict[str, Any]:
        """All that can be told of one run."""
        store(self.app).flushdb()
        trace = make(self.app, name)
        self.told.clear()
        self._lines.clear()
        fields = {"id": "id-1", "task": name, "delivery_info": FIRST, "hostname": HOST, "retries": 0, **more}
        try:
            failed, result, runtime, _ = trace([how], {}, fields)
        except BaseException as exc:  # noqa: BLE001 - it is what is compared
            ended: Any = type(exc)
        else:
            raised = getattr(result.exception, "exc", result.exception) if failed else None
            report = (result.type, repr(raised), result.internal) if failed else shown(result)
            ended = failed, report, runtime is None
        meta: Any = self.app.backend.get_task_meta("id-1")
        return {
            "ended": ended,
            "told": list(self.told),
            "kept": {
                key: shown(meta.get(key))
                for key in ("status", "result", "args", "name", "worker", "children")
            },
            "lines": [
                (line.levelno, VARIES.sub("", line.getMessage().partition("\n")[0]), said_beside(line))
                for line in self._lines.records
                if line.thread == threading.get_ident()  # not what a client's thread says meanwhile
            ],
            "running": (celery_state.get_current_task(), self.app.tasks[name].request_stack.top),
            "sent": len(store(self.app).keys("celery\x06*")),
        }


@pytest.fixture
def stage(redis_url: str, caplog: pytest.LogCaptureFixture) -> Iterator[Stage]:
    app = Celery("tracing", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.update(PLAIN, task_default_priority=5, task_ignore_result=False, result_extended=True)
    options: dict[str, Any]
    for name, options in (
        ("act", {"throws": (DeclaredError,)}),
        ("inner", {}),
        ("tracked", {"track_started": True}),
        ("silent", {"ignore_result": True}),
    ):
        app.task(bind=True, name=name, **options)(act)
    app.finalize()
    made = Stage(app, caplog)
    made.open()
    yield made
    made.close()
    app.close()


@pytest.mark.parametrize("how", [*HOWS, "exit"])
@pytest.mark.parametrize(
    ("name", "level"), [("act", "WARNING"), ("act", "INFO"), ("tracked", "WARNING"), ("silent", "INFO")]
)
def test_a_task_ends_as_with_celerys_tracer(
    stage: Stage, how: str, name: str, level: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, "celery.app.trace")
    expected = stage.run(celerys, how, name)
    assert stage.run(ours, how, name) == expected
    assert expected["running"] == (None, None)
    if how == "well":
        assert expected["told"][-1][0] == "task_postrun"
        assert len(expected["lines"]) == (level == "INFO")
        assert expected["kept"]["status"] == repr("PENDING" if name == "silent" else "SUCCESS")


@pytest.mark.parametrize(
    "more", [{"ignore_result": True}, {"chord": {"chord_size": 2}, "group": "g"}, {"x": 1}]
)
def test_what_a_request_carries_counts_as_with_celerys_tracer(stage: Stage, more: dict[str, Any]) -> None:
    expected = stage.run(celerys, "headers", **more)
    assert stage.run(ours, "headers", **more) == expected


@pytest.mark.filterwarnings("ignore:Exception raised outside body")
@pytest.mark.parametrize("error", [RuntimeError, OperationalError, MemoryError, Reject])
@pytest.mark.parametrize("verb", ["mark_as_done", "process_cleanup"])
def test_a_backend_that_fails_counts_as_with_celerys_tracer(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, error: type[Exception], verb: str
) -> None:
    if (verb, error) == ("mark_as_done", Reject) and not older.TELLS_TIMEOUTS:
        pytest.skip("Celery 5.6 takes it for a failure of the task; cells do as 5.7 does")

    def fail(*_: Any, **__: Any) -> None:
        raise error("of the backend")

    monkeypatch.setattr(stage.app.backend, verb, fail)
    expected = stage.run(celerys, "well")
    seen = stage.run(ours, "well")
    if verb == "process_cleanup":  # that line is worded differently
        assert [level for level, *_ in seen.pop("lines")] == [level for level, *_ in expected.pop("lines")]
    assert seen == expected


def test_callbacks_and_chains_are_sent(stage: Stage) -> None:
    follow = stage.app.tasks["act"].si("well").set(task_id="id-2")
    more: dict[str, Any]
    for more in ({"callbacks": [follow]}, {"chain": [follow]}):
        expected = stage.run(celerys, "well", "act", **deepcopy(more))  # Celery 5.6 takes from the chain
        assert stage.run(ours, "well", "act", **deepcopy(more)) == expected
        assert expected["sent"] == 1


def test_what_comes_again_and_has_succeeded_does_not_run_again(stage: Stage) -> None:
    celerys(stage.app, "act")
    stage.app.backend.store_result("id-1", "done", "SUCCESS")
    fields = {"id": "id-1", "task": "act", "delivery_info": {**FIRST, "redelivered": True}}
    assert not ours(stage.app, "act")(["well"], {}, fields).failed
    assert stage.told == []


def away(*_: Any, **__: Any) -> None:
    raise RedisConnectionError("away")


AGAIN = {"id": "id-away", "task": "act", "delivery_info": {**FIRST, "redelivered": True}}


@pytest.mark.parametrize("traced", [True, False], ids=["cells", "pools"])
def test_what_comes_again_while_the_results_are_away_waits_for_them(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, *, traced: bool
) -> None:
    results.stored(stage.app.backend)
    celerys(stage.app, "act")
    monkeypatch.setattr(stage.app.backend, "get", away)
    of_pools = partial(repeats.traced, stage.app.tasks["act"].__trace__, True, "id-away")  # noqa: FBT003
    trace = ours(stage.app, "act") if traced else of_pools
    with pytest.raises(Postponed):
        trace(["well"], {}, AGAIN)
    assert stage.told == []
    with pytest.raises(RedisConnectionError):
        stage.app.AsyncResult("id-away").state  # noqa: B018 - anybody else hears it


def test_what_stores_no_result_runs_again_while_the_results_are_away(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    results.stored(stage.app.backend)
    celerys(stage.app, "silent")
    monkeypatch.setattr(stage.app.backend, "get", away)
    outcome = ours(stage.app, "silent")(["well"], {}, {**AGAIN, "task": "silent"})
    assert not outcome.failed
    assert stage.told[-1][0] == "task_postrun"


def test_a_task_runs_although_nobody_can_store_that_it_has_started(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = results.stored(stage.app.backend)
    store_all = backend.store

    def store_ends(found: Any) -> None:
        if b"STARTED" in found[0].value:
            raise RedisConnectionError("away")
        store_all(found)

    monkeypatch.setattr(backend, "store", store_ends)
    monkeypatch.setattr(backend, "ensure", lambda function, args, **_: function(*args))
    celerys(stage.app, "tracked")
    fields = {"id": "id-1", "task": "tracked", "delivery_info": FIRST}
    assert not ours(stage.app, "tracked")(["well"], {}, fields).failed
    assert backend.get_task_meta("id-1")["status"] == "SUCCESS"
