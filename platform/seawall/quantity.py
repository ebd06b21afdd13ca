"""Bytes and seconds as people write them, parsed at the edge: inside there are only `int` and `float`."""

import math
import re
from dataclasses import dataclass
from typing import Annotated, Final

from pydantic import BeforeValidator

from seawall.errors import ConfigError

_BYTES: Final = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)},
}
_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_STEP: Final = 1024
_QUANTITY: Final = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.IGNORECASE | re.ASCII)


def parse_bytes(value: object, *, field: str = "memory") -> int:
    """Bytes from an int or from text such as `"512MiB"`, `"1.5 GB"` or `"4096"`.

    Raises:
        ConfigError: `value` is no positive amount of bytes; the message names `field`.
    """
    amount = _amount(value, _BYTES)
    if amount is None or amount < 1:
        raise ConfigError(
            f"{field}={value!r} is not a size: write bytes or a unit, such as '512MiB' or '2GB'"
        )
    return int(amount)


def parse_duration(value: object, *, field: str = "duration") -> float:
    """Seconds from a number or from text such as `"30s"`, `"250ms"`, `"5m"` or `"1.5 h"`.

    Raises:
        ConfigError: `value` is no duration of zero or more; the message names `field`.
    """
    amount = _amount(value, _SECONDS)
    if amount is None:
        raise ConfigError(
            f"{field}={value!r} is not a duration: write seconds or a unit, such as '30s', '250ms' or '5m'"
        )
    return amount


def _amount(value: object, units: dict[str, int] | dict[str, float]) -> float | None:
    """`value` in the base unit, or None if it is not a finite amount in one of `units`."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return float(value) if math.isfinite(value) and value >= 0 else None
    if not isinstance(value, str) or not (match := _QUANTITY.fullmatch(value)):
        return None
    unit = units.get(match[2].lower())
    return None if unit is None else float(match[1]) * unit


def format_bytes(value: int) -> str:
    """`value` bytes with a binary unit: 536870912 is `"512 MiB"`."""
    amount, unit = float(value), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if amount < _STEP or unit == "TiB":
            break
        amount /= _STEP
    return f"{amount:.4g} {unit}"


@dataclass(frozen=True)
class Unit:
    """What a setting's number counts, for its documentation."""

    name: str


Bytes = Annotated[int, BeforeValidator(lambda value: parse_bytes(value, field="size")), Unit("bytes")]
Seconds = Annotated[float, BeforeValidator(parse_duration), Unit("seconds")]
