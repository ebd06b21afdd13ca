"""`seawall memory`: what tasks use and keep, and where it grows."""

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from seawall.cli import Amount, columns
from seawall.cli.application import current_app
from seawall.errors import ConfigError
from seawall.quantity import Whole, format_bytes, shown

if TYPE_CHECKING:
    from seawall.memory.learned import Record


@click.group()
def memory() -> None:
    """What tasks use and keep, and the lines where it grows."""


@memory.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead of a table.")
def list_command(*, as_json: bool) -> None:
    """Print what each task was seen to use, and which are suspected to leak."""
    from seawall import cluster
    from seawall.memory.learned import Learned

    records = [_row(record) for record in Learned(cluster.client()).records()]
    if as_json:
        click.echo(json.dumps(records, indent=2))
        return
    table: list[tuple[str, ...]] = [("task", "runs", "p50", "p95", "kept p50", "")]
    for row in records:
        sizes = (_size(row[key]) for key in ("p50", "p95", "kept"))
        leak = f"leaks {_size(row['growth'])} a run" if row["leaking"] else ""
        table.append((row["task"], str(row["runs"]), *sizes, leak))
    for line in columns(table):
        click.echo(line)


def _row(record: "Record") -> dict[str, Any]:
    return {
        "task": record.name,
        "runs": record.runs,
        "p50": record.peak(0.5),
        "p95": record.peak(),
        "kept": record.retained(),
        "leaking": record.leaking,
        "growth": record.growth,
    }


def _size(value: int | None) -> str:
    return "" if value is None else format_bytes(value)


@memory.command()
@click.argument("task")
def forget(task: str) -> None:
    """Forget what was learned of TASK: it was mended, or changed."""
    from seawall import cluster
    from seawall.memory.learned import Learned

    Learned(cluster.client()).forget(task)
    click.echo(f"forgot {task}")


@memory.command()
@click.argument("task")
@click.option("--args", "arguments", default="[]", help="JSON array of the task's arguments.")
@click.option("--kwargs", "keywords", default="{}", help="JSON object of its keyword arguments.")
@click.option("--runs", default=20, type=Amount(Whole(least=1)), show_default=True, help="Runs to compare.")
@click.option("--warm-up", default=5, type=Amount(Whole()), show_default=True, help="Runs before that.")
def profile(task: str, arguments: str, keywords: str, runs: int, warm_up: int) -> None:
    """Run TASK here, several times and for real, and name the lines whose memory grows."""
    from seawall.memory.profile import profile as measure

    args, kwargs = _json("args", arguments, list), _json("kwargs", keywords, dict)
    found = measure(_runner(task, args, kwargs), runs=runs, warm_up=warm_up)
    click.echo(
        f"{task}: {found.runs} runs kept {format_bytes(max(0, found.held))} each, "
        f"{format_bytes(max(0, found.traced))} of it in Python objects"
    )
    for growth in found.growing:
        click.echo(f"{growth}  {format_bytes(growth.bytes)} and {growth.blocks:.3g} blocks a run")
    if not found.growing:
        click.echo("no line of Python keeps memory; if the process grew, it is in C code")


def _runner(name: str, args: list[Any], kwargs: dict[str, Any]) -> Callable[[], object]:
    app = current_app()
    app.finalize()
    if name not in app.tasks:
        known = ", ".join(sorted(each for each in app.tasks if not each.startswith("celery.")))
        raise ConfigError(f"task={name!r} is unknown to this application: use one of {known or 'none'}")
    task = app.tasks[name]
    return lambda: task(*args, **kwargs)


def _json(option: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"--{option}={shown(text)} is not JSON ({exc}): write {kind()!r}") from exc
    if not isinstance(value, kind):
        raise ConfigError(f"--{option}={shown(text)} is no {kind.__name__}: write {kind()!r}")
    return value
