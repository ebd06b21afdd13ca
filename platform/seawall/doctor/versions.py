"""Installed versions that Seawall does not support.

They are read from the packages' metadata, before anything of the application or of Celery is imported: with a
version outside the bounds that may fail.
"""

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Final

from packaging.requirements import Requirement

from seawall.doctor.finding import Finding, error

_OLDEST_PYTHON: Final = (3, 11)


def audit_versions(python: tuple[int, int] = sys.version_info[:2]) -> Iterator[Finding]:
    """Python, and in one finding all packages outside the versions that Seawall was tested with."""
    if python < _OLDEST_PYTHON:
        yield error("versions.python", f"this is Python {python[0]}.{python[1]}", "use Python 3.11 or newer")
    outside = dict(_outside())
    if outside:
        yield error(
            "versions.packages",
            f"{', '.join(outside.values())}: Seawall was not tested with that and may lose tasks",
            f"pip install {' '.join(map(repr, outside))}",
        )


def _outside() -> Iterator[tuple[str, str]]:
    """What to install, and what is there instead."""
    for line in requires("seawall") or ():
        wanted = Requirement(line)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            yield _as_written(wanted), f"{wanted.name} is not installed"
            continue
        if not wanted.specifier.contains(found, prereleases=True):
            yield _as_written(wanted), f"{wanted.name} {found} is installed"


def _as_written(wanted: Requirement) -> str:
    """As a person writes it: the lower bound first."""
    extras = f"[{','.join(sorted(wanted.extras))}]" if wanted.extras else ""
    return f"{wanted.name}{extras}{','.join(sorted(map(str, wanted.specifier), reverse=True))}"
