"""What the platform tells whoever listens: past-tense facts, as frozen records.

The core emits; metrics, logs, the ledger and users' code observe. An event's name and fields are API and
stand in docs/events.md. An observer runs where the event happened and should be quick; one that raises is
logged and skipped, so it can harm nobody.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from seawall.errors import ConfigError
from seawall.later import called, refuse_later
from seawall.quantity import shown

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """The base of all events; subscribing to it hears everything."""


E = TypeVar("E", bound=Event)
_INSTEAD: Final = "Pass a plain function, which may hand the event to a loop (`run_coroutine_threadsafe`)"

_observers: dict[type[Event], tuple[Callable[[Any], object], ...]] = {}


def subscribe(kind: type[E], observer: Callable[[E], object]) -> Callable[[], None]:
    """Call `observer` with this process's events of `kind` and its subclasses; returns the way to stop.

    Raises:
        ConfigError: `kind` is no kind of event, or `observer` no function whose body runs when it is called.
    """
    if not isinstance(kind, type) or not issubclass(kind, Event):
        raise ConfigError(f"subscribe(kind={shown(kind)}) is no event: pass Event or a class of its kind")
    if not callable(observer):
        raise ConfigError(
            f"subscribe(observer={shown(observer)}) is not callable: pass a function of the event"
        )
    refuse_later(observer, "subscribe(observer) cannot call", instead=_INSTEAD)
    _observers[kind] = (*_observers.get(kind, ()), observer)

    def unsubscribe() -> None:
        _observers[kind] = tuple(each for each in _observers[kind] if each is not observer)

    return unsubscribe


def observed() -> bool:
    """Whether anybody listens: a hot path may ask before it makes an event."""
    return bool(_observers)


def emit(event: Event) -> None:
    """Tell those who subscribed."""
    if not _observers:
        return
    for kind in type(event).__mro__[:-1]:
        for observer in _observers.get(kind, ()):
            try:
                called("subscribe(observer)", observer, event)
            except Exception:
                logger.exception("an observer of %s failed", type(event).__name__)
