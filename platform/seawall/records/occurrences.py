"""One time that a failure was seen, as it is written down: what it was, where, and why in one line."""

import time
from collections.abc import Sequence
from typing import Any, Final

from seawall.failure import Failure, limit_of, message_of, name_of, path_of
from seawall.redaction import KEPT, shortened

MOST_TEXT: Final = KEPT
LONGEST_NAME: Final = 255
"""Characters of a name, and of an id: an index of PostgreSQL takes 2704 bytes."""

_SAMPLE_EVERY: Final = 60.0
_SAMPLES: Final = 1000
_REASON: Final = 500
_SEEN: Final = 4096
"""Characters of a message in which its first line is looked for."""

_sampled: dict[str, float] = {}


def occurrence(error: BaseException, failure: Failure, task: str, traceback: str) -> dict[str, Any]:
    """What `journal.line("e", ...)` takes. `traceback` is without secrets; it goes along now and then."""
    now = time.time()
    if now - _sampled.get(failure.fingerprint, 0.0) < _SAMPLE_EVERY:
        traceback = ""
    else:
        if len(_sampled) >= _SAMPLES:
            _sampled.clear()
        _sampled[failure.fingerprint] = now
    return {
        "fingerprint": failure.fingerprint,
        "exception": path_of(type(error)),
        "task": task[:LONGEST_NAME],
        "category": failure.category.value,
        "severity": failure.severity.name.lower(),
        "at": now,
        "sample": traceback[-MOST_TEXT:] or None,
    }


def reason(error: BaseException, failure: Failure, secrets: Sequence[str] = ()) -> str:
    """Why something failed, in one line that begins with the category."""
    if limit := limit_of(error):
        return f"{failure.category.value}: {limit}"
    said = message_of(error)
    first = shortened(said, _SEEN, secrets).strip().partition("\n")[0][:_REASON]
    return f"{failure.category.value}: {name_of(type(error), '__name__')}{f': {first}' if first else ''}"
