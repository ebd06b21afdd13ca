"""Which failures deserve another attempt."""

from typing import Final

from seawall.errors import DatabaseUnavailable, Refused

RETRYABLE: Final[tuple[type[BaseException], ...]] = (
    DatabaseUnavailable,
    Refused,
    ConnectionError,
    TimeoutError,
)
"""Something was away and may be back: retried by `Retry(on=None)`. Anything else fails at once."""


def retryable(exc: BaseException) -> bool:
    """Whether `exc`, or an exception it was raised from, says that something was only away for now."""
    seen: set[int] = set()
    link: BaseException | None = exc
    while link is not None and id(link) not in seen:
        if isinstance(link, RETRYABLE):
            return True
        seen.add(id(link))
        link = link.__cause__
    return False
