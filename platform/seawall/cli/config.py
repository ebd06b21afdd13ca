"""`seawall config`: what is in force, and where each value came from."""

import click

from seawall.cli.pages import Page, prints
from seawall.cli.tables import table, text, width
from seawall.config import effective, settings

_COLUMNS = (
    text("setting", "name"),
    text("value", "value", gives=2, least=12, show=lambda value, _: _shown(value)),
    text("source", "source", gives=1, show=lambda value, _: _short(value)),
)


def _shown(value: str) -> str:
    """A value in the words of fleet.toml and seawall.toml, not of Python."""
    return {"True": "true", "False": "false", "()": "[]", "": '""'}.get(value, value)


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
        {"name": key.name, "value": value, "source": source} for key, value, source in effective(settings())
    ]
    data = {row["name"]: {"value": row["value"], "source": row["source"]} for row in rows}
    return Page(data=data, lines=lambda: table(_COLUMNS, rows))
