"""Remote control of the node: what the supervisor answers for all its cells, busy or not.

Celery's own commands answer from `celery.worker.state`, which is empty here: the requests are in the cells.
So a command that looks there is run while `Node.shown` holds what the table and the broker say in those
places. A busy cell is never asked. What changes a cell (a revocation, a limit, events) is done here, for the
cells forked later, and said to every living one, which heeds it before it starts another task (`heed`).
"""

import contextlib
import functools
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from celery.worker import control, heartbeat
from celery.worker import state as worker_state
from celery.worker.consumer.control import Control as CeleryControl
from celery.worker.consumer.heart import Heart as CeleryHeart
from celery.worker.request import Request
from kombu.utils.limits import TokenBucket
from redis.exceptions import RedisError

from seawall.delivery import looking
from seawall.worker.cells.deaths import Described, signal_number
from seawall.worker.entry import check

if TYPE_CHECKING:
    from seawall.worker.cells.cell import Cell
    from seawall.worker.cells.pool import Pool
    from seawall.worker.cells.seat import Seat
    from seawall.worker.cells.table import Running

logger = logging.getLogger(__name__)
state: Any = worker_state  # celery-types knows neither its sets nor its counters
_Heart: Any = heartbeat.Heart
_HeartStep: Any = CeleryHeart
_ControlStep: Any = CeleryControl
_Request: Any = Request

_LISTED: Final = 200  # most delayed or claimed requests in one answer
_IDS_AT_ONCE: Final = 1000
# Of a waiting request in Celery's own timer; that of its message is in the request.
_TIMER_PRIORITY: Final = 6
_SHOWN: Final = ("active", "reserved", "query_task", "revoke", "terminate", "revoke_by_stamped_headers")
_UNKNOWN: Final[dict[str, Any]] = {"payload": [[], {}, {}], "properties": {}, "delivery_info": {}}
_ALIASES: Final = {"dump_active": "active", "dump_reserved": "reserved"}


class Shown(_Request):  # type: ignore[misc]
    """A request of a cell, as the supervisor shows it and can end it."""

    _seat: "Seat | None" = None
    _running: "Running | None" = None

    def runs_in(self, seat: "Seat", task: "Running") -> None:
        """It runs there now."""
        self._seat, self._running = seat, task
        self.worker_pid = seat.pid
        self.time_start = time.time() - (time.monotonic() - task.started)
        self.acknowledged = not self.task.acks_late

    def terminate(self, pool: "Pool", signal: Any = None) -> None:
        """End it if it runs; otherwise its revocation does, when it would start."""
        if self._seat is not None and self._running is not None:
            pool.enforcement.terminate(self._seat, self._running, signal_number(signal))


