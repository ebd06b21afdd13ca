"""`seawall init`: a first fleet.toml for an application that is there."""

from pathlib import Path

import click

from seawall.cli.application import load_ours, queues_of, tasks_of
from seawall.cli.discovery import guessed_apps
from seawall.cli.pages import Page, dumped, prints
from seawall.cli.tables import wrapped
from seawall.config import settings
from seawall.errors import ConfigError
from seawall.text import many

_NONE: str = (
    'no module here makes a Celery application, such as `app = Seawall("shop")`: go to the directory where '
    "`celery -A ...` would work, or name it with -A"
)


@click.command(epilog="Example: seawall init -A shop")
@click.option(
    "-A",
    "--app",
    metavar="APP",
    help="The Celery application, as `celery -A` takes it; else it is looked for.",
)
@click.option(
    "--schema", is_flag=True, help="Print the JSON schema of fleet.toml, for editors, and do nothing else."
)
@prints
def init(*, app: str | None, schema: bool) -> Page:
    """Write a commented fleet.toml for the application of this directory.

    A file that is there is never overwritten. `seawall up -A APP` runs an application without one.
    """
    from seawall.fleet import written

    if schema:
        found = written.schema()
        return Page(data=found, lines=lambda: [dumped(found)])
    path = settings().fleet_file
    if path.exists():
        raise ConfigError(f"{path} is there already, and stays as it is: `seawall up` runs it")
    name = app or _guessed()
    loaded = load_ours(name)
    queues, tasks = queues_of(loaded), tasks_of(loaded)
    _write(path, written.first_file(name, queues))
    wrote = f"wrote {path}: {name} with {many(len(tasks), 'task')}, one worker on {', '.join(queues)}"
    data = {"wrote": str(path), "app": name, "tasks": tasks, "queues": queues}
    return Page(data=data, lines=lambda: [*wrapped(wrote), "next: seawall up"])


def _guessed() -> str:
    found = guessed_apps()
    if not found:
        raise ConfigError(_NONE)
    if len(found) > 1:
        raise ConfigError(f"there are several applications here: choose one with -A: {', '.join(found)}")
    return found[0]


def _write(path: Path, text: str) -> None:
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as exc:
        raise ConfigError(f"{path} cannot be written ({exc.strerror}): make that possible") from exc
