"""Where an application sends its tasks: the one reader of `task_routes`.

It follows Celery's `routes.prepare`. What is no list or tuple is one router. A mapping, and a list of pairs,
say by name or pattern where a task goes: to a queue, as text, or by options. Any other router decides for one
task at a time, so it is asked for each that is known, without arguments; it is code of the application and
may refuse that.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from celery.app.routes import expand_router_string

from seawall.failure import message_of
from seawall.quantity import shown

if TYPE_CHECKING:
    from celery import Celery


@dataclass(kw_only=True)
class Routes:
    """What `task_routes` say: names or patterns of tasks with their options, and who did not answer."""

    entries: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def routes_of(setting: Any, tasks: Mapping[str, Any]) -> Routes:
    """What is written in `task_routes`, and what its routers decide for `tasks`, by their names."""
    found = Routes()
    for each in setting if isinstance(setting, list | tuple) else [setting]:
        if isinstance(each, Mapping | list | tuple):
            found.entries += _written(each.items() if isinstance(each, Mapping) else each)
        elif each is not None:
            _ask(each, tasks, found)
    return found


def queue_of(options: Mapping[str, Any]) -> str | None:
    """The queue that options of a route, of a task or of a schedule name: as text, or as a kombu Queue."""
    queue = options.get("queue")
    name = getattr(queue, "name", queue)
    return name if isinstance(name, str) and name else None


def destinations(app: "Celery") -> tuple[list[tuple[str, str]], list[str]]:
    """Who sends tasks to which queue, as far as it says so, and the routers that did not answer."""
    tasks = {name: app.tasks[name] for name in sorted(app.tasks) if not name.startswith("celery.")}
    routes = routes_of(app.conf.task_routes, tasks)
    schedule = app.conf.beat_schedule
    named = [
        *((f"task_routes[{name!r}]", options) for name, options in routes.entries),
        *((f"the task {name}", {"queue": getattr(task, "queue", None)}) for name, task in tasks.items()),
        *(
            (f"beat_schedule[{name!r}]", _options(_of_entry(entry)))
            for name, entry in (schedule.items() if isinstance(schedule, Mapping) else ())
        ),
    ]
    return [(who, queue) for who, options in named if (queue := queue_of(options))], routes.unread


def _written(pairs: Iterable[Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for each in pairs:
        if isinstance(each, list | tuple) and len(each) == len(("name", "route")):
            name, route = each
            yield str(name.pattern if isinstance(name, re.Pattern) else name), _options(route)


def _options(route: Any) -> Mapping[str, Any]:
    """A route as options: Celery takes a mapping, pairs of names and values, and the name of a queue."""
    if isinstance(route, Mapping):
        return route
    try:
        return dict(route)
    except (TypeError, ValueError):
        return {"queue": route}


def _of_entry(entry: Any) -> Any:
    options = entry.get("options") if isinstance(entry, Mapping) else getattr(entry, "options", None)
    return options or {}


def _ask(router: Any, tasks: Mapping[str, Any], found: Routes) -> None:
    """Have a router decide for each task, until it fails."""
    task, name = None, getattr(router, "__qualname__", None) or shown(router)
    try:
        if isinstance(router, str):
            router = expand_router_string(router)
        for task in tasks:
            if hasattr(router, "route_for_task"):
                route = router.route_for_task(task, (), {})
            else:
                route = router(task, (), {}, {}, task=tasks[task])
            if route is not None:
                found.entries.append((task, _options(route)))
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - it is code of the application
        asked = f"cannot be asked for {task} without its arguments" if task else "cannot be read"
        found.unread.append(f"{name} {asked} ({type(exc).__name__}: {message_of(exc)})")
