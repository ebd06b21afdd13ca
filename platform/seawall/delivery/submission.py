"""What no worker could ever run is refused where it is submitted, before anything is sent.

`check` is passed by every call: `send_task`, `apply_async`, canvas, batches and retries, on every broker. It
looks at what a worker's entry would refuse (`worker.entry`), and at what Celery would raise something obscure
for. What Celery understands stays: a delay or an expiry in the past, an ETA as text, an empty id for a new
one. An id that is a `uuid.UUID` becomes its text.
"""

import math
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from kombu import Queue

from seawall.errors import ConfigError
from seawall.priority import HIGHEST, LOWEST, parse_priority

LONGEST_ID: Final = 255
"""Bytes of a task's id and of a queue's name, as the table of cells and the ledger keep them."""

DEEPEST: Final = 400
"""Levels of lists and mappings in the arguments: Python pickles some 450 of them for a pool's process."""

_MOST_SECONDS: Final = 1e12
_FURTHEST: Final = 2e11
"""Seconds, 6337 years: a moment further away has no date."""

_FURTHEST_BACK: Final = 2**31
_SHOWN: Final = 100
_SEQUENCES: Final = (list, tuple)  # a union would be made anew at each look
_CONTAINERS: Final = (Mapping, list, tuple, set, frozenset)
_EMBEDDED: Final = ("link", "link_error", "chain", "chord")
_PARTS: Final = ("tasks", "header", "body")


def check(name: object, args: Any, kwargs: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Look at a call and at what it starts later; the options that have to be said in another way.

    Raises:
        ConfigError: it names the field, its value and what to give. Nothing was sent.
    """
    if not isinstance(name, str) or not name:
        raise ConfigError(f"the name of a task is {_shown(name)}: give text. Nothing was submitted")
    check_arguments(name, args, kwargs)
    for each in _started_by(options):
        if isinstance(part := each.get("options"), Mapping):
            check_options(f"{name} > {each.get('task')}", part)
        check_arguments(name, each.get("args"), each.get("kwargs"))
    return check_options(name, options)


def check_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The same for options alone."""
    otherwise: dict[str, Any] = {}
    for field, value in options.items():
        rule = _RULES.get(field)
        if rule is None or value is None:
            continue
        holds, wish = rule
        if not holds(value):
            raise ConfigError(
                f"{field}={_shown(value)} of {name} is wrong: give {wish}. Nothing was submitted"
            )
        if isinstance(value, uuid.UUID):
            otherwise[field] = str(value)
    if options.get("priority") is not None:
        otherwise["priority"] = parse_priority(options["priority"])
    return otherwise


def check_arguments(name: str, args: Any, kwargs: Any) -> None:
    """The same for arguments alone."""
    level = [each for each in (args, kwargs) if each]
    for _ in range(DEEPEST):
        inner = {
            id(each): each for outer in level for each in _inside(outer) if isinstance(each, _CONTAINERS)
        }
        if not inner:
            return
        level = list(inner.values())
    raise ConfigError(
        f"the arguments of {name} are nested more than {DEEPEST} deep: flatten them, or store them elsewhere "
        "and send a reference. Nothing was submitted"
    )


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, _CONTAINERS) else ()


def _started_by(options: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The signatures that a call carries along, however deep: links, the rest of a chain, a chord's body."""
    waiting = [each for field in _EMBEDDED if (each := options.get(field))]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if isinstance(each, Mapping):
            if id(each) in seen:
                continue
            seen.add(id(each))
            yield each
            if isinstance(part := each.get("options"), Mapping):
                waiting.extend(part.get(field) for field in _EMBEDDED)
            if each.get("subtask_type") and isinstance(part := each.get("kwargs"), Mapping):
                waiting.extend(part.get(field) for field in _PARTS)
        elif isinstance(each, _SEQUENCES):
            waiting.extend(each)  # `+=` would make it one of those that Celery computes as they are read


def fits(text: str) -> bool:
    """Whether it can be a task's id or a queue's name."""
    if len(text) <= LONGEST_ID and text.isascii() and text.isprintable():
        return True
    try:
        return len(text.encode()) <= LONGEST_ID and "\0" not in text
    except UnicodeEncodeError:
        return False


def _is_id(value: object) -> bool:
    return isinstance(value, uuid.UUID) or (isinstance(value, str) and fits(value))


def _is_name(value: object) -> bool:
    if isinstance(value, Queue):
        value = value.name
    return isinstance(value, str) and fits(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))


def _is_limit(value: Any) -> bool:
    return _is_number(value) and not isinstance(value, bool) and 0 <= value <= _MOST_SECONDS


def _is_delay(value: Any) -> bool:
    return _is_number(value) and -_FURTHEST_BACK <= value <= _FURTHEST


def _is_moment(value: Any) -> bool:
    """A date, or what shows itself as one, or its text: as Celery's `eta`."""
    if not value or isinstance(value, datetime):
        return True
    try:
        datetime.fromisoformat(value if isinstance(value, str) else value.isoformat())
    except Exception:  # noqa: BLE001 - whatever a foreign object raises
        return False
    return True


def _is_priority(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, int) and LOWEST <= value <= HIGHEST)


def _is_expiry(value: Any) -> bool:
    return isinstance(value, datetime) or _is_delay(value) or (isinstance(value, str) and _is_moment(value))


_ID: Final = (_is_id, f"text of at most {LONGEST_ID} bytes of UTF-8, without NUL")
_SECONDS: Final = (_is_limit, "a number of seconds, 0 or more")
_TEXT: Final = (lambda value: isinstance(value, str), "text")
_COUNT: Final = (
    lambda value: isinstance(value, int) and 0 <= value <= _MOST_SECONDS,
    "a whole number, 0 or more",
)
_RULES: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    **dict.fromkeys(("task_id", "root_id", "parent_id", "group_id"), _ID),
    **dict.fromkeys(("time_limit", "soft_time_limit"), _SECONDS),
    "countdown": (_is_delay, "a number of seconds (of a timedelta: its total_seconds())"),
    "eta": (_is_moment, "a datetime or its ISO 8601 text (for seconds from now: countdown)"),
    "expires": (_is_expiry, "a number of seconds, a datetime or its ISO 8601 text"),
    "priority": (_is_priority, "an int from 0 to 9 (9 is most urgent) or the name of a Priority"),
    "queue": (_is_name, f"a name of at most {LONGEST_ID} bytes of UTF-8, or a Queue of one"),
    "shadow": _TEXT,
    "reply_to": _TEXT,
    "retries": _COUNT,
    "group_index": _COUNT,
    "headers": (lambda value: isinstance(value, Mapping), "a mapping"),
}


def _shown(value: object) -> str:
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001 - nested too deep to be shown
        return f"a {type(value).__name__}"
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
