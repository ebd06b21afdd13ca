"""A failure: what a classified exception is, and by what it is recognised as the same one again. Pure."""

import functools
import re
from collections import deque
from dataclasses import dataclass
from enum import Enum, IntEnum
from hashlib import sha1
from typing import Final

_FRAMES: Final = 6
_MESSAGE: Final = 300
_VARIABLE: Final = re.compile(
    r"""'[^']*'|"[^"]*"              # quoted values
    |\b[a-z][a-z0-9+.-]*://\S+       # URLs
    |(?:/[\w.@~+-]+)+/?              # paths
    |\b0x[0-9a-f]+\b                 # addresses
    |\b[\w-]*(?:\.[\w-]+)+           # hosts, versions, dotted names
    |\b[0-9a-f]{8}[0-9a-f-]*\b       # hashes, UUIDs
    |[\w-]*\d[\w-]*                  # numbers, and names that hold one
    """,
    re.IGNORECASE | re.VERBOSE,
)


class Category(Enum):
    """What failed."""

    DATABASE = "database"
    NETWORK = "network"
    MEMORY = "memory"
    TIMEOUT = "timeout"
    DEPENDENCY = "dependency"
    VALIDATION = "validation"
    INTERNAL = "internal"


class Severity(IntEnum):
    """How bad it is; comparable."""

    TRACE = 5
    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    FATAL = 50


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a kind of exception means, whoever raised it."""

    category: Category
    severity: Severity
    retryable: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """One classified exception. Failures of equal `fingerprint` are the same problem."""

    category: Category
    severity: Severity
    retryable: bool
    fingerprint: str


def fingerprint(exc: BaseException, task: str = "") -> str:
    """16 hex digits: equal for the same kind of exception from the same functions, with a like message.

    Line numbers, ids, hosts, numbers, paths and quoted values do not count; neither does the machine.
    """
    kind = type(exc)
    parts = [f"{kind.__module__}.{kind.__qualname__}", task, *_functions(exc), normalised(exc)]
    return digest(parts)


def digest(parts: list[str]) -> str:
    """`parts` in 16 hex digits."""
    return sha1("\0".join(parts).encode(errors="replace"), usedforsecurity=False).hexdigest()[:16]


def normalised(exc: BaseException) -> str:
    """The first line of the message without what differs from one occurrence to the next."""
    try:
        message = str(exc)[:_MESSAGE].partition("\n")[0]
    except Exception as broken:  # noqa: BLE001 - a foreign __str__ may do anything; its failure is the message
        message = f"unprintable: {type(broken).__name__}"
    return _without_variables(message)


@functools.lru_cache(maxsize=1024)
def _without_variables(message: str) -> str:
    """Most of an error's cost; an outage says the same again and again."""
    return _VARIABLE.sub("*", message)


def _functions(exc: BaseException) -> list[str]:
    """The innermost functions of the traceback, recursion folded."""
    innermost: deque[str] = deque(maxlen=_FRAMES)
    step = exc.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        if not innermost or innermost[-1] != code.co_qualname:
            innermost.append(code.co_qualname)
        step = step.tb_next
    return list(innermost)
