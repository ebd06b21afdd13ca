"""`classify`: which failure an exception is, and whether another attempt may go better.

An exception is known by its class's path, so no library is imported for it; the most derived class that
has a rule decides. What carries more is looked at: an HTTP status, a SQLSTATE, an errno. Unknown
exceptions are judged by the exception they were raised from; unknown to the end they are INTERNAL and not
retried. Rules of the application (`register_failure`) come before ours.
"""

import errno
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final
from weakref import WeakKeyDictionary

from seawall.errors import ConfigError
from seawall.failure import (
    Category,
    Failure,
    Severity,
    Verdict,
    digest,
    fingerprint,
    leaves,
    name_of,
    path_of,
)

_DEPTH: Final = 20
"""Links of a chain, and levels of groups, that are looked at."""

_LEAVES: Final = 32
"""Exceptions of a group that its fingerprint covers: one with thousands must not cost milliseconds."""

"""Exceptions and groups that are looked at for what a group means."""


def _passing(category: Category) -> Verdict:
    return Verdict(category, Severity.WARNING, retryable=True)


def _lasting(category: Category) -> Verdict:
    return Verdict(category, Severity.ERROR, retryable=False)


UNKNOWN: Final = _lasting(Category.INTERNAL)
_INVALID: Final = Verdict(Category.VALIDATION, Severity.WARNING, retryable=False)
_ASKED_FOR: Final = Verdict(Category.INTERNAL, Severity.INFO, retryable=False)
_FATAL: Final = Verdict(Category.INTERNAL, Severity.FATAL, retryable=False)
_NETWORK: Final = _passing(Category.NETWORK)
_TIMEOUT: Final = _passing(Category.TIMEOUT)
_DEPENDENCY: Final = _passing(Category.DEPENDENCY)
_REFUSED: Final = _lasting(Category.DEPENDENCY)
_OUT_OF_MEMORY: Final = _lasting(Category.MEMORY)

_Rule = Verdict | Callable[[Any], Verdict | None]


def _of_status(exc: Any) -> Verdict | None:
    """By the HTTP status, wherever the library keeps it."""
    response = getattr(exc, "response", None)
    status = getattr(response, "status_code", None)
    if status is None:
        status = getattr(exc, "status", None) or getattr(exc, "code", None)
    if not isinstance(status, int) or status < 400:  # noqa: PLR2004 - HTTP's own number
        return None
    if status in {408, 504}:
        return _TIMEOUT
    if status in {425, 429, 500, 502, 503}:
        return _DEPENDENCY
    if status in {401, 403, 407} or status >= 500:  # noqa: PLR2004
        return _REFUSED
    return _INVALID


def _of_response(exc: Any) -> Verdict | None:
    """Clients that nobody told us of: what carries a response failed by its status."""
    return _of_status(exc) if hasattr(exc, "response") else None


def _of_database(exc: Any) -> Verdict | None:
    """By psycopg's error; whoever raised it has loaded psycopg already."""
    from seawall.database.sqlstate import Kind, kind_of

    passing = Verdict(Category.DATABASE, Severity.WARNING, retryable=True)
    return {
        Kind.AWAY: passing,
        Kind.SATURATED: passing,
        Kind.CONFLICT: passing,
        Kind.TIMEOUT: _lasting(Category.TIMEOUT),
        Kind.AUTHENTICATION: _lasting(Category.DATABASE),
        Kind.UNKNOWN_FATE: _lasting(Category.DATABASE),
        Kind.STATEMENT: _lasting(Category.DATABASE),
    }[kind_of(exc)]


_ERRNO: Final = {
    **dict.fromkeys(
        (
            errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL,
            errno.ENETRESET, errno.ENOTCONN, errno.ENOBUFS,
        ),
        _NETWORK,
    ),
    errno.ETIMEDOUT: _TIMEOUT,
    errno.ENOMEM: _OUT_OF_MEMORY,
}  # fmt: skip


def _of_system(exc: Any) -> Verdict | None:
    return _ERRNO.get(exc.errno)


def _of_connection(exc: BaseException) -> Verdict:
    """A library's "cannot connect": for good if a certificate or the protocol was the reason."""
    for link in _reasons(exc):
        kind = _path(type(link))
        if kind in {"ssl.SSLCertVerificationError", "ssl.SSLError", "urllib3.NameResolutionError"}:
            return _verdict_of_type(link) or _NETWORK
    return _NETWORK


def _of_reason(exc: BaseException) -> Verdict | None:
    """What only wraps a reason."""
    return next((found for link in _reasons(exc) if (found := _verdict_of_type(link))), _NETWORK)


def _reasons(exc: BaseException) -> Iterator[BaseException]:
    """What a library put its error on top of: libraries use the chain, `reason` or the first argument."""
    link: Any = exc
    for _ in range(_DEPTH):
        candidates = (
            link.__cause__,
            getattr(link, "reason", None),
            *link.args[:1],
            None if link.__suppress_context__ else link.__context__,
        )
        link = next((each for each in candidates if isinstance(each, BaseException)), None)
        if link is None:
            return
        yield link


