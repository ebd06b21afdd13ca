"""How much of a text or a value is looked at and shown: nothing is worked out that nobody will see."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from seawall.redaction.texts import beginning, redact_text
from seawall.redaction.urls import HIDDEN

NODES: Final = 1000
"""Elements of an argument, however deep, that are visited to show it in logs, events and `argsrepr`."""

SHOWN: Final = 4096
"""Characters of each text in an argument that is shown, and of an object's own words."""

KEPT: Final = 16_384
"""Characters of an exception's message, and of a traceback in an event, a dead letter or an error group."""

LINE: Final = 65_536
"""Characters of a line's message, of its traceback and of each of its fields."""


class Bound(NamedTuple):
    """How much of a value is looked at: elements, however deep, characters of each text, and of all texts."""

    nodes: int
    characters: int
    total: int


ARGUMENTS: Final = Bound(NODES, SHOWN, 8 * SHOWN)
MESSAGE: Final = Bound(NODES, KEPT, 8 * KEPT)
FIELD: Final = Bound(NODES, LINE, 4 * LINE)
STORED: Final = Bound(10 * NODES, LINE, 16 * LINE)
"""Arguments that are stored with a result: their reader wants all of them, if they are not huge."""


def shortened(text: str, most: int, values: Iterable[str] = ()) -> str:
    """The beginning of `text` without secrets, at most `most` characters and a note of what is missing."""
    if len(text) <= most:
        return redact_text(text, values)
    shown = beginning(text, most, values)
    gap = " " if shown.endswith(HIDDEN) else ""  # or the note would be a part of the secret
    return f"{shown}{gap}... ({len(text)} characters)"
