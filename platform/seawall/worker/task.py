"""The task class of a Seawall app: it applies the policy and retries what deserves it.

Celery binds a task to its app before the first use; then the policy is copied onto the attributes Celery
itself reads (priority, time limits, max_retries), so that `task_annotations`, `.set()` and per-call options
keep their meaning and their precedence.
"""

import itertools
import logging
import time
from collections.abc import Mapping
from types import AsyncGeneratorType, CoroutineType
from typing import TYPE_CHECKING, Any, ClassVar

from celery import Task
from celery.app.annotations import resolve_all
from celery.exceptions import Ignore, Reject, Retry
from celery.utils.saferepr import saferepr
from kombu.exceptions import EncodeError

from seawall import boundary, cluster, holdings, servers
from seawall.admission import PARKED_FOR, dependency_of
from seawall.breaker.calls import Probes, admitted
from seawall.breaker.config import disregard
from seawall.breaker.face import is_known, shut_for
from seawall.classification import verdict_of
from seawall.config import settings
from seawall.errors import BreakerOpen, ConfigError, MemoryBudgetExceeded, is_older
from seawall.failure import found_in
from seawall.later import kind_of
from seawall.memory.runs import sizes
from seawall.policies import DEFAULT, Policy, policy_of, secrecy_of
from seawall.policies import Retry as RetryPolicy
from seawall.redaction import ARGUMENTS, redact_arguments
from seawall.retries import RetryBudget, retry_after
from seawall.worker import forks, interruption, lines, memory
from seawall.worker.defaults import LazyDefaults
from seawall.worker.time_limits import NAMES, NOTHING, Pair, attributes, limits_of, pair

if TYPE_CHECKING:
    from celery import Celery

_BEGUN = "seawall_begun"
"""Mark of a request whose attempt has begun: a call of its task from within is a plain one."""

CONTROL_FLOW = (Retry, Ignore, Reject)
"""How a task talks to Celery; not failures."""

PROBED_AGAIN = 1.0
"""Seconds after which a task whose probe failed comes to the gate again, which knows when the next one is."""

_SHOWN = 1024
"""Characters of a call's arguments in logs and events, as in Celery."""

_LONGEST_WISH = 3600.0
"""Seconds of `Retry-After` that are honoured; more would be a task that nobody waits for any more."""

_ACKS = tuple(
    name
    for name in ("acks_on_failure_or_timeout", "acks_on_failure", "acks_on_timeout")
    if hasattr(Task, name)  # the last two are of Celery 5.7
)

