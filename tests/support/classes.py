"""Tasks with classes that applications have: `celery -A support.classes worker`.

CLASSES_PLAIN makes it plain Celery. Each task tells what it found: the contexts that it runs in, from outside
in, and whether it knows its request.
"""

import contextvars
import os
import types
from typing import Any

from celery import Celery, Task

import seawall
from seawall import Retry, policy

contexts: contextvars.ContextVar[tuple[str, ...]] = contextvars.ContextVar("contexts", default=())


def within(name: str, call: Any, *args: Any, **kwargs: Any) -> Any:
    token = contexts.set((*contexts.get(), name))
    try:
        return call(*args, **kwargs)
    finally:
        contexts.reset(token)


class OfTheApp(Task[Any, Any]):
    """As Flask's documentation has it: `run` in a context."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return within("app", self.run, *args, **kwargs)


class Passing(Task[Any, Any]):
    """As others have it: by `super()`."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return within("base", super().__call__, *args, **kwargs)


def look(self: Any, nested: bool = False) -> dict[str, Any]:  # noqa: FBT002 - a task's argument
    """What the task finds; `nested`: of a call of itself as a function, which is no attempt."""
    found = {"contexts": list(contexts.get()), "known": self.request.id is not None}
    if nested:
        found["inner"] = self()
    return found


def retried(self: Any) -> list[str]:
    """Fail once by what may pass: ours to try again."""
    if not self.request.retries:
        raise ConnectionError
    return list(contexts.get())


def fail(self: Any) -> None:
    """Raise in its contexts, at the second attempt too."""
    if not self.request.retries:
        raise self.retry(countdown=0.01, max_retries=1)
    raise ValueError(list(contexts.get()))


def copied(function: Any) -> Any:
    """A function of its own, as a policy hangs on it."""
    return types.FunctionType(function.__code__, function.__globals__, function.__name__)


def create(url: str) -> Any:
    """The application."""
    made: Any = Celery("classes", broker=url, backend=url, task_cls=OfTheApp, set_as_current=False)
    if not os.environ.get("CLASSES_PLAIN"):
        seawall.install(made)
    made.conf.task_acks_late = True
    of_the_app: Any = made.Task

    class Derived(of_the_app):  # type: ignore[misc]
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return within("derived", super().__call__, *args, **kwargs)

    class Ending(of_the_app):  # type: ignore[misc]
        abstract = True

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return within("ending", self.run, *args, **kwargs)

    for name, options in (
        ("own", {}),
        ("passing", {"base": Passing}),
        ("derived", {"base": Derived}),
        ("ending", {"base": Ending}),
    ):
        made.task(bind=True, shared=False, name=f"look.{name}", **options)(look)
        made.task(bind=True, shared=False, name=f"fail.{name}", **options)(fail)
        made.task(bind=True, shared=False, name=f"retried.{name}", **options)(
            policy(retry=Retry(max_attempts=2, base=0.01))(copied(retried))
        )
    return made


if "CLASSES_BROKER" in os.environ:
    app = create(os.environ["CLASSES_BROKER"])
    app.set_current()
