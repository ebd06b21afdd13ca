"""The breaker around PostgreSQL: a server that is away is noticed once by the fleet, not by every process.

A worker puts it in force (`guard_databases`). A refusal is a `DatabaseUnavailable`, as if the server had been
asked: whoever handles that handles both.
"""

import threading
from typing import Final, NamedTuple

from seawall import holdings
from seawall.breaker import Breaker, breaker
from seawall.breaker.calls import Call
from seawall.database.circuit import Outcome
from seawall.database.connecting import NotAsked
from seawall.errors import BreakerOpen, DatabaseUnavailable

NAME: Final = "postgres"
"""The configured server's; others are keys of it, such as `postgres[reports:5432]`."""


def postgres() -> Breaker:
    """A server that restarts is back in seconds, so it is asked again soon."""
    return breaker(NAME, open_for=2.0, max_open_for=15.0, ramp_for=1.0)


class _Calls(NamedTuple):
    """A thread's calls as they were before one was begun."""

    calls: list[Call | None]
    depth: int

    def give_back(self) -> None:
        """Those since were interrupted."""
        for call in self.calls[self.depth :]:
            if call is not None:
                call.release()
        del self.calls[self.depth :]


class Guard:
    """What `Database.guard` takes, around one breaker. Uses may nest in a thread, as calls do."""

    def __init__(self, around: Breaker) -> None:
        self._breaker = around
        self._calls = threading.local()

    def before(self) -> None:
        """Begin a use of the server.

        Raises:
            DatabaseUnavailable: the circuit is open; the server was not asked.
        """
        calls = self._under_way
        holdings.note(_Calls(calls, len(calls)))
        if any(call is None or call.probing for call in calls):
            calls.append(None)  # a part of the probe, whose outcome is its own too
            return
        try:
            call = self._breaker.circuit.admit()
        except BreakerOpen as exc:
            holdings.forget(_Calls(calls, len(calls)))
            message = f"PostgreSQL is not asked for {exc.retry_after:.1f} s: {exc}"
            raise DatabaseUnavailable(message) from exc
        calls.append(call)

    def after(self, outcome: Outcome, error: BaseException | None, seconds: float) -> None:  # noqa: ARG002
        """It has ended. A statement that its own time limit stopped says nothing about the server."""
        calls = self._under_way
        self._end(calls.pop(), outcome, error)
        holdings.forget(_Calls(calls, len(calls)))

    def _end(self, call: Call | None, outcome: Outcome, error: BaseException | None) -> None:
        if call is None:
            return
        if outcome is Outcome.SUCCESS:
            call.ended()
        elif call.probing and isinstance(error, NotAsked):
            call.release()  # the pool here answered from memory: a probe has to ask the server
        elif outcome is Outcome.FAILURE and error is not None:
            call.failed(error)
        else:
            call.release()

    @property
    def _under_way(self) -> list[Call | None]:
        calls: list[Call | None] = self._calls.__dict__.setdefault("calls", [])
        return calls
