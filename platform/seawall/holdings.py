"""What an attempt at a task has taken and not given back yet, for exceptions that arrive anywhere.

A soft limit, a user's own handler of a signal or `PyThreadState_SetAsyncExc` may raise between any two
bytecodes: after a connection has left its pool and before the `with` block begins that would return it. So
whatever takes something writes it on the list of the attempt first, and takes it off when it has given it
back. What is left on the list when the attempt ends, however it ended, is given back then. An entry may
stand for something that was never taken, or was given back already: `give_back` finds out.

The platform's own interruptions do better. Their handlers ask `in_shelter`: within a function that is
`sheltered` they come `again` a moment later, so taking and giving back are never cut in two. Sheltered
functions wait for nobody; one that does is `interruptible`, and what it calls may be sheltered again.
"""

import _thread
import logging
import os
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from types import CodeType, FrameType
from typing import Any, Final, NamedTuple, Protocol, TypeVar

logger = logging.getLogger(__name__)

_A_MOMENT: Final = 0.0005

F = TypeVar("F", bound=Callable[..., Any])


class Holding(Protocol):
    """Something that was, or is about to be, taken."""

    def give_back(self) -> None:
        """Give it back if that has not happened. Safe to repeat."""


class _Attempt(threading.local):
    held: list[Holding] | None = None
    """Of the attempt that this thread is in, the oldest first; None outside of attempts."""


_here = _Attempt()


def begin(*, within: bool = False) -> list[Holding] | None:
    """An attempt begins in this thread, `within` another one or not; what it returns is for `end`."""
    outer = _here.held
    if outer and not within:  # the end of the one before was interrupted as well
        _give_back(outer)
    _here.held = []
    return outer if within else None


def end(outer: list[Holding] | None) -> None:
    """The attempt has ended: what is left is given back."""
    held = _here.held
    if held:
        try:
            _give_back(held)
        except BaseException:
            _give_back(held)
            raise
    _here.held = outer
    if outer is None:
        unlock_logging()


def under_way() -> bool:
    """Whether this thread is in an attempt."""
    return _here.held is not None


def note(holding: Holding) -> bool:
    """Something is about to be taken; False outside of attempts, where there is nothing to `forget`."""
    if (held := _here.held) is None:
        return False
    held.append(holding)
    return True


def forget(holding: Holding) -> None:
    """It was given back, or not taken after all."""
    if held := _here.held:
        if held[-1] == holding:
            del held[-1]
        elif holding in held:
            held.remove(holding)


def _give_back(held: list[Holding]) -> None:
    while held:
        holding = held[-1]
        try:
            holding.give_back()
        except Exception:
            logger.exception("%r could not be given back", holding)
        if held and held[-1] is holding:
            del held[-1]


class Restored(NamedTuple):
    """A variable of this context that will have its value of before again."""

    variable: ContextVar[Any]
    value: object

    def give_back(self) -> None:
        """Set it."""
        self.variable.set(self.value)


def unlock(lock: Any) -> None:
    """Release a reentrant lock that this thread was interrupted in."""
    while lock._is_owned():  # noqa: SLF001 - as threading.Condition does
        lock.release()


def unlock_logging() -> None:
    """Release the locks of `logging` that this thread was interrupted in: all others would wait for ever.

    `logging` takes them before the block begins that gives them back, as it looks up a logger's level for the
    first time and as it hands a record to a handler. Call it where this thread cannot be within `logging`.
    """
    handlers = (reference() for reference in logging._handlerList)  # type: ignore[attr-defined] # noqa: SLF001
    for lock in (logging._lock, *(handler.lock for handler in handlers if handler is not None)):  # type: ignore[attr-defined] # noqa: SLF001
        if hasattr(lock, "_is_owned"):
            unlock(lock)


_sheltered: set[CodeType] = set()
_interruptible: set[CodeType] = set()


def sheltered(function: F) -> F:
    """A function that takes or gives back; the platform interrupts no thread within it."""
    _sheltered.add(_code_of(function))
    return function


def interruptible(function: F) -> F:
    """A function that waits for somebody, also on behalf of a sheltered one."""
    _interruptible.add(_code_of(function))
    return function


def in_shelter(frame: FrameType | None) -> bool:
    """Whether the innermost function around `frame` that is either is a sheltered one."""
    while frame is not None:
        code = frame.f_code
        if code in _sheltered:
            return True
        if code in _interruptible:
            return False
        frame = frame.f_back
    return False


def again(signum: int) -> None:
    """Have a signal come to this process once more, when the code that it interrupted has gone on a little.

    A handler that sends it itself is called by that before it returns, and within itself for ever: the code
    around it never goes on.
    """

    def send() -> None:
        time.sleep(_A_MOMENT)
        os.kill(os.getpid(), signum)

    _thread.start_new_thread(send, ())  # takes no lock of `threading`, in which the handler may stand


def _code_of(function: Any) -> CodeType:
    code: CodeType = getattr(function, "__wrapped__", function).__code__
    return code
