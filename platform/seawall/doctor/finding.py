"""What the doctor says: findings, each with its severity, its reason and what to do."""

import enum
from dataclasses import asdict, dataclass
from typing import Any


class Severity(enum.Enum):
    """ERROR: something will be lost or will not work. WARNING: it may. INFO: worth knowing."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is not as it should be. `check` is its stable name, such as `redis.eviction`."""

    check: str
    severity: Severity
    reason: str
    fix: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "severity": self.severity.value}


def error(check: str, reason: str, fix: str) -> Finding:
    """A finding that has to be mended."""
    return Finding(check=check, severity=Severity.ERROR, reason=reason, fix=fix)


def warning(check: str, reason: str, fix: str) -> Finding:
    """A finding that should be mended."""
    return Finding(check=check, severity=Severity.WARNING, reason=reason, fix=fix)


def info(check: str, reason: str, fix: str) -> Finding:
    """A finding to know of."""
    return Finding(check=check, severity=Severity.INFO, reason=reason, fix=fix)