_WAY = {"exchange", "routing_key"}
"""Options by which a call says itself how its message gets to its queue."""

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
    from_config = tuple(each for each in Task.from_config if each[0] not in NAMES)  # `fill_limits` does those
    policy: ClassVar[Policy] = DEFAULT
    _from_policy: ClassVar[Mapping[str, Any]] = {}
    _own_limits: ClassVar[Pair] = NOTHING
    _own_call: ClassVar[Any] = None
    _annotated_limits: ClassVar[Pair] = NOTHING
    filled_defaults: ClassVar[Mapping[str, Any]] = {}
    """Attributes that our defaults alone have filled. What the application says later counts more."""

    limit_layers: ClassVar[tuple[Pair, ...]] = ()
    """Time limits as the command line, the settings, this task and its annotations give them."""

    _exec_options: dict[str, Any] | None
    limits_found: ClassVar[Pair] = NOTHING
    """What became of them; where the attributes differ, somebody changed these since."""

    @classmethod
    def bind(cls, app: "Celery") -> "Celery":
        """Read the policy, before Celery fills what is unset: after that a default looks like an option.

        An application binds its tasks once more when it is finalized, and ours when a worker starts: what
        the settings have said meanwhile counts then, where nobody nearer to the task says anything.
        """
        if cls.__dict__.get("__bound__"):
            if attributes(cls) == cls.limits_found:
                cls.fill_limits()
        else:
            refuse_coroutines(cls.run, cls.name)
            cls.policy = policy_of(cls.run)
            _surround(cls)
            cls._from_policy = _attributes(cls)
            soft, hard = (cls._from_policy.get(name, _set_by_a_class(cls, name)) for name in NAMES)
            cls._own_limits = (soft, hard)
            cls.filled_defaults = {
                name: value for name, value in cls.filled_defaults.items() if name not in vars(cls)
            }
        cls._take_defaults_back(app)
        return super().bind(app)

    @classmethod
    def _take_defaults_back(cls, app: "Celery") -> None:
        """Leave to Celery what our defaults have filled, and find out what they are about to fill."""
        for name, value in cls.filled_defaults.items():
            if getattr(cls, name) == value:
                setattr(cls, name, None)
        ours = LazyDefaults.of(app)
        cls.filled_defaults = {
            name: app.conf[setting]
            for name, setting in cls.from_config
            if ours is not None and getattr(cls, name, None) is None and ours.decides(setting)
        }

    @classmethod
    def annotate(cls: Any) -> None:
        """Apply the policy, then `task_annotations`: the operator has the last word."""
        for attribute, value in cls._from_policy.items():
            setattr(cls, attribute, value)
        said = {*cls._from_policy, *itertools.chain(*resolve_all(cls.app.annotations, cls))}
        cls.filled_defaults = {name: value for name, value in cls.filled_defaults.items() if name not in said}
        acks = {name: getattr(cls, name) for name in _ACKS}
        for name in (*NAMES, *_ACKS):
            setattr(cls, name, None)
        super().annotate()
        cls._annotated_limits = attributes(cls)
        cls.fill_limits()
        either = cls.acks_on_failure_or_timeout  # Celery's older option speaks for both newer ones
        for name, value in acks.items():
            if getattr(cls, name) is None:
                setattr(cls, name, value if either is None else either)

    @classmethod
    def fill_limits(cls: Any) -> None:
        """Work out the time limits from all who speak before a call does."""
        conf, ours = cls.app.conf, LazyDefaults.of(cls.app)
        said = conf.task_soft_time_limit, conf.task_time_limit
        settings_say = (NOTHING, said) if ours is None else ours.limit_layers()
        cls.limit_layers = (*settings_say, cls._own_limits, cls._annotated_limits)
        own = cls._own_limits != NOTHING or cls._annotated_limits != NOTHING
        cls.soft_time_limit, cls.time_limit = cls.limits_found = pair(*cls.limit_layers) if own else said

    def _get_exec_options(self) -> dict[str, Any]:
        """As Celery's, without what a message gets elsewhere.

        It brings along the time limits of its call alone, and a default priority where no route has one.
        """
        if self._exec_options is None:
            options = super()._get_exec_options()  # type: ignore[misc]
            default = "priority" in self.filled_defaults and self.priority == self.filled_defaults["priority"]
            kept = {name: value for name, value in options.items() if name not in NAMES}
            # None, as Celery 5.6 puts the task's priority where there is no word of it.
            self._exec_options = {**kept, "priority": None} if default else kept
        return dict(self._exec_options)  # Celery 5.6 writes into it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; what deserves another attempt becomes Celery's `Retry`."""
        request: Any = self.request
        if request.called_directly or _BEGUN in vars(request):
            return super().__call__(*args, **kwargs)  # a plain call, also from within a task
        return self._begin(request, args, kwargs)

    def surrounded(self, *args: Any, **kwargs: Any) -> Any:
        """Stands in for `__call__` where a class before ours has one, which the attempt then surrounds."""
        request: Any = self.request
        if request.called_directly or _BEGUN in vars(request):
            return self._own_call(*args, **kwargs)
        return self._begin(request, args, kwargs)

    def _begin(self, request: Any, args: Any, kwargs: Any) -> Any:
        # Celery's `Task.__call__` runs a request that is not protected, and takes any other for a plain call.
        hard, soft = request.timelimit or NOTHING
        limits = dict(zip(NAMES, limits_of(self, (soft, hard)), strict=True))
        vars(request).update({_BEGUN: True, "_protected": int(self._own_call is None), **limits})
        if request.is_eager:  # one inside a task of a cell: no signal says so there
            with lines.within(lines.TaskScope(self, vars(request), args, kwargs)):
                return self._attempt(request, args, kwargs)
        return self._attempt(request, args, kwargs)

    def _attempt(self, request: Any, args: Any, kwargs: Any) -> Any:
        if not request.retries:
            retry_budget.first_attempt(self.name)
        begun, probes = time.monotonic(), Probes(self.policy.requires) if self.policy.requires else None
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
            if (postponed := self._postponed(exc, begun, probes)) is not None:
                raise postponed from exc
            boundary.note(exc, self.name)
            retry = self._retry_for(exc)
            if retry is None or not self._may_retry(exc, retry):
                raise
            countdown = max(retry.delay(request.retries + 1), min(retry_after(exc) or 0.0, _LONGEST_WISH))
            raise self.retry(exc=exc, countdown=countdown, max_retries=retry.max_attempts - 1) from exc
        finally:
            if probes is not None:
                probes.end()

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
        """As Celery's, for the queue that held the request, and straight into it.

        The exchange that its message names may be nobody's, may lead elsewhere, or to other queues as well.
        """
        place = (self.request if request is None else request).delivery_info or {}
        if queue is None and (queue := place.get("queue")) and not _WAY & options.keys():
            options.update(exchange="", routing_key=queue)
        return super().signature_from_request(request, args, kwargs, queue, **options)

    def _run(self, args: Any, kwargs: Any) -> Any:
        eager = self.request.is_eager
        if not eager:
            forks.leave_if_forked_on_the_way()
        forked, outer = forks.depth, holdings.begin(within=eager)
        before = interruption.mark(1)  # an eager task may run within the code of another
        run = self._own_call or self.run
        try:
            if not self.policy.requires:
                result = run(*args, **kwargs)
            else:
                with admitted(self.policy.requires):
                    result = run(*args, **kwargs)
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

    def _postponed(self, exc: Exception, begun: float, probes: Probes | None) -> Postponed | None:
        """How the task is put aside, if it ended because a breaker is not closed.

        It was refused, or it was the trial call that finds out whether the dependency is back: neither is
        the task's failure. One that does not name the breaker in `requires` is put aside for a refusal where
        it would have another attempt: none is spent on a call that was not made. Of a group each has to be
        one of the two, or to be raised from one; and all of that in this attempt, which began then.
        """
        if self.request.is_eager:
            return None

        def aside(each: BaseException) -> Postponed | None:
            if isinstance(each, BreakerOpen):
                return None if is_older(each, begun) else self._refused(each, exc)
            probe = "" if probes is None else probes.name_of(each)
            return Postponed(PROBED_AGAIN) if probe else None

        return max(found_in(exc, aside), key=lambda each: each.seconds, default=None)

    def _refused(self, refusal: BreakerOpen, exc: Exception) -> Postponed | None:
        """How it is put aside for a refusal that is, or led to, what it raised; None if that is a failure."""
        name, wait = refusal.name, refusal.retry_after
        if name.partition("[")[0] not in self.policy.requires and not self._may_wait_for(refusal, exc):
            return None
        if (shut := shut_for(name)) is None:  # it ramps up, or this process alone has opened it
            return Postponed(wait)
        return Postponed(max(wait, shut) + PARKED_FOR, dependency_of(name))

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
        if "retry" not in self.policy.explicit and isinstance(exc, self._celery_decides()):
            return None
        verdict, retry = verdict_of(exc), self.policy.retry
        deserved = verdict.retryable if retry.on is None else isinstance(exc, retry.on)
        return retry.of(verdict.category) if deserved else None

    def _celery_decides(self) -> tuple[type[BaseException], ...]:
        """What the task's own options of Celery's retry or do not: they have decided when it comes to us."""
        said = (getattr(self, name, ()) for name in ("autoretry_for", "dont_autoretry_for"))
        return tuple(kind for kinds in said for kind in kinds or ())

    def _may_retry(self, exc: Exception, retry: RetryPolicy) -> bool:
        """Whether attempts and the budget are left; a refusal of the budget is noted on `exc`."""
        most = (
            retry.max_attempts if self.max_retries is None else min(retry.max_attempts, self.max_retries + 1)
        )
        if self.request.retries + 1 >= most:
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


