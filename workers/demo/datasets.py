"""The files of the demo, and when a row of theirs is good. Pure: files in, rows out."""

import csv
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from seawall import ConfigError


@dataclass(frozen=True, slots=True)
class Dataset:
    """One file of the vega_datasets package and the table of schema `demo` that its rows go to.

    `check` turns the fields of a row into the values of `columns`, the first of which is the rows' key.
    """

    name: str
    table: str
    columns: tuple[str, ...]
    check: Callable[[Mapping[str, str]], tuple[object, ...]]

    @property
    def path(self) -> Path:
        """Where the file is, without importing the package: that would load pandas.

        Raises:
            ConfigError: the package is not installed.
        """
        spec = importlib.util.find_spec("vega_datasets")
        if spec is None or spec.origin is None:
            raise ConfigError("the demo's files are not installed: run `pip install 'seawall[demo]'`")
        return Path(spec.origin).with_name("_data") / f"{self.name}.csv"

    def values(self, record: "Record") -> tuple[object, ...]:
        """The values of `columns`.

        Raises:
            ValueError: the row is not good; the message is the reason.
        """
        if record.flaw:
            raise ValueError(record.flaw)
        return self.check(record.fields)


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a file: its number (1 follows the header), its text, and its fields or what is wrong."""

    number: int
    raw: str
    fields: Mapping[str, str]
    flaw: str | None = None


def records(path: Path, *, first: int = 1, count: int | None = None) -> Iterator[Record]:
    """`count` rows of a CSV file from row number `first` on; broken rows too, with their flaw."""
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        lines: list[str] = []  # of the row being read; a quoted field may span several
        reader = csv.reader(_remember(file, lines))
        header = next(reader, [])
        lines.clear()
        end = None if count is None else first - 1 + count
        for number, values in enumerate(itertools.islice(reader, end), 1):
            raw = "".join(lines).rstrip("\r\n")
            lines.clear()
            if number >= first:
                yield _record(number, raw, header, values)


def count_rows(path: Path) -> int:
    """The rows below the header, counted as lines: on purpose not the way `records` finds them."""
    with path.open("rb") as file:
        return max(0, sum(1 for _ in file) - 1)


def _remember(lines: Iterator[str], seen: list[str]) -> Iterator[str]:
    for line in lines:
        seen.append(line)
        yield line


def _record(number: int, raw: str, header: list[str], values: list[str]) -> Record:
    flaw = None
    if "\0" in raw or "\ufffd" in raw:
        raw, flaw = raw.replace("\0", "\ufffd"), "the row holds bytes that are not UTF-8 text"
    elif len(values) != len(header):
        flaw = f"the row has {len(values)} fields instead of {len(header)}"
    return Record(number, raw, dict(zip(header, values, strict=False)), flaw)


def _text(fields: Mapping[str, str], name: str) -> str:
    value = fields.get(name, "").strip()
    if not value:
        raise ValueError(f"{name} is empty")
    return value


def _number(fields: Mapping[str, str], name: str, low: float, high: float) -> float:
    text = _text(fields, name)
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{name}={text!r} is not a number") from None
    if math.isnan(value) or not low <= value <= high:
        raise ValueError(f"{name}={text} is not within {low:g} to {high:g}")
    return value


def _timestamp(fields: Mapping[str, str], name: str) -> datetime:
    text = _text(fields, name)
    try:
        return datetime.fromisoformat(text.replace("/", "-")).replace(tzinfo=None)
    except ValueError:
        raise ValueError(f"{name}={text!r} is not a time") from None


def _airport(fields: Mapping[str, str]) -> tuple[object, ...]:
    texts = (_text(fields, name) for name in ("iata", "name", "city", "state", "country"))
    return (*texts, _number(fields, "latitude", -90, 90), _number(fields, "longitude", -180, 180))


def _temperature(fields: Mapping[str, str]) -> tuple[object, ...]:
    return _timestamp(fields, "date"), _number(fields, "temp", -130, 140)


_AIRPORT: Final = ("iata", "name", "city", "state", "country", "latitude", "longitude")
_TEMPERATURE: Final = ("measured_at", "fahrenheit")

DATASETS: Final[Mapping[str, Dataset]] = {
    dataset.name: dataset
    for dataset in (
        Dataset("airports", "airports", _AIRPORT, _airport),
        Dataset("seattle-temps", "temperatures", _TEMPERATURE, _temperature),
        Dataset("sf-temps", "temperatures", _TEMPERATURE, _temperature),
    )
}
