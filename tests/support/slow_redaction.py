"""What `redact_text` does, written without any care for speed.

No quick look decides what is tried: every form is looked for in any text, and every word is asked whether it
is a secret name. Repetitions of what finds them go back and have no bounds.
"""

import re
from typing import Final

from seawall.redaction import forms, texts
from seawall.redaction.urls import HIDDEN

_HEAD: Final = re.compile(
    r"""
    (?<![\w.-])(?P<name>[\w.-]+)(?![\w.-])
    (?P<close>\\*(?:['"]|u0022|&quot;|%22)?)(?:\[\])?(?P<bracket>(?:,(?=\)))?[\])}]*)
    (?:
        \s?,\s?(?P<said>default=|\\*['"](?:parameter)?value\\*['"]\s?:\s?)?(?=[bu]?\\*['"])(?P<pair>)
        |[ \t]*(?:=>|:=|->|==|=|%3[da]|:(?!:)|::(?=[ \t]))[ \t]*
        |(?:(?<=\\)(?:u003[da]|x3[da])|&\#(?:61|x3d);)
        |[ \t]+(?:is|was|to)(?:[ \t:]+(?=['"])|:[ \t]+)
        |(?P<call>\((?=[bfru]*\\*['"]))
        |(?P<markup>>)
        |(?P<flag>[ \t]+)
    )
    """,
    re.IGNORECASE | re.VERBOSE,
)


class Anything(str):
    """A text that holds whatever it is asked for."""

    __slots__ = ()

    def __contains__(self, _: object) -> bool:
        return True


def redact_slowly(text: str) -> str:
    """The reference for texts of a few kilobytes."""
    plain = texts.without_colours(text)
    shown = _in_plain(plain)
    return text if shown == plain else shown


def _in_plain(text: str) -> str:
    text = forms.without_forms(text, Anything(text))
    shown = ""
    place = 0
    while place < len(text):
        found = _HEAD.match(text, place)
        if found is None or not texts._names_a_secret(found):
            shown += text[place]
            place += 1
            continue
        start, end = texts._value(text, found)
        shown += text[place:start] + (HIDDEN if end > start else "")
        place = max(end, found.end("name"))
        if end < found.end("name"):
            shown += text[end : found.end("name")]
    return shown
