"""The `seawall` command, also reached as `celery -A app seawall`.

One click group. Each command lives in its own module and is imported when it is asked for: every `celery`
process imports this package, because Celery loads all plugins, and help and completion are to be quick. So
this file says in a few words what each command is for. Fleets add commands of their own in `[commands]` of
their fleet.toml.
"""

import difflib
import errno
import gc
import importlib
import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from seawall.cli.amounts import LISTED, Amount
from seawall.errors import ConfigError, SeawallError
from seawall.text import one_line

__all__ = ["LISTED", "Amount", "group", "main"]


class _Entry(NamedTuple):
    """Where a command is, and what it is for, in words that fit beside its name in 80 columns."""

    path: str
    purpose: str


_COMMANDS: Final = {
    "init": _Entry("seawall.cli.init:init", "Write a fleet.toml for an application."),
    "up": _Entry("seawall.cli.up:up", "Run servers, migrations, workers, beat and Flower."),
    "restart": _Entry("seawall.cli.restart:restart", "Replace the workers of the fleet one by one."),
    "migrate": _Entry("seawall.cli.migrate:migrate", "Apply, undo and inspect SQL migrations."),
    "status": _Entry("seawall.cli.status:status", "Whether a fleet runs, and what it does now."),
    "queues": _Entry("seawall.cli.queues:queues", "List, pause, resume and purge queues."),
    "breakers": _Entry("seawall.cli.breakers:breakers", "List, open, close and reset circuit breakers."),
    "memory": _Entry("seawall.cli.memory:memory", "What tasks use and keep, and where it grows."),
    "dead": _Entry("seawall.cli.dead:dead", "List, show, requeue and discard dead letters."),
    "errors": _Entry("seawall.cli.errors:errors", "List, show and resolve groups of errors."),
    "config": _Entry("seawall.cli.config:config", "Every setting, its value and its source."),
    "doctor": _Entry("seawall.cli.doctor:doctor", "Audit configuration and servers: what to change."),
    "health": _Entry("seawall.cli.health:health", "Ask a process, or the servers, whether it is ready."),
    "dashboard": _Entry("seawall.cli.up:dashboard", "Run Flower for the fleet's application."),
    "completion": _Entry("seawall.cli.completion:completion", "Completion for bash, zsh and fish."),
}

_FLEETS: Final = ("workers/fleet.toml", "fleet.toml")
"""Where the fleet's file may be, as `Settings.fleet_file` looks for it."""

_GARBAGE: Final = 50_000
"""Objects made between two searches for garbage: imports make many and no garbage, a seventh of the time."""

_FAULT: Final = 70
"""The exit code of an error that is our own: EX_SOFTWARE of sysexits.h."""


_UNWRITABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})


class _Group(click.Group):
    """Finds commands by name, and turns our errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return [*_COMMANDS, *(name for name in _mentioned() if name not in _COMMANDS)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        path = entry.path if entry else _declared().get(cmd_name)
        return super().get_command(ctx, cmd_name) if path is None else _load(path)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = str(args[0])
        known = self.list_commands(ctx)
        if name not in known and not name.startswith("-") and self.get_command(ctx, name) is None:
            ctx.fail(f"No such command {name!r}{near(name, known)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self._purpose(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[Any]":
        """The names of commands, without importing them."""
        from click.shell_completion import CompletionItem

        names = (name for name in self.list_commands(ctx) if name.startswith(incomplete))
        found = [CompletionItem(name, help=self._purpose(name)) for name in names]
        return [*found, *click.Command.shell_complete(self, ctx, incomplete)]

    def _purpose(self, name: str) -> str:
        entry = _COMMANDS.get(name)
        return entry.purpose if entry else f"Of this fleet: {_mentioned()[name]}."

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # `seawall.text` has the rule
                stream.reconfigure(errors="backslashreplace")
        if os.environ.get("NO_COLOR"):
            ctx.color = False
        try:
            return super().invoke(ctx)
        except SeawallError as exc:
            raise (_Wrong if isinstance(exc, ConfigError) else _OneLine)(str(exc)) from exc
        except (click.exceptions.Exit, click.ClickException, click.Abort, BrokenPipeError):
            raise
        except Exception as exc:
            if _is_unwritable(exc):
                raise _OneLine(_give_up_output(exc)) from exc
            if _is_outage(exc):
                raise _OneLine(f"a server cannot be reached: {' '.join(str(exc).split())}") from exc
            if ctx.params.get("traceback"):
                raise
            raise _Fault(f"{type(exc).__name__}: {' '.join(str(exc).split())}") from exc


def near(name: str, known: Iterable[str]) -> str:
    """`": did you mean ...?"`, or nothing, for a name that is not among those that are known."""
    found = difflib.get_close_matches(name, [*known], n=1)
    return f": did you mean {found[0]!r}?" if found else ""


class OneOf(click.Choice[str]):
    """One of some words; whoever gives another is told the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """As click's."""
        try:
            return super().convert(value, param, ctx)
        except click.BadParameter as exc:
            self.fail(exc.message.rstrip(".") + near(str(value), self.choices), param, ctx)


