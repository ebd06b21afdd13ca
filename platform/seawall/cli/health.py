"""`seawall health`: one question to a process, or to the servers, for probes that run a command."""

from collections.abc import Iterator
from typing import Any

import click

from seawall.cli import Amount, OneOf
from seawall.cli.pages import Page, watched
from seawall.errors import ConfigError
from seawall.quantity import LONGEST_WAIT, Duration

_TIMEOUT = Amount(Duration(least=0.001, most=LONGEST_WAIT))


@click.command(epilog="Example: seawall health ready --address unix:/run/seawall/health")
@click.argument("question", type=OneOf(["live", "ready", "startup"]), default="ready")
@click.option("--address", help="Of the process; default: SEAWALL_HEALTH__ADDRESS.")
@click.option("--servers", is_flag=True, help="Ask the configured servers themselves instead of a process.")
@click.option(
    "--timeout", type=_TIMEOUT, default=1.0, show_default=True, help="Seconds to wait for an answer."
)
@watched
def health(*, question: str, address: str | None, servers: bool, timeout: float) -> Page:
    """Ask whether a process is live, ready or has started; exit code 0 if it is, 1 if not.

    With --servers Redis, the broker and PostgreSQL are asked from here.
    """
    from seawall.config import settings

    place = address or settings().health.address
    if servers:
        ok, answer = _ask_servers(timeout)
    elif place:
        from seawall.health import Question, ask

        ok, answer = ask(place, Question(question), timeout=timeout)
    else:
        raise ConfigError("health.address is unset: set SEAWALL_HEALTH__ADDRESS, or ask with --servers")
    return Page(data=answer, lines=lambda: _lines(answer), status=0 if ok else 1)


def _ask_servers(timeout: float) -> tuple[bool, dict[str, Any]]:
    from seawall import cluster, servers  # noqa: F401 - it takes long, which is not the servers' fault
    from seawall.health import Health, server_checks

    checks = server_checks(redis=servers.redis_url, broker=servers.broker_url, database=servers.database_url)
    report = Health(checks, budget=timeout).ready()
    return report.ok, report.as_dict()


def _lines(answer: dict[str, Any]) -> Iterator[str]:
    ok = answer["ok"]
    yield click.style(f"{answer['question']}: {'yes' if ok else 'no'}", fg="green" if ok else "red")
    if "error" in answer:
        yield f"  {answer['error']}"
    for check in answer["checks"]:
        mark = click.style("ok ", fg="green") if check["ok"] else click.style("NO ", fg="red")
        yield f"  {mark} {check['name']}: {check['detail']}"