class Node:
    """The requests of all cells in one view."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._app = consumer.app

    @property
    def pool(self) -> "Pool":
        """The cells."""
        pool: Pool = self._consumer.pool
        return pool

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """While this lasts, Celery's state of this worker is what its cells do."""
        try:
            for request in self._running():
                state.requests[request.id] = request
                state.reserved_requests.add(request)
                state.active_requests.add(request)
            for request in self._claimed():
                if request.id not in state.requests:
                    state.requests[request.id] = request
                    state.reserved_requests.add(request)
            yield
        finally:
            for known in (state.requests, state.reserved_requests, state.active_requests):
                known.clear()

    def scheduled(self) -> list[dict[str, Any]]:
        """What waits in the broker for its moment in the queues of this worker, the next ones first."""
        queues = [queue.name for queue in self._app.amqp.queues.consume_from.values()]
        found = self._look(lambda channel: looking.delayed(channel, queues, limit=_LISTED))
        return [
            {
                "eta": seen.due,
                "priority": _TIMER_PRIORITY,
                "request": self._request(seen.message).info(),
            }
            for seen in found
        ]

    def _running(self) -> Iterator[Shown]:
        running = self.pool.running()
        places = [(task.queue, task.tag) for _, task in running]
        found = self._look(lambda channel: map(looking.Seen, looking.at(channel, places).values()))
        messages = {seen.message.delivery_tag: seen.message for seen in found}
        for seat, task in running:
            message = messages.get(task.tag) or _as_in_table(seat, task)
            if self._known(message):
                request = self._request(message)
                request.runs_in(seat, task)
                yield request

    def _claimed(self) -> Iterator[Shown]:
        queues, processes = self.pool.queue_names(), [cell.token for cell in self.pool.cells.values()]
        for seen in self._look(lambda channel: looking.held(channel, queues, processes, limit=_LISTED)):
            yield self._request(seen.message)

    def _look(self, look: Callable[[Any], Iterable[Any]]) -> list[Any]:
        """What the broker shows of tasks that are known here; nothing if it is away or has no leases."""
        try:
            guardian = self.pool.deaths.guardian
            found = [] if guardian is None else list(look(guardian.channel))
        except (RedisError, *self._consumer.connection_errors) as exc:
            logger.warning("the broker is away, so its messages are not shown: %s", exc)
            return []
        return [seen for seen in found if self._known(seen.message)]

    def _known(self, message: Any) -> bool:
        try:
            check(message)
        except Exception:  # noqa: BLE001 - its own worker makes it a dead letter
            return False
        return message.headers.get("task") in self._app.tasks

    def _request(self, message: Any) -> Shown:
        return Shown(
            message,
            app=self._app,
            task=self._app.tasks[message.headers["task"]],
            hostname=self._consumer.hostname,
            eventer=self._consumer.event_dispatcher,
        )


def _as_in_table(seat: "Seat", task: "Running") -> Any:
    """The message as its cell described it; for want of that, one with the id and name and no arguments."""
    if seat.row.description:
        return Described(seat.row.description.splitlines()[0])
    return Described(json.dumps({**_UNKNOWN, "headers": {"id": task.task_id, "task": task.name}}).encode())


class Beats(_Heart):  # type: ignore[misc]
    """Celery's heart, which tells what the cells do."""

    pool: "Pool"

    def _send(self, event: str, retry: bool = True) -> Any:  # noqa: FBT001, FBT002 - Celery's signature
        state.all_total_count[0] = self.pool.processed
        running = [_Beat() for _ in self.pool.running()]
        for each in running:
            state.active_requests.add(each)
        try:
            return super()._send(event, retry)
        finally:
            state.active_requests.clear()


class _Beat:
    """Counts as one active request."""


class Heart(_HeartStep):  # type: ignore[misc]
    """Celery's step with our heart."""

    def start(self, c: Any) -> None:
        """Beat."""
        c.heart = Beats(c.timer, c.event_dispatcher, self.heartbeat_interval)
        c.heart.pool = c.pool
        c.heart.start()


class Control(_ControlStep):  # type: ignore[misc]
    """Celery's step, with our answers where Celery's would be about the supervisor alone."""

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self.box.node.handlers = handlers(Node(c))


def handlers(node: Node) -> dict[str, Callable[..., Any]]:
    """Every command by name, Celery's and the application's own among them."""
    found: dict[str, Callable[..., Any]] = dict(control.Panel.data)
    for name, own in (("scheduled", _scheduled), ("dump_schedule", _scheduled)):
        found[name] = functools.partial(own, node)
    for name in (*_SHOWN, *_ALIASES):
        found[name] = _while_shown(node, found[name])
    found["stats"] = _with_totals(node, found["stats"])
    for name, to_say in _TO_CELLS.items():
        found[name] = _and_tell(node, found[name], to_say)
    return found


def _scheduled(node: Node, _panel: Any, **_: Any) -> list[dict[str, Any]]:
    return node.scheduled()


