"""The Celery application that a command is about."""

from typing import TYPE_CHECKING, Any, Final

import click

from seawall.cli.discovery import hint, place_below
from seawall.config import settings
from seawall.errors import ConfigError
from seawall.fleet import FleetSpec

if TYPE_CHECKING:
    from celery import Celery

_NAMED: Final = "`celery -A {app} seawall ...` is about one application"


def celerys_app() -> "Celery | None":
    """The one of `celery -A app seawall ...`."""
    context = click.get_current_context().find_root().obj
    app: Celery | None = getattr(context, "app", None)
    return app


def fleet() -> FleetSpec | None:
    """What fleet.toml says; None if there is none.

    Raises:
        ConfigError: it says something wrong.
    """
    path = settings().fleet_file
    return FleetSpec.load(path) if path.is_file() else None


def required_fleet(without: str) -> FleetSpec:
    """What fleet.toml says; `without` one, what to run instead for the application that `{app}` stands for.

    Raises:
        ConfigError: there is none, or it says something wrong.
    """
    path = settings().fleet_file
    if settings().fleet is None and not path.exists():
        app = hint()
        raise ConfigError(
            f"there is no {path} here, which would say what to run: {without.format(app=app)}, "
            f"`seawall init -A {app}` writes the file for it"
        )
    return FleetSpec.load(path)


def current_app(*, with_tasks: bool = False) -> "Celery":
    """The one of `celery -A app seawall ...`, else the fleet's; `with_tasks` also imports its tasks' modules.

    Raises:
        ConfigError: it, or one of these modules, cannot be loaded.
    """
    app = celerys_app() or load_app(required_fleet(_NAMED).app)
    if with_tasks:
        try:
            app.loader.import_default_modules()
        except Exception as exc:  # as above
            raise ConfigError(
                f"a module of tasks cannot be imported ({exc}): correct it, or what names it in the app"
            ) from exc
        app.finalize()
    return app


def load_app(path: str) -> "Celery":
    """The Celery application at `path`, as `celery -A` finds it.

    Raises:
        ConfigError: there is none, or its module cannot be imported.
    """
    from celery.app.utils import find_app

    from seawall.doctor.adoption.sources import Sources

    try:
        app: Celery = find_app(path)
    except Exception as exc:  # it is code of the application, which may raise anything
        place = Sources().raised_at(exc)
        way_out = f"correct {place}, which raised it" if place else "name a module with a Celery app"
        # These say by themselves what is wrong.
        plain = isinstance(exc, ImportError | AttributeError | ValueError)
        said = str(exc) if plain else f"{type(exc).__name__}: {exc}"
        raise ConfigError(f"app={path!r} cannot be loaded ({said}): {way_out}") from exc
    return app


def load_ours(path: str) -> "Celery":
    """As `load_app`, for a fleet: only an application that uses Seawall says when its workers are ready.

    Raises:
        ConfigError: also if it is plain Celery's; the message has the line to write, and where.
    """
    from seawall.worker.defaults import LazyDefaults

    app = load_app(path)
    if LazyDefaults.of(app) is None:
        raise ConfigError(
            f"app={path!r} is plain Celery, and whoever submits its tasks would not find these servers: "
            f"write `import seawall; seawall.install(app)` {place_below(path)}; "
            f"`seawall doctor -A {path}` says what changes"
        )
    return app


def queues_of(app: "Celery") -> list[str]:
    """The queues that an application sends its tasks to, as far as its settings and its tasks name them."""
    routes: Any = app.conf.task_routes or ()
    tables = [each for each in ([routes] if isinstance(routes, dict) else routes) if isinstance(each, dict)]
    ways = [way.get("queue") for table in tables for way in table.values() if isinstance(way, dict)]
    own = [getattr(app.tasks[name], "queue", None) for name in tasks_of(app)]  # @app.task(queue="mail")
    named = (str(getattr(queue, "name", queue)) for queue in (*ways, *own) if queue)
    return list(dict.fromkeys([*app.amqp.queues, *named]))


def tasks_of(app: "Celery") -> list[str]:
    """The names of the application's own tasks."""
    app.loader.import_default_modules()
    return sorted(name for name in app.tasks if not name.startswith("celery."))
