"""What a process does to give memory back: callbacks of the application, a collection, a trim."""

import contextlib
import ctypes
import functools
import gc
import logging
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from seawall import events
from seawall.errors import ConfigError
from seawall.later import called, refuse_later
from seawall.memory.events import CleanedUp
from seawall.memory.levels import Pressure
from seawall.memory.meter import Own
from seawall.quantity import parse_duration

logger = logging.getLogger(__name__)

TIMEOUT: Final = 1.0
"""Seconds a callback may take."""


@dataclass(frozen=True, eq=False)
class Callback:
    """One registered function."""

    function: Callable[[], object]
    level: Pressure
    timeout: float

    @property
    def name(self) -> str:
        """As it is reported."""
        return getattr(self.function, "__qualname__", repr(self.function))


class Cleaner:
    """The callbacks of one process, and the reaction to a level."""

    def __init__(self) -> None:
        self._callbacks: tuple[Callback, ...] = ()
        self._running: set[Callback] = set()

    def register(
        self, function: Callable[[], object], level: Pressure, timeout: float | str = TIMEOUT
    ) -> Callable[[], None]:
        """Call `function` under `level` and above; returns the way to stop.

        Raises:
            ConfigError: an argument is wrong.
        """
        if not callable(function):
            raise ConfigError(
                f"on_pressure(fn={function!r}) is not callable: pass a function without arguments"
            )
        refuse_later(function, "on_pressure(fn) cannot call")
        if not isinstance(level, Pressure) or level is Pressure.NORMAL:
            raise ConfigError(
                f"on_pressure(level={level!r}) is no pressure: use WARNING, CRITICAL or EXHAUSTED"
            )
        callback = Callback(
            function, level, parse_duration(timeout, field="on_pressure(timeout)", least=0.001)
        )
        self._callbacks = (*self._callbacks, callback)

        def stop() -> None:
            self._callbacks = tuple(each for each in self._callbacks if each is not callback)

        return stop

    def after_fork(self) -> None:
        """In a child: what runs in threads of the parent does not run here."""
        self._running = set()

    def react(self, level: Pressure) -> CleanedUp:
        """Run what is registered for `level`, collect and trim; tells what that freed."""
        own = Own()
        before = own.held()
        due = [each for each in self._callbacks if each.level <= level and each not in self._running]
        late = [callback.name for callback in due if not self._call(callback)]
        release()
        event = CleanedUp(level=level, freed=max(0, before - own.held()), late=tuple(late))
        own.close()
        events.emit(event)
        return event

    def _call(self, callback: Callback) -> bool:
        """Whether it ended in time. One that did not is left alone, and not called again until it has."""
        self._running.add(callback)
        thread = threading.Thread(
            target=self._guarded, args=[callback], name=f"on-pressure {callback.name}", daemon=True
        )
        thread.start()
        thread.join(callback.timeout)
        if thread.is_alive():
            logger.warning("%s, registered for memory pressure, is still running", callback.name)
            return False
        return True

    def _guarded(self, callback: Callback) -> None:
        try:
            called("on_pressure(fn)", callback.function)
        except Exception:
            logger.exception("%s, registered for memory pressure, failed", callback.name)
        finally:
            self._running.discard(callback)


def release() -> None:
    """Collect, and give what the allocator holds and nobody uses back to the system."""
    gc.collect()
    trim()


def trim() -> None:
    """Give the free memory of glibc's heap back; nothing where there is no glibc."""
    if (function := _malloc_trim()) is not None:
        function(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    with contextlib.suppress(OSError, AttributeError):
        return ctypes.CDLL(None).malloc_trim
    return None


CLEANER: Final = Cleaner()
"""This process's; forked ones inherit what was registered before."""

os.register_at_fork(after_in_child=CLEANER.after_fork)