def _with_totals(node: Node, command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def answer(*arguments: Any, **options: Any) -> Any:
        state.total_count.clear()
        state.total_count.update(node.pool.totals())
        return command(*arguments, **options)

    return answer


def _while_shown(node: Node, command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def answer(*arguments: Any, **options: Any) -> Any:
        with node.shown():
            return command(*arguments, **options)

    return answer


def _and_tell(
    node: Node, command: Callable[..., Any], to_say: Callable[..., list[dict[str, Any]]]
) -> Callable[..., Any]:
    @functools.wraps(command)
    def carry_out(panel: Any, *arguments: Any, **options: Any) -> Any:
        answer = command(panel, *arguments, **options)
        if not (isinstance(answer, dict) and "error" in answer):
            for message in to_say(*arguments, **options):
                _keep_for_later_cells(node.pool, message)
                node.pool.tell(**message)
        return answer

    return carry_out


def _keep_for_later_cells(pool: "Pool", message: dict[str, Any]) -> None:
    """What Celery's own command has not left where a fork finds it."""
    if message["message"] == "events":
        pool.controller.task_events = message["on"]


def _revoked(task_id: Any = (), **_: Any) -> list[dict[str, Any]]:
    ids = [task_id] if isinstance(task_id, str) else list(task_id or ())
    parts = [ids[start : start + _IDS_AT_ONCE] for start in range(0, len(ids), _IDS_AT_ONCE)]
    return [{"message": "revoke", "ids": part} for part in parts]


def _terminated(signal: Any, task_id: Any = (), **_: Any) -> list[dict[str, Any]]:  # noqa: ARG001
    return _revoked(task_id)


def _stamped(headers: Any, **_: Any) -> list[dict[str, Any]]:
    pairs = dict(pair.split("=", 1) for pair in headers) if isinstance(headers, list) else headers
    stamps = {key: [value] if isinstance(value, str) else list(value) for key, value in pairs.items()}
    return [{"message": "revoke_stamps", "stamps": stamps}]


def _rate(task_name: str, rate_limit: Any, **_: Any) -> list[dict[str, Any]]:
    return [{"message": "rate_limit", "task": task_name, "rate": rate_limit}]


def _limits(task_name: Any = None, hard: Any = None, soft: Any = None, **_: Any) -> list[dict[str, Any]]:
    return [{"message": "time_limit", "task": task_name, "hard": hard, "soft": soft}]


_TO_CELLS: Final[dict[str, Callable[..., list[dict[str, Any]]]]] = {
    "revoke": _revoked,
    "terminate": _terminated,
    "revoke_by_stamped_headers": _stamped,
    "rate_limit": _rate,
    "time_limit": _limits,
    "enable_events": lambda **_: [{"message": "events", "on": True}],
    "disable_events": lambda **_: [{"message": "events", "on": False}],
}


# In the cell


def heed(cell: "Cell", message: dict[str, Any]) -> None:
    """Do what remote control has decided: revoke, revoke_stamps, rate_limit, share, time_limit, events."""
    said, consumer, tasks = message["say"], cell.consumer, cell.app.tasks
    if said == "revoke":
        state.revoked.update(message["ids"])
    elif said == "revoke_stamps":
        for header, stamps in message["stamps"].items():
            state.revoked_stamps[header] = [*(state.revoked_stamps.get(header) or []), *stamps]
    elif said == "rate_limit":
        tasks[message["task"]].rate_limit = message["rate"]
        consumer.reset_rate_limits()
    elif said == "share":
        cell.share = message["cells"]
        consumer.reset_rate_limits()
    elif said == "time_limit":
        task = tasks[message["task"]]
        task.soft_time_limit, task.time_limit = message["soft"], message["hard"]
    elif said == "events":
        consumer.events.turn(consumer, on=message["on"])


def bucket(rate: float, share: int) -> TokenBucket | None:
    """A cell's share of a task's rate limit: those of all cells add up to the limit of the worker."""
    return TokenBucket(rate / max(share, 1), capacity=1) if rate else None
