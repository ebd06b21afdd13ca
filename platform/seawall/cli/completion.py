"""`seawall completion`: what a shell reads so that Tab completes commands, options and names.

Names are asked of the servers that run. Nothing is started for them, and a person at Tab waits for half a
second at most: without an answer by then, or with any trouble, there is nothing to offer and nothing is said.
"""

import contextlib
import importlib
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

import click

from seawall.cli import OneOf

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from redis import Redis

_PATIENCE: Final = 0.5
"""Seconds that the servers get to answer; the imports are not counted."""

_MOST: Final = 200  # names that are offered
_HEAD: Final = 8  # characters of an identifier, as lists show it

Named = Iterable[tuple[str, str]]
"""Names, each with a few words about it, which zsh and fish show."""

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def offered(kind: str) -> Complete:
    """The `shell_complete` of a parameter that takes names of this kind."""

    def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem

        given = ctx.params.get(param.name or "")
        taken = given if isinstance(given, tuple | list) else ()
        return [
            CompletionItem(name, help=what)
            for name, what in _asked(kind, incomplete)
            if name.startswith(incomplete) and name not in taken
        ][:_MOST]

    return complete


def _asked(kind: str, incomplete: str) -> list[tuple[str, str]]:
    """What the servers say; nothing if they do not, in time."""
    found: list[tuple[str, str]] = []
    modules, ask = _KINDS[kind]

    def answer() -> None:
        with contextlib.suppress(Exception):
            found.extend(ask(incomplete))

    with contextlib.suppress(Exception):
        for module in modules:
            importlib.import_module(module)
        asking = threading.Thread(target=answer, name="seawall-completion", daemon=True)
        asking.start()
        asking.join(_PATIENCE)
    return [*found]


def _of_redis(ask: "Callable[[Redis, str], Named]", *, broker: bool = False) -> Callable[[str], Named]:
    def asked(incomplete: str) -> Named:
        from seawall import cluster, servers
        from seawall.cli.reach import known_urls
        from seawall.config import settings

        apart = broker and settings().broker_url is not None
        url = servers.broker_url() if apart else known_urls()[0]["Redis"]
        with cluster.connect(url, timeout=_PATIENCE) as client:
            yield from ask(client, incomplete)

    return asked


def _queues(client: "Redis", _: str) -> Named:
    from seawall.delivery.queues import Queues

    return ((name, "") for name in Queues(client).names())


def _breakers(client: "Redis", _: str) -> Named:
    from seawall.breaker.store import Store

    return ((each.name, each.state.value) for each in Store(client, "seawall completion").overview())


def _tasks(client: "Redis", _: str) -> Named:
    from seawall.memory.learned import Learned

    return ((each.name, f"{each.runs} runs") for each in Learned(client).records())


def _workers(client: "Redis", _: str) -> Named:
    from seawall.worker.heartbeat import workers

    return ((name.partition("@")[0], one["state"]) for name, one in workers(client).items())


def _letters(client: "Redis", incomplete: str) -> Named:
    from seawall.delivery.queues import Queues

    queues = Queues(client)
    for queue in queues.names():
        for each in queues.dead(queue, limit=_MOST):
            yield _short(each.task_id or each.id, incomplete), f"{each.task}: {each.reason}"[:80]


def _groups(incomplete: str) -> Named:
    from seawall.cli.reach import known_urls
    from seawall.config import settings
    from seawall.database.pool import Database
    from seawall.records.groups import Wanted, find

    url = known_urls()[0]["PostgreSQL"]
    wanted = Wanted(fingerprints=[incomplete])
    with contextlib.closing(Database(url, settings().database, application="seawall")) as database:
        for each in find(database, wanted, limit=_MOST):
            yield _short(each.fingerprint, incomplete), f"{each.task}: {each.exception}"[:80]


def _short(identity: str, incomplete: str) -> str:
    return identity[: max(_HEAD, len(incomplete))] if len(incomplete) <= _HEAD else identity


_REDIS: Final = ("redis", "seawall.cluster", "seawall.cli.status")
_KINDS: Final[dict[str, tuple[tuple[str, ...], Callable[[str], Named]]]] = {
    "queue": ((*_REDIS, "seawall.delivery.queues"), _of_redis(_queues, broker=True)),
    "breaker": ((*_REDIS, "seawall.breaker.store"), _of_redis(_breakers)),
    "task": ((*_REDIS, "seawall.memory.learned"), _of_redis(_tasks)),
    "worker": ((*_REDIS, "seawall.worker.heartbeat"), _of_redis(_workers)),
    "letter": ((*_REDIS, "seawall.delivery.queues"), _of_redis(_letters, broker=True)),
    "group": (("psycopg", "seawall.cli.status", "seawall.records.groups"), _groups),
}


_HELP: Final = """Print what makes SHELL complete commands, options and names at Tab.

\b
bash  eval "$(seawall completion bash)"       in ~/.bashrc
zsh   eval "$(seawall completion zsh)"        in ~/.zshrc, after compinit
fish  seawall completion fish | source        in ~/.config/fish/config.fish

Names of queues, breakers, tasks, workers, dead letters and groups of errors are from the servers that run.
"""
"""No docstring, which would have to be raw: click looks for the character itself."""


@click.command(help=_HELP)
@click.argument("shell", type=OneOf(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes a shell complete commands, options and names."""
    from click.shell_completion import get_completion_class

    root = click.get_current_context().find_root().command
    source = get_completion_class(shell)
    assert source is not None  # noqa: S101 - click has the three
    click.echo(source(root, {}, "seawall", "_SEAWALL_COMPLETE").source())
