"""The breaker around the pool: what counts, what a refusal looks like, and that it is asked again."""

from collections.abc import Iterator

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
from support.waiting import wait_until


@pytest.fixture
def database(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(face, "_registry", {})
    places.use(Place(lambda: connect(redis_url)))
    opened = Database(database_url, DatabaseSettings())
    opened.guard(Guard(postgres()))
    yield opened
    opened.close()
    close()


def test_faulty_statements_do_not_count_and_uses_nest(database: Database) -> None:
    for _ in range(12):
        with pytest.raises(psycopg.Error):
            database.execute("select * from nowhere")
    with database.connection(), database.connection() as inner:
        assert inner.execute("select 1").fetchone() is not None
    assert postgres().state is State.CLOSED
    assert (postgres().snapshot().calls, postgres().snapshot().failed) == (2, 0)


def test_a_server_that_is_away_opens_it_and_a_refusal_is_database_unavailable(
    database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(face, "_registry", {})
    places.use(Place(lambda: connect(redis_url)))
    away = Guard(postgres())
    for _ in range(10):
        away.before()
        error = DatabaseUnavailable("no connection")
        from seawall.database.circuit import outcome_of

        away.after(outcome_of(error), error, 0.1)
    database = Database(database_url, DatabaseSettings())
    database.guard(away)
    with pytest.raises(DatabaseUnavailable, match="PostgreSQL is not asked") as refused:
        database.execute("select 1")
    assert isinstance(refused.value.__cause__, BreakerOpen)
    wait_until(lambda: postgres().snapshot().retry_after == 0)
    database.execute("select 1")
    assert postgres().state is State.CLOSED
    database.close()
    close()
