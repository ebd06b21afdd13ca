"""What `breaker(name, ...)` was given, validated once and frozen."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, Literal, TypedDict, get_args

from seawall.breaker.machine import Rules
from seawall.errors import ConfigError, MemoryBudgetExceeded, Refused, is_older
from seawall.failure import found_in, leaves
from seawall.later import called, refuse_later
from seawall.quantity import DAY, Duration, Number, Seconds, Whole, check_fields, shown

logger = logging.getLogger(__name__)

Mode = Literal["on", "observe", "disabled"]
Selector = tuple[type[BaseException], ...] | Callable[[BaseException], bool]

LONGEST_NAME: Final = 100
LONGEST_KEY: Final = 100
LONGEST_RAMP: Final = 10.0
_REFUSED_LATELY: Final = 60.0
"""Seconds after which a refusal no longer explains what was raised from it, which may be raised again."""

_disregarded: tuple[type[BaseException], ...] = (Refused, MemoryBudgetExceeded, ConfigError)


def disregard(*kinds: type[BaseException]) -> None:
    """These exceptions pass through calls and say nothing about any dependency: a refusal, control flow."""
    global _disregarded  # noqa: PLW0603 - known to whoever brings them, the worker
    _disregarded = tuple({*_disregarded, *kinds})


class Options(TypedDict, total=False):
    """The keywords of `breaker`; `Config` says what they are. Durations may be text, such as "30s"."""

    failure_rate: float
    slow_call: float | str | None
    slow_rate: float | None
    window: float | str
    min_calls: int
    open_for: float | str
    max_open_for: float | str
    probes: int
    call_timeout: float | str | None
    ramp_for: float | str | None
    quorum: int
    fallback: Any
    ignore: type[BaseException] | Selector
    record: type[BaseException] | Selector | None
    record_result: Callable[[Any], bool] | None
    mode: Mode
    max_keys: int


_Rate = Annotated[float, Number(least=1e-6, most=1)]
_Time = Annotated[float, Duration(least=0.001)]
_Calls = Annotated[int, Whole(least=1, most=1_000_000)]  # counted exactly in the table and in the scripts


@dataclass(frozen=True, kw_only=True)
class Config:
    """The options of one breaker. Two breakers of one name must have equal ones; see `breaker`."""

    failure_rate: _Rate = 0.5
    slow_call: _Time | None = None
    slow_rate: _Rate | None = None
    window: Annotated[float, Duration(least=0.1, most=DAY)] = 30.0
    min_calls: _Calls = 10
    open_for: _Time = 60.0
    max_open_for: _Time = 600.0
    probes: _Calls = 1
    call_timeout: _Time | None = None
    ramp_for: Seconds | None = None
    quorum: _Calls = 2
    fallback: Any = None
    ignore: Selector = ()
    record: Selector | None = None
    record_result: Callable[[Any], bool] | None = None
    mode: Mode = "on"
    max_keys: _Calls = 200

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def rules(self) -> Rules:
        """The numbers, as the state machine and the scripts take them."""
        slow_rate = 0.0 if self.slow_call is None else (self.slow_rate or self.failure_rate)
        ramp_for = min(LONGEST_RAMP, self.open_for / 6) if self.ramp_for is None else self.ramp_for
        return Rules(
            failure_rate=self.failure_rate,
            slow_rate=slow_rate,
            window=self.window,
            min_calls=self.min_calls,
            open_for=self.open_for,
            max_open_for=max(self.max_open_for, self.open_for),
            probes=self.probes,
            probe_for=30.0 if self.call_timeout is None else self.call_timeout + 1.0,
            ramp_for=ramp_for,
            quorum=self.quorum,
        )

    def failed(self, exc: BaseException) -> bool | None:
        """Whether an exception speaks against the dependency; None if it says nothing about it."""
        verdicts = {self._failed(each) for each in self._parts(exc)}
        return True if True in verdicts else False if False in verdicts else None

    def _failed(self, exc: BaseException) -> bool | None:
        if not isinstance(exc, Exception) or _is_disregarded(exc) or _selects(self.ignore, exc):
            return None  # cancelled, interrupted, refused by ourselves, or ignored on request
        return True if self.record is None else _selects(self.record, exc, otherwise=True)

    def shows_life(self, exc: BaseException) -> bool:
        """Whether an ignored exception is an answer of the dependency, and so proves that it is there."""
        return any(
            isinstance(each, Exception) and not _is_disregarded(each) and _selects(self.ignore, each)
            for each in self._parts(exc)
        )

    def _parts(self, exc: BaseException) -> Iterable[BaseException]:
        """The exceptions of a group, each of which is judged; itself if it is none, or named as a group."""
        if not isinstance(exc, BaseExceptionGroup):
            return (exc,)
        for selector in (self.ignore, self.record):
            if isinstance(selector, tuple) and any(
                issubclass(kind, BaseExceptionGroup) and isinstance(exc, kind) for kind in selector
            ):
                return (exc,)
        return leaves(exc)

    def is_bad(self, result: Any) -> bool:
        """Whether a result speaks against the dependency; a `record_result` that raises says nothing."""
        if self.record_result is None:
            return False
        try:
            return bool(called("record_result", self.record_result, result))
        except Exception:
            logger.exception("record_result=%r raised, and the call's own outcome stands", self.record_result)
            return False


def parse(options: dict[str, Any]) -> Config:
    """The configuration that `options` describe.

    Raises:
        ConfigError: one is unknown or wrong; the message names it, its value and the fix.
    """
    known = {field.name for field in fields(Config)}
    for name in options:
        if name not in known:
            raise ConfigError(f"breaker option {name!r} is unknown: use one of {', '.join(sorted(known))}")
    parsed: dict[str, Any] = {
        name: value if value is None and name in _OPTIONAL else _PARSERS.get(name, _as_it_is)(name, value)
        for name, value in options.items()
    }
    if parsed.get("slow_rate") is not None and parsed.get("slow_call") is None:
        raise ConfigError(
            f"slow_rate={shown(parsed['slow_rate'])} has no slow_call: say from which second on"
        )
    return Config(**parsed)


def check_name(name: object) -> str:
    """A breaker's name.

    Raises:
        ConfigError: it is none.
    """
    if isinstance(name, str) and not set(name) & set("[]{}\n"):
        with contextlib.suppress(UnicodeEncodeError):
            if 0 < len(name.encode()) <= LONGEST_NAME:
                return name
    raise ConfigError(
        f"breaker name {shown(name)} is not usable: use a text of 1 to {LONGEST_NAME} bytes without []{{}}"
    )


def _is_disregarded(exc: BaseException) -> bool:
    """Whether the dependency was not asked: `exc` is disregarded, or was raised from one that is."""
    if isinstance(exc, _disregarded):
        return True
    if exc.__cause__ is None and not isinstance(exc, BaseExceptionGroup):
        return False
    fresh = time.monotonic() - _REFUSED_LATELY

    def refused(each: BaseException) -> bool | None:
        return (isinstance(each, _disregarded) and not is_older(each, fresh)) or None

    return bool(found_in(exc, refused))


def _mode(name: str, value: Any) -> Mode:
    if value not in get_args(Mode):
        raise ConfigError(f"{name}={shown(value)} is unknown: use one of {', '.join(get_args(Mode))}")
    return value  # type: ignore[no-any-return] # one of them


def _function(name: str, value: Any) -> Callable[..., Any]:
    if not callable(value):
        raise ConfigError(f"{name}={shown(value)} is not callable: pass a function of the result")
    refuse_later(value, f"{name} cannot ask")
    return value  # type: ignore[no-any-return]


def _as_it_is(_name: str, value: Any) -> Any:
    return value


def _selector(name: str, value: Any) -> Selector:
    if callable(value) and not isinstance(value, type):
        refuse_later(value, f"{name} cannot ask")
        return value  # type: ignore[no-any-return]
    types = (value,) if isinstance(value, type) else value
    if not isinstance(types, tuple | list) or not all(
        isinstance(one, type) and issubclass(one, BaseException) for one in types
    ):
        raise ConfigError(f"{name}={shown(value)} selects nothing: pass exception types or a function of one")
    return tuple(types)


def _selects(selector: Selector, exc: BaseException, *, otherwise: bool = False) -> bool:
    """The selector's answer; of one that raises itself `otherwise`, as the call's own exception goes on."""
    if isinstance(selector, tuple):
        return isinstance(exc, selector)
    try:
        return bool(called("a breaker", selector, exc))
    except Exception:
        logger.exception("%r raised, asked about %s", selector, type(exc).__name__)
        return otherwise


_OPTIONAL: Final = {"record", "record_result"}

_PARSERS: Final[dict[str, Callable[[str, Any], Any]]] = {
    **dict.fromkeys(("ignore", "record"), _selector),
    "record_result": _function,
    "mode": _mode,
}
