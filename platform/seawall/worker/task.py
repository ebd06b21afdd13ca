"""The task class of a Seawall app: it applies the policy and retries what deserves it.

Celery binds a task to its app before the first use; then the policy is copied onto the attributes Celery
itself reads (priority, time limits, max_retries), so that `task_annotations`, `.set()` and per-call options
keep their meaning and their precedence.
"""

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from celery import Task
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.saferepr import saferepr

from seawall import boundary, cluster, servers
from seawall.breaker.calls import admitted, failed_probe
from seawall.breaker.config import disregard
from seawall.classification import verdict_of
from seawall.config import settings
from seawall.errors import BreakerOpen, ConfigError, MemoryBudgetExceeded
from seawall.memory.runs import sizes
from seawall.policy import DEFAULT, Policy, policy_of
from seawall.policy import Retry as RetryPolicy
from seawall.redaction import redact_arguments
from seawall.retries import RetryBudget, retry_after
from seawall.worker import interruption, lines, memory
from seawall.worker.discretion import secrecy_of

if TYPE_CHECKING:
    from celery import Celery

CONTROL_FLOW = (Retry, Ignore, Reject)
"""How a task talks to Celery; not failures."""

PROBED_AGAIN = 1.0
"""Seconds after which a task whose probe failed comes to the gate again, which knows when the next one is."""

_SHOWN = 1024
"""Characters of a call's arguments in logs and events, as in Celery."""

_LONGEST_WISH = 3600.0
"""Seconds of `Retry-After` that are honoured; more would be a task that nobody waits for any more."""

retry_budget = RetryBudget(lambda: cluster.client() if servers.redis_is_known() else None)

logger = logging.getLogger(__name__)

disregard(*CONTROL_FLOW)
boundary.disregard(*CONTROL_FLOW)


class Postponed(Reject):
    """The task is put aside for so many seconds at no cost: no attempt and no strike is spent."""

    def __init__(self, seconds: float) -> None:
        super().__init__(reason=f"put aside for {seconds:.1f} s", requeue=False)
        self.seconds = seconds

    def __reduce__(self) -> tuple[Any, ...]:
        return Postponed, (self.seconds,)


