"""One cell as its supervisor knows it."""

import contextlib
import os
import signal
import time
from dataclasses import dataclass, field
from typing import Final

from seawall.worker.cells.channel import Channel
from seawall.worker.cells.table import Killed, Row, State

_STARTS_WITHIN: Final = 30.0  # seconds from the fork to the first turn of a loop: hooks and imports
_LEAVE_WITHIN: Final = 4.0  # seconds in which a cell without a task has to end that was told to
_CONCLUDES_WITHIN: Final = (
    60.0  # seconds from the end of a task's code to its settlement: hooks and receivers
)
_STOPPED_FOR: Final = 5.0  # seconds for which a process may be stopped inside a task


@dataclass
class Seat:
    """A cell's row, process and channel, and what has been decided about it."""

    row: Row
    pid: int
    token: str  # of its consumers' names
    pidfd: int
    channel: Channel
    born: float
    leaving: bool = False  # it ends when its task has, and is not replaced
    leave_by: float = float("inf")  # when it was told to end; later while it runs a task
    killed: Killed = Killed.NOT
    signum: int = 0
    kill_at: float = float("inf")
    totals: dict[str, int] = field(default_factory=dict)  # tasks ended, by name
    still: float = 0.0  # seconds that its supervisor has seen its loop stand still for
    answer_by: float = float("inf")  # when it was asked where it stands, and a second more
    stopped: float = 0.0  # seconds that its process has been seen stopped for, inside a task
    continued: bool = False  # it was once, and has been continued
    distrusted_by: float = float("inf")  # when its row was seen overwritten, and some seconds more
    _seen: tuple[int, ...] = ()

    def look(self, passed: float) -> None:
        """Whether its loop has turned; `passed` are the seconds since the last look.

        They are counted, not read from a clock: what stops this machine or the whole worker stops them too.
        """
        row = self.row
        seen = (row.turns, row.generation, row.done, row.state, row.returned)
        if seen == self._seen:
            self.still += passed
        else:
            self.still, self.answer_by = 0.0, float("inf")
        self._seen = seen
        self.stopped = self.stopped + passed if row.state == State.RUNNING and self._is_stopped() else 0.0

    def _is_stopped(self) -> bool:
        """Whether a signal has stopped the process, which says so for as long as that lasts."""
        look: int = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.pid, look) is not None
        except ChildProcessError:
            return False

    @property
    def stuck(self) -> bool:
        """Whether its process is stopped, for longer than somebody who looks at it needs."""
        return not self.killed and self.stopped > _STOPPED_FOR

    @property
    def deaf(self) -> bool:
        """Whether its loop stands still for longer than it may: nobody reaches it, and it claims nothing."""
        row = self.row
        if self.killed or row.state not in {State.STARTING, State.IDLE, State.RUNNING}:
            return False  # one that was told to end has a limit of its own
        if row.state == State.RUNNING:  # a task has its limits; what comes after its code has none of its own
            ended = not row.inside and row.returned == row.generation
            return ended and self.still > max(row.may_wait, _CONCLUDES_WITHIN)
        return self.still > (row.may_wait or _STARTS_WITHIN)

    def distrusted(self, now: float) -> bool:
        """Whether its row is overwritten; `overdue` says when a cell should have noticed it by itself."""
        if self.row.sound:
            self.distrusted_by = float("inf")
            return False
        self.distrusted_by = min(self.distrusted_by, now + _LEAVE_WITHIN)
        return True

    def dismiss(self) -> None:
        """Have it end when its task has.

        A cell that waits for its broker reads nothing and is reached by a signal; a task that runs gets none.
        """
        self.channel.say("stop")
        if self.row.state != State.RUNNING:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGTERM)
        self.leave_by = min(self.leave_by, time.monotonic() + _LEAVE_WITHIN)

    def overdue(self, now: float) -> bool:
        """Whether it was told to end, runs nothing, and is still there: a task may have made it deaf."""
        if now > self.leave_by and self.row.state == State.RUNNING:
            self.leave_by = now + _LEAVE_WITHIN
        return now > self.leave_by
