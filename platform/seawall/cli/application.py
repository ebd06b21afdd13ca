"""The Celery application that a command is about."""

import contextlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import click

from seawall.cli.discovery import hint, place_below
from seawall.config import settings
from seawall.errors import ConfigError
from seawall.failure import message_of
from seawall.fleet import FleetSpec
from seawall.text import one_line

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
        import_tasks(app)
    return app


def load_app(path: str) -> "Celery":
    """The Celery application at `path`, as `celery -A` finds it, with its configuration read.

    Raises:
        ConfigError: there is none, its module cannot be imported, or its configuration cannot be read.
    """
    from celery import Celery
    from celery.app.utils import find_app

    with _code_of_the_application(f"app={path!r} cannot be loaded", "name a module with a Celery app"):
        app: Any = find_app(path)
        if isinstance(app, Celery):
            app.conf.finalize()
            return app
    raise ConfigError(f"app={path!r} is of type {type(app).__name__}: name a module with a Celery app")


def import_tasks(app: "Celery") -> None:
    """Import the modules of tasks that an application names, as a worker does.

    Raises:
        ConfigError: one of them cannot be imported, or the configuration cannot be read.
    """
    with _code_of_the_application("a module of tasks cannot be imported", "correct it, or what names it"):
        app.loader.import_default_modules()
        app.finalize()


@contextlib.contextmanager
def _code_of_the_application(problem: str, otherwise: str) -> Iterator[None]:
    """Code of the application runs, which may raise anything, and print: no output of the command.

    Raises:
        ConfigError: it raised something; with the place in its files, if it came from there, or what to do
            `otherwise`.
    """
    from seawall.doctor.adoption.sources import Sources

    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    except (Exception, SystemExit) as exc:
        place = Sources().raised_at(exc)
        way_out = f"correct {place}, which raised it" if place else otherwise
        # These say by themselves what is wrong.
        said = " ".join(message_of(exc).split())
        if not said or not isinstance(exc, ImportError | AttributeError | ValueError):
            said = f"{type(exc).__name__}{': ' if said else ''}{said}"
        raise ConfigError(f"{problem} ({said}): {way_out}") from exc


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
    """The queues that an application sends its tasks to, as far as its settings and its tasks name them.

    Raises:
        ConfigError: its tasks cannot be imported, or what it says of its queues cannot be read.
    """
    from seawall.doctor.routes import destinations

    import_tasks(app)
    with _code_of_the_application("its queues cannot be read", "correct task_queues and task_routes"):
        declared = [*app.amqp.queues]
        sent, unread = destinations(app)
    for router in unread:
        click.echo(f"the router {one_line(router)}: name its queues yourself, in fleet.toml", err=True)
    return list(dict.fromkeys([*declared, *(queue for _, queue in sent)]))


def tasks_of(app: "Celery") -> list[str]:
    """The names of the application's own tasks.

    Raises:
        ConfigError: they cannot be imported.
    """
    import_tasks(app)
    return sorted(name for name in app.tasks if not name.startswith("celery."))
