"""Secrets in values: hidden by key while they are still values, before anything becomes text.

A key may be text or bytes. `members` says what is secret in a mapping or a list: by that rule values are
shown, and the secrets among a call's arguments are found, to be looked for in texts. A container under a
secret name is hidden whole. What a bound leaves out is not shown: `...` stands for it.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import islice
from typing import Any, Final
from uuid import UUID

from seawall.redaction.bounds import Bound, shortened
from seawall.redaction.members import Members, Part, Tasks, is_large, parameters
from seawall.redaction.texts import redact_text
from seawall.redaction.urls import HIDDEN
from seawall.redaction.words import is_ordinary

_DEPTH: Final = 6
_SHORTEST: Final = 4
"""Characters from which a secret argument is looked for in text: shorter ones are in half of all words."""
_LONGEST: Final = 65_536
"""Characters up to which it is: a secret of a size that nobody prints would cost each line a search."""
MOST_VALUES: Final = 1000
"""Secrets of a call that are looked for: each costs a line a search."""
VISITED: Final = 20_000
"""Elements of a call's arguments among which its secrets are looked for, those under secret names first."""
_FEWEST: Final = 64
"""Of these in one container, at least."""
_SCHEMES: Final = frozenset({"basic", "bearer", "token", "apikey", "digest", "negotiate"})
"""What stands before the secret in an `Authorization`."""

_PLAIN: Final = frozenset({"builtins", "datetime", "decimal", "uuid"})
"""Modules whose objects show nothing but themselves."""
_LEFT_OUT: Final = "..."
_CONTAINER: Final = (Mapping, list, tuple, AbstractSet)


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
        values: Iterable[str] = (),
        bound: Bound | None = None,
        *,
        tasks: Tasks | None = None,
        words: bool = False,
    ) -> None:
        self._members = Members(tasks)
        self._values = tuple(values)
        self._nodes = None if bound is None else bound.nodes
        self._most = None if bound is None else bound.characters
        self._left = 0 if bound is None else bound.total
        self._words = words

    def text(self, text: str) -> str:
        """Text without secrets, and no longer than is shown."""
        if self._most is None:
            return redact_text(text, self._values)
        if text and self._left <= 0:
            return _LEFT_OUT
        most = min(self._most, self._left)
        self._left -= min(len(text), most)
        return shortened(text, most, self._values)

    def of(self, value: Any, depth: int, part: Part) -> Any:
        """A copy of `value` to be shown."""
        if isinstance(value, str | bytes | bytearray | memoryview):
            return self.text(value) if isinstance(value, str) else self._bytes(value)
        if not isinstance(value, _CONTAINER):
            return self._object(value) if self._words else value
        if depth == 0:
            return _LEFT_OUT
        if isinstance(value, Mapping):
            return self._mapping(value, depth, part)
        if isinstance(value, list | tuple):
            shown = self._sequence(value, depth, part)
            return tuple(shown) if isinstance(value, tuple) else shown
        return self._elements(value, depth, part)

    def _object(self, value: Any) -> Any:
        if is_large(value):
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

    def _mapping(self, value: Mapping[Any, Any], depth: int, part: Part) -> dict[Any, Any]:
        shown: dict[Any, Any] = {}
        for key, each, hidden, known in self._members.of_mapping(value, part):
            if self._spent():
                shown[_LEFT_OUT] = f"{len(value)} in all"
                break
            label = self.of(key, 0, part) if isinstance(key, str | bytes) else key
            shown[label] = HIDDEN if hidden else self.of(each, depth - 1, known)
        return shown

    def _elements(self, values: Iterable[Any], depth: int, part: Part) -> list[Any]:
        shown: list[Any] = []
        for each in values:
            if self._spent():
                shown.append(_LEFT_OUT)
                break
            shown.append(self.of(each, depth - 1, part.within()))
        return shown

    def _sequence(self, value: Sequence[Any], depth: int, part: Part) -> list[Any]:
        looked_at = value if self._nodes is None else value[: max(0, self._nodes) + 1]
        hidden, known = self._members.of_list(value, part, len(looked_at))
        shown: list[Any] = []
        for place, each in enumerate(looked_at):
            if self._spent():
                shown.append(_LEFT_OUT)
                break
            shown.append(hidden[place] if place in hidden else self.of(each, depth - 1, known(place, each)))
        return shown


def redact(  # noqa: PLR0913 - what is known of it
    value: Any,
    names: frozenset[str] = frozenset(),
    *,
    values: Iterable[str] = (),
    depth: int = _DEPTH,
    bound: Bound | None = None,
    tasks: Tasks | None = None,
) -> Any:
    """A copy of `value` to be shown; `names` and `values` are secret beside those that always are.

    Of one that is large, only what is inside of `bound` is visited; None is all of it. `tasks` says what is
    known of a task by its name, for the arguments in a signature.
    """
    return _Walk(values, bound, tasks=tasks).of(value, depth, Part(names))


