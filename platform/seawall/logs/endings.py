"""How a line says that a task arrived or ended: its name once, its id once, numbers as numbers.

Celery and we log these moments as sentences that hold all of it as text. They are known by their templates,
so a line has a word for `event`, and the rest in fields:

    received, succeeded, retried, failed, ignored, rejected, revoked, overran

A sentence that an application puts in Celery's place is a line like any other.
tests/unit/test_contracts.py holds the templates against Celery's.
"""

import ast
import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from seawall.failure import LIMITS, limit_in_words

Fields = dict[str, Any]

RECEIVED: Final = "received"

RETRIED: Final = "Task %(name)s[%(id)s] retry: %(exc)s"
"""Celery's words, for a task that comes back without having said so itself."""

_RETRY: Final = re.compile(r"Retry in (?P<seconds>[\d.e+-]+)s(?:: (?P<reason>.*))?", re.DOTALL)
_EXCEPTION: Final = re.compile(r"(?P<name>[A-Z]\w*)\((?P<argument>None|['\"\d-].*?)?,?\)", re.DOTALL)
_LIMITS: Final = {path.rpartition(".")[2]: kind for path, kind in LIMITS.items()}
_LONGEST: Final = 4096  # characters that are read as a `repr`; longer ones stay as they are
_UNEXPECTED: Final = "raised unexpected"
_EXPECTED: Final = "raised expected"


def ending_of(record: logging.LogRecord, began: float | None) -> Fields | None:
    """The fields of such a line, `event`, `task` and `task_id` among them; None of any other record.

    `began` is when the run began that the line was written in, as `time.monotonic()` has it.
    """
    args, template = record.args, record.msg
    if not args or type(template) is not str:
        return None
    if type(args) is dict:
        reader = _NAMED.get(template)
        if reader is None or "id" not in args:
            return None
        fields = reader(args)
        if began is not None and "seconds" not in fields and fields["event"] != RECEIVED:
            fields["seconds"] = round(time.monotonic() - began, 6)
        fields["task"], fields["task_id"] = args.get("name"), args["id"]
        return fields
    placed = _PLACED.get(template)
    return None if placed is None or not isinstance(args, tuple) else placed(*args)


def in_words(shown: object) -> object:
    """An exception that Celery shows by its `repr`, `ValueError('no')`, as people write it: `ValueError: no`.

    Other text, also of an exception with several arguments, stays as it is.
    """
    if not isinstance(shown, str) or (found := _EXCEPTION.fullmatch(shown[:_LONGEST])) is None:
        return shown
    name, argument = found["name"], found["argument"]
    try:
        said = ast.literal_eval(argument or "None")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return shown
    if name in _LIMITS and not isinstance(said, str):
        return limit_in_words(_LIMITS[name], said)
    if argument is None:
        return name
    return f"{name}: {said}" if isinstance(said, str | int | float) else shown


def _received(_args: Mapping[str, Any]) -> Fields:
    return {"event": RECEIVED}


def _succeeded(args: Mapping[str, Any]) -> Fields:
    seconds = args["runtime"]
    if type(seconds) is float:
        seconds = round(seconds, 6)
    return {"event": "succeeded", "seconds": seconds, "result": args["return_value"]}


def _failed(args: Mapping[str, Any]) -> Fields:
    how = args["description"]
    said = in_words(args["exc"])
    return {"event": "failed", "reason": said if how in {_UNEXPECTED, _EXPECTED} else f"{how}: {said}"}


def _retried(args: Mapping[str, Any]) -> Fields:
    said = str(args["exc"])
    if (found := _RETRY.fullmatch(said)) is None:
        return {"event": "retried", "reason": in_words(said)}
    fields: Fields = {"event": "retried", "again_in": round(float(found["seconds"]), 6)}
    return {**fields, "reason": in_words(found["reason"])} if found["reason"] else fields


def _ignored(_args: Mapping[str, Any]) -> Fields:
    return {"event": "ignored"}


def _rejected(args: Mapping[str, Any]) -> Fields:
    return {"event": "rejected", "reason": args["exc"]}


def _revoked(name: Any, task_id: Any) -> Fields:
    return {"event": "revoked", "task": name, "task_id": task_id}


def _lost(error: Any) -> Fields:
    """Of the scope's task: its process is gone."""
    return {"event": "failed", "reason": in_words(repr(error))}


def _overran(limit: Any, name: Any, task_id: Any) -> Fields:
    return {"event": "overran", "reason": limit_in_words("hard", limit), "task": name, "task_id": task_id}


_NAMED: Final[Mapping[str, Callable[[Mapping[str, Any]], Fields]]] = {
    "Task %(name)s[%(id)s] received": _received,
    "Task %(name)s[%(id)s] succeeded in %(runtime)ss: %(return_value)s": _succeeded,
    "Task %(name)s[%(id)s] %(description)s: %(exc)s": _failed,
    RETRIED: _retried,
    "Task %(name)s[%(id)s] %(description)s": _ignored,
    "Task %(name)s[%(id)s] %(exc)s": _rejected,
}
_PLACED: Final[Mapping[str, Callable[..., Fields]]] = {
    "Discarding revoked task: %s[%s]": _revoked,
    "Hard time limit (%ss) exceeded for %s[%s]": _overran,
    "Task handler raised error: %r": _lost,
}
