"""A backtracking matcher that counts its steps, and texts from a pattern's own parts that come close to it.

`Steps(pattern)` finds what `re` finds, and counts what it looks at. Repetitions with a finite end above
`SMALL` are taken to end there unless told otherwise, as a bound is a constant however large: what still grows
has none.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterator
from re import _constants as sre  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Final

SMALL: Final = 4
ALPHABET: Final = "a1A_ -./:=,;&@\\'\"+()[]{}<>?#%*|$\n\r\t\0é\u201c\u201d"
"""Characters of which a set's members are taken for an example."""

Node = tuple[Any, Any]
_NOT: Final = {
    sre.CATEGORY_NOT_DIGIT: sre.CATEGORY_DIGIT,
    sre.CATEGORY_NOT_SPACE: sre.CATEGORY_SPACE,
    sre.CATEGORY_NOT_WORD: sre.CATEGORY_WORD,
}
_REPEATS: Final = {sre.MAX_REPEAT, sre.MIN_REPEAT, sre.POSSESSIVE_REPEAT}
_SINGLE: Final = {sre.LITERAL, sre.NOT_LITERAL, sre.ANY, sre.IN}


def _fits_category(kind: Any, char: str, *, ascii_only: bool) -> bool:
    if kind in _NOT:
        return not _fits_category(_NOT[kind], char, ascii_only=ascii_only)
    if ascii_only and not char.isascii():
        return False
    if kind is sre.CATEGORY_DIGIT:
        return unicodedata.category(char) == "Nd"
    return char.isspace() if kind is sre.CATEGORY_SPACE else char.isalnum() or char == "_"


@functools.cache
def _fits(item: Node, char: str, flags: int) -> bool:  # noqa: PLR0911 - one case a kind
    """Whether one character is what a node of width one asks for."""
    kind, value = item
    if kind is sre.ANY:
        return char != "\n" or bool(flags & re.DOTALL)
    if flags & re.IGNORECASE and char.lower() != char.upper():
        flags &= ~re.IGNORECASE
        fitting = [_fits(item, each, flags) for each in {char, char.lower(), char.upper()} if len(each) == 1]
        negated = kind is sre.NOT_LITERAL or (kind is sre.IN and value[0][0] is sre.NEGATE)
        return all(fitting) if negated else any(fitting)
    if kind is sre.LITERAL:
        return bool(ord(char) == value)
    if kind is sre.NOT_LITERAL:
        return bool(ord(char) != value)
    if kind is sre.RANGE:
        return bool(value[0] <= ord(char) <= value[1])
    if kind is sre.CATEGORY:
        return _fits_category(value, char, ascii_only=bool(flags & re.ASCII))
    negated = value[0][0] is sre.NEGATE
    return any(_fits(each, char, flags) for each in value[negated:]) != negated


def _frozen(tree: Any) -> Any:
    """The parser's tree as tuples, so that a node can be looked up by what it is."""
    if isinstance(tree, parser.SubPattern):
        return tuple(_frozen(each) for each in tree.data)
    if isinstance(tree, list | tuple):
        return tuple(_frozen(each) for each in tree)
    return tree


def _width(sequence: tuple[Node, ...]) -> int:
    """The width of what a look behind asks for, which is fixed."""
    total = 0
    for node in sequence:
        kind, value = node
        if kind in _SINGLE:
            total += 1
        elif kind is sre.BRANCH:
            total += _width(value[1][0])
        elif (inner := _inner(node)) is not None and kind not in {sre.ASSERT, sre.ASSERT_NOT}:
            total += _width(inner) * (value[0] if kind in _REPEATS else 1)
    return total


