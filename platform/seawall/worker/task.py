"""The task class of a Seawall app: it applies the policy and retries what deserves it.

Celery binds a task to its app before the first use; then the policy is copied onto the attributes Celery
itself reads (priority, time limits, max_retries), so that `task_annotations`, `.set()` and per-call options
keep their meaning and their precedence.
"""

import inspect
import logging
from collections.abc import Mapping
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any, ClassVar

from celery import Task
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.saferepr import saferepr
from kombu.exceptions import EncodeError

from seawall import boundary, cluster, holdings, servers
from seawall.admission import PARKED_FOR, dependency_of
from seawall.breaker.calls import admitted, failed_probe
from seawall.breaker.config import disregard
from seawall.breaker.face import is_known, is_shut
from seawall.classification import verdict_of
from seawall.config import settings
from seawall.errors import BreakerOpen, ConfigError, MemoryBudgetExceeded
from seawall.memory.runs import sizes
from seawall.policy import DEFAULT, Policy, policy_of
from seawall.policy import Retry as RetryPolicy
from seawall.redaction import ARGUMENTS, redact_arguments
from seawall.retries import RetryBudget, retry_after
from seawall.worker import forks, interruption, lines, memory
from seawall.worker.defaults import LazyDefaults
from seawall.worker.discretion import secrecy_of
from seawall.worker.time_limits import NAMES, NOTHING, Pair, attributes, pair

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

_NEVER_AWAITED = (CoroutineType, AsyncGeneratorType)  # a union would be made anew for each task

retry_budget = RetryBudget(lambda: cluster.client() if servers.redis_is_known() else None)

logger = logging.getLogger(__name__)

disregard(*CONTROL_FLOW)
boundary.disregard(*CONTROL_FLOW)


class Postponed(Reject):
    """The task is put aside for so many seconds at no cost: no attempt and no strike is spent.

    With a `dependency` it comes back as soon as somebody lets that go.
    """

    def __init__(self, seconds: float, dependency: str | None = None) -> None:
        super().__init__(reason=f"put aside for {seconds:.1f} s", requeue=False)
        self.seconds = seconds
        self.dependency = dependency

    def __reduce__(self) -> tuple[Any, ...]:
        return Postponed, (self.seconds, self.dependency)


class SeawallTask(Task):  # type: ignore[type-arg]
    """A Celery task that knows its policy."""

    abstract = True
    Request = "seawall.worker.request:Request"
    policy: ClassVar[Policy] = DEFAULT
    _from_policy: ClassVar[Mapping[str, Any]] = {}
    _own_limits: ClassVar[Pair] = NOTHING
    limit_layers: ClassVar[tuple[Pair, ...]] = ()
    """Time limits as the settings, this task and its annotations give them."""

    limits_found: ClassVar[Pair] = NOTHING
    """What became of them; where the attributes differ, somebody changed these since."""

    @classmethod
    def bind(cls, app: "Celery") -> "Celery":
        """Read the policy, before Celery fills what is unset: after that a default looks like an option.

        An application binds its tasks once more when it is finalized. Celery fills what is unset then, too,
        and a task with one limit of its own would get the other one from the defaults.
        """
        if not cls.__dict__.get("__bound__"):
            refuse_coroutines(cls.run, cls.name)
            cls.policy = policy_of(cls.run)
            cls._from_policy = _attributes(cls)
            soft, hard = (cls._from_policy.get(name, _set_by_celery_option(cls, name)) for name in NAMES)
            cls._own_limits = (soft, hard)
            for name, value in _acks_of(cls).items():
                setattr(cls, name, value)
            return super().bind(app)
        decided = dict(zip(NAMES, attributes(cls), strict=True))
        app = super().bind(app)
        for name, limit in decided.items():
            setattr(cls, name, limit)
        return app

    @classmethod
    def annotate(cls: Any) -> None:
        """Apply the policy, then `task_annotations`: the operator has the last word."""
        for attribute, value in cls._from_policy.items():
            setattr(cls, attribute, value)
        filled = attributes(cls)
        cls.soft_time_limit = cls.time_limit = None
        super().annotate()
        annotated = attributes(cls)
        cls.limit_layers = (_limits_of_settings(cls.app), cls._own_limits, annotated)
        if cls._own_limits != NOTHING or annotated != NOTHING:
            filled = pair(*cls.limit_layers)
        cls.soft_time_limit, cls.time_limit = cls.limits_found = filled

    def _get_exec_options(self) -> dict[str, Any]:
        """As Celery's, without time limits: a message brings along those of its call alone."""
        options = super()._get_exec_options()  # type: ignore[misc]
        return {name: value for name, value in options.items() if name not in NAMES}

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
            if (postponed := self._postponed(exc)) is not None:
                raise postponed from exc
            boundary.note(exc, self.name)
            retry = self._retry_for(exc)
            if retry is None or not self._may_retry(exc, retry):
                raise
            countdown = max(retry.delay(request.retries + 1), min(retry_after(exc) or 0.0, _LONGEST_WISH))
            raise self.retry(exc=exc, countdown=countdown, max_retries=retry.max_attempts - 1) from exc

    def retry(self, *args: Any, **options: Any) -> Any:
        """As Celery's, but a retry that can never be submitted fails the task with the reason.

        Celery rejects the message then: no result is stored, and who asks for it waits for ever.
        """
        try:
            return super().retry(*args, **options)
        except Reject as refusal:
            reason = vars(refusal).get("reason")
            if not isinstance(reason, ValueError | TypeError | EncodeError):
                raise
        raise reason

    def signature_from_request(
        self, request: Any = None, args: Any = None, kwargs: Any = None, queue: Any = None, **options: Any
    ) -> Any:
        """As Celery's, for the queue that held the request: what its message says of that may be wrong."""
        place = (self.request if request is None else request).delivery_info or {}
        if queue is None and not self._declares(place.get("exchange")):
            queue = place.get("queue")
        return super().signature_from_request(request, args, kwargs, queue, **options)

    def _declares(self, exchange: Any) -> bool:
        queues: Any = self.app.amqp.queues
        return bool(exchange) and any(each.exchange.name == exchange for each in queues.values())

    def _run(self, args: Any, kwargs: Any) -> Any:
        eager = self.request.is_eager
        forked, outer = forks.depth, holdings.begin(within=eager)
        before = interruption.mark(1)  # an eager task may run within the code of another
        try:
            if not self.policy.requires:
                result = self.run(*args, **kwargs)
            else:
                with admitted(self.policy.requires):
                    result = self.run(*args, **kwargs)
        except BaseException as exc:
            if forks.depth != forked and not eager:
                forks.leave(exc)
            raise
        finally:
            interruption.mark(before)
            holdings.end(outer)
        if forks.depth != forked and not eager:
            forks.leave(None)
        if isinstance(result, _NEVER_AWAITED):
            # A plain function around a coroutine function cannot be told from others before it is called.
            if isinstance(result, CoroutineType):
                result.close()
            raise ConfigError(_never_awaited(str(self.name)))
        return result

    def _postponed(self, exc: Exception) -> Postponed | None:
        """How the task is put aside, if it ended because a breaker is not closed.

        It was refused, or it was the trial call that finds out whether the dependency is back: neither is
        the task's failure. One that does not name the breaker in `requires` is put aside for a refusal where
        it would have another attempt: none is spent on a call that was not made.
        """
        if self.request.is_eager:
            return None
        requires = self.policy.requires
        refusal = exc if isinstance(exc, BreakerOpen) else exc.__cause__
        if isinstance(refusal, BreakerOpen) and (
            refusal.name.partition("[")[0] in requires or self._may_wait_for(refusal, exc)
        ):
            if not is_shut(refusal.name):  # it ramps up, or this process alone has opened it
                return Postponed(refusal.retry_after)
            return Postponed(refusal.retry_after + PARKED_FOR, dependency_of(refusal.name))
        probe = failed_probe(exc).partition("[")[0]
        return Postponed(PROBED_AGAIN) if probe in requires else None

    def _may_wait_for(self, refusal: BreakerOpen, exc: Exception) -> bool:
        """Whether a breaker of this process refused, and the policy would try again."""
        retry = self._retry_for(exc)
        return retry is not None and retry.max_attempts > 1 and is_known(refusal.name)

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


