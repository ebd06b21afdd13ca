"""Breakers: one circuit for the whole fleet around each dependency.

`breaker(name, ...)` makes one. A call costs no round trip; what the processes of the fleet see is put
together in Redis, and a change of state is pushed to all of them in milliseconds. docs/breakers.md is the
guide; `machine` says how a circuit thinks, `lua/layout.lua` what is shared, `hub` how it gets to a process.

Importing this package costs nothing: redis-py is loaded by the first `breaker(...)`.
"""

from typing import TYPE_CHECKING, Any, Final, Unpack

from seawall.lazily import imported

if TYPE_CHECKING:
    from seawall.breaker.circuit import Snapshot
    from seawall.breaker.config import Config, Options
    from seawall.breaker.events import BreakerChanged, BreakersCutOff, BreakersRejoined
    from seawall.breaker.face import Breaker, breakers, close
    from seawall.breaker.machine import Cause, State
    from seawall.breaker.place import Place, share

__all__ = [
    "Breaker",
    "BreakerChanged",
    "BreakersCutOff",
    "BreakersRejoined",
    "Cause",
    "Config",
    "Place",
    "Snapshot",
    "State",
    "breaker",
    "breakers",
    "close",
    "share",
]

_HOMES: Final = {
    "circuit": ("Snapshot",),
    "config": ("Config",),
    "events": ("BreakerChanged", "BreakersCutOff", "BreakersRejoined"),
    "face": ("Breaker", "breakers", "close"),
    "machine": ("Cause", "State"),
    "place": ("Place", "share"),
}


def breaker(name: str, **options: "Unpack[Options]") -> "Breaker":
    """The breaker of a dependency, one for the whole fleet; the same name gives the same object.

    Args:
        name: what it protects, such as "payments".
        options: failure_rate, slow_call, slow_rate, window, min_calls, open_for, max_open_for, probes,
            call_timeout, ramp_for, quorum, fallback, ignore, record, record_result, mode and max_keys, given
            where the breaker is made, or every time alike. docs/breakers.md explains them.

    Raises:
        ConfigError: an option is wrong, or the name has other options already.
    """
    from seawall.breaker.face import make

    return make(name, dict(options))


# It stands in the place of this package: `import seawall.breaker.events as m` looks below its name.
breaker.__name__ = __name__


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return imported(f"{__name__}.{module}", name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
