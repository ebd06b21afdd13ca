"""One delivery of a task, in the process that watches over the pool.

What stock Celery gets wrong for production is done here:

- A task whose process died (killed, crashed, out of memory) is delivered again, but counted: at the limit it
  fails as `Poisoned` instead of killing processes for ever. It costs none of the task's retries. Our
  transport counts by itself and keeps the message as a dead letter. On others the count travels in the
  header `seawall-strikes`, and a redelivery is published before the old message is acknowledged: a crash in
  between can double it, never lose it.
- A task whose process this worker killed for its memory limit fails, and is not delivered again.
- A `MemoryError` of a task, which Celery raises again in the worker's main process and so ends the worker,
  fails that task only.
- A task that could not do its work yet (`Postponed`) goes back to the broker at no cost.
- A task that is given up leaves its message with the broker, as a dead letter, where the broker can keep it.

Every ending passes `outcomes.settle`, before the broker hears of it.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any, Final, Literal

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery import Celery, signals, states
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError
from celery.utils.saferepr import saferepr
from celery.utils.serialization import get_pickled_exception
from celery.worker import state
from celery.worker.request import Request as CeleryRequest
from kombu.utils.encoding import safe_repr

from seawall import boundary, delivery
from seawall.errors import MemoryBudgetExceeded, Poisoned
from seawall.logs.endings import RETRIED
from seawall.records.occurrences import reason
from seawall.redaction import KEPT, ends
from seawall.worker import late_endings, memory, older, outcomes, repeats
from seawall.worker.deferral import raised, set_aside
from seawall.worker.lines import TaskScope, within
from seawall.worker.outcomes import Cancelled, Dead, Parked, Retried, Succeeded
from seawall.worker.task import Postponed
from seawall.worker.task_events import arrives, passes, queue_of
from seawall.worker.time_limits import limits_of

DELIVERY_LIMIT: Final = 3
STRIKES_HEADER: Final = "seawall-strikes"
_KILLED: Final = "killed its process"
_MOST_TRACEBACK: Final = 8192
"""Characters of it that a dead letter in the broker keeps."""

_TEXTS: Final = frozenset({"exception", "traceback", "result", "reason"})
"""Fields of events that hold what the task's own code said."""

logger = logging.getLogger(__name__)


