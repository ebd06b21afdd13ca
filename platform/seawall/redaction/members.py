"""Which members of a mapping or a list are secret: one rule to show values, and to find the secrets in them.

A name says it (`names`): a key, the field of a named tuple, the parameter of a function. Or what stands
beside it does: a `name` beside a `value`, a flag, a command of Redis, `kind: Secret`, `kty`. The arguments in
a signature, as chains, groups and chords have them, are called as its own task calls them.
"""

import functools
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any, Final, NamedTuple

from seawall.redaction.commands import hide_in_words
from seawall.redaction.names import JWK, MANIFEST, NAMING, VALUES, is_secret
from seawall.redaction.protocols import is_about_secrets, secrets_of_redis
from seawall.redaction.rules import holds_secret_name
from seawall.redaction.texts import may_hold_name
from seawall.redaction.urls import HIDDEN
from seawall.redaction.words import is_ordinary

_PAIR: Final = 2
_FLAG: Final = "-"
_WORDS: Final = 256
"""Words of a command that are looked at."""
_USER_FLAGS: Final = frozenset({"-u", "--user", "--proxy-user"})
_NAME: Final = re.compile(r"[\w.-]{2,64}")
_CHAIN: Final = "celery.chain"
_AFTER: Final = frozenset({"body", "link", "link_error", "callbacks", "errbacks", "chain", "chord"})
"""Keys of signatures that get a result before their arguments."""
_LARGEST_INT: Final = 10_000
"""Bits of a number; the interpreter refuses to print those of more than 4,300 digits."""


def _spelt(names: tuple[str, ...]) -> frozenset[str | bytes]:
    """Keys in the usual cases, as text and as bytes."""
    texts = {each for name in names for each in (name, name.capitalize(), name.upper())}
    return frozenset({*texts, *(text.encode() for text in texts)})


_NAMING: Final = _spelt(NAMING)
_VALUES: Final = _spelt(VALUES)
_JWK: Final = _spelt(JWK)
_MANIFEST: Final = _spelt(MANIFEST)
_STATEMENTS: Final = _spelt(("sql", "query", "statement"))
_PARAMETERS: Final = _spelt(("params", "parameters", "args", "values"))
_LONGEST_PATH: Final = 512
_MARKS: Final = _VALUES | _STATEMENTS | {"loc", "kty", b"kty", "kind", "Kind"}
"""One of these is in every mapping in which one key says something of another."""
_NOTHING: Final[frozenset[str | bytes]] = frozenset()


class Parameters(NamedTuple):
    """What a function's arguments are called."""

    places: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()
    """Those of `places` without a default."""
    rest: str = ""
    """Of `*rest`, and below of `**keywords`."""
    keywords: str = ""

    def name(self, place: int) -> str:
        """What the positional argument is called that stands there."""
        return self.places[place] if place < len(self.places) else self.rest

    def shifts(self, given: int, keywords: Mapping[Any, Any], *, moved: bool) -> tuple[int, ...]:
        """By how much a signature's `given` arguments are `moved`: a chain puts a result before them.

        Where that many do not fit, the signature is waiting for others to be put before its own.
        """
        needed = sum(1 for name in self.required if name not in keywords)
        by_name = [place for place, name in enumerate(self.places) if name in keywords]
        most = min(by_name, default=given + 1 if self.rest else len(self.places))
        expected = int(moved)
        return (expected,) if needed <= given + expected <= most else (0, 1)


class Secrecy(NamedTuple):
    """What is known of a task: its function names its arguments, its policy those that are secret."""

    function: Callable[..., Any] | None = None
    names: frozenset[str] = frozenset()


Tasks = Callable[[str], Secrecy | None]
"""What is known of the task of that name."""


class Part(NamedTuple):
    """What is known of a value from where it stands."""

    names: frozenset[str] = frozenset()
    """Secret in it, beside those that always are."""
    given: Parameters | None = None
    """It is the positional arguments of that."""
    shifts: tuple[int, ...] = (0,)
    keywords: str = ""
    """It is keyword arguments; those without a parameter are called so."""
    rows: Parameters | None = None
    """It is a list of such arguments, or of the first of them."""
    chained: bool = False
    """It is of a chain, whose tasks but the first get a result before their arguments."""
    moved: bool = False
    """So do all signatures in it."""

    def within(self, *, moved: bool = False) -> "Part":
        """What is known of all that stands in it."""
        return Part(self.names, moved=moved or self.moved)


