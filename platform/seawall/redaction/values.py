"""Secrets in values: hidden by key while they are still values, before anything becomes text.

A key may be text or bytes. A pair (`("Authorization", "Token x")`), a flag and what follows it, and a mapping
of `name` and `value` name what they hold as well. A container under a secret name is hidden whole.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import PurePath
from typing import Any, Final

from seawall.redaction.bounds import Bound, shortened
from seawall.redaction.commands import hide_in_words
from seawall.redaction.names import is_secret
from seawall.redaction.texts import redact_text
from seawall.redaction.urls import HIDDEN

_DEPTH: Final = 6
_SHORTEST: Final = 4
"""Characters from which a secret argument is looked for in text: shorter ones are in half of all words."""
_LONGEST: Final = 65_536
"""Characters up to which it is: a secret of a size that nobody prints would cost each line a search."""
_MOST_VALUES: Final = 64
_PAIR: Final = 2
_FLAG: Final = "-"
_WORDS: Final = 256
"""Words of a command that are looked at."""
_NAMING: Final = ("name", "key", "header", "Name", "Key", "Header", "ParameterKey", "OptionName")
_VALUES: Final = frozenset({"value", "Value", "ParameterValue"})
"""Keys of a mapping that says by one what the other is: forms, environments of containers, stacks."""
_USER_FLAGS: Final = frozenset({"-u", "--user", "--proxy-user"})


_PLAIN: Final = frozenset({"builtins", "datetime", "decimal", "uuid"})
"""Modules whose objects show nothing but themselves."""
_LARGEST_INT: Final = 10_000
"""Bits of a number; the interpreter refuses to print those of more than 4,300 digits."""


class Words:
    """What an object says of itself, in its place."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


