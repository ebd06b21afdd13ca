"""Secrets are replaced by `***` before anything is shown: arguments, messages, URLs. Pure.

By name (password, token, secret, authorization, api_key and their like; `@policy(redact=...)` adds a task's
own), in mappings of any depth; by form, in text: passwords in URLs, bearer tokens, cookies, `name=value`; by
value, wherever the secret arguments of a call turn up again (`secret_values`). What a task receives is never
changed, only what is shown of it.
"""

import copy
import functools
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

HIDDEN: Final = "***"
_DEPTH: Final = 6
_SHORTEST: Final = 4
"""Characters from which a secret argument is looked for in text: shorter ones are in half of all words."""

_WORDS: Final = (
    r"pass(?:word|wd|phrase)?|pwd|secret|token|authorization|credentials?|cookie|session[_-]?id"
    r"|(?:api|access|private|secret|auth)[_-]?key"
)
_NAME: Final = re.compile(rf"(?:^|[_.-])(?:{_WORDS})s?(?:$|[_.-])", re.IGNORECASE)
_CAMEL: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>,;)]+", re.IGNORECASE)
_SCHEME: Final = re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{6,}", re.IGNORECASE)
_ASSIGNED: Final = re.compile(
    rf"""((?:\b|_)(?:{_WORDS})s?['"]?\s*[:=]\s*)(?!\*\*\*)("[^"]*"|'[^']*'|(?!(?:bearer|basic)\b)[^\s,;&)}}\]]+)""",
    re.IGNORECASE,
)
_COOKIES: Final = re.compile(
    r"""(\b(?:set-)?cookies?['"]?\s*[:=]\s*)(?!\*\*\*)("[^"]*"|'[^']*'|[^\n'"{}]+)""", re.IGNORECASE
)
_SUSPECT: Final = re.compile(rf"://|bearer|basic|{_WORDS}", re.IGNORECASE)


def hide_passwords(text: str) -> str:
    """`text` with the password of each URL in it (`;` separates several) replaced by `***`."""
    return ";".join(_hide_password(url) for url in text.split(";"))


def _hide_password(url: str) -> str:
    scheme, mark, rest = url.partition("://")
    if not mark:
        return url
    # By hand: a URL that urlsplit refuses must not be printed whole either.
    authority, slash, path = rest.partition("/")
    userinfo, at, host = authority.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    path = path if "password=" not in path.lower() else path.partition("?")[0] + "?***"
    return f"{scheme}://{user}{':***' if colon else ''}{at}{host}{slash}{path}"


def redact_text(text: str, values: Iterable[str] = ()) -> str:
    """`text`, such as an exception's message, without what looks like a secret, and without `values`."""
    for value in values:
        if value in text:
            text = text.replace(value, HIDDEN)
    if _SUSPECT.search(text) is None:
        return text
    if "://" in text:
        text = _URL.sub(lambda found: _hide_password(found[0]), text)
    text = _COOKIES.sub(rf"\1{HIDDEN}", _SCHEME.sub(rf"\1 {HIDDEN}", text))
    return _ASSIGNED.sub(rf"\1{HIDDEN}", text)


@functools.lru_cache(maxsize=4096)
def is_secret(name: str) -> bool:
    """Whether what is called `name` is not to be shown: `api_key`, `dbPassword`, `X-Auth-Token`."""
    return _NAME.search(_CAMEL.sub("_", name)) is not None


def redact(
    value: Any, names: frozenset[str] = frozenset(), *, values: Iterable[str] = (), depth: int = _DEPTH
) -> Any:
    """A copy of `value` to be shown; `names` and `values` are secret beside those that always are."""
    if isinstance(value, str):
        return redact_text(value, values)
    if isinstance(value, bytes):
        return redact_text(value.decode("latin-1"), values).encode("latin-1", "replace")
    if depth == 0:
        return "..." if isinstance(value, Mapping | list | tuple | set) else value
    if isinstance(value, Mapping):
        return {
            key: HIDDEN
            if isinstance(key, str) and (key in names or is_secret(key))
            else redact(each, names, values=values, depth=depth - 1)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple | set):
        shown = [redact(each, names, values=values, depth=depth - 1) for each in value]
        return tuple(shown) if isinstance(value, tuple) else shown
    return value


def redact_exception(exc: BaseException, values: Iterable[str] = ()) -> BaseException:
    """An exception of the same class to be kept or sent elsewhere; `exc` itself stays as it is."""
    try:
        shown = copy.copy(exc)
        shown.args = tuple(redact(each, values=values) for each in exc.args)
        vars(shown).update(redact(vars(shown), values=values))
    except Exception:  # noqa: BLE001 - a class that cannot be copied: what it is matters less than what it says
        return (
            type(exc)()
            if type(exc) in {Exception, ValueError, RuntimeError}
            else Exception(type(exc).__name__)
        )
    return shown


def redact_arguments(
    args: Iterable[Any],
    kwargs: Mapping[str, Any],
    *,
    function: Callable[..., Any] | None = None,
    names: frozenset[str] = frozenset(),
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments to be shown; `function` says what the positional ones are called."""
    parameters = _parameters(function) if function is not None else ()
    shown = tuple(
        HIDDEN
        if place < len(parameters) and (parameters[place] in names or is_secret(parameters[place]))
        else redact(value, names)
        for place, value in enumerate(args)
    )
    return shown, redact(dict(kwargs), names)


def secret_values(
    args: Iterable[Any],
    kwargs: Mapping[str, Any],
    *,
    function: Callable[..., Any] | None = None,
    names: frozenset[str] = frozenset(),
) -> tuple[str, ...]:
    """What a call's secret arguments are, the longest first, to be looked for in what its failure says."""
    parameters = _parameters(function) if function is not None else ()
    named: list[tuple[Any, Any]] = [*zip(parameters, args, strict=False), *kwargs.items()]
    found: set[str] = set()
    for value in [*args, *kwargs.values()]:
        if isinstance(value, Mapping | list | tuple):
            _collect(value, names, found, secret=False, depth=_DEPTH)
    for name, value in named:
        if isinstance(name, str) and (name in names or is_secret(name)):
            _collect(value, names, found, secret=True, depth=_DEPTH)
    return tuple(sorted(found, key=len, reverse=True))


def _collect(value: Any, names: frozenset[str], found: set[str], *, secret: bool, depth: int) -> None:
    if isinstance(value, Mapping) and depth:
        for key, each in value.items():
            hidden = secret or (isinstance(key, str) and (key in names or is_secret(key)))
            _collect(each, names, found, secret=hidden, depth=depth - 1)
    elif isinstance(value, list | tuple) and depth:
        for each in value:
            _collect(each, names, found, secret=secret, depth=depth - 1)
    elif secret and isinstance(value, str | int) and len(str(value)) >= _SHORTEST:
        found.add(str(value))


@functools.lru_cache(maxsize=1024)
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()


class RedactingFilter(logging.Filter):
    """On a handler: its lines, tracebacks included, hold no secret that `redact_text` knows."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record; it always passes."""
        if isinstance(record.msg, dict):  # structlog's, for a handler without our formatter
            record.msg = redact(record.msg)
            return True
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a malformed call; the handler says so and never its caller
            return True
        if (
            shown := redact_text(message)
        ) != message:  # else others still see the line's template and its values
            record.msg, record.args = shown, None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact_text(record.exc_text)
        return True
