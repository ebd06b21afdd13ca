"""`seawall config`: what is in force, and where each value came from."""

import json

import click

from seawall.cli import columns
from seawall.config import effective, settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead of a table.")
def config(*, as_json: bool) -> None:
    """Print every setting, its effective value (passwords hidden) and its source."""
    rows = list(effective(settings()))
    if as_json:
        values = {key.name: {"value": value, "source": source} for key, value, source in rows}
        click.echo(json.dumps(values, indent=2))
        return
    for line in columns([(key.name, value, source) for key, value, source in rows]):
        click.echo(line)