class Steps:
    """One pattern, matched slowly, with its bounds cut down to `small`; None leaves them."""

    def __init__(self, pattern: re.Pattern[Any], small: int | None = SMALL) -> None:
        text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
        parsed = parser.parse(text, pattern.flags & ~re.DEBUG)
        self.tree = _frozen(parsed)
        self._flags = pattern.flags
        self._small = small
        self._text = ""
        self._groups: dict[int, tuple[int, int]] = {}
        self.count = 0

    def of(self, text: str, way: str = "finditer") -> int:
        """Steps that a call of the pattern's method `way` takes."""
        before = self.count
        if way in {"match", "fullmatch"}:
            self.match(text, whole=way == "fullmatch")
        elif way == "search":
            self.search(text)
        else:
            self.spans(text)
        return self.count - before

    def match(self, text: str, start: int = 0, *, whole: bool = False, after: Any = None) -> int | None:
        """The end of a match that begins at `start` and is not the span `after`."""
        self._text, self._groups = text, {}
        for end in self._sequence(self.tree, start, self._flags):
            if (end == len(text) or not whole) and (start, end) != after:
                return end
        return None

    def search(self, text: str, start: int = 0, after: Any = None) -> tuple[int, int] | None:
        """Where the first match from `start` on is; `after` is the empty one that has been there already."""
        for place in range(start, len(text) + 1):
            if (end := self.match(text, place, after=after)) is not None:
                return place, end
        return None

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where all matches are."""
        found: list[tuple[int, int]] = []
        span = self.search(text)
        while span is not None:
            found.append(span)
            span = self.search(text, span[1], after=span if span[0] == span[1] else None)
        return found

    def _sequence(self, nodes: tuple[Node, ...], start: int, flags: int) -> Iterator[int]:
        if not nodes:
            yield start
            return
        waiting = [self._node(nodes[0], start, flags)]
        while waiting:
            end = next(waiting[-1], None)
            if end is None:
                waiting.pop()
            elif len(waiting) == len(nodes):
                yield end
            else:
                waiting.append(self._node(nodes[len(waiting)], end, flags))

    def _first(self, nodes: tuple[Node, ...], start: int, flags: int) -> int | None:
        return next(self._sequence(nodes, start, flags), None)

    def _node(self, node: Node, at: int, flags: int) -> Iterator[int]:  # noqa: C901, PLR0912 - one case a kind
        end: int | None
        self.count += 1
        kind, value = node
        if kind in _SINGLE:
            if at < len(self._text) and _fits(node, self._text[at], flags):
                yield at + 1
        elif kind is sre.SUBPATTERN:
            group, add, drop, inner = value
            for end in self._sequence(inner, at, (flags | add) & ~drop):
                before = self._groups.get(group)
                if group is not None:
                    self._groups[group] = (at, end)
                yield end
                if before is not None:
                    self._groups[group] = before
                else:
                    self._groups.pop(group, None)
        elif kind is sre.BRANCH:
            for inner in value[1]:
                yield from self._sequence(inner, at, flags)
        elif kind in _REPEATS:
            yield from self._repeat(kind, value, at, flags)
        elif kind is sre.ATOMIC_GROUP:
            if (end := self._first(value, at, flags)) is not None:
                yield end
        elif kind in {sre.ASSERT, sre.ASSERT_NOT}:
            direction, inner = value
            place = at if direction > 0 else at - _width(inner)
            if (place >= 0 and self._first(inner, place, flags) is not None) == (kind is sre.ASSERT):
                yield at
        elif kind is sre.AT:
            if self._is_at(value, at, flags):
                yield at
        elif kind is sre.GROUPREF:
            span = self._groups.get(value)
            if span is not None and self._text.startswith(self._text[slice(*span)], at):
                yield at + span[1] - span[0]
        elif kind is not sre.FAILURE:
            raise NotImplementedError(kind)

    def _repeat(self, kind: Any, value: Any, at: int, flags: int) -> Iterator[int]:
        least, most, body = value
        if self._small is not None:
            least = min(least, self._small)
            most = most if most is sre.MAXREPEAT else min(most, self._small)
        if kind is sre.MIN_REPEAT:
            yield from self._lazily(body, least, most, at, flags)
            return
        if kind is sre.POSSESSIVE_REPEAT:
            place, times = at, 0
            while most is sre.MAXREPEAT or times < most:
                further = self._first(body, place, flags)
                if further is None or (further == place and times >= least):
                    break
                place, times = further, times + 1
            if times >= least:
                yield place
            return
        ends, waiting = [at], [self._sequence(body, at, flags)]
        while waiting:
            full = most is not sre.MAXREPEAT and len(waiting) > most
            end = None if full else next(waiting[-1], None)
            if end is None or (end == ends[-1] and len(ends) > least):
                waiting.pop()
                reached = ends.pop()
                if len(ends) >= least:
                    yield reached
            else:
                ends.append(end)
                waiting.append(self._sequence(body, end, flags))

    def _lazily(self, body: Any, least: int, most: Any, at: int, flags: int) -> Iterator[int]:
        waiting: list[tuple[int, Iterator[int]]] = []
        if least == 0:
            yield at
        waiting.append((at, self._sequence(body, at, flags)))
        while waiting:
            begun, inner = waiting[-1]
            end = None if most is not sre.MAXREPEAT and len(waiting) > most else next(inner, None)
            if end is None or end == begun:
                waiting.pop()
                continue
            if len(waiting) >= least:
                yield end
            waiting.append((end, self._sequence(body, end, flags)))

    def _is_at(self, kind: Any, at: int, flags: int) -> bool:
        text = self._text
        if kind is sre.AT_BEGINNING and flags & re.MULTILINE:
            return at == 0 or text[at - 1] == "\n"
        if kind in {sre.AT_BEGINNING, sre.AT_BEGINNING_STRING}:
            return at == 0
        if kind is sre.AT_END and flags & re.MULTILINE:
            return at == len(text) or text[at] == "\n"
        if kind is sre.AT_END:
            return text[at:] in {"", "\n"}
        if kind is sre.AT_END_STRING:
            return at == len(text)
        word = (sre.IN, ((sre.CATEGORY, sre.CATEGORY_WORD),))
        sides = [0 <= each < len(text) and _fits(word, text[each], flags) for each in (at - 1, at)]
        return (sides[0] != sides[1]) == (kind is sre.AT_BOUNDARY)


def near_misses(pattern: re.Pattern[Any]) -> Iterator[Callable[[int], str]]:
    """Texts that hold a part of `pattern` as often as they are told to, a short one more often.

    The parts are what leads to each repetition that has no end, through every alternative, and what such a
    repetition holds: alone, together, and with a blank between.
    """
    steps = Steps(pattern)
    seen: set[tuple[str, str, str]] = set()
    for lead, body in _parts(steps.tree, "", pattern.flags):
        for form in (
            (lead, body, ""),
            (lead, body, "!"),
            ("", lead + body, ""),
            ("", f"{lead}{body} ", ""),
            ("", lead, "!"),
        ):
            if form[1] and form not in seen:
                seen.add(form)
                yield functools.partial(_repeated, *form)


def _repeated(first: str, again: str, last: str, times: int) -> str:
    return first + again * times * max(1, 3 // len(again)) + last


def _parts(nodes: tuple[Node, ...], lead: str, flags: int) -> Iterator[tuple[str, str]]:
    """(what stands before it, its body) of each repetition without an end, and of the whole."""
    for node in nodes:
        kind, value = node
        if kind in _REPEATS and value[1] is sre.MAXREPEAT:
            for body in _examples(value[2], flags):
                yield lead, body
        if kind is sre.BRANCH:
            for inner in value[1]:
                yield from _parts(inner, lead, flags)
        elif (inner := _inner(node)) is not None:
            yield from _parts(inner, lead, flags)
        lead += next(iter(_of(node, flags)))
    yield lead, ""


def _inner(node: Node) -> tuple[Node, ...] | None:
    """What a node with one content holds."""
    kind, value = node
    if kind in _REPEATS:
        return value[2]  # type: ignore[no-any-return]
    if kind is sre.SUBPATTERN:
        return value[3]  # type: ignore[no-any-return]
    if kind is sre.ATOMIC_GROUP:
        return value  # type: ignore[no-any-return]
    return value[1] if kind in {sre.ASSERT, sre.ASSERT_NOT} else None


def _examples(nodes: tuple[Node, ...], flags: int) -> list[str]:
    """Texts that the sequence matches: the first way through it, and each alternative once."""
    found = [""]
    for node in nodes:
        each = _of(node, flags)
        found = [
            found[0] + each[0],
            *(begun + each[0] for begun in found[1:]),
            *(found[0] + one for one in each[1:]),
        ]
    return list(dict.fromkeys(found))


def _of(node: Node, flags: int) -> list[str]:  # noqa: PLR0911 - one case a kind
    kind, value = node
    if kind is sre.LITERAL:
        return [chr(value)]
    if kind in _SINGLE:
        fitting = [each for each in ALPHABET if _fits(node, each, flags)]
        return [*fitting[:1], *fitting[len(fitting) // 2 : len(fitting) // 2 + 1], *fitting[-1:]] or ["?"]
    if kind is sre.SUBPATTERN:
        return _examples(value[3], flags)
    if kind is sre.ATOMIC_GROUP:
        return _examples(value, flags)
    if kind is sre.BRANCH:
        return [each for inner in value[1] for each in _examples(inner, flags)]
    if kind in _REPEATS:
        return [each * max(1, value[0]) for each in _examples(value[2], flags)]
    return [""]