class SeawallTask(Task):  # type: ignore[type-arg]
    """A Celery task that knows its policy."""

    abstract = True
    Request = "seawall.worker.request:Request"
    policy: ClassVar[Policy] = DEFAULT
    _from_policy: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def bind(cls, app: "Celery") -> "Celery":
        """Read the policy, before Celery fills what is unset: after that a default looks like an option."""
        if not cls.__dict__.get("__bound__"):
            cls.policy = policy_of(cls.run)
            cls._from_policy = _attributes(cls)
        return super().bind(app)

    @classmethod
    def annotate(cls) -> None:
        """Apply the policy, then `task_annotations`: the operator has the last word."""
        for attribute, value in cls._from_policy.items():
            setattr(cls, attribute, value)
        super().annotate()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; what deserves another attempt becomes Celery's `Retry`."""
        request: Any = self.request
        if request.called_directly or request._protected:  # noqa: SLF001 - Celery's mark of a running request
            return super().__call__(*args, **kwargs)  # a plain call, also from within a task
        request._protected = 1  # noqa: SLF001
        if request.is_eager:  # one inside a task of a cell: no signal says so there
            with lines.within(lines.TaskScope(self, vars(request), args, kwargs)):
                return self._attempt(request, args, kwargs)
        return self._attempt(request, args, kwargs)

    def _attempt(self, request: Any, args: Any, kwargs: Any) -> Any:
        if not request.retries:
            retry_budget.first_attempt(self.name)
        try:
            with memory.around(self, request, (args, kwargs)):
                return self._run(args, kwargs)
        except CONTROL_FLOW as exc:
            if isinstance(exc, Retry) and isinstance(exc.exc, BaseException):
                boundary.note(exc.exc, self.name)
            raise
        except MemoryError as exc:
            # Celery raises a MemoryError again in its main process, which ends the worker.
            message = f"{self.name} ran out of memory{sizes(args, kwargs)}: {exc or 'no reason given'}"
            raise MemoryBudgetExceeded(message) from exc
        except Exception as exc:
            if (seconds := self._postponed(exc)) is not None:
                raise Postponed(seconds) from exc
            boundary.note(exc, self.name)
            retry = self._retry_for(exc)
            if retry is None or not self._may_retry(exc, retry):
                raise
            countdown = max(retry.delay(request.retries + 1), min(retry_after(exc) or 0.0, _LONGEST_WISH))
            raise self.retry(exc=exc, countdown=countdown, max_retries=retry.max_attempts - 1) from exc

    def _run(self, args: Any, kwargs: Any) -> Any:
        interruption.mark(1)
        try:
            if not self.policy.requires:
                return self.run(*args, **kwargs)
            with admitted(self.policy.requires):
                return self.run(*args, **kwargs)
        finally:
            interruption.mark(0)

    def _postponed(self, exc: Exception) -> float | None:
        """Seconds to put the task aside, if it ended because a breaker it requires is not closed.

        It was refused, or it was the trial call that finds out whether the dependency is back: neither is
        the task's failure.
        """
        requires = self.policy.requires
        if not requires or self.request.is_eager:
            return None
        refusal = exc if isinstance(exc, BreakerOpen) else exc.__cause__
        if isinstance(refusal, BreakerOpen) and refusal.name.partition("[")[0] in requires:
            return refusal.retry_after
        probe = failed_probe(exc).partition("[")[0]
        return PROBED_AGAIN if probe in requires else None

    def apply(self, *args: Any, throw: bool | None = None, **options: Any) -> Any:
        """As Celery's, but raising (`throw`) waits for the last attempt: a `Retry` is no outcome."""
        result = super().apply(*args, throw=False, **options)  # type: ignore[misc]
        if (self.app.conf.task_eager_propagates if throw is None else throw) and result.failed():
            raise result.result
        return result

    def _retry_for(self, exc: Exception) -> RetryPolicy | None:
        """How `exc` is retried, or None if it is no failure that deserves it."""
        verdict, retry = verdict_of(exc), self.policy.retry
        deserved = verdict.retryable if retry.on is None else isinstance(exc, retry.on)
        return retry.of(verdict.category) if deserved else None

    def _may_retry(self, exc: Exception, retry: RetryPolicy) -> bool:
        """Whether attempts and the budget are left; a refusal of the budget is noted on `exc`."""
        if self.request.retries + 1 >= retry.max_attempts:
            return False
        share = next(
            each
            for each in (retry.budget, self.policy.retry.budget, settings().retry.budget)
            if each is not None
        )
        if self.request.is_eager or retry_budget.take(self.name, share):
            return True
        note = f"not retried: the retries of {self.name} have used their budget, {share:g} of first attempts"
        exc.add_note(note)
        logger.warning("%s[%s] is %s", self.name, self.request.id, note)
        return False


def shown_arguments(task: Any, args: Any, kwargs: Any) -> dict[str, str]:
    """What logs, events and Flower show of a call, as the two headers that carry it: without secrets."""
    if not isinstance(args or (), list | tuple) or not isinstance(kwargs or {}, Mapping):
        return {}  # Celery refuses those
    shown = redact_arguments(args or (), kwargs or {}, **secrecy_of(task))
    return {"argsrepr": saferepr(shown[0], _SHOWN), "kwargsrepr": saferepr(shown[1], _SHOWN)}


def _attributes(cls: type[SeawallTask]) -> dict[str, Any]:
    """What the policy says, in the attributes that Celery reads.

    Raises:
        ConfigError: `@app.task` says it as well.
    """
    policy = cls.policy
    said = {
        "priority": ("priority", policy.priority),
        "soft_time_limit": ("timeout", policy.timeout),
        "time_limit": ("timeout", policy.hard_timeout),
        "max_retries": ("retry", policy.retry.most_attempts - 1),
    }
    said = {attribute: pair for attribute, pair in said.items() if pair[0] in policy.explicit}
    for attribute, (field, _) in said.items():
        if (set_twice := _set_by_celery_option(cls, attribute)) is not None:
            raise ConfigError(
                f"{cls.name}: {attribute}={set_twice!r} in @app.task and {field} in @policy: keep one"
            )
    return {attribute: value for attribute, (_, value) in said.items()}


def _set_by_celery_option(cls: type[Task], attribute: str) -> Any:  # type: ignore[type-arg]
    """The value that `@app.task(attribute=...)` or a base class below SeawallTask gives, or None."""
    for base in cls.__mro__:
        if base is SeawallTask:
            return None
        if base.__dict__.get(attribute) is not None:
            return base.__dict__[attribute]
    return None