_TABLE: Final[tuple[tuple[_Rule, str], ...]] = (
    # Python
    (
        _NETWORK,
        "builtins.ConnectionError socket.gaierror socket.herror http.IncompleteRead http.BadStatusLine",
    ),
    (_TIMEOUT, "builtins.TimeoutError subprocess.TimeoutExpired"),
    (_OUT_OF_MEMORY, "builtins.MemoryError"),
    (_of_system, "builtins.OSError"),
    (_FATAL, "builtins.SystemError"),
    (_ASKED_FOR, "builtins.KeyboardInterrupt builtins.SystemExit asyncio.CancelledError"),
    (_lasting(Category.NETWORK), "ssl.SSLError ssl.SSLCertVerificationError"),
    (_NETWORK, "ssl.SSLEOFError ssl.SSLZeroReturnError ssl.SSLSyscallError"),
    (_of_status, "urllib.HTTPError"),
    (_of_reason, "urllib.URLError"),
    (_INVALID, "builtins.UnicodeError json.JSONDecodeError _pickle.UnpicklingError binascii.Error"),
    # ours
    (_INVALID, "seawall.ConfigError seawall.MessageTooLarge seawall.AlreadySubmitted"),
    (_passing(Category.DATABASE), "seawall.DatabaseUnavailable"),
    (_lasting(Category.DATABASE), "seawall.CommitUnknown seawall.MigrationError"),
    (_DEPENDENCY, "seawall.BreakerOpen seawall.LimitReached seawall.QueueFull"),
    (_OUT_OF_MEMORY, "seawall.MemoryBudgetExceeded"),
    (_FATAL, "seawall.Poisoned"),
    # servers
    (_of_database, "psycopg.Error"),
    (_NETWORK, "redis.ConnectionError redis.MaxConnectionsError"),
    (_TIMEOUT, "redis.TimeoutError"),
    (_DEPENDENCY, "redis.BusyLoadingError redis.ReadOnlyError redis.TryAgainError redis.ClusterDownError"),
    (_DEPENDENCY, "redis.MasterDownError redis.WatchError redis.LockError"),
    (_REFUSED, "redis.AuthenticationError redis.AuthorizationError redis.NoPermissionError"),
    (_REFUSED, "redis.AuthenticationWrongNumberOfArgsError"),
    (_passing(Category.MEMORY), "redis.OutOfMemoryError"),
    (_INVALID, "redis.DataError"),
    (UNKNOWN, "redis.ResponseError"),
    # HTTP clients
    (_of_status, "requests.HTTPError httpx.HTTPStatusError aiohttp.ClientResponseError"),
    (_TIMEOUT, "requests.Timeout httpx.TimeoutException httpcore.TimeoutException urllib3.TimeoutError"),
    (_TIMEOUT, "aiohttp.ServerTimeoutError"),
    (_of_connection, "requests.ConnectionError httpx.TransportError httpcore.NetworkError"),
    (_of_connection, "urllib3.ProtocolError aiohttp.ClientConnectionError aiohttp.ClientPayloadError"),
    (_NETWORK, "requests.ChunkedEncodingError urllib3.NewConnectionError"),
    (_of_reason, "urllib3.MaxRetryError"),
    (
        _lasting(Category.NETWORK),
        "requests.SSLError urllib3.SSLError aiohttp.ClientConnectorCertificateError",
    ),
    (_INVALID, "requests.InvalidURL requests.MissingSchema requests.InvalidSchema requests.InvalidHeader"),
    (_INVALID, "requests.TooManyRedirects requests.JSONDecodeError requests.ContentDecodingError"),
    (_INVALID, "httpx.InvalidURL httpx.TooManyRedirects httpx.UnsupportedProtocol httpx.DecodingError"),
    (_INVALID, "urllib3.LocationValueError urllib3.DecodeError aiohttp.InvalidURL aiohttp.TooManyRedirects"),
    # Celery and its parts
    (_TIMEOUT, "celery.TimeoutError"),
    (_INVALID, "celery.NotRegistered celery.InvalidTaskError"),
    (_DEPENDENCY, "celery.BackendError"),
    (_ASKED_FOR, "celery.Retry celery.Ignore celery.TaskRevokedError"),
    (_lasting(Category.TIMEOUT), "billiard.SoftTimeLimitExceeded billiard.TimeLimitExceeded"),
    (_FATAL, "billiard.WorkerLostError billiard.Terminated"),
    (_NETWORK, "kombu.OperationalError"),
    (_INVALID, "kombu.SerializationError kombu.ContentDisallowed kombu.SerializerNotInstalled"),
    # validation
    (_INVALID, "pydantic_core.ValidationError jsonschema.ValidationError"),
)
_RULES: Final[dict[str, _Rule]] = {path: rule for rule, paths in _TABLE for path in paths.split()}

