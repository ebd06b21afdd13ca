"""What counts as lost, and what waits for it: decisions without servers."""

from typing import Any

import pytest

from seawall import events
from seawall.admission import ADMIT, Candidate, Park
from seawall.health import Check
from seawall.policies import Policy
from seawall.runtime import ServiceLost, ServiceReturned
from seawall.worker import losses
from seawall.worker.losses import Account, Lost, Watch, Watched
from support.services import bear_start_and_stop, threads_of
from support.waiting import wait_until


class Server:
    """Up or down, as a test says."""

    up = True

    def answer(self) -> None:
        if not self.up:
            raise ConnectionError("refused")


def candidate(*requires: str) -> Candidate:
    policy = Policy(requires=requires)
    return Candidate(id="1", name="t", queue="q", priority=5, policy=policy, arguments=lambda: ((), {}))


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(events, "emit", found.append)
    return found


def test_one_answer_or_one_that_is_missed_is_an_accident_and_two_are_certain(heard: list[Any]) -> None:
    server, lost, back = Server(), Lost(), []
    watch = Watch(
        [Watched(Check("database", server.answer), critical=True, database=True)],
        lost,
        lambda: back.append(1),
    )
    server.up = False
    watch.look()
    assert (lost.database, watch.missing, heard) == (False, [], [])
    watch.look()
    assert (lost.database, lost.service, watch.missing) == (True, False, ["database"])
    assert heard == [ServiceLost(service="database", reason="refused")]
    server.up = True
    watch.look()
    assert (lost.database, watch.missing, back) == (True, ["database"], [])
    watch.look()
    assert (lost.database, watch.missing, back) == (False, [], [1])
    assert isinstance(heard[1], ServiceReturned)


def test_a_critical_service_stops_all_and_one_that_is_not_stops_nothing() -> None:
    critical, other, lost = Server(), Server(), Lost()
    watch = Watch(
        [
            Watched(Check("gateway", critical.answer), critical=True),
            Watched(Check("prices", other.answer), critical=False),
        ],
        lost,
        lambda: None,
    )
    other.up = False
    watch.look()
    watch.look()
    assert (lost.service, watch.missing) == (False, ["prices"])
    critical.up = False
    watch.look()
    watch.look()
    assert (lost.service, watch.missing) == (True, ["gateway", "prices"])
    account = Account(lost)
    assert isinstance(account.ask(candidate()), Park)


def test_only_what_requires_the_database_waits_for_it() -> None:
    lost = Lost()
    account, impatient = Account(lost), Account(lost, parks=False)
    assert account.ask(candidate("postgres")) is ADMIT
    lost.note(services=0, database=True)
    assert account.ask(candidate("gateway")) is ADMIT
    verdict, sooner = account.ask(candidate("postgres")), impatient.ask(candidate("postgres"))
    assert isinstance(verdict, Park)
    assert isinstance(sooner, Park)
    assert verdict.dependency == losses.DEPENDENCY
    assert sooner.retry_after <= 3.0
    assert verdict.retry_after >= 5.0


def test_the_watch_looks_by_itself_goes_on_after_an_error_and_bears_start_and_stop(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(losses, "_LOOK_EVERY", 0.001)
    monkeypatch.setattr(losses, "_LOOK_AGAIN", 0.001)
    server, lost = Server(), Lost()
    watched = [Watched(Check("database", server.answer), critical=True, database=True)]

    def back() -> None:
        raise RuntimeError("planted")

    watch = Watch(watched, lost, back)
    server.up = False
    watch.start()
    wait_until(lambda: lost.database, what="the loss")
    server.up = True
    wait_until(lambda: "seawall-losses goes on after an error" in caplog.text, what="the error")
    server.up = False
    wait_until(lambda: lost.database, what="the next loss")
    watch.stop()
    assert not threads_of("seawall-losses")
    bear_start_and_stop(
        lambda: Watch([Watched(Check("database", Server().answer), critical=True)], Lost(), back)
    )
