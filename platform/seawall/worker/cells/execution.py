"""Running one request in a cell: Celery's request, and a short way through it.

What differs from Celery's solo pool is cost, not behaviour: a message is decoded once, acknowledged without
a turn of the loop in between, and its task is traced in place (`tracing`).
"""

import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from billiard.einfo import ExceptionInfo
from celery import signals
from celery.app import trace as celery_trace
from celery.app.task import Context
from celery.utils.saferepr import saferepr
from celery.worker import state, strategy
from kombu.utils.imports import symbol_by_name

from seawall.delivery.channel import Channel as LeasedChannel
from seawall.worker import forks, interruption, lines, results
from seawall.worker.cells import verdicts
from seawall.worker.cells.deaths import describe
from seawall.worker.cells.pulse import Pulse
from seawall.worker.cells.table import RING_SLOTS
from seawall.worker.cells.tracing import Outcome, Tracer
from seawall.worker.request import Request
from seawall.worker.task import SeawallTask
from seawall.worker.task_events import passes
from seawall.worker.time_limits import limits_of

if TYPE_CHECKING:
    from seawall.worker.cells.cell import Cell

_celerys: Any = strategy  # celery-types lacks half of it
_SETTLE_BESIDE: Final = (
    0.002  # seconds of work from which an acknowledgement is worth a round trip of its own
)
_MOST_UNSETTLED: Final = RING_SLOTS - 32  # the table has to hold those that a dead process had not sent
_HEARSAY: Final = 0.1  # seconds; only for messages that RabbitMQ delivers again
_PAYLOAD_PARTS: Final = 3  # of protocol 2: args, kwargs, embed
_MARKS_ITSELF: Final = (SeawallTask.__call__, SeawallTask.surrounded)
_SEQUENCES: Final = (list, tuple)  # a union would be made anew for each message
_NO_HEADERS: Final = frozenset({*vars(Context), "lang", "task", "argsrepr", "kwargsrepr", "compression"})
"""What Celery does not count among `request.headers`; it builds this set for every task."""


class Execution:
    """Runs requests, one at a time, and keeps the row of the table."""

    def __init__(self, cell: "Cell") -> None:
        self._cell = cell
        self._row = cell.row
        self._pid = os.getpid()
        self._hostname = cell.hostname
        self._tracers: dict[Any, Tracer] = {}
        options = cell.worker.pool.options
        # Hard and soft, of a task that has none of its own.
        self.limits = float(options.get("timeout") or 0), float(options.get("soft_timeout") or 0)
        self._succeeded: deque[str] = deque(maxlen=state.SUCCESSFUL_MAX)
        self._guarded: dict[type, bool] = {}
        self._queue = ""
        self.pulse: Pulse | None = None
        interruption.mark = self._row.mark
        lines.disconnect()

    def run(self, request: Any) -> None:
        """Run a request that was admitted, and settle it."""
        cell, message = self._cell, request.message
        leased = isinstance(message.channel, LeasedChannel)
        if not self._may_run(request, leased=leased):
            return
        forked = forks.depth
        try:
            self._run(request, message, leased=leased)
        finally:  # whatever our own code raised, this cell runs nothing any more
            forks.leave_since(forked, sys.exception())
            self._row.end()
        cell.ended(request)

    def _run(self, request: Any, message: Any, *, leased: bool) -> None:
        cell = self._cell
        batch = results.batch if leased else None
        request.remembered = False
        self._begin(request, message, leased=leased)
        if batch is not None:
            batch.begin(request.task)
        started, forked = time.monotonic(), forks.depth
        try:
            request.on_accepted(self._pid, started)
            if leased and request.acknowledged:
                self._row.acknowledged(message.delivery_tag, self._queue)
            outcome = self._trace(request)
        except BaseException as exc:  # noqa: BLE001 - SystemExit included: the request knows what each means
            forks.leave_since(forked, exc)
            request.on_failure(ExceptionInfo())
        else:
            forks.leave_since(forked)
            cell.catch_up()  # whether its end is to be told
            shown = outcome.result if outcome.failed else self._shown(request, outcome)
            request.on_success((int(outcome.failed), shown, outcome.runtime))
            if not outcome.failed:
                self._succeeded.append(request.id)
        if leased:
            self._keep_acknowledgement(request, message, started)
        if batch is not None:
            channel = message.channel
            batch.end(more=channel.unstarted > 0, aside=channel.far)

    def _may_run(self, request: Any, *, leased: bool) -> bool:
        """Whether it runs; otherwise it is settled."""
        if not self._cell.may_start():
            request.reject(requeue=True)
            state.task_ready(request)
            return False
        if (request.expires or state.revoked or state.revoked_stamps) and request.revoked():
            return False
        if request.delivery_info["redelivered"]:
            if not leased and self._is_over(request):
                return False
            if request.id in self._succeeded:
                state.successful_requests.add(request.id)  # Celery's tracer does not run it again
        return True

    def _is_over(self, request: Any) -> bool:
        """Whether a message that RabbitMQ delivers again must not run; it is done with then."""
        time.sleep(_HEARSAY)  # the message is faster than what its process's end tells about it
        if not verdicts.is_over(request):
            return False
        request.acknowledge()
        state.task_ready(request)
        return True

    def _keep_acknowledgement(self, request: Any, message: Any, started: float) -> None:
        """It must outlive this process from now on, although it may travel later."""
        claimant = message.channel.claimant
        if getattr(request, "buried", False):
            message.channel.flush()
            return
        if request.acknowledged and request.task.acks_late:
            self._row.acknowledged(message.delivery_tag, self._queue)
        if claimant is None:
            return
        if claimant.far:
            beside = claimant.unsettled >= _MOST_UNSETTLED
        else:
            beside = claimant.ahead > 0 and time.monotonic() - started > _SETTLE_BESIDE
        if beside:
            message.channel.flush()

    def _begin(self, request: Any, message: Any, *, leased: bool) -> None:
        task, row = request.task, self._row
        hard, soft = request.time_limits
        soft, hard = limits_of(task, (soft, hard))
        if hard is None and soft is None:
            hard, soft = self.limits
        claimant = message.channel.claimant if leased else None
        consumer = self._cell.consumer
        beside = consumer.rates.waiting + consumer.gate.waiting
        row.ahead = message.channel.unstarted + beside if leased else 0
        row.distance = claimant.distance.seconds if claimant is not None else 0.0
        row.describe(b"" if leased and task.acks_late else describe(message))
        tag = message.delivery_tag
        self._queue = (
            claimant.queue_of(tag) if claimant is not None else request.delivery_info["routing_key"] or ""
        )
        row.begin(
            request.id,
            request.name,
            str(tag),
            self._queue,
            time.monotonic(),
            float(soft or 0) if not hard or (soft or 0) < hard else 0.0,
            float(hard or 0),
        )

    def _trace(self, request: Any) -> Outcome:
        task, fields = request.task, request.request_dict
        args, kwargs, embed = getattr(request, "parts", None) or request._payload  # noqa: SLF001 - Celery's
        if embed:
            fields.update(embed)
        if fields.get("headers") is None:
            fields["headers"] = {name: fields[name] for name in fields if name not in _NO_HEADERS} or None
        whole, forked = not self._marks_itself(type(task)), forks.depth
        lines.enter(lines.TaskScope(task, fields, args, kwargs))
        if whole:
            self._row.mark(1)
        try:
            return self._tracer_of(task)(request.id, args, kwargs, fields)
        finally:
            if forks.depth == forked and (whole or self._row.inside):
                self._row.mark(0)
            lines.leave()
            if self.pulse is not None:
                self.pulse.hush()

    def _tracer_of(self, task: Any) -> Tracer:
        tracer = self._tracers.get(task)
        if tracer is None:
            tracer = self._tracers[task] = Tracer(task, pid=self._pid, hostname=self._hostname)
        return tracer

    def _shown(self, request: Any, outcome: Outcome) -> str | None:
        """What a task returned, for those who are told."""
        if outcome.shown is not None or (type(request) is Request and not request.is_told):
            return outcome.shown
        return saferepr(outcome.result, request.task.resultrepr_maxsize)

    def _marks_itself(self, kind: type) -> bool:
        """Whether the task's own code is told apart from ours, see `SeawallTask.__call__`."""
        known = self._guarded.get(kind)
        if known is None:
            known = self._guarded[kind] = kind.__call__ in _MARKS_ITSELF
        return known


