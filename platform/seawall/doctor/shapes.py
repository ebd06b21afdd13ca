"""What the values of an application's settings must be for the doctor to read them.

A value may be anything: Celery looks at most of them when it needs them, and at some never. Here each is
looked at once, before the audits. What cannot be read is named and left out, so that no audit loses what else
it would find.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from celery.app import defaults
from celery.schedules import maybe_schedule

from seawall.quantity import shown

if TYPE_CHECKING:
    from celery import Celery

_celery_defaults: Any = defaults
_maybe_schedule: Any = maybe_schedule

Faults = list[str]
"""What is wrong, each as a sentence that begins with the name of the setting."""

Reader = Callable[[str, Any, Faults], Any]
"""Of a setting and its value: what can be read of that, or None; it adds the faults."""


class Readable:
    """The settings of an application without what cannot be read in them, and `faults`, which name that."""

    def __init__(self, app: "Celery") -> None:
        self._conf: Any = app.conf
        self._read: dict[str, Any] = {}
        self.faults: Faults = []
        for setting in READERS:
            value, faults = readable(setting, getattr(self._conf, setting, None))
            self._read[setting] = _celery_defaults.DEFAULTS.get(setting) if value is None else value
            self.faults += faults

    def __getattr__(self, setting: str) -> Any:
        return self._read[setting] if setting in self._read else getattr(self._conf, setting)


def readable(setting: str, value: Any, *, name: str | None = None) -> tuple[Any, Faults]:
    """What can be read of a setting's value, or None, and what cannot, which faults say by its `name`."""
    read = READERS.get(setting)
    if read is None or value is None:
        return value, []
    faults: Faults = []
    try:
        return read(name or setting, value, faults), faults
    except Exception as exc:  # noqa: BLE001 - it is an object of the application
        return None, [f"{name or setting} cannot be read ({type(exc).__name__})"]


def number(value: Any) -> float | None:
    """A number of seconds; some come from the environment as text."""
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _one_that_is(kind: Any, said: str) -> Reader:
    """What reads a value of that kind, and says of any other that it is no such."""

    def read(setting: str, value: Any, faults: Faults) -> Any:
        if isinstance(value, kind):
            return value
        faults.append(f"{setting} is {shown(value)}, no {said}")
        return None

    return read


_text: Final = _one_that_is(str, "text")
_count: Final = _one_that_is(int | float, "number")
_mapping: Final = _one_that_is(Mapping, "mapping")


def _texts(setting: str, value: Any, faults: Faults) -> Any:
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple | set | frozenset):
        faults.append(f"{setting} is {shown(value)}, no list of texts")
        return None
    faults.extend(f"{setting} has {shown(each)}, no text" for each in value if not isinstance(each, str))
    return [each for each in value if isinstance(each, str)] or None


def _pool(setting: str, value: Any, faults: Faults) -> Any:
    return value if isinstance(value, type) else _text(setting, value, faults)


def _seconds(setting: str, value: Any, faults: Faults) -> Any:
    if (seconds := number(value)) is None:
        faults.append(f"{setting} is {shown(value)}, no number of seconds")
    return seconds


def _schedule(setting: str, value: Any, faults: Faults) -> Any:
    if _mapping(setting, value, faults) is None:
        return None
    wrong = {name: fault for name, entry in value.items() if (fault := _fault_of_entry(entry)) is not None}
    faults.extend(f"{setting}[{shown(name)}]{fault}" for name, fault in wrong.items())
    return {name: entry for name, entry in value.items() if name not in wrong}


def _fault_of_entry(entry: Any) -> str | None:
    """What is wrong with an entry of a schedule, or None."""
    if not isinstance(entry, Mapping):
        return None if hasattr(entry, "is_due") else f" is {shown(entry)}, no mapping"
    task, schedule, options = entry.get("task"), entry.get("schedule"), entry.get("options")
    if not isinstance(task, str):
        return f" has the task {shown(task)}, no name of one"
    if not isinstance(options, Mapping | None):
        return f" has the options {shown(options)}, no mapping"
    try:
        made = _maybe_schedule(schedule)
        long = getattr(made, "run_every", None)
        if isinstance(long, dt.timedelta):
            dt.datetime.now(dt.UTC) + long
    except Exception:  # noqa: BLE001 - beat would raise it as well: no calendar holds that moment
        made = None
    return None if hasattr(made, "is_due") else f" has the schedule {shown(schedule)}, which is none"


def _queues(setting: str, value: Any, faults: Faults) -> Any:
    """Names with options or queues, or a list of queues."""
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        pairs = [(getattr(each, "name", None), each) for each in value]
    else:
        faults.append(f"{setting} is {shown(value)}, no list of queues")
        return None
    good = {}
    for name, queue in pairs:
        if isinstance(name, str) and (isinstance(queue, Mapping) or hasattr(queue, "queue_arguments")):
            good[name] = queue
        else:
            faults.append(f"{setting} has {shown(queue)}, no queue")
    return good


def _routes(setting: str, value: Any, faults: Faults) -> Any:
    """Routers, mappings, and lists of pairs; each route a queue or options."""
    faults.extend(f"{setting} {fault}" for each in _routers(value) for fault in _faults_of_router(each))
    return value


def _routers(value: Any) -> Iterator[Any]:
    yield from value if isinstance(value, list | tuple) else [value]


def _faults_of_router(router: Any) -> Iterator[str]:
    if isinstance(router, Mapping):
        pairs: list[Any] = list(router.items())
    elif isinstance(router, list | tuple):
        pairs = list(router)
    else:
        if not (callable(router) or hasattr(router, "route_for_task") or isinstance(router, str | None)):
            yield f"has {shown(router)}, no router"
        return
    for each in pairs:
        match each:
            case [_, str() | None]:
                continue
            case [name, route]:
                queue = route.get("queue") if isinstance(route, Mapping) else _queue_in(route)
                if not (queue is None or isinstance(getattr(queue, "name", queue), str)):
                    yield f"sends {shown(name)} to {shown(queue)}, no queue"
            case _:
                yield f"has {shown(each)}, no pair of a name and a route"


def _queue_in(route: Any) -> Any:
    """The queue that pairs of options name; what is no such pairs is taken for the queue itself."""
    try:
        return dict(route).get("queue")
    except (TypeError, ValueError):
        return route


def _annotations(setting: str, value: Any, faults: Faults) -> Any:
    for each in value if isinstance(value, list | tuple) else [value]:
        if isinstance(each, Mapping):
            faults.extend(
                f"{setting}[{shown(name)}] is {shown(options)}, no mapping"
                for name, options in each.items()
                if not isinstance(options, Mapping)
            )
        elif not (hasattr(each, "annotate") or isinstance(each, str)):
            faults.append(f"{setting} has {shown(each)}, no mapping")
    return value


READERS: Final[Mapping[str, Reader]] = {
    **dict.fromkeys(
        ("task_serializer", "result_serializer", "broker_transport", "task_default_queue"), _text
    ),
    **dict.fromkeys(("task_default_queue_type", "task_create_missing_queue_type"), _text),
    **dict.fromkeys(("broker_url", "accept_content", "result_accept_content", "imports", "include"), _texts),
    **dict.fromkeys(("task_time_limit", "task_soft_time_limit"), _seconds),
    "worker_prefetch_multiplier": _count,
    "worker_pool": _pool,
    "broker_transport_options": _mapping,
    "result_backend_transport_options": _mapping,
    "beat_schedule": _schedule,
    "task_queues": _queues,
    "task_routes": _routes,
    "task_annotations": _annotations,
}
"""How each setting is read whose shape matters to an audit."""
