"""`seawall up` and `seawall dashboard`: the fleet, or only Flower, in the foreground."""

import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final

import click

from seawall import embedded, servers
from seawall.cli import migrate
from seawall.cli.application import load_ours, queues_of, required_fleet, tasks_of
from seawall.config import settings
from seawall.embedded.home import make_folders
from seawall.errors import ConfigError, SeawallError
from seawall.fleet import Console, Control, Fleet, FleetSpec, ask
from seawall.quantity import format_bytes
from seawall.redaction import hide_passwords
from seawall.text import many

if TYPE_CHECKING:
    from celery import Celery

_MOST_NAMED: Final = 3  # tasks or workers in a line
_LABEL: Final = 12  # characters
_PREFIX: Final = 12  # characters of a program's name before its lines


@click.command(epilog="Example: seawall up -A shop")
@click.option(
    "-A",
    "--app",
    "name",
    metavar="APP",
    help="Run this Celery application with defaults, without a fleet.toml.",
)
@click.option("--migrate/--no-migrate", "migrations", default=True, help="Apply the SQL migrations first.")
def up(*, name: str | None, migrations: bool) -> None:
    """Run the fleet: servers if embedded, migrations, workers, beat, Flower.

    The first Ctrl-C drains, the second stops, the third kills; exit code 0 says that nothing was killed.
    """
    started = time.monotonic()
    console = Console(as_json=_is_json())
    spec, app = _chosen(name)
    spec.flower.wanted()  # refused before anything is made, if it is not installed
    _join_servers(console)
    make_folders(settings().home, 0o755)
    control = _control(console)
    from seawall.worker.lifecycle import notify
    from seawall.worker.memory import board_of
    from seawall.worker.readiness import watchdog_interval

    if migrations:
        migrate.apply(console.say, each=False)
    board, _ = board_of(settings().memory)
    programs = spec.programs(
        home=settings().home,
        has_schedule=bool(app.conf.beat_schedule),
        environment={"SEAWALL_MEMORY__BOARD": board.path, **_readable()},
    )
    fleet = Fleet(
        programs,
        console=console,
        drain_timeout=spec.drain_timeout,
        started=started,
        on_ready=lambda: notify("READY=1"),
        on_stopping=lambda: notify("STOPPING=1"),
        on_turn=(lambda: notify("WATCHDOG=1")) if (every := watchdog_interval()) else None,
        turn_within=every or math.inf,
        describe=_screen(spec, app, memory=board.budget),
        control=control,
    )
    sys.exit(fleet.run())


def _chosen(name: str | None) -> "tuple[FleetSpec, Celery]":
    """What to run, and its application.

    Raises:
        ConfigError: there is neither a name nor a file, or what they say cannot be run.
    """
    if name is not None:
        app = load_ours(name)
        return FleetSpec.of_application(name, queues_of(app)), app
    spec = required_fleet("`seawall up -A {app}` runs one application with defaults")
    return spec, load_ours(spec.app)


def _join_servers(console: Console) -> None:
    """Start or join the embedded servers, and say so while that takes a while."""
    started, home = time.monotonic(), settings().home
    if not embedded.status(home).running and not servers.redis_is_known():
        servers.check_embedded()
        fresh = "" if (home / "servers.json").exists() else "; the first time takes some seconds more"
        console.say(f"servers: starting under {home}{fresh}")
    if servers.join_embedded() is not None:
        console.say(f"servers: ready in {time.monotonic() - started:.1f} s")


def _screen(spec: FleetSpec, app: "Celery", *, memory: int) -> Callable[[Mapping[str, str]], Iterator[str]]:
    """The lines below "fleet ready": what runs, where, and how to end it."""
    tasks = tasks_of(app)
    ours = servers.join_embedded()
    embedded_urls = (ours.servers.redis_url, ours.servers.database_url) if ours else ()

    def place(url: str) -> str:
        kept = f" (embedded, under {settings().home})" if url in embedded_urls else ""
        return hide_passwords(url) + kept

    def rows(addresses: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        yield "application", f"{spec.app}, with {_some(tasks, 'task')}"
        for name, profile in spec.workers.items():
            which = f"{name}1" if profile.processes == 1 else f"{name}1 to {name}{profile.processes}"
            yield "workers", f"{which}, on {_some(list(profile.queues), 'queue')}"
        yield "dashboard", (flower := addresses.get("flower") or _no_dashboard(spec))
        if "?token=" in flower:
            yield "", "(good for one use; `seawall dashboard --link` prints another)"
        yield "broker", place(app.conf.broker_url)
        yield "database", place(servers.database_url())
        yield "memory", f"{format_bytes(memory)} for the tasks of all workers"
        if tasks:
            yield "submit", f"celery -A {spec.app} call {tasks[0]} --args '[...]'"
        yield "look", "seawall status, seawall queues list (in a second terminal)"
        yield "stop", f"Ctrl-C, or kill {os.getpid()}, lets tasks finish; twice drops them"

    return lambda addresses: (f"  {label:<{_LABEL}} {what}" for label, what in rows(addresses))


def _some(names: list[str], what: str) -> str:
    """`2 tasks: shop.charge, shop.refund`."""
    counted = many(len(names), what)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f"{counted}: {', '.join(names[:_MOST_NAMED])}{more}" if names else counted


def _no_dashboard(spec: FleetSpec) -> str:
    if spec.flower.wanted():
        return "Flower does not answer yet; its lines say why"
    return (
        "none: pip install 'seawall[dashboard]'"
        if spec.flower.enabled == "auto"
        else "none, as fleet.toml says"
    )


def _control(console: Console) -> Control | None:
    """Where `seawall restart` asks; a fleet can do without.

    Raises:
        SeawallError: another fleet runs here, whose workers would have the same names.
    """
    try:
        return Control(settings().home)
    except OSError as exc:
        console.say(f"`seawall restart` will not reach this fleet: {exc}", loud=True)
        return None


def _readable() -> dict[str, str]:
    """The programs write into pipes, but somebody reads along at this terminal."""
    if settings().log.format != "auto" or not sys.stdout.isatty():
        return {}
    width = shutil.get_terminal_size().columns - _PREFIX
    return {"SEAWALL_LOG__FORMAT": "console", "FORCE_COLOR": "1", "COLUMNS": str(width)}


def _is_json() -> bool:
    chosen = settings().log.format
    return chosen == "json" or (chosen == "auto" and not sys.stdout.isatty())


@click.command(
    context_settings={"ignore_unknown_options": True}, epilog="Example: seawall dashboard --persistent=True"
)
@click.option(
    "--link", is_flag=True, help="Print a link into the Flower of the fleet that runs here, good for one use."
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def dashboard(*, link: bool, options: tuple[str, ...]) -> None:
    """Run Flower for the fleet's application; OPTIONS go to `celery flower`."""
    if link:
        _print_link()
        return
    spec, _ = _chosen(None)
    flower = spec.flower
    if not flower.installed():
        raise ConfigError("Flower is not installed: pip install 'seawall[dashboard]'")
    address = (f"--address={flower.address}", f"--port={flower.free_port()}")
    argv = [*flower.command(sys.executable, spec.app), *address, *options]
    os.execv(sys.executable, argv)  # noqa: S606 - Flower takes this process over, signals and exit code included


def _print_link() -> None:
    """Whoever has the link is let in, so it is for eyes only: no pipe, file or log gets one."""
    if not sys.stdout.isatty():
        raise SeawallError("a link lets whoever reads it in, so it is shown on a terminal only")
    for each in ask(settings().home, {"do": "link"}, click.echo):
        click.echo(each)
