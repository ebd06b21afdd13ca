"""Seconds, bytes and counts as people write them, parsed at the edge: inside there are `int` and `float`.

Every number that comes from outside (a setting, an option of a command, an argument, a field of fleet.toml)
has one of four kinds, and the kind has its bounds: `Duration`, `Size`, `Whole`, `Number`. A field names its
kind in its annotation (`Annotated[float, Duration(least=0.001)]`); pydantic, `check_fields` for dataclasses
and the commands go by that. What passes is finite and fits whatever it reaches: a wait of a thread, a timeout
of PostgreSQL, a score of Redis. There is no infinity: "no end" is to leave a field out, or its 0 where that
is written.
"""

import dataclasses
import math
import operator
import re
from collections.abc import Iterable
from dataclasses import dataclass
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Union, get_args, get_origin

from seawall.errors import ConfigError

if TYPE_CHECKING:
    from pydantic_core import core_schema

DAY: Final = 86400.0

LONGEST: Final = 36525 * DAY
"""Seconds, a hundred years: threads, calendars and Redis's scores can all hold the moment it ends."""

LONGEST_WAIT: Final = 24 * DAY
"""Seconds of what ends as milliseconds in 32 bits, as in poll() and PostgreSQL: those reach 24.8 days."""

MOST: Final = 2**31 - 1
"""The largest count: what an integer column and a C int hold."""

MOST_BYTES: Final = 1 << 50

_BYTES: Final = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)},
}
_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": DAY}
_STEP: Final = 1024
_QUANTITY: Final = re.compile(r"\s*+(\d++(?:\.\d++)?)\s*+([a-z]*+)\s*+", re.IGNORECASE | re.ASCII)
_PLAIN: Final = re.compile(r"\s*[+-]?\d+(\.\d*)?(e[+-]?\d+)?\s*", re.IGNORECASE | re.ASCII)
_SHOWN: Final = 60  # characters of a wrong value in its message


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A kind of number, from `least` to `most`; `or_zero` where 0 has a meaning of its own: no limit."""

    least: float = 0
    most: float = MOST
    or_zero: bool = False

    unit: ClassVar[str] = "number"
    wanted: ClassVar[str] = "a number: write one, such as 0.5"
    _json_type: ClassVar[str] = "number"
    _json_pattern: ClassVar[str] = ""  # of ECMA's kind: without flags

    def parse(self, value: object, *, field: str) -> Any:
        """What `value`, a number or text, means.

        Raises:
            ConfigError: it is no such number; one line with `field`, the value and what to write instead.
        """
        try:
            return self.read(value)
        except ValueError as exc:
            raise ConfigError(f"{field}={shown(value)} {exc}") from None

    def read(self, value: object) -> Any:
        """As `parse`, for callers who name the field themselves.

        Raises:
            ValueError: what is wrong, beginning with "is".
        """
        amount = self._amount(value)
        if amount is None or math.isnan(amount if isinstance(amount, float) else 0):
            raise ValueError(f"is not {self.wanted}")
        if not (self.least <= amount <= self.most or (self.or_zero and amount == 0)):
            raise ValueError(f"is out of range: use {self.bounds()}")
        return self._made(amount) + 0  # there is no -0.0

    def bounds(self) -> str:
        """From where to where, as it can be written."""
        ends = f"{self._written(self.least)} to {self._written(self.most)}"
        return f"0, or {ends}" if self.or_zero else ends

    def _amount(self, value: object) -> int | float | None:
        """`value` in the base unit, as it is; None if it is no number."""
        if isinstance(value, str):
            return self._of_text(value)
        if isinstance(value, bool):
            return None
        if isinstance(value, float):
            return float(value)
        try:
            return operator.index(value)  # type: ignore[arg-type] # of anything, numbers of numpy included
        except TypeError:
            return None

    def _of_text(self, text: str) -> int | float | None:
        return float(text) if _PLAIN.fullmatch(text) else None

    def _made(self, amount: float) -> int | float:
        return float(amount)

    def _written(self, amount: float) -> str:
        return f"{amount:g}"

    def __get_pydantic_core_schema__(self, _source: Any, _handler: Any) -> "core_schema.CoreSchema":
        """Validate by `read` and nothing else, where this is the annotation of a pydantic field."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(self.read)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: Any) -> dict[str, Any]:
        """For editors: the bounds, and the pattern of text where text with a unit means a number too."""
        least = 0 if self.or_zero else self.least
        number = {"type": self._json_type, "minimum": least, "maximum": self.most}
        text = {"type": "string", "pattern": self._json_pattern}
        return {"anyOf": [number, text]} if self._json_pattern else number


class Number(Quantity):
    """A share or a factor, as a float."""


class Whole(Quantity):
    """A count, as an int."""

    wanted = "a whole number: write one, such as 10"
    _json_type = "integer"

    def _amount(self, value: object) -> int | float | None:
        amount = super()._amount(value)
        whole = isinstance(amount, int) or (isinstance(value, str) and amount == math.inf)
        return amount if whole else None

    def _of_text(self, text: str) -> int | float | None:
        if not text.strip().lstrip("+-").isdecimal() or not _PLAIN.fullmatch(text):
            return None
        return int(text) if len(text) < _SHOWN else math.inf  # Python refuses to read thousands of digits

    def _made(self, amount: float) -> int | float:
        return int(amount)

    def _written(self, amount: float) -> str:
        return f"{int(amount):,}"


