"""What becomes of the task that a dead cell was running, and of what it had claimed beside it.

A cell may also die of a message before any task has started: while it reads, checks or admits it. The table
says which message that was, and it is charged as a task is that kills its process. So no message kills cells
for ever, whatever is in it. What other cells hold is not touched.

The table says what ran. The message is still in the broker, leased to the dead process, so the supervisor
takes it, makes Celery's request of it, and concludes that request as Celery's main process would for a child
of its own: a strike, a failure for the hard limit, a revocation. Nothing is forgotten while the broker is
away: a death stays on the list until it is settled.

A task that the broker holds no lease for (acknowledged early, or RabbitMQ) is described in the table itself
by the cell. RabbitMQ delivers the message of a dead process again by itself and at once; what is known about
it is left in the cluster's Redis for whoever receives it (`verdicts.py`).
"""

import json
import logging
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from billiard.common import human_status
from billiard.exceptions import WorkerLostError
from celery.worker import strategy as celery_strategy
from celery.worker.request import Request
from kombu.utils.imports import symbol_by_name

from seawall import silence
from seawall.delivery import Guardian, Transport
from seawall.delivery.options import try_once
from seawall.delivery.refusal import is_outage
from seawall.worker import accounts
from seawall.worker.cells import verdicts
from seawall.worker.cells.table import DESCRIPTION_MAX, Killed, Running
from seawall.worker.deferral import fail
from seawall.worker.request import DELIVERY_LIMIT, poisoned, runs_again
from seawall.worker.results import Result
from seawall.worker.task_events import pass_on

logger = logging.getLogger(__name__)

_strategy: Any = celery_strategy  # celery-types lacks half of it
_RETRY_EVERY: Final = 0.5
_ASKS_FOR: Final = 1.0  # seconds for which a server may say nothing: the supervisor has cells to look after
_PATIENCE: Final = {"socket_timeout": 2.0, "socket_connect_timeout": 1.0}


@dataclass(frozen=True, kw_only=True)
class Death:
    """A cell that is no more, and what the table said of it."""

    pid: int
    token: str
    status: int
    killed: Killed
    signum: int
    task: Running | None
    batch: list[tuple[str, str]]
    in_hand: tuple[str, str] | None
    described: bytes
    acks: list[tuple[str, str]]
    results: list[Result]
    events: list[bytes]
    overwritten: bool = False
    """Whether the table says nothing of it, because a task has overwritten its row."""

    @property
    def reason(self) -> str:
        """In words."""
        return f"cell {self.pid} exited: {human_status(self.status)}"

    @property
    def guilty(self) -> tuple[str, str] | None:
        """Tag and queue of the message it died of before any task had started; None if there is none."""
        return self.in_hand if self.task is None and self.killed is Killed.NOT and self.status else None


