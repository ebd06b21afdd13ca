"""One time that a failure was seen, as it is written down: what it was, where, and why in one line."""

import time
from collections.abc import Sequence
from typing import Any, Final

from seawall.failure import Failure
from seawall.redaction import redact_text

MOST_TEXT: Final = 16_384
_SAMPLE_EVERY: Final = 60.0
_SAMPLES: Final = 1000
_REASON: Final = 500

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
    kind = type(error)
    return {
        "fingerprint": failure.fingerprint,
        "exception": f"{kind.__module__}.{kind.__qualname__}",
        "task": task,
        "category": failure.category.value,
        "severity": failure.severity.name.lower(),
        "at": now,
        "sample": traceback[-MOST_TEXT:] or None,
    }


def reason(error: BaseException, failure: Failure, secrets: Sequence[str] = ()) -> str:
    """Why something failed, in one line that begins with the category."""
    try:
        said = str(error)
    except Exception as broken:  # noqa: BLE001 - a foreign __str__ may do anything
        said = f"unprintable: {type(broken).__name__}"
    first = redact_text(said, secrets).strip().partition("\n")[0][:_REASON]
    return f"{failure.category.value}: {type(error).__name__}{f': {first}' if first else ''}"
