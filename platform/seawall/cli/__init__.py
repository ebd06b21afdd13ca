"""The `seawall` command, also reached as `celery -A app seawall`.

One click group. Each command lives in its own module and is imported when it is asked for: every `celery`
process imports this package, because Celery loads all plugins. Fleets add commands of their own in
`[commands]` of their fleet.toml.
"""

import importlib
import io
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from seawall.errors import ConfigError, SeawallError
from seawall.quantity import Quantity, Whole, shown
from seawall.text import one_line

if TYPE_CHECKING:
    from seawall.database.pool import Database

_COMMANDS: Final = {
    "init": "seawall.cli.init:init",
    "up": "seawall.cli.up:up",
    "restart": "seawall.cli.restart:restart",
    "migrate": "seawall.cli.migrate:migrate",
    "status": "seawall.cli.status:status",
    "queues": "seawall.cli.queues:queues",
    "breakers": "seawall.cli.breakers:breakers",
    "memory": "seawall.cli.memory:memory",
    "dead": "seawall.cli.dead:dead",
    "errors": "seawall.cli.errors:errors",
    "config": "seawall.cli.config:config",
    "doctor": "seawall.cli.doctor:doctor",
    "health": "seawall.cli.health:health",
    "dashboard": "seawall.cli.up:dashboard",
}


_LONGEST_CELL: Final = 1000


class _Group(click.Group):
    """Finds commands by name, and turns our errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        names = [*_COMMANDS]
        with suppress(SeawallError):  # said by the command itself; help is never refused
            names += _declared()
        return names

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        path = _COMMANDS.get(cmd_name) or _declared().get(cmd_name)
        if path is None:
            return None
        return _load(path)

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # `seawall.text` has the rule
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except SeawallError as exc:
            raise (_Wrong if isinstance(exc, ConfigError) else _OneLine)(str(exc)) from exc
        except Exception as exc:
            if not _is_outage(exc):
                raise
            raise _OneLine(f"a server cannot be reached: {exc}") from exc


def _is_outage(error: Exception) -> bool:
    """Whether a server is away, silent or refuses; the clients' modules are there if they raised it."""
    classes = (
        getattr(sys.modules.get(module), name, None)
        for module, name in (("redis", "RedisError"), ("kombu.exceptions", "OperationalError"))
    )
    return isinstance(error, tuple(each for each in classes if each is not None))


class _OneLine(click.ClickException):
    def show(self, file: Any = None) -> None:
        click.secho(f"seawall: {self.message}", fg="red", file=file or sys.stderr)


class _Wrong(_OneLine):
    """A wrong setting or argument, with the exit code of click's own usage errors."""

    exit_code = click.UsageError.exit_code


class Amount(click.ParamType):  # type: ignore[type-arg] # generic from click 8.5 on
    """The type of an option that is a number of some kind, in that kind's words and bounds."""

    def __init__(self, kind: Quantity) -> None:
        self.kind = kind
        self.name = kind.unit

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number that `value` means."""
        try:
            return self.kind.read(value)
        except ValueError as exc:
            self.fail(f"{shown(value)} {exc}", param, ctx)


LISTED: Final = Amount(Whole(least=1))
"""Of `--limit`: rows to print."""


@click.group(name="seawall", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="seawall")
def group() -> None:
    """Run, migrate and watch a fleet of Celery workers."""


def main() -> None:
    """Entry point of the `seawall` script."""
    # As `celery` does: the application lies in the working directory, not in site-packages.
    sys.path.insert(0, str(Path.cwd()))
    group(prog_name="seawall")


def _load(path: str) -> click.Command:
    module, _, attribute = path.partition(":")
    try:
        command = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(
            f"command {path!r} cannot be loaded ({exc}): correct [commands] or that module"
        ) from exc
    if not isinstance(command, click.Command):
        raise ConfigError(
            f"command {path!r} is a {type(command).__name__}: name a click command in [commands]"
        )
    return command


def _declared() -> dict[str, str]:
    """The commands that the fleet's file declares; none if there is no such file."""
    from seawall.config import settings
    from seawall.fleet import FleetSpec

    path = settings().fleet_file
    return dict(FleetSpec.load(path).commands) if path.is_file() else {}


def columns(rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """`rows` as lines with aligned columns; a row is one line whatever is in it."""
    table = [[one_line(cell[:_LONGEST_CELL]) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


@contextmanager
def recorded() -> "Iterator[Database]":
    """The database, for a command that prints what workers recorded there."""
    import psycopg

    from seawall.database import close, database

    try:
        yield database()
    except psycopg.Error as exc:
        raise SeawallError(f"PostgreSQL cannot tell: {' '.join(str(exc).split())}") from exc
    finally:
        close()
