"""What the report about an application is made of: notices, each in one of four groups."""

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from seawall.doctor.finding import Finding, Severity

_LISTED = 8  # places that a line for people names; more are counted


class Group(enum.Enum):
    """What becomes of something that an application says, or of something that it leaves to Celery."""

    CHANGES = "changes"
    LOST = "loses its meaning"
    CHECK = "check"
    FITS = "fits"


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice(Finding):
    """A finding about an application. `reason` says what happens under Seawall, `fix` how it stays as it is.

    `where` names settings, tasks and calls, each with its file and line where they are known.
    """

    group: Group
    where: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**Finding.as_dict(self), "group": self.group.value}

    def places(self) -> str:
        """`where` as one line for people."""
        more = len(self.where) - _LISTED
        return ", ".join(self.where[:_LISTED]) + (f" and {more:,} more" if more > 0 else "")


def _maker(group: Group, severity: Severity) -> Callable[[str, Iterable[str], str, str], Notice]:
    def make(check: str, where: Iterable[str], reason: str, fix: str) -> Notice:
        return Notice(check=check, group=group, severity=severity, where=tuple(where), reason=reason, fix=fix)

    return make


changes: Final = _maker(Group.CHANGES, Severity.WARNING)
"""It works otherwise than today."""

lost: Final = _maker(Group.LOST, Severity.WARNING)
"""Nothing reads it any more."""

look: Final = _maker(Group.CHECK, Severity.WARNING)
"""It may go wrong; somebody who knows the application has to look."""

refused: Final = _maker(Group.CHECK, Severity.ERROR)
"""It does not work."""


def fits(check: str, where: Iterable[str], reason: str) -> Notice:
    """It stays as it is."""
    return _maker(Group.FITS, Severity.INFO)(check, where, reason, "nothing to do")
