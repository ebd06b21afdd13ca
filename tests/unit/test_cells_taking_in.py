"""How a cell takes a message in beside Celery's strategy: the same lines, events, signals and requests."""

import logging
import uuid
from collections import defaultdict
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery, signals
from celery.worker import state
from celery.worker import strategy as celery_strategy
from kombu import Queue

from seawall.worker.cells.execution import build_handler
from seawall.worker.request import Request
from seawall.worker.task_events import Dispatcher

LATER = "2099-01-31T08:15:02+00:00"
HEADERS: list[dict[str, Any]] = [
    {},
    {"shadow": "another", "retries": 2, "root_id": "r", "parent_id": "p"},
    {"expires": LATER},
    {"expires": "2001-01-31T08:15:02+00:00"},
    {"argsrepr": None, "kwargsrepr": None},
    {"eta": LATER},
    {"id": "revoked"},
]


def act(*_: Any, **__: Any) -> None:
    """A task that nobody runs."""


class Consumer(SimpleNamespace):
    """What messages are taken in for: signals have it as their sender."""

    __hash__ = object.__hash__  # type: ignore[assignment]


class Stage:
    """An application, and all that a consumer gets to know of its messages."""

    def __init__(self, lines: pytest.LogCaptureFixture, groups: list[str]) -> None:
        self._lines = lines
        self.app = Celery("in", broker="memory://", backend="cache+memory://", set_as_current=False)
        options: dict[str, Any]
        for name, options in (("in.act", {}), ("in.silent", {"send_events": False}), ("in.limited", {})):
            make: Any = self.app.task
            make(name=name, Request=f"{Request.__module__}:Request", shared=False, **options)(act)
        self._queue = Queue(uuid.uuid4().hex)
        self._connection: Any = self.app.connection_for_read()
        self._eventer: Any = Dispatcher(
            self._connection, app=self.app, hostname="w@here", groups=groups, buffer_group=["task"]
        )
        self.consumer: Any = Consumer(
            hostname="w@here",
            connection_errors=(),
            event_dispatcher=self._eventer,
            timer=SimpleNamespace(call_at=lambda *_, **__: None),
            qos=SimpleNamespace(increment_eventually=lambda: None),
            apply_eta_task=None,
            disable_rate_limits=False,
            task_buckets=defaultdict(lambda: None, {"in.limited": "a bucket"}),
            on_task_request=lambda request: self._note("handled", request),
            on_task_message=(),
            _limit_task=lambda request, *_: self._note("limited", request),
            _limit_post_eta=None,
            pool=SimpleNamespace(apply_async=None),
            controller=SimpleNamespace(state=state),
        )
        self._seen: list[Any] = []
        self._hear: Any = lambda request, **_: self._note("signal", request)
        signals.task_received.connect(self._hear)

    def _note(self, what: str, request: Any) -> None:
        told = request.id, request.name, request.args, request.kwargs, request.argsrepr, request.eta
        self._seen.append((what, told, request in state.reserved_requests))

    def close(self) -> None:
        signals.task_received.disconnect(self._hear)
        state.revoked.clear()
        state.reset_state()
        self._connection.close()
        self.app.close()

    def run(self, name: str, headers: dict[str, Any], *, quickly: bool) -> dict[str, Any]:
        """All that is seen of one message, which is taken in quickly or by Celery's strategy."""
        task = self.app.tasks[name]
        celerys: Any = celery_strategy  # celery-types lacks half of it
        default = celerys.default(task, self.app, self.consumer)
        asked: list[Any] = []

        def otherwise(*given: Any) -> None:
            asked.append(given)
            default(*given)

        task.apply_async((1, "two"), {"three": 3}, task_id="id-1", queue=self._queue)
        message: Any = self._queue(self._connection.default_channel).get()
        message.headers.update(headers)
        state.revoked.add("revoked")
        self._seen.clear()
        self._lines.clear()
        if quickly:
            cell: Any = SimpleNamespace(app=self.app, hostname="w@here")
            build_handler(task, cell, self.consumer, otherwise)(message)
            assert bool(asked) == ("eta" in headers)
        else:
            default(message, None, message.ack_log_error, message.reject_log_error, ())
        events = self._eventer._group_buffer.pop("task", ())
        return {
            "seen": list(self._seen),
            "settled": message.acknowledged,
            "events": [
                {key: value for key, value in event.items() if key not in {"clock", "timestamp"}}
                for event in events
            ],
            "lines": [
                (line.name, line.levelno, line.getMessage(), vars(line).get("data"))
                for line in self._lines.records
                if line.name.startswith("celery.worker")
            ],
        }


@pytest.fixture(params=[[], ["worker"]], ids=["with events", "without"])
def stage(request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture) -> Iterator[Stage]:
    made = Stage(caplog, request.param)
    yield made
    made.close()


@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
@pytest.mark.parametrize("name", ["in.act", "in.silent", "in.limited"])
@pytest.mark.parametrize("headers", HEADERS, ids=lambda headers: "+".join(headers) or "plain")
def test_a_message_is_taken_in_as_by_celerys_strategy(
    stage: Stage, headers: dict[str, Any], name: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, "celery.worker")
    expected = stage.run(name, headers, quickly=False)
    state.reset_state()
    assert stage.run(name, headers, quickly=True) == expected
    assert any("received" in message for *_, message, _ in expected["lines"]) == (level == logging.INFO)