def build_handler(
    task: Any, cell: "Cell", consumer: Any, otherwise: Callable[..., Any]
) -> Callable[[Any], None]:
    """What takes a message of `task` in. `otherwise` is Celery's own strategy, for what is rare."""
    make = symbol_by_name(task.Request)
    app, hostname = cell.app, cell.hostname
    errors = consumer.connection_errors
    revoked, stamps, received = state.revoked, state.revoked_stamps, signals.task_received
    bucket_of = consumer.task_buckets
    says = _celerys.logger.isEnabledFor(logging.INFO)

    def handle(message: Any) -> None:
        headers, payload = message.headers, message.payload
        eventer = consumer.event_dispatcher
        if (
            headers.get("eta")
            or not isinstance(payload, _SEQUENCES)
            or len(payload) != _PAYLOAD_PARTS
            or consumer.on_task_message
        ):
            otherwise(
                message, None, message.ack_log_error, message.reject_log_error, consumer.on_task_message
            )
            return
        request = make(
            message,
            on_ack=message.ack_log_error,
            on_reject=message.reject_log_error,
            app=app,
            hostname=hostname,
            eventer=eventer,
            task=task,
            connection_errors=errors,
        )
        request.parts = payload
        if says:
            _say_received(request)
        if (request.expires or revoked or stamps) and request.revoked():
            return
        if received.receivers:
            received.send(sender=consumer, request=request)
        if task.send_events and passes(eventer):
            _tell_received(eventer, request)
        bucket = None if consumer.disable_rate_limits else bucket_of[task.name]
        if bucket is not None:
            consumer._limit_task(request, bucket, 1)  # noqa: SLF001 - as Celery's strategy
            return
        state.task_reserved(request)
        consumer.on_task_request(request)

    return handle


def _say_received(request: Any) -> None:
    """The line of Celery's strategy."""
    told = {
        "id": request.id,
        "name": request.name,
        "args": request.argsrepr,
        "kwargs": request.kwargsrepr,
        "eta": request.eta,
    }
    _celerys.logger.info(celery_trace.LOG_RECEIVED, told, extra={"data": told})


def _tell_received(eventer: Any, request: Any) -> None:
    """The event of Celery's strategy."""
    eventer.send(
        "task-received",
        uuid=request.id,
        name=request.name,
        args=request.argsrepr,
        kwargs=request.kwargsrepr,
        root_id=request.root_id,
        parent_id=request.parent_id,
        retries=request.request_dict.get("retries", 0),
        eta=request.eta and request.eta.isoformat(),
        expires=request.expires and request.expires.isoformat(),
    )
