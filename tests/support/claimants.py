"""What a consumer knows and owes, without a server, and a clock that stands until it is set."""

from typing import Any

import pytest

from seawall.delivery import Options
from seawall.delivery.claimant import Claimant
from seawall.delivery.scripts import Keys

__all__ = ["claimant", "clock"]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def claimant(clock: Clock) -> Claimant:
    unused: Any = None
    return Claimant(
        keys=Keys(), options=Options(), client=unused, on_dead=lambda _queue, _ids: None, clock=clock
    )
