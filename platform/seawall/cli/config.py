"""`seawall config`: what is in force, and where each value came from."""

import click

from seawall.cli.pages import Page, prints
from seawall.cli.tables import table, text
from seawall.config import effective, settings

_COLUMNS = (
    text("setting", "name"),
    text("value", "value", gives=1, least=12),
    text("source", "source", gives=2),
)


@click.command()
@prints
def config() -> Page:
    """Print every setting, its effective value (passwords hidden) and its source."""
    rows = [
        {"name": key.name, "value": value, "source": source} for key, value, source in effective(settings())
    ]
    data = {row["name"]: {"value": row["value"], "source": row["source"]} for row in rows}
    return Page(data=data, lines=lambda: table(_COLUMNS, rows))