class _Walk:
    """One value on its way to be shown: what is secret in it, and how much more of it is looked at."""

    def __init__(
        self,
        names: frozenset[str],
        values: Iterable[str],
        bound: Bound | None = None,
        *,
        words: bool = False,
    ) -> None:
        self._names = names
        self._values = tuple(values)
        self._nodes = None if bound is None else bound.nodes
        self._most = None if bound is None else bound.characters
        self._words = words

    def secret(self, name: object) -> bool:
        """Whether something is called so that it is not shown."""
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        if isinstance(name, tuple):
            return any(map(self.secret, name[:_PAIR]))
        return isinstance(name, str) and (name in self._names or is_secret(name))

    def secret_fields(self, value: Any) -> list[int]:
        """Where in a named tuple values stand whose field is called so."""
        fields = getattr(type(value), "_fields", ())
        return [place for place, name in enumerate(fields) if place < len(value) and self.secret(name)]

    def text(self, text: str) -> str:
        """Text without secrets, and no longer than is shown."""
        return (
            redact_text(text, self._values)
            if self._most is None
            else shortened(text, self._most, self._values)
        )

    def of(self, value: Any, depth: int) -> Any:
        """A copy of `value` to be shown."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._bytes(value)
        if not isinstance(value, Mapping | list | tuple | AbstractSet):
            return self._object(value) if self._words else value
        if depth == 0:
            return "..."
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        shown = (
            self._sequence(value, depth) if isinstance(value, list | tuple) else self._elements(value, depth)
        )
        return tuple(shown) if isinstance(value, tuple) else shown

    def _object(self, value: Any) -> Any:
        if _is_large(value):
            return Words(f"<a number of {value.bit_length()} bits>")
        if type(value).__module__ in _PLAIN:
            return value
        try:
            return Words(self.text(repr(value)))
        except Exception as exc:  # noqa: BLE001 - a foreign __repr__ may do anything
            return Words(f"<unprintable: {type(exc).__name__}>")

    def _bytes(self, value: bytes | bytearray | memoryview) -> bytes:
        room = len(value) if self._most is None else self._most * 2 + 8192
        return self.text(bytes(value[:room]).decode("latin-1")).encode("latin-1", "replace")

    def _spent(self) -> bool:
        if self._nodes is None:
            return False
        self._nodes -= 1
        return self._nodes < 0

    def _mapping(self, value: Mapping[Any, Any], depth: int) -> dict[Any, Any]:
        shown: dict[Any, Any] = {}
        located = isinstance(where := value.get("loc"), list | tuple) and any(map(self.secret, where))
        named = any(self.secret(value.get(key)) for key in _NAMING if key in value)
        for key, each in value.items():
            if self._spent():
                shown["..."] = f"{len(value)} in all"
                break
            hidden = self.secret(key) or (named and key in _VALUES) or (located and key == "input")
            label = self.of(key, 0) if isinstance(key, str | bytes) else key
            shown[label] = HIDDEN if hidden else self.of(each, depth - 1)
        return shown

    def _elements(self, values: Iterable[Any], depth: int) -> list[Any]:
        shown: list[Any] = []
        for each in values:
            if self._spent():
                shown.append("...")
                break
            shown.append(self.of(each, depth - 1))
        return shown

    def _sequence(self, value: Sequence[Any], depth: int) -> list[Any]:
        fields = self.secret_fields(value)
        if len(value) > 1 and isinstance(value[0], str):
            value = self._command(value)
        shown = self._elements(value, depth)
        for place in fields:
            if place < len(shown):
                shown[place] = HIDDEN
        for place in range(len(shown) - 1):
            name = value[place]
            if not isinstance(name, str | bytes):
                continue
            text = name if isinstance(name, str) else name.decode("latin-1")
            if (len(value) == _PAIR or text.startswith(_FLAG)) and "=" not in text and self.secret(text):
                shown[place + 1] = HIDDEN
            elif text in _USER_FLAGS and isinstance(given := value[place + 1], str) and ":" in given:
                shown[place + 1] = f"{given.partition(':')[0]}:{HIDDEN}"
        return shown

    @staticmethod
    def _command(value: Sequence[Any]) -> Sequence[Any]:
        """A list that may be a command: what is hidden in it is text, and all else stays what it is."""
        given = value[:_WORDS]
        if not all(isinstance(each, str | int | float | PurePath) for each in given):
            return value
        if any(map(_is_large, given)):
            return value
        words = [str(each) for each in given]
        hidden = zip(given, words, hide_in_words(words), strict=True)
        return [*(old if new == word else new for old, word, new in hidden), *value[len(words) :]]


def redact(
    value: Any,
    names: frozenset[str] = frozenset(),
    *,
    values: Iterable[str] = (),
    depth: int = _DEPTH,
    bound: Bound | None = None,
) -> Any:
    """A copy of `value` to be shown; `names` and `values` are secret beside those that always are.

    Of one that is large, only what is inside of `bound` is visited; None is all of it.
    """
    return _Walk(names, values, bound).of(value, depth)


def redact_arguments(
    args: Iterable[Any],
    kwargs: Mapping[str, Any],
    *,
    function: Callable[..., Any] | None = None,
    names: frozenset[str] = frozenset(),
    bound: Bound | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments to be shown; `function` says what the positional ones are called.

    With a `bound` they are going to be text, and objects are replaced by what they say of themselves.
    """
    parameters = _parameters(function) if function is not None else ()
    walk = _Walk(names, (), bound, words=bound is not None)
    args = tuple(args)
    given = args if bound is None else args[: bound.nodes]
    shown = tuple(
        HIDDEN if place < len(parameters) and walk.secret(parameters[place]) else walk.of(value, _DEPTH)
        for place, value in enumerate(given)
    )
    return (shown if len(given) == len(args) else (*shown, "...")), walk.of(dict(kwargs), _DEPTH)


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
    walk = _Walk(names, ())
    for value in [*args, *kwargs.values()]:
        _collect(value, walk, found, secret=False, depth=_DEPTH)
    for name, value in named:
        if walk.secret(name):
            _collect(value, walk, found, secret=True, depth=_DEPTH)
    return tuple(sorted(found, key=len, reverse=True)[:_MOST_VALUES])


def _collect(value: Any, walk: _Walk, found: set[str], *, secret: bool, depth: int) -> None:
    if isinstance(value, Mapping) and depth:
        for key, each in value.items():
            _collect(each, walk, found, secret=secret or walk.secret(key), depth=depth - 1)
    elif isinstance(value, list | tuple | AbstractSet) and depth:
        pair = isinstance(value, list | tuple) and len(value) == _PAIR and walk.secret(value[0])
        fields = walk.secret_fields(value)
        for place, each in enumerate(value):
            hidden = secret or (pair and place > 0) or place in fields
            _collect(each, walk, found, secret=hidden, depth=depth - 1)
    elif secret and isinstance(value, str | bytes | bytearray | int):
        if isinstance(value, bool) or _is_large(value):
            return
        text = value.decode("latin-1") if isinstance(value, bytes | bytearray) else str(value)
        if _SHORTEST <= len(text) <= _LONGEST:
            found.add(text)


def _is_large(value: object) -> bool:
    return isinstance(value, int) and value.bit_length() > _LARGEST_INT


@functools.lru_cache(maxsize=1024)
def _parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return ()
