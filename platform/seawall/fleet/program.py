"""What the fleet runs, and the states one program goes through.

    STOPPED -> STARTING -> READY            a program that declares no readiness is READY at once
    STARTING, READY -> BACKING_OFF -> STARTING                              it exited by itself
    STARTING, READY -> DRAINING -> STOPPING -> KILLING -> STOPPED           each step may be skipped

The three stop states are the three phases of a shutdown: finish your work, drop it, die.
"""

import enum
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, kw_only=True, slots=True)
class Program:
    """One process to keep running. `environment` is added to ours.

    `needs_ready`: it sends READY=1 to $NOTIFY_SOCKET, and the fleet is ready only when it is.
    `announces_url`: it sends its address there (`X_SEAWALL_URL`), and a link that lets one in if it takes one
    (`X_SEAWALL_LINK`): docs/startup.md.
    `outlives_others`: told to drain only when all other programs are gone, so that it can watch them.
    `drain_signal` asks to finish what runs, `stop_signal` to drop it; after that comes SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    needs_ready: bool = False
    announces_url: bool = False
    outlives_others: bool = False
    drain_signal: signal.Signals = signal.SIGTERM
    stop_signal: signal.Signals = signal.SIGTERM


class State(enum.Enum):
    """Where a program is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"
    DRAINING = "draining"
    STOPPING = "stopping"
    KILLING = "killing"


PHASES: Final = (State.DRAINING, State.STOPPING, State.KILLING)

_LEGAL: Final[Mapping[State, frozenset[State]]] = {
    State.STOPPED: frozenset({State.STARTING}),
    State.STARTING: frozenset({State.READY, State.BACKING_OFF, State.STOPPED, *PHASES}),
    State.READY: frozenset({State.BACKING_OFF, State.STOPPED, *PHASES}),
    State.BACKING_OFF: frozenset({State.STARTING, State.STOPPED}),
    State.DRAINING: frozenset({State.STOPPING, State.KILLING, State.STOPPED}),
    State.STOPPING: frozenset({State.KILLING, State.STOPPED}),
    State.KILLING: frozenset({State.STOPPED}),
}


def may_follow(state: State, after: State) -> bool:
    """Whether a program may go from `after` to `state`."""
    return state in _LEGAL[after]


def exit_in_words(status: int, *, by_fleet: bool = False) -> str:
    """A `Popen.returncode` as people say it: `exited with code 1`, `was killed by SIGSEGV`.

    `by_fleet`: we sent SIGKILL, so nobody has to look for who did.
    """
    if status >= 0:
        return f"exited with code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # real-time signals have no name of their own
        name = f"signal {-status}"
    if status != -signal.SIGKILL:
        return f"was killed by {name}"
    by_whom = "by this fleet" if by_fleet else "by hand, or the kernel was out of memory"
    return f"was killed by {name} ({by_whom})"
