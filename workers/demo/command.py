"""`seawall demo import`: submits the imports, watches them in PostgreSQL and checks the sums.

A file is accounted for when loaded + rejected is the number of its rows, which are counted here, by another
method than the workers'. Anything else ends with exit code 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from seawall import embedded
from seawall.cli import Amount
from seawall.quantity import Duration, Whole
from workers.demo import storage
from workers.demo.datasets import DATASETS, count_rows

FLEET: Final = Path(__file__).parents[1] / "fleet.toml"
_POLL: Final = 0.1
_ENDED_WITHIN: Final = 20.0  # seconds


@dataclass(frozen=True, slots=True)
class _Import:
    """One submitted import and the rows that its file has."""

    id: str
    name: str
    rows: int


@click.group("demo")
def group() -> None:
    """Real work for the fleet."""


@group.command("import")
@click.option("--dataset", type=click.Choice([*DATASETS, "all"]), default="all", show_default=True)
@click.option(
    "--file", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Another file of its shape."
)
@click.option(
    "--chunk-rows", type=Amount(Whole(least=1)), default=500, show_default=True, help="Rows per task."
)
@click.option("--timeout", type=Amount(Duration()), default=120.0, show_default=True, help="Seconds for all.")
@click.option(
    "--answer-within",
    type=Amount(Duration()),
    default=15.0,
    show_default=True,
    help="Seconds until a worker takes it.",
)
@click.pass_context
def import_(  # noqa: PLR0913 - one parameter per option
    ctx: click.Context,
    *,
    dataset: str,
    file: Path | None,
    chunk_rows: int,
    timeout: float,
    answer_within: float,
) -> None:
    """Import the example files through the workers and account for every row."""
    if file is not None and dataset == "all":
        raise click.UsageError("--file needs --dataset, to know its shape: name one")
    if not storage.ready():
        raise click.ClickException("the demo's tables do not exist: run `seawall migrate up`")
    names = list(DATASETS) if dataset == "all" else [dataset]
    imports = [_submit(_app(ctx), name, chunk_rows, file) for name in names]
    _watch(imports, time.monotonic() + answer_within, time.monotonic() + timeout)
    if [each for each in imports if not _account_for(each)]:
        raise click.ClickException("rows are unaccounted for: loaded + rejected differs from the file")


@group.command("tour")
@click.option(
    "--stay/--end",
    "stays",
    default=None,
    help="Keep it up at the end, until Enter is pressed: where this is a terminal.",
)
def tour(*, stays: bool | None) -> None:
    """Show what happens when things go wrong, in a minute, on servers of its own."""
    stays = sys.stdin.isatty() and sys.stdout.isatty() if stays is None else stays
    folder = Path(tempfile.mkdtemp(prefix="seawall-tour-"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEAWALL_")}
    own = {"SEAWALL_HOME": str(folder / "home"), "SEAWALL_FLEET": str(FLEET), "SEAWALL_LOG__FORMAT": "json"}
    argv = [sys.executable, "-m", "workers.demo.tour", *(["STAYS"] if stays else [])]
    try:
        status = subprocess.run(argv, env={**kept, **own}, check=False).returncode
    finally:
        _end_servers(folder / "home")
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(status)


def _end_servers(home: Path) -> None:
    """Wait until the embedded servers have seen that nobody uses them."""
    deadline = time.monotonic() + _ENDED_WITHIN
    while embedded.status(home).running and time.monotonic() < deadline:
        time.sleep(_POLL)


def _app(ctx: click.Context) -> Any:
    """The application of `celery -A app seawall`, else this repository's."""
    if (app := getattr(ctx.obj, "app", None)) is not None:
        return app
    from workers.app import app as ours

    return ours


def _submit(app: Any, name: str, chunk_rows: int, file: Path | None) -> _Import:
    path = file or DATASETS[name].path
    each = _Import(str(uuid.uuid4()), name, count_rows(path))
    task = app.tasks["demo.import_dataset"]
    task.apply_async((each.id, name, chunk_rows, str(file.resolve()) if file else None))
    return each


def _watch(imports: list[_Import], answer_by: float, end_by: float) -> None:
    """Show progress until every import is finished.

    Raises:
        click.ClickException: no worker took one of them, or they did not finish in time.
    """
    started = time.monotonic()
    with _meter(sum(each.rows for each in imports)) as show:
        while True:
            states = [storage.progress(each.id) for each in imports]
            show(sum(state["done"] for state in states if state))
            if all(state and state["loaded"] is not None for state in states):
                return
            now = time.monotonic()
            if now > answer_by and not any(states):
                waited = f"no worker took the import within {now - started:.0f} s"
                raise click.ClickException(f"{waited}: is `make workers` running?")
            if now > end_by:
                waited = f"the import did not finish within {now - started:.0f} s"
                raise click.ClickException(f"{waited}: look at the workers' log")
            time.sleep(_POLL)


@contextmanager
def _meter(rows: int) -> Iterator[Callable[[int], None]]:
    """Shows how many rows are done: a progress bar on a terminal, lines elsewhere."""
    shown, terminal = 0, sys.stdout.isatty()
    with click.progressbar(length=rows, label="importing", hidden=not terminal) as bar:

        def show(done: int) -> None:
            nonlocal shown
            if terminal:
                bar.update(done - shown)
            elif done != shown:
                click.echo(f"{done} of {rows} rows")
            shown = done

        yield show


def _account_for(each: _Import) -> bool:
    """Print what became of the rows; whether that is all of them."""
    state = storage.progress(each.id)
    assert state is not None  # noqa: S101 - it was finished a moment ago
    complete = bool(state["loaded"] + state["rejected"] == each.rows)
    click.echo(
        f"{each.name}: {each.rows} rows in the file = {state['loaded']} loaded + {state['rejected']} rejected"
        f" ({'complete' if complete else 'INCOMPLETE'}, {state['seconds']:.1f} s, import {each.id})"
    )
    return complete
