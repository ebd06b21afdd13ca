from dataclasses import dataclass

import pytest

from seawall.events import Event, emit, subscribe


@dataclass(frozen=True, kw_only=True, slots=True)
class _Opened(Event):
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Closed(Event):
    name: str


def test_an_observer_hears_its_kind_and_subclasses_until_it_stops() -> None:
    opened: list[Event] = []
    everything: list[Event] = []
    stops = subscribe(_Opened, opened.append), subscribe(Event, everything.append)

    emit(_Opened(name="a"))
    emit(_Closed(name="b"))
    for stop in stops:
        stop()
    emit(_Opened(name="c"))

    assert opened == [_Opened(name="a")]
    assert everything == [_Opened(name="a"), _Closed(name="b")]


def test_a_broken_observer_is_logged_and_the_next_is_called(caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Event] = []

    def broken(_event: Event) -> None:
        raise RuntimeError("broken observer")

    stops = subscribe(_Opened, broken), subscribe(_Opened, heard.append)
    emit(_Opened(name="a"))
    for stop in stops:
        stop()

    assert heard == [_Opened(name="a")]
    assert "broken observer" in caplog.text
