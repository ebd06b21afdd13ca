"""How urgent a task is: 0 to 9, higher first, on every broker."""

from enum import IntEnum
from typing import Final

from seawall.errors import ConfigError
from seawall.quantity import shown


class Priority(IntEnum):
    """Names for the usual levels; every int from 0 to 9 works as well."""

    IDLE = 1
    LOW = 3
    NORMAL = 5
    HIGH = 7
    CRITICAL = 9


LOWEST: Final = 0
HIGHEST: Final = 9


def parse_priority(value: object) -> int:
    """The priority meant by an int, a `Priority` or its name in any case.

    Raises:
        ConfigError: `value` is none of these or not within 0 to 9.
    """
    if isinstance(value, str):
        try:
            return Priority[value.upper()]
        except KeyError:
            names = ", ".join(Priority.__members__)
            raise ConfigError(
                f"priority={shown(value)} is unknown: use one of {names} or a number 0-9"
            ) from None
    if isinstance(value, bool) or not isinstance(value, int) or not LOWEST <= value <= HIGHEST:
        raise ConfigError(
            f"priority={shown(value)} is out of range: use a Priority or an int from 0 to 9 (most urgent)"
        )
    return int(value)