def expect(kind: str, name: str, known: Iterable[str], *, where: str = "") -> None:
    """Refuse a name that nothing has.

    Raises:
        ConfigError: it is not among those that are known; with the nearest, and the first of them.
    """
    names = sorted(known)
    if name in names:
        return
    some = ", ".join(map(one_line, names[:_SHOWN])) + (
        f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    )
    hint = near(name, names) or (f": known are {some}" if names else ": there are none so far")
    raise ConfigError(f"no {kind} {name!r}{where}{hint}")


_SHOWN: Final = 8


def _is_outage(error: Exception) -> bool:
    """Whether a server is away, silent or refuses; the clients' modules are there if they raised it."""
    classes = (
        getattr(sys.modules.get(module), name, None)
        for module, name in (
            *(("redis", "RedisError"), ("kombu.exceptions", "OperationalError"), ("psycopg", "Error")),
        )
    )
    return isinstance(error, tuple(each for each in classes if each is not None))


def complain(problem: str, *, file: Any = None) -> None:
    """Say what is wrong, as all commands do."""
    file = file or sys.stderr
    line = "\n".join(map(one_line, f"seawall: {problem}".split("\n")))  # names in it come from anywhere
    if file.isatty():
        import shutil
        import textwrap

        room = shutil.get_terminal_size().columns
        line = textwrap.fill(line, room, subsequent_indent="  ", break_on_hyphens=False)
    click.secho(line, fg="red", file=file, color=False if os.environ.get("NO_COLOR") else None)


class _OneLine(click.ClickException):
    """A line, which a terminal that is narrower gets as several, broken between words."""

    def show(self, file: Any = None) -> None:
        complain(self.message, file=file)


class _Wrong(_OneLine):
    """A wrong setting or argument, with the exit code of click's own usage errors."""

    exit_code = click.UsageError.exit_code


class _Fault(_OneLine):
    """An error that nobody foresaw: a fault of Seawall, or of a command that the fleet declares."""

    exit_code = _FAULT

    def show(self, file: Any = None) -> None:
        _OneLine(f"{self.message}; this is a fault, `seawall --traceback ...` shows where").show(file)


@click.group(name="seawall", cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="seawall")
@click.option("--traceback", is_flag=True, help="Show where an error that nobody foresaw comes from.")
def group(*, traceback: bool) -> None:
    """Run, migrate and watch a fleet of Celery workers."""


def main() -> None:
    """Entry point of the `seawall` script."""
    # As `celery` does: the application lies in the working directory, not in site-packages.
    sys.path.insert(0, str(Path.cwd()))
    gc.set_threshold(_GARBAGE)
    _open_streams()
    try:
        group(prog_name="seawall")
    except OSError as exc:  # of what is said before a command begins, as help
        if not _is_unwritable(exc):
            raise
        complain(_give_up_output(exc))
        sys.exit(1)


def _open_streams() -> None:
    """Let streams the shell closed (`>&-`) lead nowhere; the next file opened would take their place."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(fd, "w" if fd else "r", closefd=False))  # noqa: SIM115 - for good


def _is_unwritable(error: Exception) -> bool:
    """Whether what a command prints finds no room, or nobody; a reader that left is click's to handle."""
    return isinstance(error, OSError) and error.errno in _UNWRITABLE and error.filename is None


def _give_up_output(error: Exception) -> str:
    """Leave stdout, which the interpreter would write to once more at its end; what to say about it."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return (
        f"the output cannot be written ({getattr(error, 'strerror', error)}): make room, or send it elsewhere"
    )


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


def _mentioned() -> dict[str, str]:
    """As `_declared`, for help and completion: read without the code that checks it, which loads slowly."""
    import tomllib

    try:
        named = os.environ.get("SEAWALL_FLEET")
        if named is None:
            settings = Path(os.environ.get("SEAWALL_CONFIG") or "seawall.toml")
            named = tomllib.loads(settings.read_text())["fleet"] if settings.is_file() else None
        there = [path for path in _FLEETS if Path(path).is_file()]
        found = tomllib.loads(Path(named or there[-1]).read_text())["commands"]
        return {str(name): str(path) for name, path in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}  # said by the command itself; help is never refused
