"""Where a task may be interrupted: only in its own code, never in ours around it.

Whoever interrupts tasks by signal, a cell, replaces `mark`; elsewhere nothing happens.
"""

from collections.abc import Callable


def _nobody(_inside: int, /) -> None:
    """Nobody interrupts here."""


mark: Callable[[int], None] = _nobody
"""Called with 1 when the task's own code begins and with 0 when it has ended."""
