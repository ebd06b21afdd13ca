"""One delivery of a task, in the process that watches over the pool.

Two things happen here that stock Celery gets wrong for production:

- A task whose process died (killed, crashed, out of memory) is delivered again, but counted: after
  `DELIVERY_LIMIT` lethal deliveries it fails as `Poisoned` instead of killing processes for ever. The count
  travels in the message header `seawall-strikes`. A redelivery is published before the old message is
  acknowledged: a crash in between can double it, never lose it. It costs none of the task's retries.
- A `MemoryError` of a task, which Celery raises again in the worker's main process and so ends the worker,
  fails that task only.
"""

import logging
from collections.abc import Callable
from typing import Any, Final

from billiard.einfo import ExceptionInfo, ExceptionWithTraceback  # type: ignore[attr-defined]
from billiard.exceptions import WorkerLostError
from celery.worker import state
from celery.worker.request import Request as CeleryRequest

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
            strikes = self._strikes + 1
            if _stopping():
                return self._give_back()
            if strikes < DELIVERY_LIMIT:
                return self._deliver_again(strikes, exc)
            message = f"{self.name}[{self.id}] killed its process {strikes} times, the last time with: {exc}"
            exc_info = _raised(Poisoned(message))
        return super().on_failure(exc_info, send_failed_event=send_failed_event, return_ok=return_ok)

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


def _stopping() -> bool:
    return bool(state.should_terminate)


def _raised(error: Exception) -> ExceptionInfo:
    """`error` as Celery's pool reports exceptions: with a traceback, which only raising gives."""
    try:
        raise error
    except type(error):
        return ExceptionInfo()
