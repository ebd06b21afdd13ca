"""Calls in the application's source whose options mean something else under Seawall; none of them is run."""

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Final

from seawall.doctor.adoption.application import Application
from seawall.doctor.adoption.notice import Notice, changes, fits, look
from seawall.doctor.adoption.transport import PRIORITIES, is_redis, stays_stock
from seawall.priority import HIGHEST

_SUBMITTING: Final = frozenset({"apply_async", "retry", "s", "si", "signature", "set", "send_task"})
_STOCK_VISIBILITY: Final = 3600.0
_TIMES: Final = frozenset({"weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds"})
_UNSAFE: Final = frozenset({"pickle", "yaml"})


def audit_calls(application: Application) -> Iterator[Notice]:
    """Priorities, long delays, serializers and eager runs, wherever the source names them."""
    found: dict[str, list[str]] = defaultdict(list)
    names = {task.name.rpartition(".")[2] for task in application.tasks}
    visible = _visibility(application)
    for path, text in application.sources.files.items():
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                for kind in _kinds(call, call.func, names, visible):
                    found[kind].append(application.sources.at(path, call.lineno))
    yield from _said(application, found)


def _visibility(application: Application) -> float:
    options = application.said("broker_transport_options")
    said = options.get("visibility_timeout") if isinstance(options, Mapping) else None
    return float(said) if isinstance(said, int | float) else _STOCK_VISIBILITY


def _kinds(call: ast.Call, method: ast.Attribute, tasks: set[str], visible: float) -> Iterator[str]:
    if method.attr == "apply" and _last_name(method.value) in tasks:
        yield "apply"
    if method.attr not in _SUBMITTING:
        return
    options = {each.arg: each.value for each in call.keywords if each.arg is not None}
    if "priority" in options:
        yield "priority"
        level = _number(options["priority"])
        if level is not None and not 0 <= level <= HIGHEST:
            yield "range"
    if isinstance(given := options.get("serializer"), ast.Constant) and given.value in _UNSAFE:
        yield "serializer"
    if any(seconds > visible for name in ("countdown", "eta") for seconds in _delays(options.get(name))):
        yield "delay"


def _said(application: Application, found: Mapping[str, list[str]]) -> Iterator[Notice]:
    on_redis = is_redis(application) and not stays_stock(application)
    if found["priority"] and on_redis:
        yield changes("calls.priority", found["priority"], *PRIORITIES)
    if found["range"]:
        yield look(
            "calls.priority_range",
            found["range"],
            "priorities reach from 0 to 9; a submission with another one is refused (ConfigError)",
            "9 is the most urgent",
        )
    if found["delay"] and on_redis:
        yield fits(
            "calls.delay",
            found["delay"],
            "a delay beyond the visibility timeout made the stock transport deliver the task again and "
            "again; it waits in the server now, once",
        )
    if found["serializer"]:
        yield look(
            "calls.serializer",
            found["serializer"],
            "the message is written so, and workers refuse it where accept_content does not name it (as "
            "today)",
            "json where the arguments can be",
        )
    if found["apply"] and application.said("task_eager_propagates") is None:
        yield changes(
            "calls.apply",
            found["apply"],
            "apply() raises what the task raises, after its last attempt; it returned a result that had "
            "failed",
            "apply(throw=False), or task_eager_propagates = False",
        )


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _delays(node: ast.expr | None) -> Iterable[float]:
    """The constant delays, in seconds, in an expression: `2 * 60 * 60`, or `now + timedelta(days=2)`."""
    if node is None:
        return
    if (seconds := _number(node)) is not None:
        yield seconds
        return
    for each in ast.walk(node):
        if isinstance(each, ast.Call) and _last_name(each.func) == "timedelta":
            times = {part.arg: _number(part.value) for part in each.keywords if part.arg in _TIMES}
            if each.args:
                times["days"] = _number(each.args[0])
            yield timedelta(
                **{str(name): value for name, value in times.items() if value is not None}
            ).total_seconds()


def _number(node: ast.expr) -> float | None:
    """What an expression of constants comes to, or None."""
    value: Any = None
    if isinstance(node, ast.Constant):
        value = node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand)
        return None if inner is None else -inner
    elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult | ast.Add):
        left, right = _number(node.left), _number(node.right)
        if left is not None and right is not None:
            value = left * right if isinstance(node.op, ast.Mult) else left + right
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
