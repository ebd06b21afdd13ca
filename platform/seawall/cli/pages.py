"""What a command prints: a page, for people or as JSON, once or again and again.

A command returns a `Page`; `prints` gives it `--json`, `watched` gives it `--watch` as well, and both print
it. So every command writes JSON in the same way: raw numbers, moments in ISO 8601.
"""

import dataclasses
import functools
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import click

from seawall.cli.amounts import EVERY
from seawall.cli.tables import cut, iso
from seawall.errors import ConfigError, SeawallError
from seawall.text import one_line

_HOME: Final = "\x1b[H"
_CLEAR: Final = "\x1b[2J"
_REST_OF_LINE: Final = "\x1b[K"
_REST_OF_SCREEN: Final = "\x1b[J"
_EVERY: Final = 2.0  # seconds between two looks, where --watch says nothing


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """What a command found: `data` for programs, `lines` for people, made only if they are wanted.

    `status` is the exit code.
    """

    data: Any
    lines: Callable[[], Iterable[str]] = field(default=list)
    status: int = 0


def said(line: str, **data: Any) -> Page:
    """The page of a command that did something: one line, and the same as data."""
    return Page(data=data, lines=lambda: [one_line(line)])


Command = Callable[..., Page]


def prints(command: Command) -> Callable[..., None]:
    """Give a command `--json`, and print the page that it returns."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON.")
    @functools.wraps(command)
    def run(*, as_json: bool, **arguments: Any) -> None:
        _print(command(**arguments), as_json=as_json)

    return run


def watched(command: Command) -> Callable[..., None]:
    """Give a command that only looks `--json` and `--watch`, and print the page that it returns."""

    @click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch one line a look.")
    @click.option(
        "--watch",
        type=EVERY,
        is_flag=False,
        flag_value=str(_EVERY),
        metavar="[SECONDS]",
        help="Look again every 2 or so many seconds, until Ctrl-C.",
    )
    @functools.wraps(command)
    def run(*, as_json: bool, watch: float | None, **arguments: Any) -> None:
        if watch is not None:
            _watch(lambda: command(**arguments), watch, as_json=as_json)
            return
        _print(command(**arguments), as_json=as_json)

    return run


class _Question(click.Option):
    """Asked on stderr: on stdout there may be JSON."""

    def prompt_for_value(self, ctx: click.Context) -> Any:  # noqa: ARG002 - click's signature
        return click.confirm(str(self.prompt), err=True)


def confirmed(question: str) -> Callable[[Any], Any]:
    """Give a command `--yes`, and ask whoever leaves it out."""
    return click.confirmation_option(prompt=question, cls=_Question)


def dumped(data: Any, *, indent: int | None = 2) -> str:
    """`data` as all commands write it: raw numbers, moments in ISO 8601."""
    return json.dumps(data, indent=indent, default=_plain)


def in_json() -> bool:
    """Whether the command that runs prints JSON, and so nothing else meanwhile."""
    return bool(click.get_current_context().params.get("as_json"))


def _plain(value: object) -> Any:
    if isinstance(value, datetime):
        return iso(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return str(value)


def _print(page: Page, *, as_json: bool) -> None:
    """Print it, and leave with its status."""
    for line in [dumped(page.data)] if as_json else page.lines():
        click.echo(line)
    if page.status:
        click.get_current_context().exit(page.status)


def _watch(look: Callable[[], Page], every: float, *, as_json: bool) -> None:
    """Show what `look` finds until Ctrl-C; a server that goes away is said, and may come back."""
    terminal = sys.stdout.isatty()
    if not terminal and not as_json:
        raise ConfigError("--watch redraws a terminal, and this is none: add --json for a line a look")
    try:
        if terminal and not as_json:
            click.echo(_CLEAR, nl=False)
        while True:
            _show(look, as_json=as_json)
            time.sleep(every)
    except KeyboardInterrupt:
        if terminal:
            click.echo()


def _show(look: Callable[[], Page], *, as_json: bool) -> None:
    try:
        page = look()
    except SeawallError as exc:
        why = str(exc)
        page = Page(data={"error": why}, lines=lambda: [click.style(f"seawall: {one_line(why)}", fg="red")])
    if as_json:
        click.echo(dumped(page.data, indent=None))
        sys.stdout.flush()
        return
    wide, high = shutil.get_terminal_size()
    lines = [*page.lines()]
    if len(lines) > high - 1:
        lines = [*lines[: high - 2], cut(f"… {len(lines) - high + 2} more lines", wide)]
    click.echo(_HOME + "".join(f"{line}{_REST_OF_LINE}\n" for line in lines) + _REST_OF_SCREEN, nl=False)
    sys.stdout.flush()