class Request(CeleryRequest):
    """Celery's request with the endings above."""

    _context: Any  # celery-types knows neither of these two
    time_limits: Any
    _request_dict: dict[str, Any]
    _already_cancelled: bool
    _already_revoked: bool
    _epitaph: str | None = None
    """Why it is given up; from then on its message is not acknowledged but buried."""

    _shown: str | None = None
    """What ended it, if it failed for good; Celery shows what wraps that for another process."""

    buried = False
    settled: type | None = None
    """The kind of outcome that is written down of it: an ending may come twice, see `late_endings`."""

    remembered = True
    """Whether its success goes into Celery's `successful_requests`, for when it is delivered again."""

    came_back = False
    """Whether it had been put aside, and is here again."""

    parts: Any = None
    """Arguments and what is embedded with them, where they are at hand: Celery's property costs more."""

    _scope: TaskScope | None = None
    _eventer: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if until := self._request_dict.get("delayed_until"):  # our transport has kept it until then
            self._request_dict["eta"] = until
        if held_in := self.message.delivery_info.get("queue"):  # for its retries
            self._request_dict["delivery_info"]["queue"] = held_in
        arrives(self._eventer, self.id, self.name, self.message)
        if delivery.came_back(self.message):
            self.came_back = True
            self.send_event("task-released")

    def execute_using_pool(self, pool: Any, **kwargs: Any) -> Any:
        """As Celery's; a request that cannot be handed over, such as one too deep to be pickled, fails.

        Raises:
            TaskRevokedError: it is over, and whoever has taken a slot for it gives that back.
        """
        jobs = getattr(getattr(pool, "_pool", None), "_cache", {})  # of a pool of processes
        known = set(jobs)
        try:
            return self._hand_over(pool, **kwargs)
        except TaskRevokedError:
            raise
        except Exception as exc:
            for job in set(jobs) - known:
                del jobs[job]  # else the pool waits for its end when it stops
            self.on_failure(ExceptionInfo())
            if not self.acknowledged:  # as a task that is acknowledged when it starts
                self.acknowledge()
            raise TaskRevokedError(f"{self.name}[{self.id}] cannot be handed to a process") from exc

    def _hand_over(self, pool: Any, **kwargs: Any) -> Any:
        """With endings that outlast an outage, and the limits of this call: Celery's may take the task's."""
        hard, soft = self.time_limits
        soft, hard = limits_of(self.task, (soft, hard))

        def apply_async(trace: Any, *args: Any, **options: Any) -> Any:
            if soft is not None or hard is not None:
                options.update(soft_timeout=soft or 0, timeout=hard or 0)
            if self.delivery_info["redelivered"]:
                wanted = not older.ignores_result(self.task, self._context)
                trace = partial(repeats.traced, trace, wanted)
            trace = partial(late_endings.owing, trace)
            return pool.apply_async(trace, *args, **late_endings.outlasting(options, self))

        ours: Any = SimpleNamespace(apply_async=apply_async)
        return super().execute_using_pool(ours, **kwargs)

    def __init_subclass__(cls, **options: Any) -> None:
        """Celery's stock pools make a class of their own for every task, which replaces two methods."""
        super().__init_subclass__(**options)
        own = cls.__dict__.get("on_success")
        if own is not None and cls.__qualname__.startswith("create_request_cls."):
            cls.on_success = _settled_first(own)  # type: ignore[method-assign]
            del cls.execute_using_pool

    def on_success(self, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        """Settle a task that ran to its end; Celery passes what failed on to `on_failure`."""
        failed, result, runtime = failed__retval__runtime
        if failed:
            return super().on_success(failed__retval__runtime, **kwargs)
        outcomes.settle(self, Succeeded(runtime))
        state.task_ready(self, successful=self.remembered)  # from here on as Celery's
        if self.task.acks_late:
            self.acknowledge()
        self.send_event("task-succeeded", result=result, runtime=runtime)
        return None

    def on_failure(
        self,
        exc_info: ExceptionInfo,
        send_failed_event: bool = True,  # noqa: FBT001, FBT002 - Celery's signature
        return_ok: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """Settle a task that raised, or whose process is gone."""
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        if isinstance(exc, Postponed):
            cause = str(exc.__cause__ or exc)
            if exc.dependency is None:
                outcomes.settle(self, Parked(cause))
            set_aside(self, exc.seconds, dependency=exc.dependency, reason=cause)
            return None
        if isinstance(exc, TimeLimitExceeded) and not (return_ok or stopping()):
            return None  # Celery's pool calls `on_timeout` next, which tells all of it
        if isinstance(exc, WorkerLostError) and (why := self._killed_for_memory()):
            exc_info = raised(MemoryBudgetExceeded(why))
        elif isinstance(exc, MemoryError):
            message = f"{self.name} ran out of memory: {exc or 'the allocator gave no reason'}"
            exc_info = raised(MemoryBudgetExceeded(message))
        elif isinstance(exc, WorkerLostError) and (stored := older.stored_success(self)):
            self._succeeded_before(exc, stored)
            return None
        elif isinstance(exc, WorkerLostError) and runs_again(self.task):
            if (poisoned := self._redeliver(exc)) is None:
                return None
            exc_info = raised(poisoned)
        self._conclude(exc_info)
        with within(self.scope), older.request_at_hand(self):
            older.fails_for_good(self, exc, exc_info, told=send_failed_event)
            failure = older.storable(exc, exc_info)
            return super().on_failure(failure, send_failed_event=send_failed_event, return_ok=return_ok)

    def _conclude(self, exc_info: ExceptionInfo) -> None:
        """Which outcome Celery is about to act on."""
        exc: Any = exc_info.exception
        exc = exc.exc if isinstance(exc, ExceptionWithTraceback) else exc
        if isinstance(exc, Retry):
            outcomes.settle(self, Retried(exc.exc or exc, str(exc_info.traceback)))
        elif isinstance(exc, Ignore):
            outcomes.settle(self, Succeeded())
        elif isinstance(exc, Reject) and vars(exc).get("requeue"):
            outcomes.settle(self, Parked(f"rejected by the task: {vars(exc).get('reason')}"))
        elif not isinstance(exc, Terminated) and not (self._already_cancelled or self._already_revoked):
            self._give_up(exc, str(exc_info.traceback))

    def _give_up(self, error: BaseException, traceback: str = "") -> None:
        outcomes.settle(self, Dead(error, traceback))
        self._shown = safe_repr(get_pickled_exception(error))  # type: ignore[arg-type] # it takes any
        secrets = self.scope.secrets
        why = reason(error, boundary.note(error, self.type), secrets)
        self._epitaph = f"{why}\n{ends(traceback, _MOST_TRACEBACK, secrets)}".rstrip()

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - Celery's signature
        """Settle a task that outlasted its hard limit."""
        if not soft and not stopping():
            error, task = TimeLimitExceeded(timeout), self.task
            if task.acks_late and not older.acks_on_timeout(task):
                outcomes.settle(self, Retried(error))
            else:
                self._give_up(error)
            if not older.TELLS_TIMEOUTS:
                older.end_of_time(self, timeout)
                return
        super().on_timeout(soft, timeout)

    def _announce_revoked(self, reason: str, *details: Any) -> None:
        outcomes.settle(self, Cancelled(reason))
        super()._announce_revoked(reason, *details)  # type: ignore[misc]

    def acknowledge(self) -> None:
        """As Celery's; what was given up stays with the broker, if it can keep it."""
        if not self._bury():
            super().acknowledge()

    def reject(self, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's signature
        """As Celery's, with the same exception."""
        if requeue or not self._bury():
            super().reject(requeue=requeue)

    def _bury(self) -> bool:
        if self._epitaph is None or self.acknowledged or not delivery.bury(self.message, self._epitaph):
            return False
        self.buried = self.acknowledged = True
        return True

    def send_event(self, type: str, **fields: Any) -> None:  # noqa: A002 - Celery's signature
        """As Celery's, with name and queue; what a task raised or returned is shown without secrets."""
        if not self.is_told:
            return
        if type == "task-failed" and self._shown is not None:
            fields["exception"] = self._shown
        shown = {
            name: ends(str(value), KEPT, self.scope.secrets) if name in _TEXTS and value else value
            for name, value in fields.items()
        }
        super().send_event(type, **{"name": self.name, "queue": queue_of(self.message), **shown})

    @property
    def is_told(self) -> bool:
        """Whether anybody hears of its events."""
        return passes(self._eventer)

    @property
    def scope(self) -> TaskScope:
        """What lines and events say of it, and hide."""
        if self._scope is None:
            self._scope = TaskScope(self.task, self.request_dict, self.args, self.kwargs)
        return self._scope

    def _killed_for_memory(self) -> str | None:
        """Why this worker killed the process, if it did so for memory: once is enough."""
        return memory.why(self.worker_pid, self.id, (self.args or (), self.kwargs or {}))

    def _succeeded_before(self, lost: WorkerLostError, stored: Mapping[str, Any]) -> None:
        """Its process stored a success and was lost after that."""
        logger.warning("%s[%s] succeeded before its process was lost: %s", self.name, self.id, lost)
        self._count_for_chord(stored)
        outcomes.settle(self, Succeeded())
        state.task_ready(self)
        if self.task.acks_late:
            self.acknowledge()
        result = saferepr(stored.get("result"), self.task.resultrepr_maxsize)
        self.send_event("task-succeeded", result=result, runtime=None)

    def _count_for_chord(self, stored: Mapping[str, Any]) -> None:
        """Count a result whose process died between storing and counting it; twice changes nothing."""
        if self._context.chord:
            self.task.backend.on_chord_part_return(self._context, states.SUCCESS, stored["result"])

    def _redeliver(self, exc: WorkerLostError) -> Poisoned | None:
        """Have the task delivered again, wherever that is decided; the error if it must be given up here."""
        if stopping():  # this worker ended the process itself: not the task's doing, no strike
            self.reject(requeue=True)
            state.task_ready(self)
            return None
        count, limit = self._strikes_with_this(), delivery.limit_of(self.message, DELIVERY_LIMIT)
        last = count >= limit
        if not last:
            outcomes.settle(self, Retried(exc))
            with within(self.scope):
                logger.warning(
                    RETRIED, {"name": self.name, "id": self.id, "exc": f"{exc} (strike {count} of {limit})"}
                )
        why = ends(str(exc), KEPT)
        if not delivery.strike(self.message, _killed(count, why) if last else why):
            strikes = self.strikes + 1
            if strikes >= DELIVERY_LIMIT:
                return poisoned(self, strikes, str(exc))
            self._publish_again(strikes)
        if not last:  # or whoever notices that it was the last one tells that it failed
            self.send_event("task-retried", exception=str(exc), traceback="")
        state.task_ready(self)
        return None

    def _strikes_with_this(self) -> int:
        """Processes it has killed. At the limit it is given up, and whoever notices that settles it."""
        place = (getattr(self.message, "properties", None) or {}).get("delivery_info") or {}
        return (int(place.get("strikes") or 0) if delivery.counts(self.message) else self.strikes) + 1

    def maybe_expire(self) -> Literal[True] | None:
        """As Celery's, by the broker's clock where it tells: machines need not agree on the time."""
        if not self.expires:
            return None
        now = datetime.fromtimestamp(delivery.server_time(self.message), UTC)
        if now <= (self.expires if self.expires.tzinfo else self.expires.astimezone()):
            return None
        state.revoked.add(self.id)
        return True

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        """The task begins: from now on it answers for the loss of its process."""
        delivery.started(self.message)
        super().on_accepted(pid, time_accepted)

    @property
    def strikes(self) -> int:
        """Processes it has killed by the count of its header."""
        return int((self._context.headers or {}).get(STRIKES_HEADER, 0))

    def _publish_again(self, strikes: int) -> None:
        headers = {**(self._context.headers or {}), STRIKES_HEADER: strikes}
        self.task.signature_from_request(self._context, headers=headers).apply_async()
        self.acknowledge()


def _settled_first(celerys: Callable[..., Any]) -> Callable[..., Any]:
    def on_success(self: Request, failed__retval__runtime: Any, **kwargs: Any) -> Any:
        failed, _, runtime = failed__retval__runtime
        if not failed:
            outcomes.settle(self, Succeeded(runtime))
        return celerys(self, failed__retval__runtime, **kwargs)

    return on_success


def hear_of_poisoned(app: Celery, consumer: Any = None) -> None:
    """Have every message that delivery gives up fail, in this process; its consumer tells monitors.

    The process of the moment replaces the one it was forked from, and a new consumer the one before.
    """

    def fail(sender: Any = None, **told: Any) -> None:
        fail_poisoned(app, sender, told, consumer)

    uid = "seawall.poisoned"
    delivery.poisoned.disconnect(dispatch_uid=uid)
    delivery.poisoned.connect(fail, weak=False, dispatch_uid=uid)


def fail_poisoned(app: Celery, sender: Any, told: Mapping[str, Any], consumer: Any = None) -> None:
    """Store, signal and tell the failure of a message that delivery gave up (`told` by `delivery.poisoned`).

    Another application may have run it: its name need not be known here. What is no task's message, or one of
    Celery's first protocol, is written down as such.
    """
    message, history = sender.message_to_python(told["message"]), told["history"]
    try:
        request = _of_poisoned(app, message, consumer)
    except Exception as exc:  # noqa: BLE001 - a stranger wrote it
        outcomes.stray(message, told["queue"], exc, "")
        return
    error = poisoned(request, told["strikes"], history[-1][2])
    outcomes.settle(request, Dead(error, history=history))
    failure, context = raised(error), request._context  # noqa: SLF001
    request.task.backend.mark_as_failure(
        request.id, error, request=context, store_result=request.store_errors
    )
    signals.task_failure.send(
        sender=request.task,
        task_id=request.id,
        exception=error,
        args=context.args,
        kwargs=context.kwargs,
        traceback=failure.traceback,
        einfo=failure,
    )
    request.send_event("task-failed", exception=saferepr(error), traceback=str(failure.traceback))


def _of_poisoned(app: Celery, message: Any, consumer: Any) -> Request:
    name = message.headers["task"]
    if (task := app.tasks.get(name)) is None:
        task = app.Task()
        task.name = name
    eventer = getattr(consumer, "event_dispatcher", None)
    return Request(message, app=app, task=task, eventer=eventer, hostname=getattr(consumer, "hostname", None))


def poisoned(request: CeleryRequest, strikes: int, last: str) -> Poisoned:
    """What a task fails with that has killed too many processes."""
    why = last if last.startswith(_KILLED) else _killed(strikes, last)
    return Poisoned(f"{request.name}[{request.id}] {why}")


def runs_again(task: Any) -> bool:
    """Whether a task is delivered again when its process is lost: not with `reject_on_worker_lost=False`."""
    return bool(task.acks_late) and task.reject_on_worker_lost is not False


def _killed(strikes: int, last: str) -> str:
    """The reason of a dead letter that operators read."""
    return f"{_KILLED} {strikes} times, the last time with: {last}"


def stopping() -> bool:
    """Whether this worker ends its processes itself: a cold shutdown."""
    return bool(state.should_terminate)