def _limits_of_settings(app: Any) -> Pair:
    """What an application configured itself, without our defaults."""
    layers = getattr(app.conf, "maps", ())
    lazy = next((layer for layer in layers if isinstance(layer, LazyDefaults)), None)
    said = lazy.said if lazy is not None else app.conf.get
    return said("task_soft_time_limit"), said("task_time_limit")


def refuse_coroutines(function: Any, name: str | None = None) -> None:
    """Refuse what nobody would await as the body of a task.

    Raises:
        ConfigError: `function` is a coroutine function or an asynchronous generator function.
    """
    called = getattr(type(function), "__call__", None)  # noqa: B004 - an object may have an async one
    for each in (function, called):
        if inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each):
            raise ConfigError(_never_awaited(str(name or getattr(function, "__qualname__", repr(function)))))


def _never_awaited(name: str) -> str:
    return (
        f"task {name} is a coroutine function: a worker calls it and awaits nothing, so its body would never "
        "run. Write a plain function that calls asyncio.run(...)"
    )


def shown_arguments(task: Any, args: Any, kwargs: Any) -> dict[str, str]:
    """What logs, events and Flower show of a call, as the two headers that carry it: without secrets."""
    if not isinstance(args or (), list | tuple) or not isinstance(kwargs or {}, Mapping):
        return {}  # Celery refuses those
    shown = redact_arguments(args or (), kwargs or {}, bound=ARGUMENTS, **secrecy_of(task))
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


def _acks_of(cls: type[Task]) -> dict[str, Any]:  # type: ignore[type-arg]
    """What a task says by the older `acks_on_failure_or_timeout`, where it does not use the newer options."""
    both = _set_by_celery_option(cls, "acks_on_failure_or_timeout")
    names = [
        name for name in ("acks_on_failure", "acks_on_timeout") if _set_by_celery_option(cls, name) is None
    ]
    return {} if both is None else dict.fromkeys(names, both)


def _set_by_celery_option(cls: type[Task], attribute: str) -> Any:  # type: ignore[type-arg]
    """The value that `@app.task(attribute=...)` or a base class below SeawallTask gives, or None."""
    for base in cls.__mro__:
        if base is SeawallTask:
            return None
        if base.__dict__.get(attribute) is not None:
            return base.__dict__[attribute]
    return None