class Members:
    """The rule, with what is known of tasks."""

    def __init__(self, tasks: Tasks | None = None) -> None:
        self._tasks = tasks

    def secret(self, name: object, names: frozenset[str]) -> bool:
        """Whether something is called so that it is not shown."""
        if isinstance(name, bytes):
            name = name.decode("latin-1")
        if isinstance(name, tuple):
            return any(self.secret(each, names) for each in name[:_PAIR])
        return isinstance(name, str) and (name in names or is_secret(name))

    def of_mapping(self, value: Mapping[Any, Any], part: Part) -> Iterator[tuple[Any, Any, bool, Part]]:
        """Each key and value, whether it is secret as a whole, and else what is known of it."""
        beside = self._beside(value, part.names)
        all_of_them = bool(part.keywords) and self.secret(part.keywords, part.names)
        inner = self._signature(value, part)
        within = part.within()
        for key, each in value.items():
            hidden = all_of_them or key in beside or self.secret(key, part.names)
            known = inner.get(key, within)
            if key in _AFTER and self._tasks is not None:
                known = part.within(moved=True)
            elif part.chained and key == "tasks":
                known = within._replace(chained=True)
            yield key, each, hidden, known

    def of_list(
        self, value: Sequence[Any], part: Part, most: int
    ) -> tuple[dict[int, str], Callable[[int, Any], Part]]:
        """What is shown instead of which of the first `most` elements, and what is known of the others."""
        hidden = dict.fromkeys(self._named_places(value, part, min(most, len(value))), HIDDEN)
        if len(value) > 1 and isinstance(value[0], str | bytes):
            hidden |= self._in_command(value[:_WORDS])
            if isinstance(value[1], list | tuple | Mapping) and is_about_secrets(value[0]):
                hidden[1] = HIDDEN
        if len(value) > 1:
            hidden |= self._behind_names(value, part.names, min(most, len(value) - 1))
        within = part.within()
        row = within if part.rows is None else Part(part.names, given=part.rows)
        if part.rows is None and (mapped := self._mapped(value, part)) is not None:
            row = mapped
        after = part.within(moved=True) if part.chained else within
        return (
            hidden,
            lambda place, each: row if isinstance(each, list | tuple) else after if place else within,
        )

    def _beside(self, value: Mapping[Any, Any], names: frozenset[str]) -> frozenset[str | bytes]:
        """Keys whose values are secret for what stands beside them."""
        keys = _NOTHING
        if _MARKS.isdisjoint(value):
            return keys
        if not _VALUES.isdisjoint(value):
            by_name = any(self.secret(value[key], names) for key in _NAMING if key in value)
            patched = "op" in value and holds_secret_name(str(value.get("path"))[:_LONGEST_PATH])
            typed = str(value.get("type")).lower() == "password"
            keys |= _VALUES if by_name or patched or typed else _NOTHING
        if any(is_about_secrets(value[key]) for key in _STATEMENTS if key in value):
            keys |= _PARAMETERS
        if isinstance(where := value.get("loc"), list | tuple) and any(
            self.secret(each, names) for each in where
        ):
            keys |= {"input"}
        if "kty" in value or b"kty" in value:
            keys |= _JWK
        if str(value.get("kind") or value.get("Kind") or "").lower() == "secret":
            keys |= _MANIFEST
        return keys

    def _named_places(self, value: Sequence[Any], part: Part, most: int) -> Iterator[int]:
        for place, name in enumerate(getattr(type(value), "_fields", ())):
            if place < len(value) and self.secret(name, part.names):
                yield place
        if (given := part.given) is not None:
            for place in range(most):
                if any(self.secret(given.name(place + shift), part.names) for shift in part.shifts):
                    yield place
        if part.rows is not None and self.secret(part.rows.name(0), part.names):
            yield from (place for place in range(most) if not isinstance(value[place], list | tuple))

    def _in_command(self, value: Sequence[Any]) -> dict[int, str]:
        """Places in a list that may be a command: the word as it is shown."""
        words = [each.decode("latin-1") if isinstance(each, bytes) else each for each in value]
        hidden = secrets_of_redis(words)
        if all(isinstance(each, str | int | float | PurePath) for each in words) and not any(
            map(is_large, words)
        ):
            said = [str(each) for each in words]
            shown = zip(said, hide_in_words(said), strict=True)
            hidden |= {place: new for place, (old, new) in enumerate(shown) if new != old}
        return hidden

    def _behind_names(self, value: Sequence[Any], names: frozenset[str], most: int) -> dict[int, str]:
        """Places behind a flag or a name: in a pair anything, in a longer list what is no word."""
        hidden: dict[int, str] = {}
        pair = len(value) == _PAIR
        for place in range(most):
            name = value[place]
            if not isinstance(name, str | bytes):
                continue
            text = name if isinstance(name, str) else name[:_WORDS].decode("latin-1")
            given = value[place + 1]
            if text in _USER_FLAGS and isinstance(given, str) and ":" in given:
                hidden[place + 1] = f"{given.partition(':')[0]}:{HIDDEN}"
            elif pair or text.startswith(_FLAG):
                if "=" not in text and self.secret(text, names):
                    hidden[place + 1] = HIDDEN
            elif (
                place not in hidden
                and _is_odd(given)
                and _NAME.fullmatch(text)
                and may_hold_name(text)
                and is_secret(text)
            ):
                hidden[place + 1] = HIDDEN
        return hidden

    def _signature(self, value: Mapping[Any, Any], part: Part) -> dict[str, Part]:
        """What is known of the members of a signature, and of what is mapped over one; else nothing."""
        if self._tasks is None or (task := value.get("task")) is None:
            return {}
        if "it" in value:
            rows, names = self._of_task(task, part)
            return {} if rows is None else {"it": Part(names, rows=rows)}
        if not isinstance(args := value.get("args"), list | tuple) or not isinstance(task, str):
            return {}
        found, names = self._of_task(task, part)
        if found is None:
            return {}
        keywords = value.get("kwargs")
        keywords = keywords if isinstance(keywords, Mapping) else {}
        shifts = (0,) if value.get("immutable") else found.shifts(len(args), keywords, moved=part.moved)
        return {
            "args": Part(names, given=found, shifts=shifts),
            "kwargs": Part(names, keywords=found.keywords),
        }

    def _mapped(self, value: Sequence[Any], part: Part) -> Part | None:
        """What is known of the list of arguments beside a signature, as a map's positional arguments are."""
        if self._tasks is None or len(value) < _PAIR or not isinstance(value[0], Mapping):
            return None
        rows, names = self._of_task(value[0], part)
        return None if rows is None else Part(names, rows=rows)

    def _of_task(self, task: object, part: Part) -> tuple[Parameters | None, frozenset[str]]:
        name = task.get("task") if isinstance(task, Mapping) else task
        found = self._tasks(name) if self._tasks is not None and isinstance(name, str) else None
        if found is None or found.function is None:
            return None, part.names
        return parameters(found.function), part.names | found.names


def _is_odd(value: object) -> bool:
    """Whether a text behind a name in a list is rather its value than another name."""
    text = value[:_WORDS].decode("latin-1") if isinstance(value, bytes) else value
    return isinstance(text, str) and bool(text) and not is_ordinary(text)


def is_large(value: object) -> bool:
    """Whether that is a number which the interpreter refuses to print."""
    return isinstance(value, int) and value.bit_length() > _LARGEST_INT


@functools.lru_cache(maxsize=1024)
def parameters(function: Callable[..., Any]) -> Parameters:
    """What the arguments of `function` are called; nothing where it does not say."""
    try:
        found = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return Parameters()
    by_place = [each for each in found if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}]
    rest, keywords = (
        next((each.name for each in found if each.kind is kind), "")
        for kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    )
    required = frozenset(each.name for each in by_place if each.default is each.empty)
    return Parameters(tuple(each.name for each in by_place), required, rest, keywords)
