"""`seawall config`: what is in force, and where each value came from."""

from collections.abc import Callable
from typing import Final

import click

from seawall.cli.pages import Page, prints
from seawall.cli.tables import table, text, width
from seawall.config import effective, settings
from seawall.quantity import Duration, Size, format_bytes, format_duration

_UNSET: Final = "unset"
_UNITS: Final[dict[str, Callable[[float], str]]] = {
    Duration.unit: format_duration,
    Size.unit: lambda value: format_bytes(int(value)),
}

_COLUMNS = (
    text("setting", "name"),
    text("value", "value", gives=1, least=12, show=lambda value, row: _shown(value, row["kind"])),
    text("source", "source", gives=2, show=lambda value, _: _short(value)),
)


def _shown(value: str, kind: str) -> str:
    """A value in the words of fleet.toml and seawall.toml, not of Python, and with its unit."""
    show = _UNITS.get(kind.partition(",")[0])
    if show is not None and value != _UNSET:
        return show(float(value))
    return {"True": "true", "False": "false", "": '""'}.get(value, value)


def _short(source: str) -> str:
    """On a terminal only the variable or the file, and nothing about what nobody set."""
    if width() is None:
        return source
    return "" if source == "default" else source.partition("(")[2].rstrip(")")


@click.command()
@prints
def config() -> Page:
    """Print every setting, its effective value (passwords hidden) and its source."""
    rows = [
        {"name": key.name, "value": value, "source": source, "kind": key.kind}
        for key, value, source in effective(settings())
    ]
    data = {row["name"]: {"value": row["value"], "source": row["source"]} for row in rows}
    return Page(data=data, lines=lambda: table(_COLUMNS, rows))