@dataclass(frozen=True, kw_only=True)
class Duration(Quantity):
    """A time in seconds, as a float: a number or text such as `"30s"`, `"250ms"`, `"5m"` or `"1.5 h"`."""

    most: float = LONGEST

    unit: ClassVar[str] = "seconds"
    wanted: ClassVar[str] = "a duration: write seconds or a unit, such as '30s', '250ms' or '5m'"
    _json_pattern: ClassVar[str] = r"^\s*\d+(\.\d+)?\s*([mM]?[sS]|[mM]([iI][nN])?|[hH]|[dD])?\s*$"

    def _of_text(self, text: str) -> float | None:
        return _in_base_unit(text, _SECONDS)

    def _written(self, amount: float) -> str:
        return format_duration(amount)


@dataclass(frozen=True, kw_only=True)
class Size(Quantity):
    """An amount of bytes, as an int: a number or text such as `"512MiB"`, `"1.5 GB"` or `"4096"`."""

    least: float = 1
    most: float = MOST_BYTES

    unit: ClassVar[str] = "bytes"
    wanted: ClassVar[str] = "a size: write bytes or a unit, such as '512MiB' or '2GB'"
    _json_type: ClassVar[str] = "integer"
    _json_pattern: ClassVar[str] = r"^\s*\d+(\.\d+)?\s*([kKmMgGtT]?[iI]?[bB])?\s*$"

    def _of_text(self, text: str) -> float | None:
        return _in_base_unit(text, _BYTES)

    def _made(self, amount: float) -> int | float:
        return int(amount)

    def _written(self, amount: float) -> str:
        return format_bytes(int(amount))


Seconds = Annotated[float, Duration()]
Wait = Annotated[float, Duration(least=0.001, most=LONGEST_WAIT)]
Bytes = Annotated[int, Size()]
Count = Annotated[int, Whole(least=1)]
Share = Annotated[float, Number(most=1)]


def parse_bytes(value: object, *, field: str = "memory") -> int:
    """Bytes from an int or from text such as `"512MiB"`, `"1.5 GB"` or `"4096"`.

    Raises:
        ConfigError: `value` is no positive amount of bytes; the message names `field`.
    """
    amount: int = Size().parse(value, field=field)
    return amount


def parse_duration(value: object, *, field: str = "duration", least: float = 0.0) -> float:
    """Seconds from a number or from text such as `"30s"`, `"250ms"`, `"5m"` or `"1.5 h"`.

    Raises:
        ConfigError: `value` is no duration of `least` or more; the message names `field`.
    """
    amount: float = Duration(least=least).parse(value, field=field)
    return amount


def quantity_of(annotation: Any, kept: Iterable[Any] = ()) -> Quantity | None:
    """The kind that a field's annotation names, or None; `Annotated[int, Size()] | None` names one too.

    `kept` is metadata that was taken off the annotation, as pydantic does.
    """
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    metadata = (part for option in options for part in getattr(option, "__metadata__", ()))
    return next((part for part in (*kept, *metadata) if isinstance(part, Quantity)), None)


def check_fields(record: Any, label: str = "{}") -> None:
    """Replace each number of a dataclass by what its annotation makes of it; None stays where it is allowed.

    `label` is how a message names a field.

    Raises:
        ConfigError: one is wrong.
    """
    for field in dataclasses.fields(record):
        kind, value = quantity_of(field.type), getattr(record, field.name)
        optional = get_origin(field.type) in (Union, UnionType)
        if kind is not None and not (value is None and optional):
            object.__setattr__(record, field.name, kind.parse(value, field=label.format(field.name)))


def shown(value: object) -> str:
    """A wrong value as its message shows it: short, and whatever it is."""
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - Python writes no int of thousands of digits; others may do anything
        return f"({type(value).__name__} that cannot be written)"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]}... ({len(text)} characters)"


def format_bytes(value: int) -> str:
    """`value` bytes with a binary unit: 536870912 is `"512 MiB"`."""
    amount, unit = float(value), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < _STEP or unit == "TiB":
            break
        amount /= _STEP
    return f"{amount:.4g} {unit}"


def format_duration(seconds: float) -> str:
    """`seconds` in the largest unit that leaves a whole number of it: 90 is `"90s"`, 0.001 is `"1ms"`."""
    for unit, size in (("d", DAY), ("h", 3600.0), ("m", 60.0), ("s", 1.0)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds * 1000:g}ms" if 0 < seconds < 1 else f"{seconds:g}s"


def format_age(seconds: float) -> str:
    """`seconds`, roughly, in the largest unit of which there are two at least: 86400 is `"24 h"`."""
    unit = next((unit for unit in ("d", "h", "m") if seconds >= 2 * _SECONDS[unit]), "s")
    return f"{seconds / _SECONDS[unit]:.3g} {unit}"


def _in_base_unit(text: str, units: dict[str, int] | dict[str, float]) -> float | None:
    """None if `text` is no number with one of `units`."""
    match = _QUANTITY.fullmatch(text)
    if match is None or (size := units.get(match[2].lower())) is None:
        return None
    return float(match[1]) * size
