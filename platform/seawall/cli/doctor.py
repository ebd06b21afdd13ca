"""`seawall doctor`: what is wrong with servers, settings, fleet and machine, and what to do about it."""

import json
import sys

import click

from seawall.cli.application import current_app
from seawall.config import settings

_COLOURS = {"error": "red", "warning": "yellow", "info": "blue"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead of text.")
def doctor(*, as_json: bool) -> None:
    """Audit configuration and servers and say what to change; changes nothing.

    Exit code 1 if there is an error or a warning. Versions that Seawall does not support are told alone,
    before the application is imported.
    """
    from seawall.doctor import Severity, audit_versions, examine
    from seawall.fleet import FleetSpec

    path = settings().fleet
    findings = list(audit_versions())
    if not findings:
        findings = examine(current_app(), FleetSpec.load(path) if path.is_file() else None)
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    else:
        for each in findings:
            severity = click.style(f"{each.severity.value:7}", fg=_COLOURS[each.severity.value])
            click.echo(f"{severity}  {each.check}: {each.reason}\n         {each.fix}")
        if not findings:
            click.echo("nothing to change")
    sys.exit(any(each.severity is not Severity.INFO for each in findings))
