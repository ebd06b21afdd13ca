"""`seawall memory`: what tasks use and keep, and where it grows."""

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from seawall.cli import LISTED, Amount, expect, reach
from seawall.cli.completion import offered
from seawall.cli.pages import Page, prints, said, watched
from seawall.cli.tables import hint, listed, number, size, text
from seawall.errors import ConfigError, SeawallError
from seawall.failure import message_of
from seawall.quantity import Whole, format_bytes, shown
from seawall.text import many

if TYPE_CHECKING:
    from seawall.memory.learned import Record

_COLUMNS = (
    text("task", "task", gives=1, least=20),
    number("runs", "runs"),
    size("median", "p50"),
    size("95 %", "p95"),
    size("kept", "kept"),
    text(
        "",
        "leaking",
        show=lambda leaks, row: f"leaks {format_bytes(row['growth'] or 0)} a run" if leaks else "",
        colour=lambda cell: "red" if cell.startswith("leaks") else None,
    ),
)


@click.group()
def memory() -> None:
    """What tasks use and keep, and the lines where it grows."""


@memory.command(
    name="list",
    short_help="What each task was seen to use, and which leak.",
    epilog="Example: seawall memory list --limit 10",
)
@click.option("--limit", type=LISTED, default=100, show_default=True, help="Most to print.")
@watched
def list_command(*, limit: int) -> Page:
    """What each task was seen to use, those first that seem to leak, and then by what they use.

    median, 95 %: what half, and nearly all, of its runs need at most; kept: what half of them leave behind.
    """
    from seawall.memory.learned import Learned

    with reach.redis() as client:
        rows = [_row(record) for record in Learned(client).records()]
    rows.sort(key=lambda row: (not row["leaking"], -(row["p95"] or 0), row["task"]))
    left = len(rows) - limit
    return Page(data=rows[:limit], lines=lambda: _lines(rows[:limit], left))


def _lines(rows: list[dict[str, Any]], left: int) -> Iterator[str]:
    none = "nothing was learned so far: workers learn from the tasks that they run"
    yield from listed(_COLUMNS, rows, none, "seawall status")
    if left > 0:
        yield from hint(f"and {many(left, 'more task')}: seawall memory list --limit {len(rows) + left}")


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


@memory.command(
    short_help="Forget what was learned of TASK.", epilog="Example: seawall memory forget shop.report"
)
@click.argument("task", shell_complete=offered("task"))
@prints
def forget(task: str) -> Page:
    """Forget what was learned of TASK: it was mended, or changed."""
    from seawall.memory.learned import Learned

    with reach.redis() as client:
        learned = Learned(client)
        expect("record of a task", task, [each.name for each in learned.records()])
        learned.forget(task)
    return said(f"forgot {task}", forgot=task)


@memory.command(
    short_help="Run TASK here and name the lines whose memory grows.",
    epilog="Example: seawall memory profile shop.report --args '[2026]' --runs 50",
)
@click.argument("task", shell_complete=offered("task"))
@click.option("--args", "arguments", default="[]", help="JSON array of the task's arguments.")
@click.option("--kwargs", "keywords", default="{}", help="JSON object of its keyword arguments.")
@click.option("--runs", default=20, type=Amount(Whole(least=1)), show_default=True, help="Runs to compare.")
@click.option("--warm-up", default=5, type=Amount(Whole()), show_default=True, help="Runs before that.")
@prints
def profile(task: str, arguments: str, keywords: str, runs: int, warm_up: int) -> Page:
    """Run TASK here, several times and for real, and name the lines whose memory grows."""
    from seawall.memory.profile import profile as measure

    args, kwargs = _json("args", arguments, list), _json("kwargs", keywords, dict)
    runner = _runner(task, args, kwargs)
    with contextlib.redirect_stdout(sys.stderr):  # what the task prints
        found = measure(runner, runs=runs, warm_up=warm_up)
    growing = [{"line": str(each), "bytes": each.bytes, "blocks": each.blocks} for each in found.growing]
    data = {"task": task, "runs": found.runs, "kept": found.held, "traced": found.traced, "growing": growing}
    return Page(data=data, lines=lambda: _profiled(data))


def _profiled(found: dict[str, Any]) -> Iterator[str]:
    kept, traced = (format_bytes(max(0, found[key])) for key in ("kept", "traced"))
    yield f"{found['task']}: {many(found['runs'], 'run')} kept {kept} each, {traced} of it in Python objects"
    for each in found["growing"]:
        yield f"{each['line']}  {format_bytes(each['bytes'])} and {each['blocks']:.3g} blocks a run"
    if not found["growing"]:
        yield "no line of Python keeps memory; if the process grew, it is in C code"


def _runner(name: str, args: list[Any], kwargs: dict[str, Any]) -> Callable[[], object]:
    from seawall.cli.application import current_app

    app = current_app(with_tasks=True)
    expect("task", name, (each for each in app.tasks if not each.startswith("celery.")))
    task = app.tasks[name]

    def run() -> None:
        try:
            task(*args, **kwargs)
        except (Exception, SystemExit) as exc:  # the task's own, whatever it is
            said = " ".join(message_of(exc).split())
            raise SeawallError(
                f"{name} failed, so its memory is not measured: {type(exc).__name__}: {said}; "
                "give arguments with which it succeeds (--args, --kwargs)"
            ) from exc

    return run


def _json(option: str, text: str, kind: type) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"--{option}={shown(text)} is not JSON ({exc}): write {kind()!r}") from exc
    if not isinstance(value, kind):
        raise ConfigError(f"--{option}={shown(text)} is no {kind.__name__}: write {kind()!r}")
    return value
