"""`seawall doctor`: what is wrong with servers, settings, fleet and machine, and what to do about it."""

import contextlib
import itertools
import sys
import textwrap
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

import click

from seawall.cli import reach
from seawall.cli.application import current_app, fleet, load_app
from seawall.cli.pages import Page, prints
from seawall.cli.tables import width
from seawall.text import one_line

if TYPE_CHECKING:
    from seawall.doctor import Finding
    from seawall.doctor.adoption import Notice

_COLOURS = {"error": "red", "warning": "yellow", "info": "blue"}


@click.command(epilog="Example: seawall doctor -A shop")
@click.option(
    "-A",
    "--app",
    metavar="APP",
    help="Read this Celery application, which `celery -A` would find, and say what changes for it under "
    "Seawall. No server is asked.",
)
@prints
def doctor(*, app: str | None) -> Page:
    """Audit configuration and servers and say what to change; changes nothing.

    With -A: of servers nothing, but what an application that is plain Celery, or uses Seawall already, will
    notice: what changes, what loses its meaning, what to check, and what fits.

    Exit code 1 if there is an error or a warning.
    """
    from seawall.doctor import Severity

    findings: Sequence[Finding]
    if app is not None:
        from seawall.doctor.adoption import examine_application

        with contextlib.redirect_stdout(sys.stderr):  # what code of the application prints
            notices = examine_application(partial(load_app, app))
        findings, lines = notices, lambda: _report(app, notices)
    else:
        found = findings = _examine()
        lines = lambda: _say(found)  # noqa: E731 - one of two
    worth = any(each.severity is not Severity.INFO for each in findings)
    return Page(data=[finding.as_dict() for finding in findings], lines=lines, status=int(worth))


def _examine() -> "list[Finding]":
    from seawall.doctor import audit_versions, examine

    found = list(audit_versions())
    if found:
        return found
    app = current_app(with_tasks=True)
    with contextlib.redirect_stdout(sys.stderr):  # what code of the application prints
        return _away(app.conf.broker_url) or examine(app, fleet())


def _away(broker: "str | list[str]") -> "list[Finding]":
    """The servers that do not answer, asked all at once; the audits would wait for one after another."""
    from seawall import servers
    from seawall.doctor.finding import error

    broker = broker if isinstance(broker, str) else ";".join(broker)
    redis, database = servers.redis_url(), servers.database_url()
    tries = {
        "redis.reachable": partial(reach.try_redis, redis),
        "postgres.reachable": partial(reach.try_postgres, database),
    }
    if broker != redis:
        tries["broker.reachable"] = partial(reach.try_redis, broker, "the broker")
    with ThreadPoolExecutor() as pool:
        asked = {check: pool.submit(tried) for check, tried in tries.items()}
    return [
        error(check, str(problem), "look again when it answers: what it holds was not audited")
        for check, each in asked.items()
        if isinstance(problem := each.exception(), reach.Unreachable)
    ]


def _say(findings: "Sequence[Finding]") -> Iterator[str]:
    for each in findings:
        severity = click.style(f"{each.severity.value:7}", fg=_COLOURS[each.severity.value])
        first, *more = _wrapped(f"{each.check}: {each.reason}", " " * 9).splitlines()
        yield f"{severity}  {first.lstrip()}"
        yield from more
        yield _wrapped(f"-> {each.fix}", " " * 9)
    if not findings:
        yield click.style("nothing to change", fg="green")


def _report(app: str, notices: "Sequence[Notice]") -> Iterator[str]:
    """The notices by group: where, what happens under Seawall, and what to write for today's behaviour."""
    yield f"{app} under Seawall"
    for group, members in itertools.groupby(notices, key=lambda notice: notice.group):
        yield click.style(f"\n{group.value}", bold=True)
        for each in members:
            check = click.style(each.check, fg=_COLOURS[each.severity.value])
            yield _wrapped(f"{check}: {one_line(each.places())}", "  ")
            yield _wrapped(one_line(each.reason), "    ")
            if each.severity.value != "info":
                yield _wrapped(f"-> {one_line(each.fix)}", "    ")


def _wrapped(text: str, indent: str) -> str:
    """One line, which a terminal shows as several of its width."""
    room = width()
    if room is None:
        return indent + text
    deeper = indent if indent.startswith("     ") else "    "
    return textwrap.fill(text, room, initial_indent=indent, subsequent_indent=deeper, break_on_hyphens=False)
