"""Where a task may be interrupted: only in its own code, never in ours around it.

Whoever interrupts tasks by signal, a cell, replaces `mark`; elsewhere nothing happens.
"""

from collections.abc import Callable


def _nobody(_inside: int, /) -> int:
    """Nobody interrupts here."""
    return 0


def nobody() -> None:
    """From now on nobody interrupts here, as in a child that a task has forked."""
    global mark  # noqa: PLW0603 - one per process
    mark = _nobody


mark: Callable[[int], int] = _nobody
"""Called with 1 when a task's own code begins; returns the mark before, which is set again when it has ended.

That is 0, or 1 for a task that runs within the code of another one.
"""
