"""`seawall health`: one question to a process, or to the servers, for probes that run a command."""

import importlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import click

from seawall.cli import Amount, OneOf, reach
from seawall.cli.pages import Page, watched
from seawall.cli.tables import wrapped
from seawall.errors import ConfigError
from seawall.quantity import LONGEST_WAIT, Duration

_TIMEOUT = Amount(Duration(least=0.001, most=LONGEST_WAIT))


@click.command(epilog="Example: seawall health ready --address unix:/run/seawall/health")
@click.argument("question", type=OneOf(["live", "ready", "startup"]), required=False)
@click.option("--address", help="Of the process; default: SEAWALL_HEALTH__ADDRESS.")
@click.option("--servers", is_flag=True, help="Ask the configured servers themselves instead of a process.")
@click.option(
    "--timeout", type=_TIMEOUT, default=1.0, show_default=True, help="Seconds to wait for an answer."
)
@watched
def health(*, question: str | None, address: str | None, servers: bool, timeout: float) -> Page:
    """Ask whether a process is live, ready or has started; exit code 0 if it is, 1 if not.

    With --servers Redis, the broker and PostgreSQL are asked from here; so they are without a question where
    no address is set.
    """
    from seawall.config import settings

    place = address or settings().health.address
    if servers or not (place or question):
        ok, answer = _ask_servers(timeout)
    elif place:
        from seawall.health import Question, ask

        ok, answer = ask(place, Question(question or "ready"), timeout=timeout)
    else:
        raise ConfigError("health.address is unset: set SEAWALL_HEALTH__ADDRESS, or ask with --servers")
    return Page(data=answer, lines=lambda: lines(answer), status=0 if ok else 1)


def _ask_servers(timeout: float) -> tuple[bool, dict[str, Any]]:
    """What the servers answer; who asks starts none."""
    from seawall import servers
    from seawall.config import settings
    from seawall.health import Health, server_checks

    urls, away = reach.known_urls()
    importlib.import_module("seawall.cluster")  # long, and before the servers' time begins to pass

    def known(name: str) -> str:
        if name in away:
            raise reach.Unreachable(away[name])
        return urls[name]

    redis = partial(known, "Redis")
    broker = redis if settings().broker_url is None else servers.broker_url
    checks = server_checks(redis=redis, broker=broker, database=partial(known, "PostgreSQL"))
    report = Health(checks, budget=timeout).ready()
    asked, answer = {each.name for each in checks}, report.as_dict()
    answer["checks"] = [each for each in answer["checks"] if each["name"] in asked]  # not this command's own
    return report.ok, answer


def lines(answer: dict[str, Any]) -> Iterator[str]:
    """What a terminal gets of an answer."""
    ok = answer["ok"]
    yield click.style(f"{answer['question']}: {'yes' if ok else 'no'}", fg="green" if ok else "red")
    if "error" in answer:
        yield from wrapped(answer["error"], indent="  ")
    for check in answer["checks"]:
        mark = click.style("ok ", fg="green") if check["ok"] else click.style("NO ", fg="red")
        first, *more = wrapped(f"{check['name']}: {check['detail']}", indent=" " * 6)
        yield f"  {mark} {first.lstrip()}"
        yield from more
