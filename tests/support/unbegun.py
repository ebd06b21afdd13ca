"""The application of `support.marked`, with tasks that a worker may have in its hands and not begin."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from seawall.admission import ADMIT, Candidate, Hold, Verdict, use
from support.delivery_app import mark
from support.gathered import Gathering
from support.marked import app

__all__ = ["app"]


class Asked(Gathering):
    """Gathers ten, or what there is when the file UNBEGUN_FLUSH is there."""

    abstract = True

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Any:  # type: ignore[override]  # noqa: N802
        class Timer:
            @staticmethod
            def call_repeatedly(_seconds: float, flush: Callable[[], None]) -> None:
                def look() -> None:
                    if Path(os.environ["UNBEGUN_FLUSH"]).exists():
                        flush()
                        mark("flush", os.getpid())

                consumer.timer.call_repeatedly(0.1, look)

        errors = consumer.connection_errors
        seen = SimpleNamespace(pool=consumer.pool, timer=Timer, connection_errors=errors)
        return super().Strategy(task, app, seen)


@app.task(base=Asked)
def gathered(requests: list[Any]) -> None:
    """Runs for all that were gathered."""
    for request in requests:
        mark("end", request.args[0])


@app.task(rate_limit="6/h")
def rated(name: object) -> None:
    """Runs at once for the first, and ten minutes later for the next."""
    mark("end", name)


@app.task
def held(name: object) -> None:
    """Runs when there is room."""
    mark("end", name)


@app.task
def plain(name: object) -> None:
    """Runs when it is due."""
    mark("end", name)


class Room:
    """Has room for `held` when the file UNBEGUN_ROOM is there."""

    name = "room"

    def ask(self, candidate: Candidate) -> Verdict:
        if candidate.name == held.name and not Path(os.environ["UNBEGUN_ROOM"]).exists():
            return Hold("there is no room", 0.1)
        return ADMIT

    def release(self, candidate: Candidate) -> None:
        """It is a file."""


use(Room())
