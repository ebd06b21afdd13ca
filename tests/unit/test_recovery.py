"""Recoveries: registered, limited, told, and harmless."""

import threading
from collections.abc import Iterator

import pytest

from seawall import Category, ConfigError, classify, events, recovers, recovery
from seawall.recovery import Recovery, RecoveryEnded, RecoveryStarted, Trouble
from support.waiting import wait_until


@pytest.fixture
def ended() -> Iterator[list[RecoveryEnded]]:
    found: list[RecoveryEnded] = []
    stop = events.subscribe(RecoveryEnded, found.append)
    known = set(recovery.registered())
    yield found
    stop()
    for each in set(recovery.registered()) - known:
        recovery.unregister(each.name)


def trouble(error: Exception) -> Trouble:
    return Trouble(classify(error), error)


REFUSED = ConnectionRefusedError("no")


def test_a_failure_of_its_category_begins_it_and_what_it_did_is_told(ended: list[RecoveryEnded]) -> None:
    started: list[RecoveryStarted] = []
    stop = events.subscribe(RecoveryStarted, started.append)
    seen: list[Trouble] = []

    @recovers(Category.NETWORK, every=60)
    def reconnect(found: Trouble) -> str:
        seen.append(found)
        return "connected again"

    recovery.consider(classify(ValueError()), ValueError())
    recovery.consider(classify(REFUSED), REFUSED, task="shop.pay")
    wait_until(lambda: ended, what="the recovery")
    stop()
    assert [each.task for each in seen] == ["shop.pay"]
    assert (ended[0].name, ended[0].ok, ended[0].did) == ("reconnect", True, "connected again")
    assert [each.category for each in started] == ["network"]


def test_it_is_limited_and_a_failed_one_waits_twice_as_long(ended: list[RecoveryEnded]) -> None:
    now = [1000.0]

    def fail(_trouble: Trouble) -> str:
        raise OSError("still away")

    limited = Recovery("limited", Category.NETWORK, fail, every=10.0, clock=lambda: now[0])
    begun = []
    for elapsed in (0, 5, 16, 5, 34, 7):
        now[0] += elapsed
        begun.append(limited.consider(trouble(REFUSED)))
        wait_until(lambda: len(ended) == sum(begun), what="its end")
    assert begun == [True, False, True, False, False, True]
    assert not ended[0].ok
    assert ended[0].did == "failed: OSError"


def test_one_runs_at_a_time(ended: list[RecoveryEnded]) -> None:
    go = threading.Event()

    def slow(_trouble: Trouble) -> str:
        go.wait(10)
        return "slow"

    one = Recovery("slow", Category.NETWORK, slow, every=0.0)
    assert one.consider(trouble(REFUSED))
    assert not one.consider(trouble(REFUSED))
    go.set()
    wait_until(lambda: ended, what="its end")
    assert one.consider(trouble(REFUSED))
    wait_until(lambda: len(ended) == 2, what="its second end")


def test_wrong_registrations_are_refused(ended: list[RecoveryEnded]) -> None:
    with pytest.raises(ConfigError, match="is none: use"):
        recovers("network")  # type: ignore[arg-type]
    recovers(Category.NETWORK, name="twice")(lambda _trouble: None)
    with pytest.raises(ConfigError, match="registered already"):
        recovers(Category.NETWORK, name="twice")(lambda _trouble: None)


def test_a_broken_condition_harms_nobody(ended: list[RecoveryEnded]) -> None:
    recovers(Category.NETWORK, name="broken", when=lambda _trouble: bool(1 / 0))(lambda _trouble: None)
    recovery.consider(classify(REFUSED), REFUSED)
