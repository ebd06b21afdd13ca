"""The gate blames nobody for what another request is."""

from typing import Any
from unittest.mock import MagicMock

import pytest
from celery.worker import state
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError

from seawall.admission import Admit, Hold
from seawall.worker import gate


class Request:
    """What the gate asks of Celery's."""

    expires = None
    acknowledged = False
    on_success = on_failure = on_timeout = None

    def __init__(self, name: str) -> None:
        self.id = self.name = name
        self.message = MagicMock(acknowledged=True, id=name)
        self.task = MagicMock(policy=None)
        self.delivery_info: dict[str, Any] = {}
        self.error: Exception | None = None

    def revoked(self) -> bool:
        if self.error is not None:
            raise self.error
        return False


class Account:
    """Holds what is called so, at first."""

    def __init__(self) -> None:
        self.holds = {"odd"}

    def ask(self, candidate: Any) -> Any:
        return Hold("it waits", retry_after=0.0) if candidate.id in self.holds else Admit()

    def release(self, candidate: Any) -> None:
        """Nothing was taken."""


@pytest.fixture
def buried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(gate, "bury", lambda message, _error: found.append(message.id))
    monkeypatch.setattr(gate, "accounts", [Account()])
    monkeypatch.setattr(state, "revoked_stamps", {"tenant": "a"})
    return found


def entered(error: Exception) -> list[str]:
    """What runs when a good request enters beside one that was held and then raises `error`."""
    ran: list[str] = []
    consumer = MagicMock(connection_errors=(), on_task_request=lambda request: ran.append(request.id))
    consumer.pool.num_processes = 2
    entrance = gate.Gate(consumer)
    odd, good = Request("odd"), Request("good")
    entrance.enter(odd)
    assert entrance.held == [odd]
    odd.error = error
    entrance.enter(good)
    assert entrance.held == []
    return ran


@pytest.mark.parametrize("error", [TypeError("unhashable type: 'list'"), DataError("of a wrong type")])
def test_one_that_cannot_be_looked_at_is_given_up_and_whoever_comes_next_runs(
    buried: list[Any], error: Exception
) -> None:
    assert entered(error) == ["good"]
    assert buried == ["odd"]


def test_an_outage_is_nobodys_doing(buried: list[Any]) -> None:
    with pytest.raises(RedisConnectionError):
        entered(RedisConnectionError("away"))
    assert buried == []
