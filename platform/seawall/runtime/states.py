"""The states one service goes through, as the runtime sees it.

STOPPED -> STARTING -> READY -> STOPPING -> STOPPED
STARTING -> FAILED                      critical: everything is rolled back
STARTING, STOPPED -> DEGRADED           not critical, or what it requires is degraded
DEGRADED -> STARTING                    tried again in the background
"""

import enum
from collections.abc import Mapping
from typing import Final


class State(enum.Enum):
    """Where a service is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    FAILED = "failed"
    STOPPING = "stopping"


_LEGAL: Final[Mapping[State, frozenset[State]]] = {
    State.STOPPED: frozenset({State.STARTING, State.DEGRADED}),
    State.STARTING: frozenset({State.READY, State.DEGRADED, State.FAILED, State.STOPPED}),
    State.READY: frozenset({State.STOPPING}),
    State.DEGRADED: frozenset({State.STARTING, State.STOPPED}),
    State.FAILED: frozenset({State.STOPPED}),
    State.STOPPING: frozenset({State.STOPPED}),
}


def may_follow(state: State, after: State) -> bool:
    """Whether a service may go from `after` to `state`."""
    return state in _LEGAL[after]
