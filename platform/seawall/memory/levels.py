"""Pressure: how near the workers of a machine are to their budget, as one of four levels.

A level is entered at its mark and left `hysteresis` below it, so that use around a mark does not make
consumption pause and resume in turns.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated, Final

from seawall.errors import ConfigError
from seawall.priority import HIGHEST, LOWEST, Priority
from seawall.quantity import Share, Whole, check_fields

_Priority = Annotated[int, Whole(most=HIGHEST)]

NEVER: Final = 10
"""A floor above every priority: nothing starts."""


class Pressure(IntEnum):
    """Levels in rising order; comparisons mean what they say."""

    NORMAL = 0
    WARNING = 1
    CRITICAL = 2
    EXHAUSTED = 3


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Where each level begins, as shares of the budget, and who may still start there.

    Args:
        warning, critical, exhausted: the share of the budget at which the level is entered.
        hysteresis: how far below its mark a level is left.
        warning_priority, critical_priority: the least priority that starts under that level. Under EXHAUSTED
            nothing starts.

    Raises:
        ConfigError: the marks are not in order; the message names the fields.
    """

    warning: Share = 0.5
    critical: Share = 0.8
    exhausted: Share = 0.95
    hysteresis: Share = 0.05
    warning_priority: _Priority = Priority.NORMAL
    critical_priority: _Priority = Priority.CRITICAL
    _marks: tuple[float, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        check_fields(self, "memory.{}")
        marks = (self.warning, self.critical, self.exhausted)
        if not 0 < self.warning < self.critical < self.exhausted <= 1:
            raise ConfigError(
                f"memory.warning, memory.critical, memory.exhausted={marks} are not in order: "
                "use rising shares of the budget between 0 and 1, such as 0.5, 0.8, 0.95"
            )
        if not 0 <= self.hysteresis < self.warning:
            raise ConfigError(
                f"memory.hysteresis={self.hysteresis} is not between 0 and memory.warning={self.warning}: "
                "use a small share of the budget, such as 0.05"
            )
        object.__setattr__(self, "_marks", marks)

    def level(self, share: float, *, before: Pressure = Pressure.NORMAL) -> Pressure:
        """The level at `share` of the budget in use, coming from the level `before`."""
        rising = Pressure(sum(share >= mark for mark in self._marks))
        staying = Pressure(sum(share > mark - self.hysteresis for mark in self._marks))
        return max(rising, min(before, staying))

    def floor(self, level: Pressure) -> int:
        """The least priority that may start under `level`."""
        return (LOWEST, self.warning_priority, self.critical_priority, NEVER)[level]
