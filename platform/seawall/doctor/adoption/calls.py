"""Calls in the application's source whose options mean something else under Seawall; none of them is run."""

import ast
import math
import operator
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from seawall.doctor.adoption.application import Application
from seawall.doctor.adoption.notice import Notice, changes, fits, look
from seawall.doctor.adoption.transport import PRIORITIES, is_redis, queue_names, stays_stock
from seawall.doctor.shapes import number
from seawall.priority import HIGHEST

_SUBMITTING: Final = frozenset({"apply_async", "retry", "signature", "set", "send_task"})
_OF_LISTS: Final = frozenset({"llen", "lrange", "lindex", "lrem", "lpop", "rpop", "blpop", "brpop"})
_STOCK_VISIBILITY: Final = 3600.0
_TIMES: Final = frozenset({"weeks", "days", "hours", "minutes", "seconds", "milliseconds", "microseconds"})
_UNSAFE: Final = frozenset({"pickle", "yaml"})
_OPERATORS: Final[Mapping[type[ast.operator], Callable[[float, float], Any]]] = {
    ast.Mult: operator.mul,
    ast.Add: operator.add,
    ast.Pow: operator.pow,
}


def audit_calls(application: Application) -> Iterator[Notice]:
    """Priorities, long delays, serializers, eager runs and lists of Redis, wherever the source names them."""
    trees = dict(_trees(application))
    search = _Search(
        tasks={getattr(task.function, "__name__", "") for task in application.tasks},
        queues=queue_names(application),
        constants=_constants(trees.values()),
        visible=_visibility(application),
    )
    found: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees.items():
        for call in ast.walk(tree):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
                for kind in search.kinds(call, call.func):
                    found[kind].append(application.sources.at(path, call.lineno))
    yield from _said(application, found)


def _trees(application: Application) -> Iterator[tuple[Path, ast.Module]]:
    for path, text in application.sources.python.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the source's own, such as invalid escapes
                yield path, ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue


def _constants(trees: Iterable[ast.Module]) -> dict[str, set[str]]:
    """Texts that modules give a name at their top level, such as `LOW = "low_priority"`."""
    found: dict[str, set[str]] = defaultdict(set)
    for tree in trees:
        for each in tree.body:
            if isinstance(each, ast.Assign) and isinstance(each.value, ast.Constant):
                for target in each.targets:
                    if isinstance(target, ast.Name) and isinstance(each.value.value, str):
                        found[target.id].add(each.value.value)
    return found


def _visibility(application: Application) -> float:
    options = application.said("broker_transport_options")
    said = number(options.get("visibility_timeout")) if isinstance(options, Mapping) else None
    return _STOCK_VISIBILITY if said is None else said


@dataclass(frozen=True, kw_only=True)
class _Search:
    """What calls are looked for: of these tasks, with these queues, with delays above `visible` seconds."""

    tasks: set[str]
    queues: set[str]
    constants: Mapping[str, set[str]]
    visible: float

    def kinds(self, call: ast.Call, method: ast.Attribute) -> Iterator[str]:
        """The kinds of a call's findings."""
        if method.attr in _OF_LISTS and call.args and self._is_queue(call.args[0]):
            yield "list"
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
        delays = [*_delays(options.get("countdown")), *_delays(options.get("eta"))]
        if any(seconds > self.visible for seconds in delays):
            yield "delay"

    def _is_queue(self, node: ast.expr) -> bool:
        if isinstance(node, ast.Constant):
            return node.value in self.queues
        return not self.queues.isdisjoint(self.constants.get(_last_name(node), ()))


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
    if found["list"] and on_redis:
        yield look(
            "calls.list",
            found["list"],
            "they read a queue's list in Redis, where Seawall keeps no messages: it looks empty",
            "`seawall queues list`, or with seawall.delivery.Queues.open(app.connection_for_write()): "
            "counts(), purge(), pause()",
        )
    if found["serializer"]:
        yield look(
            "calls.serializer",
            found["serializer"],
            "the message is written so, and workers refuse it where accept_content does not name it (as "
            "today)",
            "json where the arguments can be",
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
            given = {str(name): value for name, value in times.items() if value is not None}
            try:
                yield timedelta(**given).total_seconds()
            except (OverflowError, ValueError):
                yield math.inf


def _number(node: ast.expr) -> float | None:
    """What an expression of constants comes to, or None."""
    try:
        return _value(node)
    except OverflowError:
        return math.inf
    except ArithmeticError:
        return None


def _value(node: ast.expr) -> float | None:
    value: Any = None
    if isinstance(node, ast.Constant):
        value = node.value
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _number(node.operand)
        return None if inner is None else -inner
    elif isinstance(node, ast.BinOp) and (apply := _OPERATORS.get(type(node.op))) is not None:
        left, right = _number(node.left), _number(node.right)
        if left is not None and right is not None:
            value = apply(left, right)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