def redact_arguments(  # noqa: PLR0913 - what is known of a task
    args: Iterable[Any],
    kwargs: Mapping[str, Any],
    *,
    function: Callable[..., Any] | None = None,
    names: frozenset[str] = frozenset(),
    tasks: Tasks | None = None,
    bound: Bound | None = None,
    text: bool | None = None,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A call's arguments to be shown; `function` says what the positional ones are called.

    With a `bound` they are going to be `text` unless told otherwise, and objects are replaced by what they
    say of themselves. The bound is one for `args` and one for `kwargs`.
    """
    words = bound is not None if text is None else text
    shown = [
        _Walk((), bound, tasks=tasks, words=words).of(given, _DEPTH + 1 - place, part)
        for place, (given, part) in enumerate(_given(args, kwargs, function, names))
    ]
    return shown[0], shown[1]


def _given(
    args: Iterable[Any], kwargs: Mapping[str, Any], function: Callable[..., Any] | None, names: frozenset[str]
) -> tuple[tuple[tuple[Any, ...], Part], tuple[dict[str, Any], Part]]:
    """A call's arguments, and what is known of them."""
    if function is None:
        return (tuple(args), Part(names)), (dict(kwargs), Part(names))
    known = parameters(function)
    return (tuple(args), Part(names, given=known)), (dict(kwargs), Part(names, keywords=known.keywords))


def secret_values(
    args: Iterable[Any],
    kwargs: Mapping[str, Any],
    *,
    function: Callable[..., Any] | None = None,
    names: frozenset[str] = frozenset(),
    tasks: Tasks | None = None,
) -> tuple[str, ...]:
    """What a call's secret arguments are, the longest first, to be looked for in what its failure says.

    At most `MOST_VALUES`, found among `VISITED` elements: those under a secret name first, then small
    containers before large ones, of which no more than a quarter of the elements that are left is looked at.
    """
    search = _Search(tasks)
    for given, part in _given(args, kwargs, function, names):
        search.visit_later(given, part)
    return tuple(sorted(search.found(), key=len, reverse=True))


class _Search:
    """For the secrets in a value."""

    def __init__(self, tasks: Tasks | None) -> None:
        self._secret: list[Any] = []
        """Containers of which all is secret."""
        self._others: list[tuple[int, int, Any, Part]] = []
        """A heap of the others: how large they are, in which order they came, and what is known of them."""
        self._members = Members(tasks)
        self._found: dict[str, None] = {}
        self._left = VISITED

    def visit_later(self, value: Any, part: Part) -> None:
        """Look into `value` when it is its turn, if it is a container."""
        if isinstance(value, _CONTAINER):
            heapq.heappush(self._others, (len(value), self._left, value, part))
        self._left -= 1

    def found(self) -> list[str]:
        """The secrets, in the order in which they were found."""
        while (self._secret or self._others) and self._left > 0 and len(self._found) < MOST_VALUES:
            if self._secret:
                self._look_into_secret(self._secret.pop())
            else:
                *_, value, part = heapq.heappop(self._others)
                self._look_into(value, part)
        return [*self._found][:MOST_VALUES]

    def _look_into(self, value: Any, part: Part) -> None:
        most = max(_FEWEST, self._left // 4)
        if isinstance(value, Mapping):
            for _, each, hidden, known in islice(self._members.of_mapping(value, part), most):
                self._keep(each) if hidden else self.visit_later(each, known)
        elif isinstance(value, list | tuple):
            shown, known_of = self._members.of_list(value, part, most)
            for place, each in enumerate(value[:most]):
                if place in shown:
                    self._keep(_hidden_part(each, shown[place]))
                else:
                    self.visit_later(each, known_of(place, each))
        else:
            for each in islice(value, most):
                self.visit_later(each, part.within())

    def _look_into_secret(self, value: Any) -> None:
        """Also at keys that are no words."""
        several = value.items() if isinstance(value, Mapping) else ((None, each) for each in value)
        for key, each in islice(several, max(_FEWEST, self._left // 4)):
            if isinstance(key, str) and not is_ordinary(key):
                self._keep(key)
            self._keep(each)

    def _keep(self, value: Any) -> None:
        """It is secret, and so is all in it."""
        self._left -= 1
        if isinstance(value, _CONTAINER):
            self._secret.append(value)
        elif isinstance(value, str):
            self._add(value)
            scheme, _, rest = value[:_LONGEST].partition(" ")
            if scheme.lower() in _SCHEMES:
                self._add(rest.strip())
        elif isinstance(value, bytes | bytearray | memoryview):
            whole = bytes(value[: _LONGEST + 1])
            for encoding in ("latin-1", "utf-8") if not whole.isascii() else ("latin-1",):
                self._add(whole.decode(encoding, "replace"))
        elif isinstance(value, int | UUID) and not isinstance(value, bool) and not is_large(value):
            self._add(str(value))

    def _add(self, text: str) -> None:
        if _SHORTEST <= len(text) <= _LONGEST:
            self._found[text] = None


def _hidden_part(value: Any, shown: str) -> Any:
    """What of `value` is hidden where it is `shown` so: of `-pS`, the S."""
    before, _, after = shown.partition(HIDDEN)
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if not isinstance(value, str) or not (value.startswith(before) and value.endswith(after)):
        return value
    return value[len(before) : len(value) - len(after)]
