"""A known secret as texts hold it: as it is, or escaped for Python, JSON, a URL or HTML, also several times.

Letters, digits, `_`, `-` and `.` are never escaped. So a quick look asks for the longest run of them in the
secret, and only a text that holds it is searched for what the other characters may have become.
"""

import functools
import html
import re
from collections.abc import Iterable
from itertools import groupby
from typing import Final

from seawall.redaction.urls import HIDDEN

_PLAIN: Final = re.compile(r"[A-Za-z0-9_.-]++")
_SIGNS: Final = ("\\", "%", "&", "+")
"""One of these is in everything that is escaped."""
_LONGEST: Final = 4096
"""Characters of a secret up to which it is looked for in other spellings than its own."""
_PIECE: Final = 64
"""Characters of a longer secret by which half of it is known."""
_LETTERS: Final = {"\n": "n", "\r": "r", "\t": "t", "\0": "0", "\b": "b", "\f": "f", "\v": "v", "\x1b": "e"}
_ASCII: Final = 128
_BYTE: Final = 256
_WIDE: Final = 0x10000


def hidden(text: str, values: Iterable[str]) -> str:
    """`text` without `values`, however they are escaped."""
    for value in values:
        if value in text:
            text = text.replace(value, HIDDEN)
        elif len(value) > _PIECE:
            text = _without_half(text, value)
        if _may_be_escaped(text, value):
            text = _escaped(value).sub(HIDDEN, text)
    return text


def _without_half(text: str, value: str) -> str:
    """`text` without a long value in which it begins or ends, as a text that was cut may."""
    begin = text.rfind(value[:_PIECE])
    if begin >= 0 and value.startswith(text[begin:]):
        text = text[:begin] + HIDDEN
    end = text.find(value[-_PIECE:]) + _PIECE
    return HIDDEN + text[end:] if end >= _PIECE and value.endswith(text[:end]) else text


def holds(text: str, values: Iterable[str]) -> bool:
    """Whether one of `values` may be in `text`."""
    return any(value in text or _may_be_escaped(text, value) for value in values)


def _may_be_escaped(text: str, value: str) -> bool:
    run = _longest_run(value)
    return run is not None and run in text and any(sign in text for sign in _SIGNS)


@functools.lru_cache(maxsize=4096)
def _longest_run(value: str) -> str | None:
    """The longest part that nothing escapes; None where that is all of it."""
    if len(value) > _LONGEST or _PLAIN.fullmatch(value):
        return None
    return max(_PLAIN.findall(value), key=len, default="")


@functools.lru_cache(maxsize=256)
def _escaped(value: str) -> re.Pattern[str]:
    """`value` in every spelling; each character is looked at a bounded number of times."""
    parts: list[str] = []
    behind = False
    for character, several in groupby(value):
        count = len(list(several))
        if character == "\\":  # how many there are says how often it was escaped
            most = min(16 * count, max(64, count))
            parts.append(rf"(?:\\{{{count},{most}}}+|(?:%(?:25){{0,4}}5[Cc]){{{count}}})")
        else:
            parts += [_spellings(character, behind=behind), *[_spellings(character)] * (count - 1)]
        behind = character == "\\"
    return re.compile("".join(parts))


@functools.lru_cache(maxsize=1024)
def _spellings(character: str, *, behind: bool = False) -> str:
    """What a character may have become; `behind` a backslash, whose pattern takes those of this one too."""
    if _PLAIN.fullmatch(character):
        return re.escape(character)
    escape = r"\\{0,15}+" if behind else r"\\{1,15}+"
    number, units = ord(character), character.encode("utf-8", "surrogatepass")
    ways = [rf"\\{{0,15}}+{re.escape(character)}"]
    ways.append("".join(rf"%(?:25){{0,4}}(?i:{unit:02x})" for unit in units))
    ways.append(escape + rf"(?i:u\{{0{{0,4}}{number:x}\}}|u{{1,2}}0{{0,4}}{number:04x})")
    if number < _BYTE:
        ways.append(escape + rf"(?i:x{number:02x}|{number:03o})")
    if number >= _ASCII:
        ways.append("".join(escape + rf"(?i:x{unit:02x}|{unit:03o})" for unit in units))
    if number >= _WIDE:
        pair = character.encode("utf-16-be")
        ways.append("".join(escape + rf"(?i:u{pair[at : at + 2].hex()})" for at in (0, 2)))
    if character in _LETTERS:
        ways.append(escape + _LETTERS[character])
    if character == " ":
        ways.append(r"\+")
    name = html.escape(character).strip("&;")
    entities = [f"#0{{0,4}}{number}", f"#x0{{0,4}}{number:x}", *([name, "apos"] if name != character else [])]
    ways.append(rf"(?i:&(?:amp;){{0,4}}(?:{'|'.join(entities)});)")
    return f"(?:{'|'.join(ways)})"
