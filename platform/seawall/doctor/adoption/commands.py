"""How workers and beat are started today, read from the files that start them: Procfile, compose, units."""

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import zip_longest
from typing import Final

from seawall.doctor.adoption.application import Application
from seawall.doctor.adoption.notice import Group, Notice, changes, fits, look, lost
from seawall.doctor.adoption.sources import line_at, read_text

_BEGINNINGS: Final = ("procfile", "makefile", "justfile", "dockerfile")
_ENDINGS: Final = (".dockerfile", ".service", ".sh", ".conf", ".ini", ".toml")
_IN_YAML: Final = ("compose", "celery", "worker", "beat", "deploy", "supervisor", "helm", "k8s")
_DEPTH: Final = 3  # directories below the working one
_CALL: Final = re.compile(r"(?<![\w.-])celery\b(?P<rest>[^\n;&|#]*)")
_PREFETCH: Final = (
    "a cell takes one task, and ahead of it about 20 ms of work; what waits stays in the broker",
    "remove it, or keep Celery's pool with `-P prefork`",
)
_FAIR: Final = (
    "cells claim their tasks when they are free to run them, which is what -O fair is for",
    "remove it, or keep Celery's pool with `-P prefork`",
)
_KEPT: Final = ("the pool stays Celery's prefork; limits and policies are kept there", "remove -P for cells")
_IN_PLACE: Final = (
    (
        "tasks run in the worker's own process, where soft limits, memory limits and (but for gevent) hard "
        "limits are not kept; a worker with a task that outlasts its hard limit ends, to be started again"
    ),
    "remove -P for cells, or give long tasks their time_limit",
)
_OPTIONS: Final[Mapping[str, tuple[Group, str, str]]] = {
    "-O": (Group.LOST, *_FAIR),
    "--optimization": (Group.LOST, *_FAIR),
    "--prefetch-multiplier": (Group.LOST, *_PREFETCH),
    "--disable-prefetch": (Group.LOST, *_PREFETCH),
    "--without-mingle": (
        Group.FITS,
        "workers never mingle: the server keeps the revocations",
        "nothing to do",
    ),
    "--max-tasks-per-child": (Group.FITS, "a cell is replaced after so many tasks", "nothing to do"),
    "--max-memory-per-child": (
        Group.CHANGES,
        "a cell is replaced for what it holds when its task has ended, not for the most it ever held",
        "@policy(memory=..., memory_limit=...) bounds a task while it runs",
    ),
    "-B": (
        Group.CHECK,
        (
            "beats under Seawall take turns, and know nothing of a beat of the old deployment: while both "
            "run, each entry is submitted twice"
        ),
        "stop the old beat (a worker with -B is one) before the new one starts",
    ),
}
_LONG: Final = {"--beat": "-B", "--pool": "-P"}
_MAKE: Final = {Group.LOST: lost, Group.CHANGES: changes, Group.CHECK: look}


def audit_commands(application: Application) -> Iterator[Notice]:
    """The options of `celery worker` and `celery beat` in files of the working directory."""
    found: dict[str, list[str]] = {}
    for path in application.sources.files(_may_start_workers, depth=_DEPTH):
        text = read_text(path) or ""
        for match in _CALL.finditer(text.replace("\\\n", "  ")):
            place = application.sources.at(path, line_at(text, match.start()))
            for option in _asked(match["rest"]):
                found.setdefault(option, []).append(f"celery {option} ({place})")
    for option, where in sorted(found.items()):
        yield from _said(option, where)


def _said(option: str, where: list[str]) -> Iterator[Notice]:
    name, _, pool = option.partition(" ")
    if name == "-P" and pool != "cells":
        kept = pool in {"prefork", "processes"}
        yield fits("commands.pool", where, _KEPT[0]) if kept else look("commands.pool", where, *_IN_PLACE)
    elif name == "beat":
        yield look("commands.beat", where, *_OPTIONS["-B"][1:])
    elif name in _OPTIONS:
        group, reason, fix = _OPTIONS[name]
        check = "commands." + name.strip("-")
        yield fits(check, where, reason) if group is Group.FITS else _MAKE[group](check, where, reason, fix)


def _asked(rest: str) -> Iterator[str]:
    """`-P gevent`, `-B` and the like of a command line after its `celery`; nothing of other commands."""
    try:
        words = shlex.split(rest.replace('"', " ").replace("'", " ").replace(",", " ").replace("]", " "))
    except ValueError:
        return
    if "beat" in words and "worker" not in words:
        yield "beat"
    if "worker" not in words:
        return
    after = words[words.index("worker") + 1 :]
    for word, following in zip_longest(after, after[1:], fillvalue=""):
        option, equals, value = word.partition("=")
        if not equals and re.fullmatch(r"-[OP]\w+", word):
            option, value = word[:2], word[2:]
        option = _LONG.get(option, option)
        if option == "-P":
            yield f"-P {value or following}"
        elif option in _OPTIONS:
            yield option


def _may_start_workers(name: str) -> bool:
    """Whether a file of this name may say how programs are started."""
    name = name.lower()
    if name.endswith((".yml", ".yaml")):
        return any(part in name for part in _IN_YAML)
    return name.startswith(_BEGINNINGS) or name.endswith(_ENDINGS)
