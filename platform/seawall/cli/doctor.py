"""`seawall doctor`: what is wrong with servers, settings, fleet and machine, and what to do about it."""

import itertools
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import click

from seawall.cli.application import current_app, load_app
from seawall.config import settings
from seawall.text import one_line

if TYPE_CHECKING:
    from seawall.doctor import Finding
    from seawall.doctor.adoption import Notice

_COLOURS = {"error": "red", "warning": "yellow", "info": "blue"}


@click.command()
@click.option(
    "-A",
    "--app",
    metavar="APP",
    help="Read this Celery application, which `celery -A` would find, and say what changes for it under "
    "Seawall. No server is asked.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array instead of text.")
def doctor(*, app: str | None, as_json: bool) -> None:
    """Audit configuration and servers and say what to change; changes nothing.

    With -A: of servers nothing, but what an application that is plain Celery, or uses Seawall already, will
    notice: what changes, what loses its meaning, what to check, and what fits.

    Exit code 1 if there is an error or a warning.
    """
    from seawall.doctor import Severity

    findings: Sequence[Finding]
    if app is not None:
        from seawall.doctor.adoption import examine_application

        notices = examine_application(partial(load_app, app))
        findings = notices
        if not as_json:
            _report(app, notices)
    else:
        findings = _examine()
        if not as_json:
            _say(findings)
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in findings], indent=2))
    sys.exit(any(each.severity is not Severity.INFO for each in findings))


def _examine() -> "list[Finding]":
    from seawall.doctor import audit_versions, examine
    from seawall.fleet import FleetSpec

    path = settings().fleet_file
    return list(audit_versions()) or examine(current_app(), FleetSpec.load(path) if path.is_file() else None)


def _say(findings: "Sequence[Finding]") -> None:
    for each in findings:
        severity = click.style(f"{each.severity.value:7}", fg=_COLOURS[each.severity.value])
        click.echo(f"{severity}  {each.check}: {each.reason}\n         {each.fix}")
    if not findings:
        click.echo("nothing to change")


def _report(app: str, notices: "Sequence[Notice]") -> None:
    """The notices by group: where, what happens under Seawall, and what to write for today's behaviour."""
    click.echo(f"{app} under Seawall")
    for group, members in itertools.groupby(notices, key=lambda notice: notice.group):
        click.secho(f"\n{group.value}", bold=True)
        for each in members:
            check = click.style(each.check, fg=_COLOURS[each.severity.value])
            click.echo(_wrapped(f"{check}: {one_line(each.places())}", "  "))
            click.echo(_wrapped(one_line(each.reason), "    "))
            if each.severity.value != "info":
                click.echo(_wrapped(f"-> {one_line(each.fix)}", "    "))


def _wrapped(text: str, indent: str) -> str:
    """One line, which a terminal shows as several of its width."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    return textwrap.fill(text, width, initial_indent=indent, subsequent_indent="    ", break_on_hyphens=False)
