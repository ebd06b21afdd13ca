"""The process's pool on a real server."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

import seawall
from seawall.config import settings
from seawall.database import close, pool
from seawall.database.pool import Database
from seawall.database.sqlstate import Kind, kind_of
from seawall.errors import DatabaseUnavailable
from seawall.sections import DatabaseSettings
from support.waiting import wait_until


@pytest.fixture
def shop(database_url: str) -> Iterator[Database]:
    limits = DatabaseSettings(max_connections_per_process=2, connect_timeout=2.0, statement_timeout=1.5)
    database = Database(database_url, limits, application="shop")
    yield database
    database.close()


def kill_backends(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_rows_come_as_dicts_and_counts_as_numbers(shop: Database) -> None:
    shop.execute("CREATE TABLE t (id int, name text)")
    assert shop.execute("INSERT INTO t VALUES (%s, %s), (2, 'b')", (1, "a")) == 2
    assert shop.fetch("SELECT * FROM t ORDER BY id") == [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    assert shop.fetch_one("SELECT * FROM t WHERE id = %s", (2,)) == {"id": 2, "name": "b"}
    assert shop.fetch_one("SELECT * FROM t WHERE id = 3") is None
    assert shop.fetch_value("SELECT count(*) FROM t") == 2
    assert shop.fetch_value("SELECT id FROM t WHERE id = 3") is None
    assert shop.fetch_value("SELECT FROM t") is None


@pytest.mark.parametrize("written", [str, str.encode, sql.SQL], ids=["text", "bytes", "composed"])
def test_a_statement_is_not_cut_at_a_nul(shop: Database, written: Callable[[str], Any]) -> None:
    shop.execute("CREATE TABLE t (id int)")
    for rest in ("", " WHERE id = %s", " " * 5000):
        for _ in range(2):  # also where it is known already
            with pytest.raises(psycopg.DataError, match="there is a NUL"):
                shop.execute(written(f"INSERT INTO t SELECT 1\0{rest}"), (1,) if "%s" in rest else None)
    assert shop.fetch("SELECT * FROM t") == []


def of_the_server(connection: psycopg.Connection[Any], query: str) -> None:
    with connection.cursor("found") as cursor:
        cursor.execute(query)


NUL = "DELETE FROM t\0 WHERE false"
CURSORS: dict[str, Callable[[psycopg.Connection[Any]], Any]] = {
    "many": lambda connection: connection.cursor().executemany(NUL, [(), ()]),
    "stream": lambda connection: list(connection.cursor().stream("SELECT 1\0 WHERE false")),
    "copy": lambda connection: connection.cursor().copy("COPY t TO STDOUT\0 x").__enter__(),
    "of the server": lambda connection: of_the_server(connection, "SELECT 1\0 WHERE false"),
}


@pytest.mark.parametrize("way", CURSORS.values(), ids=[*CURSORS])
def test_no_cursor_cuts_a_statement_at_a_nul(
    shop: Database, way: Callable[[psycopg.Connection[Any]], Any]
) -> None:
    shop.execute("CREATE TABLE t AS SELECT 1")
    with pytest.raises(psycopg.DataError, match="there is a NUL"), shop.transaction() as connection:
        way(connection)
    assert shop.fetch_value("SELECT count(*) FROM t") == 1


def test_a_transaction_is_all_or_nothing(shop: Database) -> None:
    shop.execute("CREATE TABLE t (id int)")
    with pytest.raises(psycopg.errors.DivisionByZero), shop.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (1)").connection.execute("SELECT 1 / 0")
    with shop.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (2)")
        connection.execute("INSERT INTO t VALUES (3)")
    assert [row["id"] for row in shop.fetch("SELECT id FROM t")] == [2, 3]


def test_a_rollback_is_never_a_success(shop: Database) -> None:
    """PostgreSQL answers such a COMMIT with ROLLBACK, and no error."""
    shop.execute("CREATE TABLE t (id int UNIQUE)")
    shop.execute("INSERT INTO t VALUES (1)")
    calls: list[int] = []

    def work(connection: psycopg.Connection[Any]) -> str:
        calls.append(1)
        connection.execute("INSERT INTO t VALUES (2)")
        with contextlib.suppress(psycopg.errors.UniqueViolation):
            connection.execute("INSERT INTO t VALUES (1)")
        return "booked"

    with pytest.raises(psycopg.errors.InFailedSqlTransaction, match="nothing was committed"):
        shop.run(work)
    assert calls == [1]
    with pytest.raises(psycopg.errors.InFailedSqlTransaction), shop.transaction() as connection:
        work(connection)
    refused = pytest.raises(psycopg.errors.InFailedSqlTransaction)
    with shop.connection() as connection, refused, connection.transaction():
        work(connection)
    assert [row["id"] for row in shop.fetch("SELECT id FROM t")] == [1]


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT", "/* undo */ ABORT"])
def test_a_transaction_that_a_statement_ended_is_no_success(shop: Database, end: str) -> None:
    shop.execute("CREATE TABLE t (id int)")

    def work(connection: psycopg.Connection[Any]) -> str:
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute(end.encode())
        return "booked"

    with pytest.raises(psycopg.errors.InvalidTransactionTermination, match="inside its block"):
        shop.run(work)
    with pytest.raises(psycopg.errors.InvalidTransactionTermination), shop.transaction() as connection:
        work(connection)
    assert shop.fetch_value("SELECT count(*) FROM t") == (2 if end == "COMMIT" else 0)


@pytest.mark.parametrize(
    "statements",
    [
        *(
            ["ROLLBACK AND CHAIN"],
            ["COMMIT AND CHAIN"],
            ["ROLLBACK; BEGIN"],
            ["SAVEPOINT a", "ROLLBACK; BEGIN"],
        ),
        *(
            ["ROLLBACK", "BEGIN"],
            ["SELECT 1; COMMIT; BEGIN"],
            ["SAVEPOINT a; ROLLBACK TO a; ROLLBACK; BEGIN"],
        ),
    ],
    ids=", ".join,
)
@pytest.mark.parametrize("unheard", [False, True])
def test_a_transaction_that_a_statement_replaced_is_no_success(
    shop: Database, statements: list[str], unheard: bool
) -> None:
    shop.execute("CREATE TABLE t (id int)")
    ended = psycopg.errors.InvalidTransactionTermination

    def work(connection: psycopg.Connection[Any]) -> None:
        connection.execute("INSERT INTO t VALUES (1)")
        for each in statements:
            with contextlib.suppress(*[ended] * unheard):
                connection.execute(each.encode())
        connection.execute("INSERT INTO t VALUES (2)")

    with pytest.raises(ended, match="inside its block"):
        shop.run(work)
    assert shop.fetch_value("SELECT count(*) FROM t WHERE id = 2") == 0
    with shop.connection() as connection:  # the same one
        for each in ("BEGIN", "INSERT INTO t VALUES (4)", "COMMIT"):
            connection.execute(each.encode())
    with shop.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (3)")
    assert shop.fetch_value("SELECT count(*) FROM t WHERE id = 3") == 1


@pytest.mark.parametrize("to", ["ROLLBACK TO a", "rollback work to savepoint a", "ROLLBACK TO a; SELECT 1"])
def test_a_rollback_to_a_savepoint_ends_nothing(shop: Database, to: str) -> None:
    shop.execute("CREATE TABLE t (id int)")
    with shop.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        connection.execute("SAVEPOINT a")
        connection.execute("INSERT INTO t VALUES (2)")
        connection.execute(to.encode())
    assert shop.fetch("SELECT id FROM t") == [{"id": 1}]


def test_a_transaction_in_a_pipeline_is_committed(shop: Database) -> None:
    shop.execute("CREATE TABLE t (id int)")
    with shop.connection() as connection, connection.pipeline(), connection.transaction():
        connection.execute("INSERT INTO t VALUES (1)")
    with shop.transaction() as connection, connection.pipeline():
        connection.execute("INSERT INTO t VALUES (2)")
    assert shop.fetch_value("SELECT count(*) FROM t") == 2


def test_a_statement_may_fail_in_a_savepoint_of_its_own(shop: Database) -> None:
    shop.execute("CREATE TABLE t (id int UNIQUE)")
    with shop.transaction() as connection:
        connection.execute("INSERT INTO t VALUES (1)")
        with contextlib.suppress(psycopg.errors.UniqueViolation), connection.transaction():
            connection.execute("INSERT INTO t VALUES (1)")
    assert shop.fetch_value("SELECT count(*) FROM t") == 1


def test_a_transaction_left_open_by_hand_does_not_reach_the_next_user(shop: Database) -> None:
    refused = pytest.raises(psycopg.errors.InvalidTransactionTermination, match="still open")
    with refused, shop.connection() as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE t (id int)")
    with refused, shop.connection() as connection:
        connection.autocommit = False
        connection.execute("CREATE TABLE t (id int)")
    with refused:
        shop.execute("BEGIN; CREATE TABLE t (id int)")
    failed = pytest.raises(psycopg.errors.InFailedSqlTransaction, match="nothing was committed")
    with failed, shop.connection() as connection, contextlib.suppress(psycopg.errors.DivisionByZero):
        connection.execute("BEGIN")
        connection.execute("SELECT 1 / 0")
    assert shop.fetch_value("SELECT to_regclass('t')") is None


def test_one_thread_needs_one_connection(shop: Database) -> None:
    pids = {shop.fetch_value("SELECT pg_backend_pid()") for _ in range(20)}
    assert len(pids) == 1
    assert shop.stats()["pool_size"] == 1


def test_stats_have_every_counter_from_the_start(shop: Database) -> None:
    before = shop.stats()
    assert before["pool_max"] == 2
    assert {value for key, value in before.items() if key != "pool_max"} == {0}
    shop.fetch_value("SELECT 1")
    after = shop.stats()
    assert before.keys() <= after.keys()
    assert (after["requests_num"], after["connections_errors"]) == (1, 0)


def test_the_session_has_the_limits_and_the_name(shop: Database) -> None:
    names = (
        *("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"),
        *("client_connection_check_interval", "application_name"),
    )
    values = [shop.fetch_value("SELECT current_setting(%s)", (name,)) for name in names]
    assert values == ["1500ms", "10s", "1min", "1s", "shop"]


def test_a_statement_over_its_limit_is_cancelled_and_the_connection_lives(shop: Database) -> None:
    pid = shop.fetch_value("SELECT pg_backend_pid()")
    with pytest.raises(psycopg.errors.QueryCanceled):
        shop.execute("SELECT pg_sleep(30)")
    assert shop.fetch_value("SELECT pg_backend_pid()") == pid


def test_busy_connections_are_told_from_a_server_that_is_away(shop: Database) -> None:
    with (
        shop.connection(),
        shop.connection(),
        pytest.raises(
            DatabaseUnavailable, match=r"all 2 are in use: raise database\.max_connections_per_process"
        ),
    ):
        shop.execute("SELECT 1")


def test_a_server_that_is_away_is_named_with_the_reason_and_without_the_password() -> None:
    database = Database("postgresql://u:secret@127.0.0.1:1/d", DatabaseSettings(connect_timeout=0.5))
    with (
        contextlib.closing(database),
        pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1/d .* refused") as caught,
    ):
        database.fetch_value("SELECT 1")
    assert "secret" not in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)
    assert "secret" not in repr(database)


def test_a_wrong_password_is_the_reason_that_is_given(database_url: str) -> None:
    parts = urlsplit(database_url)
    url = parts._replace(netloc=f"{parts.username}:wrong@{parts.hostname}:{parts.port}").geturl()
    database = Database(url, DatabaseSettings(connect_timeout=0.5))
    with (
        contextlib.closing(database),
        pytest.raises(DatabaseUnavailable, match="password authentication failed"),
    ):
        database.fetch_value("SELECT 1")


@pytest.mark.parametrize(
    ("option", "named"),
    [
        *(
            ("sslmode=bogus", "sslmode"),
            ("connect_timeout=abc", "connect_timeout"),
            ("gssencmode=x", "gssencmode"),
        ),
        *(("target_session_attrs=wrong", "target_session_attrs"), ("keepalives_idle=1e9", "keepalives_idle")),
        *(("load_balance_hosts=x", "load_balance_hosts"), ("client_encoding=bogus", "client_encoding")),
        *(("ssl_min_protocol_version=x", "ssl_min_protocol_version"), ("service=nosuch", "nosuch")),
        *(("options=-c%20statement_timeout%3D30d", "statement_timeout"), ("options=--nonsense", "nonsense")),
        ("options=-c%20statement_timout%3D3", "statement_timout"),
    ],
)
def test_a_wrong_option_is_no_outage(database_url: str, option: str, named: str) -> None:
    """It is not waited for, as a refused password is not, and the message says what to correct."""
    database = Database(f"{database_url}?{option}", DatabaseSettings(connect_timeout=30.0))
    with contextlib.closing(database), pytest.raises(DatabaseUnavailable) as caught:
        database.fetch_value("SELECT 1")
    assert f"{named}" in str(caught.value)
    assert str(caught.value).endswith("correct this option of database_url")
    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert kind_of(caught.value.__cause__) is Kind.AUTHENTICATION


def test_a_column_added_while_a_query_is_in_use_does_not_break_it(shop: Database, database_url: str) -> None:
    shop.execute("CREATE TABLE t AS SELECT 1 AS id")
    for _ in range(10):  # psycopg would prepare it after five
        shop.fetch("SELECT * FROM t")
    with psycopg.connect(database_url, autocommit=True) as migration:
        migration.execute("ALTER TABLE t ADD name text")
    assert shop.fetch("SELECT * FROM t") == [{"id": 1, "name": None}]


def test_connections_that_died_while_idle_are_not_handed_out(
    shop: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_TRUSTED_IDLE", 0.0)
    with shop.connection(), shop.connection():
        pass
    assert shop.stats()["pool_available"] == 2
    kill_backends(database_url)
    assert shop.fetch_value("SELECT 1") == 1


def test_a_connection_that_dies_in_use_fails_its_user_only(shop: Database, database_url: str) -> None:
    with shop.connection() as connection:
        kill_backends(database_url)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    assert shop.fetch_value("SELECT 1") == 1


def test_callers_that_came_while_the_pool_gave_up_are_still_served(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_RECONNECT", 0.1)
    database = Database(database_url, DatabaseSettings(connect_timeout=10.0))
    back = threading.Event()
    real = psycopg.Connection.connect.__func__  # type: ignore[attr-defined]

    def connect(cls: Any, /, *args: Any, **kwargs: Any) -> Any:
        if not back.is_set():
            raise psycopg.OperationalError("away")
        return real(cls, *args, **kwargs)

    monkeypatch.setattr(psycopg.Connection, "connect", classmethod(connect))
    with contextlib.closing(database):
        waiter = threading.Thread(target=database.fetch_value, args=("SELECT 1",))
        waiter.start()
        wait_until(lambda: database.stats()["connections_errors"] >= 3, what="the pool to give up once")
        back.set()
        waiter.join(10)
        assert not waiter.is_alive()
        assert database.stats()["requests_errors"] == 0


def test_closing_is_idempotent_and_the_next_use_opens_again(shop: Database) -> None:
    shop.close()
    assert shop.fetch_value("SELECT 1") == 1
    shop.close()
    shop.close()
    assert shop.stats()["pool_size"] == 0
    assert shop.fetch_value("SELECT 1") == 1


def test_threads_share_the_pool_and_stay_within_its_size(shop: Database) -> None:
    pids: set[int] = set()

    def work() -> None:
        for _ in range(50):
            pids.add(shop.fetch_value("SELECT pg_backend_pid()"))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(pids) <= 2


def test_database_is_one_object_per_process_with_the_settings_limits(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWALL_DATABASE_URL", database_url)
    monkeypatch.setenv("SEAWALL_DATABASE__STATEMENT_TIMEOUT", "7s")
    settings.cache_clear()
    close()
    try:
        assert seawall.database() is seawall.database()
        assert seawall.database().fetch_value("SHOW statement_timeout") == "7s"
        assert seawall.database(database_url) is seawall.database(database_url)
    finally:
        close()
        settings.cache_clear()
