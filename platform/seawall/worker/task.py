"""The task class of a Seawall app: it applies the policy and retries what deserves it.

Celery binds a task to its app before the first use; `on_bound` copies the policy onto the attributes Celery
itself reads (priority, time limits, max_retries), so that `task_annotations`, `.set()` and per-call options
keep their meaning and their precedence.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from celery import Task
from celery.exceptions import Ignore, Reject, Retry

from seawall.errors import ConfigError, MemoryBudgetExceeded
from seawall.failure import retryable
from seawall.policy import DEFAULT, Policy, policy_of

if TYPE_CHECKING:
    from celery import Celery

CONTROL_FLOW = (Retry, Ignore, Reject)
"""How a task talks to Celery; not failures."""

_APPLIED = ("priority", "soft_time_limit", "time_limit", "max_retries")
"""The attributes of a Celery task that a policy sets."""


class SeawallTask(Task):  # type: ignore[type-arg]
    """A Celery task that knows its policy."""

    abstract = True
    Request = "seawall.worker.request:Request"
    policy: ClassVar[Policy] = DEFAULT
    _options: ClassVar[dict[str, Any]] = {}

    @classmethod
    def bind(cls, app: "Celery") -> "Celery":
        if not cls.__dict__.get("__bound__"):
            # Before Celery fills what is unset from its settings: later an option looks like a default.
            cls._options = {name: _set_by_celery_option(cls, name) for name in _APPLIED}
        return super().bind(app)

    @classmethod
    def on_bound(cls, app: "Celery") -> None:
        """Copy the policy onto the class; Celery calls this once it knows the app."""
        super().on_bound(app)
        if "policy" in cls.__dict__:  # Celery binds a task again when it finalizes the app
            return
        cls.policy = policy_of(cls.run)
        fields = {
            "priority": ("priority", cls.policy.priority),
            "soft_time_limit": ("timeout", cls.policy.timeout),
            "time_limit": ("timeout", cls.policy.hard_timeout),
            "max_retries": ("retry", cls.policy.retry.max_attempts - 1),
        }
        for attribute, (field, value) in fields.items():
            if field not in cls.policy.explicit:
                continue
            if (set_twice := cls._options[attribute]) is not None:
                raise ConfigError(
                    f"{cls.name}: {attribute}={set_twice!r} in @app.task and {field} in @policy: keep one"
                )
            setattr(cls, attribute, value)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task; what deserves another attempt becomes Celery's `Retry`."""
        try:
            return super().__call__(*args, **kwargs)
        except CONTROL_FLOW:
            raise
        except MemoryError as exc:
            # Celery raises a MemoryError again in its main process, which ends the worker.
            raise MemoryBudgetExceeded(f"{self.name} ran out of memory: {exc or 'no reason given'}") from exc
        except Exception as exc:
            if self.request.called_directly or not self._deserves_retry(exc):
                raise
            retry = self.policy.retry
            raise self.retry(
                exc=exc,
                countdown=retry.delay(self.request.retries + 1),
                max_retries=retry.max_attempts - 1,
            ) from exc

    def _deserves_retry(self, exc: Exception) -> bool:
        on = self.policy.retry.on
        return retryable(exc) if on is None else isinstance(exc, on)


def _set_by_celery_option(cls: type[Task], attribute: str) -> Any:  # type: ignore[type-arg]
    """The value that `@app.task(attribute=...)` or a base class below SeawallTask gives, or None."""
    for base in cls.__mro__:
        if base is SeawallTask:
            return None
        if base.__dict__.get(attribute) is not None:
            return base.__dict__[attribute]
    return None
