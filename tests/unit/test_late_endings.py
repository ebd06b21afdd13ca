"""Endings of tasks that a server did not hear."""

import pickle
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from seawall.worker import late_endings


class Ending:
    """Fails as often as it is told to, with an outage or with another error."""

    def __init__(self, outages: int, error: Exception | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self._outages = outages
        self._error = error

    def __call__(self, *args: Any) -> str:
        self.calls.append(args)
        if len(self.calls) <= self._outages:
            raise RedisConnectionError("away")
        if self._error is not None:
            raise self._error
        return "heard"


@pytest.fixture(autouse=True)
def nothing_is_late() -> Iterator[None]:
    late_endings._late.clear()
    yield
    late_endings._late.clear()


def outlasting(ending: Ending, name: str = "error_callback") -> Any:
    request = SimpleNamespace(name="t", id="1", _connection_errors=(OSError,))
    options = late_endings.outlasting({name: ending, "accept_callback": None}, request)
    assert options["accept_callback"] is None
    return options[name]


@pytest.mark.parametrize("name", ["callback", "error_callback", "timeout_callback"])
def test_an_ending_comes_again_until_its_server_is_back(name: str) -> None:
    ending = Ending(outages=3)
    assert outlasting(ending, name)(1, 2) is None
    for _ in range(5):
        late_endings.come()
    assert ending.calls == [(1, 2)] * 4


def test_an_ending_that_is_heard_comes_once() -> None:
    ending = Ending(outages=0)
    assert outlasting(ending)("x") == "heard"
    late_endings.come()
    assert ending.calls == [("x",)]


def test_an_error_that_is_no_outage_is_its_pools_affair_and_later_on_nobody_elses() -> None:
    with pytest.raises(ValueError, match="odd"):
        outlasting(Ending(outages=0, error=ValueError("odd")))()
    odd, well = Ending(outages=1, error=ValueError("odd")), Ending(outages=1)
    for each in (odd, well):
        outlasting(each)()
    late_endings.come()
    late_endings.come()
    assert (len(odd.calls), len(well.calls)) == (2, 2)


def test_who_waits_for_a_server_has_ended() -> None:
    ending = Ending(outages=1)
    outlasting(ending)()
    assert [request.name for request in late_endings.have_ended()] == ["t"]
    late_endings.come()
    assert late_endings.have_ended() == []


def owed(method: str, *arguments: Any) -> Any:
    def trace() -> tuple[int, str, float]:
        assert late_endings.owe(method, *arguments)
        return 0, "shown", 0.1

    return pickle.loads(pickle.dumps(late_endings.owing(trace)))  # noqa: S301 - as a pool of processes does


def test_what_a_run_owes_is_paid_before_its_end_is_told_and_again_after_an_outage() -> None:
    told: list[Any] = []
    paid = Ending(outages=1)

    def store(results: list[str]) -> None:
        paid()
        told.append(results)

    task = SimpleNamespace(backend=SimpleNamespace(store=store))
    request = SimpleNamespace(name="t", id="1", _connection_errors=(OSError,), task=task)
    callback: Any = late_endings.outlasting({"callback": told.append}, request)["callback"]
    callback(owed("store", ["result"]))
    assert told == []
    late_endings.come()
    assert told == [["result"], (0, "shown", 0.1)]


def test_outside_of_a_run_nothing_is_owed_and_in_one_only_what_has_a_copy() -> None:
    assert not late_endings.owe("store", [])
    assert late_endings.owing(late_endings.owe, "store", threading.Lock()) is False
    assert type(late_endings.owing(lambda: (0, "shown", 0.1))) is tuple
