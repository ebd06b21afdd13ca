"""The breaker around a pool whose server is killed: both refuse, neither counts the other's refusals."""

import time
from contextlib import closing
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest

from seawall import DatabaseUnavailable
from seawall.breaker import Place, State, close, face
from seawall.breaker import place as places
from seawall.cluster import connect
from seawall.database.guarding import Guard, postgres
from seawall.database.pool import Database
from seawall.errors import BreakerOpen
from seawall.sections import DatabaseSettings
from support.outages import kill_server, own_postgres
from support.waiting import busyness, wait_until


def test_a_killed_server_opens_the_breaker_and_service_follows_its_return(
    home: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face, "_registry", {})
    places.use(Place(lambda: connect(redis_url)))
    stop = Event()
    good: list[float] = []
    refusals = {"breaker": 0, "pool": 0, "other": 0}

    def use(database: Database) -> None:
        while not stop.is_set():
            try:
                database.fetch_value("SELECT 1")
                good.append(time.time())
            except DatabaseUnavailable as exc:
                refusals["breaker" if isinstance(exc.__cause__, BreakerOpen) else "pool"] += 1
            except psycopg.Error:
                refusals["other"] += 1
            stop.wait(0.005)

    with own_postgres(home) as url, closing(Database(url, DatabaseSettings())) as database:
        database.guard(Guard(postgres()))
        threads = [Thread(target=use, args=(database,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            wait_until(lambda: len(good) > 100, what="work")
            _, ready = kill_server(home, url, seconds=6.0)
            opened = postgres().snapshot()
            wait_until(lambda: good[-1] > ready, timeout=40, what="service")
            back = next(at for at in good if at > ready) - ready
            wait_until(lambda: postgres().state is State.CLOSED, timeout=40, what="the breaker to close")
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            close()
    assert opened.trips >= 1
    assert refusals["breaker"] > 10
    assert opened.failed <= refusals["pool"] + refusals["other"]
    assert back < 4 * busyness(), refusals  # two seconds on a machine that is not overloaded
