"""What an error of PostgreSQL means for whoever decides: retry it, count it, or let it be. Pure.

| kind | which | counts as the server's failure | the transaction may run again |
|---|---|---|---|
| AWAY | no SQLSTATE, 08, 53, 58, XX, 57P01/02/03/05, 25006 | yes | if COMMIT was not sent |
| AUTHENTICATION | 28, an unknown database, a wrong option of the URL | yes | no |
| SATURATED | the pool or the pooler had no connection free | no | no |
| TIMEOUT | 57014 | as a slow call | no |
| CONFLICT | 40001, 40P01, 55P03 | no | yes, the server undid it |
| UNKNOWN_FATE | 08007, 40003 | yes | no: it may be in effect |
| STATEMENT | all else: 22, 23, 42, P0, 25P03 | no | no |

`waits` is the closed list of what says that the server, the session or the tables are not there for a row
yet; any other error is about what the row holds.

Source of the classes: PostgreSQL, Appendix A, "PostgreSQL Error Codes".
"""

import re
from enum import Enum
from typing import Final

import psycopg
from psycopg_pool import PoolTimeout, TooManyRequests


class Kind(Enum):
    """See the table above."""

    AWAY = "away"
    AUTHENTICATION = "authentication"
    SATURATED = "saturated"
    TIMEOUT = "timeout"
    CONFLICT = "conflict"
    UNKNOWN_FATE = "unknown fate"
    STATEMENT = "statement"


COUNTED: Final = frozenset({Kind.AWAY, Kind.AUTHENTICATION, Kind.UNKNOWN_FATE})
"""Kinds that a circuit breaker counts as failures of the server."""

_EXACT: Final = {
    "57014": Kind.TIMEOUT,
    "3D000": Kind.AUTHENTICATION,
    "25006": Kind.AWAY,  # read-only: a failover, and we are still at the old primary
    **dict.fromkeys(("08007", "40003"), Kind.UNKNOWN_FATE),
    **dict.fromkeys(("40001", "40P01", "55P03"), Kind.CONFLICT),
    **dict.fromkeys(("57P01", "57P02", "57P03", "57P05"), Kind.AWAY),
}
_CLASS: Final = {
    **dict.fromkeys(("08", "53", "58", "XX"), Kind.AWAY),
    "28": Kind.AUTHENTICATION,
}
_NOT_THERE_YET: Final = frozenset({"25", "26", "3F", "42", "55", "57", "F0"})
"""Classes of kind STATEMENT that no value brings about: the transaction's state, tables and rights."""

# libpq gives no SQLSTATE for what happens while connecting, only the server's words.
_REFUSED: Final = re.compile(
    r"password authentication failed|authentication failed for user|no pg_hba\.conf entry"
    r"|(role|database) \"[^\"]*\" does not exist|no password supplied|permission denied for database"
)
_WRONG_OPTION: Final = re.compile(
    r"\bbad value for connect_timeout|\binvalid (?:\"?\w+\"? value: |integer value \"|port number: )"
    r"|\bdefinition of service \"[^\"]*\" not found"
    r"|FATAL: +(?:invalid value for parameter|parameter \"|unrecognized configuration parameter"
    r"|invalid command-line argument|-[^:]* requires a value)"
)
"""What libpq, psycopg and the server say of options; the server's words are English, as those above."""
_POOLER_FULL: Final = re.compile(r"query_wait_timeout|no more connections allowed")


def kind_of_state(sqlstate: str) -> Kind:
    """What a SQLSTATE means."""
    return _EXACT.get(sqlstate) or _CLASS.get(sqlstate[:2], Kind.STATEMENT)


def kind_of(error: psycopg.Error) -> Kind:
    """What an error of psycopg or its pool means."""
    if isinstance(error, (PoolTimeout, TooManyRequests)):
        return Kind.SATURATED
    if _from_a_pooler(error) and _POOLER_FULL.search(str(error)):
        return Kind.SATURATED
    if error.sqlstate is not None:
        return kind_of_state(error.sqlstate)
    if wrong_option(error):
        return Kind.AUTHENTICATION
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)):
        return Kind.AUTHENTICATION if _REFUSED.search(str(error)) else Kind.AWAY
    return Kind.STATEMENT


def wrong_option(error: psycopg.Error) -> bool:
    """Whether connecting failed for an option of the URL, which no server that comes back makes right."""
    return error.sqlstate is None and _WRONG_OPTION.search(str(error)) is not None


def _from_a_pooler(error: psycopg.Error) -> bool:
    """Whether its words may be a pooler's own; a statement's error may say the same of anything."""
    return error.sqlstate is None or kind_of_state(error.sqlstate) is Kind.AWAY


def repeatable(error: psycopg.Error, *, commit_sent: bool) -> bool:
    """Whether a whole transaction that failed with `error` left nothing behind and may run again."""
    kind = kind_of(error)
    return kind is Kind.CONFLICT or (kind is Kind.AWAY and not commit_sent)


def waits(error: psycopg.Error) -> bool:
    """Whether writing the same row later may work: the error does not come from what the row holds."""
    return kind_of(error) is not Kind.STATEMENT or (error.sqlstate or "")[:2] in _NOT_THERE_YET
