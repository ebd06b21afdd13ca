"""Texts that a pattern finds, made from the pattern itself.

A quick look decides which patterns a text is searched with. Texts made from the patterns show one that the
quick look does not know of, whatever forms the corpus holds.
"""

import functools
import random
import re
from collections.abc import Iterator
from re import _constants as ops  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any, Final

LETTERS: Final = "Xk9vQ2mZ7rT4"
"""What stands for a character that a pattern leaves open: together, no word and no number."""
OTHERS: Final = "a_-./:@ '\"=,;()[]{}<>|\\&?%+#*\n\té"
MOST_REPEATED: Final = 7
"""More than the least: no more blanks than patterns bear between a name and its value."""
TRIES: Final = 40
BASIC: Final = 0x2100
"""Characters among which is one of every class."""


def found_by(pattern: re.Pattern[str], number: int, seed: int) -> Iterator[str]:
    """Up to `number` texts in which `pattern` finds something."""
    chance = random.Random(seed)  # noqa: S311 - texts
    parsed = parser.parse(pattern.pattern, pattern.flags)
    for _ in range(number):
        for _ in range(TRIES):
            text = _Maker(chance, pattern.flags & re.IGNORECASE).of(parsed)
            if pattern.search(text):
                yield text
                break


class _Maker:
    """One text; a group that is referred to is repeated as it was."""

    def __init__(self, chance: random.Random, flags: int) -> None:
        self._chance = chance
        self._flags = flags
        self._groups: dict[int, str] = {}

    def of(self, parsed: Any) -> str:
        """What `parsed`, a sequence of a pattern's parts, matches, if what looks around agrees."""
        return "".join(self._part(op, argument) for op, argument in parsed)

    def _part(self, op: Any, argument: Any) -> str:  # noqa: PLR0911 - a kind of part each
        if op is ops.LITERAL:
            return chr(argument)
        if op in {ops.NOT_LITERAL, ops.IN, ops.ANY}:
            return self._character(op, argument)
        if op is ops.BRANCH:
            return self.of(self._chance.choice(argument[1]))
        if op is ops.SUBPATTERN:
            group, _, _, parsed = argument
            text = self._groups[group] = self.of(parsed)
            return text
        if op is ops.ATOMIC_GROUP:
            return self.of(argument)
        if op in {ops.MAX_REPEAT, ops.MIN_REPEAT, ops.POSSESSIVE_REPEAT}:
            least, most, parsed = argument
            wanted = self._chance.choice([least, least, least + 1, least + MOST_REPEATED])
            return "".join(self.of(parsed) for _ in range(min(wanted, most)))
        if op is ops.GROUPREF:
            return self._groups.get(argument, "")
        if op is ops.ASSERT and argument[0] > 0:
            return self.of(argument[1]) if self._chance.random() < 0.5 else ""
        if op is ops.ASSERT:
            return self.of(argument[1])
        return ""  # ASSERT_NOT and AT match no character

    def _character(self, op: Any, argument: Any) -> str:
        letters, others = _of_class("." if op is ops.ANY else _class(op, argument), self._flags)
        return self._chance.choice(letters if letters and self._chance.random() < 0.9 else others)


@functools.cache
def _of_class(written: str, flags: int) -> tuple[list[str], list[str]]:
    """Its characters that are in a secret, and some of it otherwise."""
    one = re.compile(written, flags)
    letters = [each for each in LETTERS if one.match(each)]
    others = [each for each in OTHERS if one.match(each)]
    plain = [each for each in map(chr, range(BASIC)) if one.match(each)]
    return letters, others or letters or [each for each in plain if each.isascii()] or plain


def _class(op: Any, argument: Any) -> str:
    if op is ops.NOT_LITERAL:
        return f"[^{re.escape(chr(argument))}]"
    return f"[{''.join(map(_member, argument))}]"


def _member(item: tuple[Any, Any]) -> str:
    op, argument = item
    if op is ops.NEGATE:
        return "^"
    if op is ops.LITERAL:
        return re.escape(chr(argument))
    if op is ops.RANGE:
        return f"{re.escape(chr(argument[0]))}-{re.escape(chr(argument[1]))}"
    return {
        ops.CATEGORY_DIGIT: r"\d", ops.CATEGORY_NOT_DIGIT: r"\D", ops.CATEGORY_SPACE: r"\s",
        ops.CATEGORY_NOT_SPACE: r"\S", ops.CATEGORY_WORD: r"\w", ops.CATEGORY_NOT_WORD: r"\W",
    }[argument]  # fmt: skip
