"""The application."""

from typing import Any

from celery import Celery, Task, bootsteps

__all__ = ["app"]

app = Celery("mart", include=["support.moving.tasks", "support.moving.twins"], set_as_current=False)
app.config_from_object("support.moving.settings", namespace="CELERY")


class Probe(bootsteps.StartStopStep):
    """A bootstep of the application's own."""


class ContextTask(Task):  # type: ignore[type-arg]
    """Flask's way to give tasks a context."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


class TenantTask(app.Task):  # type: ignore[name-defined,misc]
    """The same of the application's own class: it comes before Seawall's, and does not go on to it."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.run(*args, **kwargs)


class PoliteTask(app.Task):  # type: ignore[name-defined,misc]
    """One that goes on."""

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


class HookedTask(Task):  # type: ignore[type-arg]
    """One with hooks, and a Request of its own."""

    abstract = True
    Request = "support.moving.app:Request"

    def on_failure(self, *args: Any, **kwargs: Any) -> None:
        """Tell somebody."""


app.steps["worker"].add(Probe)
