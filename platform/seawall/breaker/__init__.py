"""Breakers: one circuit for the whole fleet around each dependency.

`breaker(name, ...)` makes one. A call costs no round trip; what the processes of the fleet see is put together
in Redis, and a change of state is pushed to all of them within milliseconds. docs/breakers.md is the guide;
`machine` says how a circuit thinks, `lua/layout.lua` what is shared, `hub` how it gets to a process.
"""

from seawall.breaker.circuit import Snapshot
from seawall.breaker.config import Config
from seawall.breaker.events import BreakerChanged, BreakersCutOff, BreakersRejoined
from seawall.breaker.face import Breaker, breaker, breakers, close
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
