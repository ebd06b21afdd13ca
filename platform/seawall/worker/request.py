"""One delivery of a task, in the process that watches over the pool.

Two things happen here that stock Celery gets wrong for production:

- A task whose process died (killed, crashed, out of memory) is delivered again, but counted: at the limit it
  fails as `Poisoned` instead of killing processes for ever. It costs none of the task's retries. Our
  transport counts by itself and keeps the message as a dead letter. On others the count travels in the
  header `seawall-strikes`, and a redelivery is published before the old message is acknowledged: a crash in
  between can double it, never lose it.
- A `MemoryError` of a task, which Celery raises again in the worker's main process and so ends the worker,
  fails that task only.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import WorkerLostError
from celery import Celery, signals
from celery.worker import state
from celery.worker.request import Request as CeleryRequest

from seawall import delivery
from seawall.errors import MemoryBudgetExceeded, Poisoned

DELIVERY_LIMIT: Final = 3
STRIKES_HEADER: Final = "seawall-strikes"

logger = logging.getLogger(__name__)


class Request(CeleryRequest):
    """Celery's request with the two endings above."""

    _context: Any  # celery-types knows neither of these two
    _success_was_stored: Callable[[], object]

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
        if isinstance(exc, MemoryError):
            message = f"{self.name} ran out of memory: {exc or 'the allocator gave no reason'}"
            exc_info = _raised(MemoryBudgetExceeded(message))
        elif isinstance(exc, WorkerLostError) and self.task.acks_late and not self._success_was_stored():
            if _stopping():
                return self._give_back()
            if delivery.strike(self.message, str(exc)):
                return state.task_ready(self)
            strikes = self._strikes + 1
            if strikes < DELIVERY_LIMIT:
                return self._deliver_again(strikes, exc)
            message = f"{self.name}[{self.id}] killed its process {strikes} times, the last time with: {exc}"
            exc_info = _raised(Poisoned(message))
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

    def on_accepted(self, pid: Any, time_accepted: float) -> None:
        """The task begins: from now on it answers for the loss of its process."""
        delivery.started(self.message)
        super().on_accepted(pid, time_accepted)

    @property
    def _strikes(self) -> int:
        return int((self._context.headers or {}).get(STRIKES_HEADER, 0))

    def _give_back(self) -> None:
        """This worker killed the process itself because it is stopping: not the task's doing, no strike."""
        state.task_ready(self)
        self.reject(requeue=True)

    def _deliver_again(self, strikes: int, exc: WorkerLostError) -> None:
        logger.warning(
            "%s[%s] lost its process (%s); delivering it again, strike %d of %d",
            self.name, self.id, exc, strikes, DELIVERY_LIMIT,
        )  # fmt: skip
        state.task_ready(self)
        headers = {**(self._context.headers or {}), STRIKES_HEADER: strikes}
        self.task.signature_from_request(self._context, headers=headers).apply_async()
        self.acknowledge()
        self.send_event("task-retried", exception=str(exc), traceback="")


def fail_poisoned(app: Celery, sender: Any, message: dict[str, Any], history: list[Any]) -> None:
    """Store and signal the failure of a message that delivery has just given up (`delivery.poisoned`)."""
    request = Request(
        sender.message_to_python(message), app=app, task=app.tasks.get(message["headers"]["task"])
    )
    _, _, reason = history[-1]
    strikes = len(history)
    error = Poisoned(
        f"{request.name}[{request.id}] killed its process {strikes} times, the last time with: {reason}"
    )
    failure, context = _raised(error), request._context  # noqa: SLF001
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


def _stopping() -> bool:
    return bool(state.should_terminate)


def _raised(error: Exception) -> ExceptionInfo:
    """`error` as Celery's pool reports exceptions: with a traceback, which only raising gives."""
    try:
        raise error
    except type(error):
        return ExceptionInfo()
