"""Rows as people read them: aligned columns that fit the terminal, sizes and times in words.

A row is a mapping of raw values, the same that `--json` prints; a column says how one of them is shown. Where
the rows are wider than the terminal, columns of words are cut in the order of their `gives`, the highest
first, each down to its `least`; numbers are never cut. Where that is not enough, columns are left out in the
same order. Without a width (a pipe, a file) nothing is cut. A row is one line whatever is in it.
"""

import textwrap
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import click

from seawall.quantity import format_bytes
from seawall.text import many, one_line

Row = Mapping[str, Any]

_GAP: Final = 2
_LONGEST: Final = 1000  # characters of a cell that is shown at all
_CUT: Final = "…"
_UNITS: Final = (("d", 86400.0), ("h", 3600.0), ("m", 60.0))
_EXACT_BELOW: Final = 10.0  # seconds that are shown with a decimal
_COLOURS: Final = {
    **dict.fromkeys(("open", "forced_open", "error", "fatal", "dead", "missing", "edited", "no"), "red"),
    **dict.fromkeys(("half_open", "warning", "pending", "paused", "waiting", "unfinished"), "yellow"),
    **dict.fromkeys(("closed", "ready", "applied", "ok", "yes", "resolved"), "green"),
    **dict.fromkeys(("forced_closed", "info", "ignored"), "blue"),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """How the value under `key` is shown below `title`; `gives` and `least` (characters) are for narrow ones.

    `show` gets the value and the row, `colour` the shown text.
    """

    title: str
    key: str
    show: Callable[[Any, Row], str] = lambda value, _: plain(value)
    right: bool = False
    gives: int = 0
    least: int = 8
    colour: Callable[[str], str | None] = lambda _: None


def text(title: str, key: str, **more: Any) -> Column:
    """A column of words."""
    return Column(title=title, key=key, **more)


def number(title: str, key: str, **more: Any) -> Column:
    """A column of numbers, which stand under each other by their last digits."""
    return Column(title=title, key=key, right=True, **more)


def state(title: str, key: str, **more: Any) -> Column:
    """A column of words with a meaning: what is wrong is red, what waits yellow, what is well green."""
    return Column(title=title, key=key, colour=colour_of, **more)


def size(title: str, key: str, **more: Any) -> Column:
    """A column of bytes."""
    return number(title, key, show=lambda value, _: "" if value is None else format_bytes(value), **more)


def seconds(title: str, key: str, **more: Any) -> Column:
    """A column of durations."""
    return number(title, key, show=lambda value, _: "" if value is None else duration(value), **more)


def moment(title: str, key: str, **more: Any) -> Column:
    """A column of moments: how long ago, on a terminal, and the moment itself elsewhere."""
    return Column(title=title, key=key, show=lambda value, _: when(value), right=True, **more)


def colour_of(word: str) -> str | None:
    """The colour of a word with a meaning; its first word counts."""
    return _COLOURS.get(word.partition(" ")[0].lower())


def plain(value: Any) -> str:
    """A value that is shown as it is; nothing for None, and a word for a truth."""
    if isinstance(value, bool):
        return "yes" if value else ""
    return "" if value is None else str(value)


def cause(value: Any, _: Row) -> str:
    """Why a circuit is where it is; of one that never moved there is nothing to say."""
    return "" if value == "new" else str(value)


def duration(length: float) -> str:
    """Seconds in the largest unit of which there are two at least: 172 is `"2 m"`, 1.72 is `"1.7 s"`."""
    for unit, one in _UNITS:
        if length >= 2 * one:
            return f"{length / one:.0f} {unit}"
    return f"{length:.1f} s" if length < _EXACT_BELOW else f"{length:.0f} s"


def iso(value: float | datetime) -> str:
    """A moment as all commands write it for programs: ISO 8601, in UTC, to the second."""
    at = value if isinstance(value, datetime) else datetime.fromtimestamp(value, UTC)
    return at.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def when(value: float | datetime | str | None) -> str:
    """A moment (seconds since the epoch, or ISO 8601): how long ago, or the moment itself on a pipe."""
    if value is None:
        return ""
    at = datetime.fromisoformat(value) if isinstance(value, str) else value
    if width() is None:
        return iso(at)
    passed = time.time() - (at.timestamp() if isinstance(at, datetime) else at)
    return f"{duration(max(0.0, passed))} ago"


def width() -> int | None:
    """The columns of the terminal that is written to; None if there is none, and nothing is to be cut."""
    import shutil
    import sys

    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def hint(line: str) -> list[str]:
    """A line that tells a person what to do next; none on a pipe."""
    return [] if width() is None else [click.style(line, dim=True)]


def empty(what: str, run: str) -> list[str]:
    """The lines of a list without rows: what that means, and the command to go on with."""
    return [*wrapped(what), *hint(f"next: {run}")]


def listed(columns: Sequence[Column], rows: Sequence[Row], none: str, run: str) -> Iterable[str]:
    """The lines of a list: its table, or those of `empty`."""
    return table(columns, rows) if rows else empty(none, run)


def wrapped(line: str, *, indent: str = "", deeper: str | None = None) -> list[str]:
    """One line, which a terminal gets as several of its width, broken between words."""
    room = width()
    if room is None:
        return [indent + line]
    deeper = indent if deeper is None else deeper
    return textwrap.wrap(
        line, room, initial_indent=indent, subsequent_indent=deeper, break_on_hyphens=False
    ) or [indent]


def table(columns: Sequence[Column], rows: Sequence[Row], *, indent: str = "") -> Iterator[str]:
    """The rows as lines below their titles; columns without any value are left out."""
    cells = [[one_line(each.show(row[each.key], row)[:_LONGEST]) for each in columns] for row in rows]
    used = [n for n in range(len(columns)) if not rows or any(row[n] for row in cells)]
    chosen = [columns[n] for n in used]
    body = [[row[n] for n in used] for row in cells]
    room = width()
    widths = _fitted(chosen, body, None if room is None else room - len(indent))
    titles = [_padded(each.title, wide, each) for each, wide in zip(chosen, widths, strict=True) if wide]
    yield indent + click.style(_joined(titles), bold=True)
    for row in body:
        shown = [
            click.style(_padded(cell, wide, each), fg=each.colour(cell)) if each.colour(cell) else
            _padded(cell, wide, each)
            for cell, each, wide in zip(row, chosen, widths, strict=True)
            if wide
        ]  # fmt: skip
        yield indent + _joined(shown)


def fields(pairs: Mapping[str, Any], *, indent: str = "") -> Iterator[str]:
    """One record, a line a field and more where the text is long; what is empty is left out."""
    shown = {name: plain(value) for name, value in pairs.items() if plain(value)}
    wide = max(map(len, shown), default=0)
    room = width()
    for name, value in shown.items():
        head = f"{indent}{name:{wide}}  "
        pieces = [one_line(line) for line in value.splitlines()] or [""]
        if room is not None:
            space = max(20, room - len(head))
            pieces = [part for piece in pieces for part in _wrapped(_shortened(piece), space)] or [""]
        yield click.style(head, bold=True) + pieces[0]
        yield from ((" " * len(head) + piece).rstrip() for piece in pieces[1:])


def _shortened(line: str) -> str:
    """A line of a record as much of it as anybody reads; the arguments of a task may be megabytes."""
    more = len(line) - _LONGEST
    return line if more <= 0 else f"{line[:_LONGEST]}{_CUT} ({many(more, 'more character')}, see --json)"


def _wrapped(line: str, space: int) -> list[str]:
    """`line` as several; what is indented, as a line of a traceback is, goes on deeper.

    Nothing of marks below such a line that is wrapped itself: they would stand below something else.
    """
    if len(line) > space and not line.strip(" ^~"):
        return []
    inner = line[: len(line) - len(line.lstrip())]
    deeper = inner + "    " if inner and len(inner) < space // 2 else ""
    return textwrap.wrap(line, space, subsequent_indent=deeper, break_on_hyphens=False) or [""]


def _joined(cells: Sequence[str]) -> str:
    return (" " * _GAP).join(cells).rstrip()


def _fitted(columns: Sequence[Column], body: Sequence[Sequence[str]], room: int | None) -> list[int]:
    """How wide each column is; 0 for one that there is no room for."""
    widths = [
        max([wide_of(each.title), *(wide_of(row[n]) for row in body)]) for n, each in enumerate(columns)
    ]
    if room is None or not columns:
        return widths
    least = [
        min(each.least, wide) if each.gives and not each.right else wide
        for each, wide in zip(columns, widths, strict=True)
    ]
    by_gives = sorted(range(len(columns)), key=lambda n: (-columns[n].gives, -n))
    for n in by_gives:
        if _total(least) > room and n:  # the first column says what the row is about
            widths[n] = least[n] = 0
    for n in by_gives:
        widths[n] = max(least[n], widths[n] - max(0, _total(widths) - room))
    widths[0] = min(widths[0], max(1, room))
    return widths


def _total(widths: Sequence[int]) -> int:
    left = [each for each in widths if each]
    return sum(left) + _GAP * (len(left) - 1)


def _padded(cell: str, wide: int, column: Column) -> str:
    cell = cut(cell, wide)
    space = " " * (wide - wide_of(cell))
    return space + cell if column.right else cell + space


def cut(line: str, wide: int) -> str:
    """`line` in no more than `wide` columns, with a mark where it is cut."""
    if wide_of(line) <= wide:
        return line
    while wide_of(line) > wide - 1:
        line = line[: min(len(line) - 1, wide)]
    return line + _CUT


def wide_of(line: str) -> int:
    """How many columns of a terminal a line takes; characters of East Asia take two, marks none."""
    if line.isascii():
        return len(line)
    return sum(
        0 if unicodedata.combining(each) else 2 if unicodedata.east_asian_width(each) in "WF" else 1
        for each in line
    )
