"""`seawall up` and `seawall dashboard`: the fleet, or only Flower, in the foreground."""

import math
import os
import shutil
import sys
import time
from typing import Final

import click

from seawall import servers
from seawall.cli import migrate
from seawall.cli.application import load_app
from seawall.config import settings
from seawall.embedded.home import make_folders
from seawall.errors import ConfigError, SeawallError
from seawall.fleet import Console, Control, Fleet, FleetSpec
from seawall.quantity import format_bytes
from seawall.redaction import hide_passwords

_PREFIX: Final = 12  # characters of a program's name before its lines


@click.command()
@click.option("--migrate/--no-migrate", "migrations", default=True, help="Apply the SQL migrations first.")
def up(*, migrations: bool) -> None:
    """Run the fleet: servers if embedded, migrations, workers, beat, Flower.

    The first Ctrl-C drains, the second stops, the third kills; exit code 0 says that nothing was killed.
    """
    started = time.monotonic()
    spec = FleetSpec.load(settings().fleet)
    console = Console(as_json=_is_json())
    if servers.join_embedded() is not None:
        console.say(f"embedded servers ready in {time.monotonic() - started:.1f} s under {settings().home}")
    make_folders(settings().home, 0o755)
    app = load_app(spec.app)
    from seawall.worker.lifecycle import notify
    from seawall.worker.memory import board_of
    from seawall.worker.readiness import watchdog_interval

    console.say(f"broker {hide_passwords(app.conf.broker_url)}")
    if migrations:
        migrate.apply(console.say)
    board, _ = board_of(settings().memory)
    console.say(f"memory budget of the workers: {format_bytes(board.budget)}")
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
        control=_control(console),
    )
    sys.exit(fleet.run())


def _control(console: Console) -> Control | None:
    """Where `seawall restart` asks; a fleet can do without."""
    try:
        return Control(settings().home)
    except (SeawallError, OSError) as exc:
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


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def dashboard(options: tuple[str, ...]) -> None:
    """Run Flower for the fleet's application; OPTIONS go to `celery flower`."""
    spec = FleetSpec.load(settings().fleet)
    flower = spec.flower
    if not flower.installed():
        raise ConfigError("Flower is not installed: pip install 'seawall[dashboard]'")
    address = (f"--address={flower.address}", f"--port={flower.free_port()}")
    argv = [*flower.command(sys.executable, spec.app), *address, *options]
    os.execv(sys.executable, argv)  # noqa: S606 - Flower takes this process over, signals and exit code included
