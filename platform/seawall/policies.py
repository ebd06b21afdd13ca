"""How one task is run: its priority, retries, time and memory, and what it depends on.

`@policy(...)` goes under `@app.task` or `@shared_task`. It validates, hangs a frozen `Policy` on the
function and returns the function unchanged; `seawall.worker.task` applies it when Celery binds the task.
A task without it has `Policy()`: the defaults.
"""

import inspect
import random
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Annotated, Any, Final, Literal, TypeVar, get_args

from seawall import backoff
from seawall.errors import ConfigError
from seawall.failure import Category
from seawall.priority import Priority, parse_priority
from seawall.quantity import Bytes, Count, Duration, Number, Seconds, check_fields, quantity_of, shown
from seawall.redaction import Secrecy

HARD_LIMIT_GRACE: Final = 10.0
"""Seconds between the soft time limit, which a task may handle, and the hard one, which kills it."""

_ATTRIBUTE: Final = "__seawall_policy__"

Jitter = Literal["full", "equal", "none"]
F = TypeVar("F", bound=Callable[..., Any])


def _check_type(name: str, value: Any, kind: type | tuple[type, ...] = (list, tuple)) -> Any:
    if not isinstance(value, kind):
        wanted = kind.__name__ if isinstance(kind, type) else "list"
        raise ConfigError(f"{name}={shown(value)} is not a {wanted}: pass a {wanted}")
    return value


def _exception_types(given: Any) -> tuple[type[BaseException], ...] | None:
    """What `Retry.on` was given, one or several."""
    if given is None:
        return None
    types = tuple(given) if isinstance(given, Iterable) and not isinstance(given, type) else (given,)
    if not all(isinstance(one, type) and issubclass(one, BaseException) for one in types):
        raise ConfigError(f"retry.on={shown(given)} is not made of exception types: pass classes")
    return types


@dataclass(frozen=True, kw_only=True)
class Retry:
    """Attempts and the waits between them.

    Args:
        max_attempts: runs in all, the first included; 1 means never again.
        base: seconds before the second attempt, before jitter.
        factor: each further wait is this much longer.
        cap: the longest wait in seconds.
        jitter: "full" draws from [0, wait), "equal" from [wait/2, wait), "none" waits exactly.
        on: exception types that are retried; None means failures that are worth another attempt.
        per_category: other attempts and waits for failures of a `Category`, which stay subject to `on` of
            this Retry.
        budget: retries per first attempt of the task, cluster-wide (None: the setting `retry.budget`);
            0 leaves only the few that are always granted.
    """

    max_attempts: Count = 3
    base: Seconds = 1.0
    factor: Annotated[float, Number(least=1, most=1000)] = 2.0
    cap: Seconds = 300.0
    jitter: Jitter = "full"
    on: tuple[type[BaseException], ...] | type[BaseException] | None = None
    per_category: Mapping[Category, "Retry"] | None = None
    budget: Annotated[float, Number(most=10)] | None = None

    def __post_init__(self) -> None:
        check_fields(self, "retry.{}")
        if self.jitter not in get_args(Jitter):
            raise ConfigError(f"retry.jitter={shown(self.jitter)} is unknown: use one of {get_args(Jitter)}")
        object.__setattr__(self, "on", _exception_types(self.on))
        per_category: Any = {} if self.per_category is None else self.per_category
        if not isinstance(per_category, Mapping):
            raise ConfigError(
                f"retry.per_category={shown(per_category)} is no mapping: use {{Category.X: Retry(...)}}"
            )
        for category, retry in per_category.items():
            if not isinstance(category, Category) or not isinstance(retry, Retry):
                given = f"{{{shown(category)}: {shown(retry)}}}"
                raise ConfigError(f"retry.per_category={given} is wrong: use {{Category.X: Retry(...)}}")

    def of(self, category: Category) -> "Retry":
        """What holds for failures of `category`."""
        return (self.per_category or {}).get(category, self)

    @property
    def most_attempts(self) -> int:
        """Runs that any category may have."""
        return max(self.max_attempts, *(each.max_attempts for each in (self.per_category or {}).values()), 1)

    def delay(self, retry: int, *, rand: Callable[[], float] = random.random) -> float:
        """Seconds to wait before retry number `retry` (1 comes after the first attempt)."""
        wait = backoff.exponential(retry, base=self.base, factor=self.factor, cap=self.cap)
        match self.jitter:
            case "full":
                return backoff.full_jitter(wait, rand=rand)
            case "equal":
                return backoff.equal_jitter(wait, rand=rand)
            case _:
                return wait