_own: dict[type[BaseException], Verdict] = {}
_known: WeakKeyDictionary[type[BaseException], _Rule | None] = WeakKeyDictionary()
"""What was found for a class, as long as there is one: those that are made at run time do not stay for it."""


def classify(exc: BaseException, *, task: str = "") -> Failure:
    """What `exc` is. Never raises; costs tens of microseconds. `task` names whose failure it is.

    Whatever a foreign exception does when it is looked at, even an exit, is a part of its failure.
    """
    verdict = verdict_of(exc)
    return Failure(verdict.category, verdict.severity, verdict.retryable, _fingerprint_of(exc, task))


def _fingerprint_of(exc: BaseException, task: str) -> str:
    try:
        return (
            _fingerprint_of_group(exc, task)
            if isinstance(exc, BaseExceptionGroup)
            else fingerprint(exc, task)
        )
    except BaseException:  # noqa: BLE001 - see `classify`
        return digest(["unreadable", path_of(type(exc)), task])


def register_failure(
    kind: type[BaseException],
    *,
    category: Category,
    retryable: bool,
    severity: Severity | None = None,
) -> None:
    """Say what exceptions of `kind` and its subclasses mean; the last word on a kind counts.

    `severity` is WARNING for what is retried and ERROR for what is not, unless given.

    Raises:
        ConfigError: `kind` is no exception type, or `category` no `Category`.
    """
    if not (isinstance(kind, type) and issubclass(kind, BaseException)):
        raise ConfigError(f"kind={kind!r} is no exception type: pass the class")
    if not isinstance(category, Category):
        raise ConfigError(f"category={category!r} is unknown: use a seawall.Category, such as NETWORK")
    chosen = (Severity.WARNING if retryable else Severity.ERROR) if severity is None else severity
    _own[kind] = Verdict(category, Severity(chosen), retryable)
    _known.clear()


def verdict_of(exc: BaseException) -> Verdict:
    """What the outermost known exception of the chain says; `UNKNOWN` without one. Never raises."""
    try:
        return _judged(exc, {})
    except BaseException:  # noqa: BLE001 - see `classify`
        return UNKNOWN


def _judged(exc: BaseException, judged: dict[int, Verdict]) -> Verdict:
    """`judged` are those met so far, by id: exceptions of a group are often raised from the group itself."""
    verdict, link, links = UNKNOWN, exc, []
    for _ in range(_DEPTH):
        if (known := judged.get(id(link))) is not None:
            verdict = known
            break
        judged[id(link)] = UNKNOWN  # which is what a way that leads back to it says
        links.append(id(link))
        if isinstance(link, BaseExceptionGroup):
            verdict = _worst(link, judged)
            break
        if (found := _verdict_of_type(link)) is not None:
            verdict = found
            break
        if (origin := _raised_from(link)) is None:
            break
        link = origin
    judged.update(dict.fromkeys(links, verdict))
    return verdict


def _raised_from(exc: BaseException) -> BaseException | None:
    """The cause; the context only of what people translate to without thinking, `raise Exception(...)`.

    For all others the context is what they were handling, not why they failed.
    """
    if exc.__cause__ is not None or exc.__suppress_context__:
        return exc.__cause__
    return exc.__context__ if type(exc) in {Exception, RuntimeError} else None


def _verdict_of_type(exc: BaseException) -> Verdict | None:
    kind = type(exc)
    try:
        rule = _known[kind]
    except KeyError:
        rule = _known[kind] = _find(kind)
    if rule is None:
        return _guarded(_of_response, exc)
    return rule if isinstance(rule, Verdict) else _guarded(rule, exc)


def _guarded(rule: Callable[[Any], Verdict | None], exc: BaseException) -> Verdict | None:
    """A foreign exception's attributes may be anything, even broken."""
    try:
        return rule(exc)
    except Exception:  # noqa: BLE001 - classification must not add a failure to the failure
        return None


def _find(kind: type[BaseException]) -> _Rule | None:
    for base in kind.__mro__:
        rule = _own.get(base) or _RULES.get(_path(base))
        if rule is not None:
            return rule
    return None


def _path(kind: type) -> str:
    """The top-level package and the class: libraries move their modules, not their names."""
    return f"{name_of(kind, '__module__').partition('.')[0]}.{name_of(kind, '__name__')}"


def _fingerprint_of_group(group: BaseExceptionGroup[BaseException], task: str) -> str:
    parts = sorted({fingerprint(leaf, task) for leaf in islice(leaves(group), _LEAVES)})
    return digest(["group", task, *parts])


def _worst(group: BaseExceptionGroup[BaseException], judged: dict[int, Verdict]) -> Verdict:
    """A group is worth another attempt only if each of its exceptions is; the worst one names it."""
    verdicts = (_judged(leaf, judged) for leaf in leaves(group))
    return max(verdicts, key=lambda each: (not each.retryable, each.severity), default=UNKNOWN)