class Deaths:
    """The deaths that are not settled yet."""

    def __init__(
        self, app: Any, queues: Callable[[], list[str]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._queues = queues
        self._clock = clock
        self._open: list[Death] = []
        self._retry_at = 0.0
        self._settled: dict[str, Any] = {}  # what is written down of the tasks of the first one, by id
        self._guardian: Guardian | None = None
        self._leased: bool | None = None
        self.eventer: Any = None
        self.hostname = ""

    def __len__(self) -> int:
        return len(self._open)

    @property
    def guardian(self) -> Guardian | None:
        """Acts for the cells on a broker with leases; None on others.

        Raises:
            RedisError, OperationalError: the broker is away.
        """
        if self._guardian is None and self._leased is not False:
            connection = self._app.connection_for_write(transport_options=_PATIENCE)
            self._leased = issubclass(connection.get_transport_cls(), Transport)
            if self._leased:
                try_once(connection.transport_options)  # it is asked for again in a moment
                self._guardian = Guardian(connection)
        return self._guardian

    def close(self) -> None:
        """Give the connection back."""
        if self._guardian is not None:
            self._guardian.close()
            self._guardian = None

    def add(self, death: Death) -> None:
        """Settle a death, now if possible: not if another one could not be settled a moment ago."""
        if not self._open:
            self._retry_at = 0.0
        self._open.append(death)
        self.settle()

    def settle(self) -> None:
        """Settle what is open, unless that failed a moment ago."""
        if not self._open or self._clock() < self._retry_at:
            return
        while self._open:
            try:
                with silence.within(silence.Allowance(_ASKS_FOR)):
                    self._settle(self._open[0])
            except Exception as exc:
                if is_outage(exc, self._app.connection_for_write().connection_errors):
                    self._retry_at = self._clock() + _RETRY_EVERY
                    held = self._open[0].pid
                    logger.warning("what %s held is settled when the broker is back: %s", held, exc)
                    return
                logger.exception("the end of %s could not be settled", self._open[0].task)
            self._open.pop(0)
            self._settled.clear()

    def _settle(self, death: Death) -> None:
        accounts.lost(death.token)
        if death.results:  # before its messages are acknowledged
            self._app.backend.store(death.results)
        pass_on(self.eventer, death.events)
        guardian = self.guardian
        estate = guardian.estate(self._queues(), death.token) if guardian is not None else None
        if estate is not None:
            estate.acknowledge(death.acks)
            if death.guilty:
                tag, queue = death.guilty
                logger.error(
                    "message %s of queue %s was being taken in when its process died (%s): it is charged",
                    *(tag, queue, death.reason),
                )
                estate.strike(queue, tag, f"{death.reason} while it took the message in")
            elif death.overwritten:
                estate.strike_started(f"{death.reason} after its row of the table was overwritten")
        if death.task is not None:
            for message in _messages(death, death.task, estate):
                request: Any = self._request(message)
                request.settled = self._settled.get(request.id)
                try:
                    self._conclude(request, death, death.task)
                finally:  # an outage may make it come again
                    self._settled[request.id] = request.settled
        if estate is not None:
            estate.distribute()

    def _request(self, message: Any) -> Request:
        named = message.headers if "task" in (message.headers or {}) else message.payload
        task = self._app.tasks[named["task"]]
        kind = symbol_by_name(task.Request)
        request: Request = kind(
            message,
            app=self._app,
            task=task,
            hostname=self.hostname,
            eventer=self.eventer,
            on_ack=message.ack_log_error,
            on_reject=message.reject_log_error,
            **_of_first_protocol(message),
        )
        return request

    def _conclude(self, request: Any, death: Death, task: Running) -> None:
        request.worker_pid = death.pid
        request.time_start = time.time() - (self._clock() - task.started)
        if not self._leased and request.task.acks_late and death.killed is Killed.NOT:
            self._strike(request, death.reason)
        elif death.killed is Killed.HARD_LIMIT:
            whole = isinstance(task.hard, float) and task.hard.is_integer()
            request.on_timeout(soft=False, timeout=int(task.hard) if whole else task.hard)  # as it was given
        elif death.killed is Killed.TERMINATED:
            request._announce_revoked("terminated", True, death.signum, False)  # noqa: FBT003, SLF001 - Celery's
        elif death.killed is Killed.SHUTDOWN:
            if request.task.acks_late:
                request.reject(requeue=True)
        else:
            fail(request, WorkerLostError(death.reason))

    def _strike(self, request: Any, reason: str) -> None:
        """The broker delivers it again by itself; nobody may run it for ever."""
        retries = request.request_dict.get("retries") or 0
        strikes = request.strikes + verdicts.strike(request.id, retries)
        logger.warning(
            "%s[%s] lost its process (%s), which delivers it again, strike %d of %d",
            *(request.name, request.id, reason, strikes, DELIVERY_LIMIT),
        )
        if strikes >= DELIVERY_LIMIT or not runs_again(request.task):
            verdicts.declare_over(request.id, retries)
            error = (
                poisoned(request, strikes, reason) if runs_again(request.task) else WorkerLostError(reason)
            )
            fail(request, error)

    def foretell(self, description: bytes) -> None:
        """A task is about to be killed for good: leave word of it where the broker cannot be told."""
        if self._leased is False and description:
            for each in description.splitlines():
                headers = Described(each).headers
                verdicts.declare_over(headers["id"], headers.get("retries") or 0)


def _messages(death: Death, task: Running, estate: Any) -> list[Any]:
    """What a dead cell ran, one message or all of a batch, as the broker has it or else the table."""
    places = death.batch or [(task.tag, task.queue)]
    found = [estate.message(queue, tag) for tag, queue in places] if estate is not None else []
    return [each for each in found if each is not None] or [
        Described(each) for each in death.described.splitlines()
    ]


class Described:
    """A message that the table describes: what the broker has of it is the broker's affair."""

    channel = None
    delivery_tag = None

    def __init__(self, description: bytes) -> None:
        fields = json.loads(description)
        self.headers: dict[str, Any] = fields["headers"]
        self.payload: Any = fields["payload"]
        self.properties: dict[str, Any] = fields["properties"]
        self.delivery_info: dict[str, Any] = fields["delivery_info"]
        self.body = None
        self.content_type = self.content_encoding = None

    def ack_log_error(self, *_args: Any, **_kwargs: Any) -> None:
        """Nobody to tell."""

    def reject_log_error(self, *_args: Any, **_kwargs: Any) -> None:
        """Nobody to tell."""


def _of_first_protocol(message: Any) -> dict[str, Any]:
    """What Celery's strategy makes of a message of protocol 1, as arguments of its request."""
    payload = message.payload
    if not isinstance(payload, dict) or "args" not in payload:
        return {}
    body, headers, decoded, utc = _strategy.hybrid_to_proto2(message, payload)
    return {"body": body, "headers": headers, "decoded": decoded, "utc": utc}


def describe(message: Any) -> bytes:
    """A message for the table, with as much as fits: its process's death is charged, whatever it holds."""
    for headers, payload in _shorter_and_shorter(message):
        fields = {"headers": headers, "payload": payload, "delivery_info": message.delivery_info}
        try:
            text = json.dumps({**fields, "properties": message.properties}, default=str).encode()
        except (TypeError, ValueError, RecursionError):
            continue
        if len(text) <= DESCRIPTION_MAX:
            return text
    return b""


def describe_all(messages: Iterable[Any]) -> bytes:
    """Messages for the table, a line each; empty if they do not fit, whatever is left out."""
    return b"\n".join(map(describe, messages))


def _shorter_and_shorter(message: Any) -> Iterator[tuple[Any, Any]]:
    """Headers and payload: all of it, all but the arguments, and what names the task."""
    yield message.headers, message.payload
    yield message.headers, _without_arguments(message.payload)
    known = {name: (message.headers or {}).get(name) for name in _IDENTIFYING}
    yield {**known, **_identity(message.payload)}, [[], {}, None]


_IDENTIFYING: Final = ("id", "task", "retries", "root_id", "parent_id", "group", "ignore_result")


def _identity(payload: Any) -> dict[str, Any]:
    """What a message of protocol 1 says of itself in its body."""
    fields = payload if isinstance(payload, dict) else {}
    return {name: fields[name] for name in _IDENTIFYING if name in fields}


def _without_arguments(payload: Any) -> Any:
    if isinstance(payload, dict):
        return {**payload, "args": [], "kwargs": {}}
    return [[], {}, payload[2]]


def signal_number(name: Any) -> int:
    """A signal as a number, from its name or number; SIGTERM if none is given."""
    if name is None:
        return int(signal.SIGTERM)
    if isinstance(name, int):
        return name
    return int(signal.Signals[name if name.startswith("SIG") else f"SIG{name}"])