@dataclass(frozen=True)
class Limit:
    """At most `n` running tasks, cluster-wide, per value of `key`.

    `key` is a template over the task's arguments, such as `"tenant:{tenant}"`.
    """

    key: str
    n: Count

    def __post_init__(self) -> None:
        if not isinstance(self.key, str) or not self.key:
            raise ConfigError(
                f"limit.key={shown(self.key)} is empty: use a template such as 'tenant:{{tenant}}'"
            )
        check_fields(self, "limit.{}")

    def arguments(self) -> set[str]:
        """The names of the task's arguments that `key` uses."""
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(self.key) if name is not None]
        except ValueError as exc:
            raise ConfigError(f"limit.key={self.key!r} is no template ({exc}): use '{{argument}}'") from exc
        return {name.partition(".")[0].partition("[")[0] for name in names}


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What `@policy` was given, validated. Seconds, bytes; `explicit` holds the fields that were named."""

    priority: int = Priority.NORMAL
    retry: Retry = field(default_factory=Retry)
    timeout: Annotated[float, Duration(least=0.001)] = 300.0
    memory: Bytes | None = None
    memory_limit: Bytes | None = None
    requires: tuple[str, ...] = ()
    limit: Limit | None = None
    redact: frozenset[str] = frozenset()
    explicit: frozenset[str] = frozenset()

    @property
    def hard_timeout(self) -> float:
        """Seconds after which the task is killed."""
        return self.timeout + HARD_LIMIT_GRACE


DEFAULT: Final = Policy()


def policy(  # noqa: PLR0913 - the face of the platform: one keyword per promise
    *,
    priority: int | str | None = None,
    retry: Retry | None = None,
    timeout: float | str | None = None,
    memory: int | str | None = None,
    memory_limit: int | str | None = None,
    requires: tuple[str, ...] | list[str] | None = None,
    limit: Limit | None = None,
    redact: tuple[str, ...] | list[str] | None = None,
) -> Callable[[F], F]:
    """The policy of the task defined below.

    Args:
        priority: 0-9 or a `Priority`, higher is more urgent (NORMAL).
        retry: when to try again (`Retry()`: 3 attempts, full jitter).
        timeout: seconds or "5m"; raises SoftTimeLimitExceeded in the task, which is killed 10 s later (300).
        memory: budget in bytes or "256MiB" (None: no budget declared).
        memory_limit: where the task is stopped (1.5 x `memory`).
        requires: names of the breakers that must be closed for the task to run.
        limit: cluster-wide concurrency by a key made from the arguments.
        redact: arguments that logs and events never show, beside those called password, token and the like.

    Raises:
        ConfigError: a field is wrong; the message names it, the value and the fix.
    """
    given = {name: value for name, value in locals().items() if value is not None}
    parsed = Policy(**_parse(given), explicit=frozenset(given))

    def attach(function: F) -> F:
        if limit is not None:
            _check_limit(limit, function)
        setattr(function, _ATTRIBUTE, parsed)
        return function

    return attach


def policy_of(function: object) -> Policy:
    """The policy that `@policy` hung on `function`, or the defaults."""
    return getattr(function, _ATTRIBUTE, DEFAULT)


def _parse(given: dict[str, Any]) -> dict[str, Any]:
    parse: dict[str, Callable[[Any], Any]] = {
        "priority": parse_priority,
        "retry": lambda value: _check_type("retry", value, Retry),
        "requires": lambda value: _parse_names("requires", value, "breaker"),
        "limit": lambda value: _check_type("limit", value, Limit),
        "redact": lambda value: frozenset(_parse_names("redact", value, "argument")),
    }
    for each in fields(Policy):
        if kind := quantity_of(each.type):
            parse.setdefault(each.name, partial(kind.parse, field=each.name))
    parsed = {name: parse[name](value) for name, value in given.items()}
    if (budget := parsed.get("memory")) is not None:
        parsed.setdefault("memory_limit", budget + budget // 2)
        if parsed["memory_limit"] < budget:
            raise ConfigError(
                f"memory_limit={given['memory_limit']!r} is below memory={given['memory']!r}: raise one"
            )
    return parsed


def _parse_names(field: str, value: object, what: str) -> tuple[str, ...]:
    if isinstance(value, str) or not all(
        isinstance(name, str) and name for name in _check_type(field, value)
    ):
        raise ConfigError(f"{field}={shown(value)} is no list of {what} names: write {field}=['payments']")
    return tuple(_check_type(field, value))


def _check_limit(limit: Limit, function: Callable[..., Any]) -> None:
    """Refuse a template that no call could fill: found here, not when the first task waits for it."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return
    if unknown := sorted(limit.arguments() - parameters.keys()):
        raise ConfigError(
            f"limit.key={limit.key!r} uses {unknown[0]!r}, which {function.__name__}() does not take: "
            f"use its arguments ({', '.join(parameters) or 'it has none'})"
        )


def secrecy_of(task: Any) -> dict[str, Any]:
    """What redaction must know of a task: its function, for its arguments' names, and which are secret.

    And the same of each other task of its application, whose signatures it may be given.
    """
    function, names = getattr(task, "run", None), getattr(task, "policy", DEFAULT).redact
    return {
        "function": function,
        "names": names,
        "tasks": partial(_secrecy_by_name, getattr(task, "app", None)),
    }


def _secrecy_by_name(app: Any, name: str) -> Secrecy | None:
    found = None if app is None else app.tasks.get(name)
    return None if found is None else Secrecy(found.run, getattr(found, "policy", DEFAULT).redact)