def refuse_coroutines(function: Any, name: str | None = None) -> None:
    """Refuse what nobody would await as the body of a task.

    Raises:
        ConfigError: `function` is a coroutine function or an asynchronous generator function.
    """
    if kind_of(function) in {"a coroutine function", "an asynchronous generator function"}:
        raise ConfigError(_never_awaited(str(name or getattr(function, "__qualname__", repr(function)))))


def _never_awaited(name: str) -> str:
    return (
        f"task {name} is a coroutine function: a worker calls it and awaits nothing, so its body would never "
        "run. Write a plain function that calls asyncio.run(...)"
    )


def _surround(cls: type[SeawallTask]) -> None:
    """Have an attempt of ours surround what an application's classes do in a `__call__` of their own.

    Such a class may stand behind ours (`Celery(task_cls=...)`, `base=...`) or before it (one made from
    `app.Task`), and may go on by `super()` or call `run` itself, as Flask's documentation has it.
    """
    owner = next(each for each in cls.__mro__ if "__call__" in vars(each))
    if vars(owner)["__call__"] is SeawallTask.surrounded:  # inherited from a task
        return
    if owner is SeawallTask:
        behind = cls.__mro__[cls.__mro__.index(SeawallTask) + 1 :]
        owner = next(each for each in behind if "__call__" in vars(each))
    else:
        cls.__call__ = SeawallTask.surrounded  # type: ignore[method-assign]
    if owner is not Task:
        cls._own_call = vars(owner)["__call__"]


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


def _set_by_celery_option(cls: type[Task], attribute: str) -> Any:  # type: ignore[type-arg]
    """The value that `@app.task(attribute=...)` or a base class below SeawallTask gives, or None."""
    return _set_by_a_class(cls, attribute, before=SeawallTask)


def _set_by_a_class(cls: type[Task], attribute: str, *, before: type = Task) -> Any:  # type: ignore[type-arg]
    """The value that `@app.task(attribute=...)` or a class of the application's gives, or None.

    The class that `Celery(task_cls=...)` or `@app.task(base=...)` named stands behind SeawallTask.
    """
    for base in cls.__mro__:
        if base is before:
            return None
        if base.__dict__.get(attribute) is not None:
            return base.__dict__[attribute]
    return None
