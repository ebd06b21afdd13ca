"""Pools that cannot keep a policy, and what is said about it when a worker starts.

Cells and prefork run each task in a process of its own, which can be signalled, measured and killed. Where
tasks run in the worker's own process (threads, solo, gevent, eventlet) nothing can interrupt one safely.
A task that asked for a limit that its pool does not keep is named, in one line however many there are, or
the worker does not start (`worker.unkept_policies`). Limits that nobody asked for, our defaults, are worth
one line at level INFO. What is done about a task that outlasts its hard limit there is in `overruns`.
"""

import logging
from collections.abc import Iterator
from typing import Any, Final

from celery import concurrency

from seawall.config import settings
from seawall.text import many
from seawall.worker.defaults import LazyDefaults
from seawall.worker.time_limits import NAMES

logger = logging.getLogger(__name__)

SOFT: Final = "soft time limit"
HARD: Final = "hard time limit"
MEMORY: Final = "memory limit"
EVERYTHING: Final = (SOFT, HARD, MEMORY)

_MODULES: Final = {
    "prefork": EVERYTHING,
    "gevent": (HARD,),  # Celery raises it in the greenlet, as soon as that yields
}
"""What Celery's pools keep, by the module of each; the others keep nothing."""

_TYPED: Final = {"thread": "threads"}  # Celery's module and what `-P` calls it
_NAMED: Final = 10  # tasks that a line names; more are counted
_APPLICATION: Final = {SOFT: "task_soft_time_limit", HARD: "task_time_limit"}
_ATTRIBUTES: Final = {SOFT: "soft_time_limit", HARD: "time_limit"}


def pool_name(pool: Any) -> str:
    """What `-P` calls a pool, which is a class or the name of one."""
    kind = concurrency.get_implementation(pool)
    package, _, module = kind.__module__.rpartition(".")
    return "cells" if package.endswith(".cells") else _TYPED.get(module, module)


def kept_by(pool: str) -> tuple[str, ...]:
    """The limits that a pool holds tasks to."""
    return EVERYTHING if pool == "cells" else _MODULES.get(pool, ())


def check(worker: Any) -> None:
    """Say what the pool of this worker does not keep.

    Raises:
        SystemExit: there is something, and the settings want no such worker.
    """
    pool = pool_name(worker.pool_cls)
    missing = [limit for limit in EVERYTHING if limit not in kept_by(pool)]
    if not missing:
        return
    found = {limit: asked for limit in missing if (asked := _in_words(worker, limit))}
    if not found:
        logger.info(
            "the pool %s does not keep: %s. No task asks for one; one that outlasts the default hard limit "
            "is named, and this worker ends when the others have",
            *(pool, ", ".join(missing)),
        )
        return
    listed = "; ".join(f"{limit} of {asked}" for limit, asked in found.items())
    if settings().worker.unkept_policies == "refuse":
        logger.critical(
            "this worker does not start: the pool %s does not keep the %s. Use the pool cells or prefork, or "
            "set worker.unkept_policies to warn",
            *(pool, listed),
        )
        raise SystemExit(1)
    logger.warning(
        "the pool %s does not keep the %s. A task that outlasts its hard limit is named, and this worker "
        "ends when the others have, to be started again. The pools cells and prefork keep all limits",
        *(pool, listed),
    )


def _in_words(worker: Any, limit: str) -> str:
    """Who asks for a limit: the whole application, single tasks, or both; empty if nobody does."""
    names = [name for name, limits in _asked(worker.app) if limit in limits]
    parts = [f"all tasks ({setting})"] if (setting := _of_application(worker, limit)) else []
    if names:
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        parts.append(f"{many(len(names), 'task')} ({', '.join(names[:_NAMED])}{more})")
    return " and ".join(parts)


def _asked(app: Any) -> Iterator[tuple[str, list[str]]]:
    """Every task of the application by name, with the limits that it has of its own."""
    for name, task in sorted(app.tasks.items()):
        layers = getattr(task, "limit_layers", ())[2:]  # the first two are the whole application's
        limits = [
            limit for half, limit in enumerate((SOFT, HARD)) if any(each[half] is not None for each in layers)
        ]
        policy = getattr(task, "policy", None)
        if policy is not None and policy.memory_limit is not None:
            limits.append(MEMORY)
        if limits:
            yield name, limits


def _of_application(worker: Any, limit: str) -> str:
    """The setting or option by which a limit was given to all tasks; empty if it was not."""
    if (setting := _APPLICATION.get(limit)) is None:
        return ""
    attribute = _ATTRIBUTES[limit]
    ours = LazyDefaults.of(worker.app)
    typed = ours.typed_limits[NAMES.index(attribute)] if ours is not None else None
    given = getattr(worker, attribute, None)
    if typed is not None or (given is not None and given != worker.app.conf[setting]):
        return "--" + attribute.replace("_", "-")
    return setting if ours is not None and ours.said(setting) is not None else ""
