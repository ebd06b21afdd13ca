"""The Celery application that a command is about."""

from typing import TYPE_CHECKING

import click

from seawall.config import settings
from seawall.errors import ConfigError
from seawall.fleet import FleetSpec

if TYPE_CHECKING:
    from celery import Celery


def current_app() -> "Celery":
    """The one of `celery -A app seawall ...`, else the fleet's.

    Raises:
        ConfigError: it cannot be loaded.
    """
    context = click.get_current_context().find_root().obj
    app: Celery | None = getattr(context, "app", None)
    return app or load_app(FleetSpec.load(settings().fleet).app)


def load_app(path: str) -> "Celery":
    """The Celery application at `path`, as `celery -A` finds it.

    Raises:
        ConfigError: there is none, or its module cannot be imported.
    """
    from celery.app.utils import find_app

    from seawall.doctor.adoption.sources import Sources

    try:
        app: Celery = find_app(path)
    except (ImportError, AttributeError, ValueError) as exc:
        place = Sources().raised_at(exc)
        way_out = f"correct {place}, which raised it" if place else "name a module with a Celery app"
        raise ConfigError(f"app={path!r} cannot be loaded ({exc}): {way_out}") from exc
    return app
