"""What one user of a session does to it, and what the next one finds: nothing."""

import contextvars
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from psycopg.rows import tuple_row
from psycopg.types import TypeInfo
from psycopg.types.string import StrDumper, TextLoader

from seawall.database import nesting
from seawall.database.connection import Connection
from seawall.database.pool import Database
from seawall.sections import DatabaseSettings

LEAVE = {
    "a role": "set role lowly",
    "an authorization": "set session authorization lowly",
    "a setting of its own": "set app.tenant = 'acme'",
    "a path": "set search_path = nowhere",
    "a limit": "set statement_timeout = 7",
    "only reading": "set default_transaction_read_only = on",
    "other strings": "set standard_conforming_strings = off",
    "a temporary table": "create temp table receipts (id int)",
    "a lock": "select pg_advisory_lock(42)",
    "a shared lock": "select pg_advisory_lock_shared(7, 8)",
    "an ear": "listen news",
    "a cursor": "declare found cursor with hold for select 1",
    "a sequence's last value": "select nextval('numbers')",
    "a transaction": "begin; set local app.tenant = 'acme'",
    "a failed transaction": "begin; set app.tenant = 'acme'",
}

FOUND = """
    select current_user::text, session_user::text, coalesce(current_setting('app.tenant', true), '') tenant,
        current_setting('search_path') path, current_setting('statement_timeout') patience,
        current_setting('default_transaction_read_only') reading,
        current_setting('standard_conforming_strings') strings, to_regclass('pg_temp.receipts')::text temp,
        (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()) locks,
        (select count(*) from pg_listening_channels()) ears, (select count(*) from pg_cursors) cursors
"""


def found(database: Database) -> dict[str, Any]:
    with database.connection() as connection:
        state = connection.execute(FOUND).fetchone()
        assert state is not None
        try:
            state["last"] = connection.execute("select lastval()").fetchone()
        except psycopg.errors.ObjectNotInPrerequisiteState:
            state["last"] = None
        return state


@pytest.fixture
def shop(database_url: str) -> Iterator[Database]:
    """One session, whose user may be another one, and a function that does what it is told."""
    database = Database(database_url, DatabaseSettings(max_connections_per_process=1, connect_timeout=5.0))
    with suppress(psycopg.errors.DuplicateObject):
        database.execute("create role lowly")
    database.execute("create sequence numbers")
    database.execute(
        "create function leave(what text) returns void language plpgsql as $$ begin execute what; end $$"
    )
    yield database
    database.close()


def by_itself(database: Database, statement: str) -> None:
    with database.connection() as connection:
        for each in statement.split("; "):
            connection.execute(each)


def by_a_function(database: Database, statement: str) -> None:
    database.fetch("select leave(%s)", (statement,))


def by_another_cursor(database: Database, statement: str) -> None:
    with database.connection() as connection:
        psycopg.ClientCursor(connection).execute(statement)


def in_a_transaction(database: Database, statement: str) -> None:
    with database.transaction() as connection:
        connection.execute(statement)


def before_an_error(database: Database, statement: str) -> None:
    with suppress(ZeroDivisionError, psycopg.Error), database.connection() as connection:
        for each in statement.split("; "):
            connection.execute(each)
        connection.execute("select 1 / 0")


WAYS: list[Callable[[Database, str], None]] = [
    by_itself, by_a_function, by_another_cursor, in_a_transaction, before_an_error,
]  # fmt: skip


def cases() -> Iterator[tuple[str, Callable[[Database, str], None]]]:
    """Every leftover by every way; a function and a transaction() end their own transactions themselves."""
    for what in LEAVE:
        for way in WAYS:
            if "transaction" not in what or way in {by_itself, before_an_error}:
                yield what, way


@pytest.mark.parametrize(("what", "way"), list(cases()))
def test_the_next_user_finds_nothing(shop: Database, what: str, way: Callable[[Database, str], None]) -> None:
    as_new, process = found(shop), shop.fetch_value("select pg_backend_pid()")
    with suppress(psycopg.Error):  # a function can neither listen to a session's end nor set who it is
        way(shop, LEAVE[what])
    assert found(shop) == as_new
    assert shop.fetch_value("select pg_backend_pid()") == process or "authorization" in what


def test_a_thousand_users_leave_nothing_to_each_other(shop: Database) -> None:
    rng = random.Random(5)  # noqa: S311 - no secret
    as_new = found(shop)
    ways: Counter[str] = Counter()
    for _ in range(250):
        for _ in range(4):
            way = rng.choice(WAYS)
            ways[way.__name__] += 1
            with suppress(psycopg.Error):
                way(shop, rng.choice(list(LEAVE.values())))
        assert found(shop) == as_new
    assert ways.total() == 1000
    assert ways["by_a_function"] > 150


def test_what_a_session_held_is_free_before_it_has_another_user(shop: Database, database_url: str) -> None:
    shop.execute("select pg_advisory_lock(42)")
    with psycopg.connect(database_url, autocommit=True) as other:
        other.execute("set lock_timeout = '20s'")
        other.execute("select pg_advisory_lock(42)")


def test_plain_statements_are_followed_by_nothing(shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.execute("create table t (id int)")
    assert shop.fetch("select * from t") == []
    renewals: list[Connection] = []
    monkeypatch.setattr(Connection, "renew", lambda each: renewals.append(each))  # noqa: PLW0108 - binds
    shop.execute("insert into t (id) values (1)")
    shop.fetch("select 1 as x where 1 = %s", (1,))
    with shop.transaction() as connection:
        connection.execute("select 2")
        with connection.transaction():
            connection.execute("select 3")
    with suppress(psycopg.Error):
        shop.execute("select 1 / 0")
    assert not renewals
    shop.fetch("select leave('select 1')")
    assert len(renewals) == 1


def test_prepared_plans_stay(shop: Database) -> None:
    with shop.connection() as connection:
        connection.execute("select leave('select 1')", prepare=True)
    with shop.connection() as connection:
        connection.execute("select leave('select 1')", prepare=True)
        plans = connection.execute("select count(*) as plans from pg_prepared_statements").fetchone()
    assert plans == {"plans": 1}


def test_the_connection_object_is_as_new_too(shop: Database) -> None:
    with shop.connection() as connection:
        connection.autocommit = False
        connection.row_factory = tuple_row  # type: ignore[assignment]
        connection.read_only = True
        connection.add_notice_handler(print)
    shop.execute("create table t (id int)")
    shop.execute("insert into t values (1)")
    assert shop.fetch("select * from t") == [{"id": 1}]


SETTINGS: dict[str, Callable[[psycopg.Connection[Any]], Any]] = {
    "a loader": lambda one: one.adapters.register_loader("int4", TextLoader),
    "a dumper": lambda one: one.adapters.register_dumper(int, StrDumper),
    "a type": lambda one: one.adapters.types.add(TypeInfo("mood", 99999, 99998)),
    "a handler of notices": lambda one: one.add_notice_handler(print),
    "a handler of notifications": lambda one: one.add_notify_handler(print),
    "a cursor on the server": lambda one: setattr(one, "server_cursor_factory", psycopg.ServerCursor),
    "when to prepare": lambda one: setattr(one, "prepare_threshold", 0),
    "how many to prepare": lambda one: setattr(one, "prepared_max", 1),
}


def settings_of(connection: Any) -> tuple[object, ...]:
    adapters = connection.adapters
    return (
        *(
            adapters.get_loader(23, psycopg.pq.Format.TEXT),
            adapters.get_dumper(int, psycopg.adapt.PyFormat.TEXT),
        ),
        *(adapters.types.get("mood"), [*connection._notice_handlers], [*connection._notify_handlers]),
        *(connection.server_cursor_factory, connection.prepare_threshold, connection.prepared_max),
    )


@pytest.mark.parametrize("change", SETTINGS.values(), ids=[*SETTINGS])
def test_what_was_set_on_a_connection_is_its_users_own(
    shop: Database, change: Callable[[psycopg.Connection[Any]], Any]
) -> None:
    with shop.connection() as connection:
        as_new = settings_of(connection)
        change(connection)
        assert settings_of(connection) != as_new
        assert connection.execute("select 1 as one").fetchone()  # plain, so nothing else tells of a change
    with shop.connection() as connection:
        assert settings_of(connection) == as_new


def test_a_notification_that_nobody_read_is_not_the_next_users(shop: Database) -> None:
    with shop.connection() as connection:
        connection.execute("listen news")
        connection.execute("notify news")
    with shop.connection() as connection:
        assert list(connection.notifies(timeout=0)) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("autocommit", False), ("read_only", True), ("deferrable", True)),
        ("isolation_level", psycopg.IsolationLevel.SERIALIZABLE),
    ],
)
def test_how_transactions_begin_is_as_new_too(shop: Database, name: str, value: object) -> None:
    with shop.connection() as connection:
        as_new = getattr(connection, name)
        setattr(connection, name, value)
    with shop.connection() as connection:
        assert getattr(connection, name) == as_new != value


def test_a_session_that_cannot_be_made_as_new_is_replaced(shop: Database) -> None:
    process = shop.fetch_value("select pg_backend_pid()")
    with shop.connection() as connection:
        connection.execute("set app.tenant = 'acme'")
        connection.execute("select pg_sleep(0)")
        with psycopg.connect(
            connection.info.dsn, password=connection.info.password, autocommit=True
        ) as other:
            other.execute("select pg_terminate_backend(%s, 5000)", (process,))
    assert shop.fetch_value("select current_setting('app.tenant', true)") is None
    assert shop.fetch_value("select pg_backend_pid()") != process


def test_a_transaction_within_one_is_a_savepoint_of_it(shop: Database) -> None:
    shop.execute("create table t (id int)")
    with suppress(LookupError), shop.transaction() as outer:
        outer.execute("insert into t values (1)")
        with suppress(KeyError), shop.transaction() as inner:
            assert inner is outer
            inner.execute("insert into t values (2)")
            raise KeyError
        with shop.connection() as same:
            assert same is outer
        assert shop.execute("insert into t values (3)") == 1
        shop.run(lambda connection: connection.execute("insert into t values (4)"))
        assert [row["id"] for row in shop.fetch("select id from t order by id")] == [1, 3, 4]
        raise LookupError
    assert shop.fetch("select id from t") == []


def test_another_thread_and_a_child_are_in_no_transaction_of_this_one(database_url: str) -> None:
    shop = Database(database_url, DatabaseSettings(max_connections_per_process=2))
    shop.execute("create table t (id int)")
    seen: list[object] = []
    with shop.transaction() as connection:
        connection.execute("insert into t values (1)")
        context = contextvars.copy_context()
        thread = threading.Thread(
            target=lambda: seen.append(context.run(shop.fetch_value, "select count(*) from t"))
        )
        thread.start()
        thread.join()
        if (child := os.fork()) == 0:
            count = shop.fetch_value("select count(*) from t")
            os._exit(0 if count == 0 else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert seen == [0]
    assert shop.fetch_value("select count(*) from t") == 1
    shop.close()


def test_a_context_that_outlives_a_transaction_is_in_none(shop: Database) -> None:
    shop.execute("create table t (id int)")
    with shop.transaction():
        context = contextvars.copy_context()  # as asyncio gives to a task
    with suppress(LookupError), shop.transaction() as connection:
        connection.execute("insert into t values (1)")
        assert context.run(nesting.connection_of, shop) is None
        raise LookupError
    context.run(shop.execute, "insert into t values (2)")
    assert shop.fetch("select id from t") == [{"id": 2}]


def test_a_conflict_within_a_transaction_is_repeated_by_the_outermost_only(shop: Database) -> None:
    calls: list[str] = []

    def inner(_: object) -> None:
        calls.append("inner")
        raise psycopg.errors.SerializationFailure

    def outer(_: object) -> None:
        calls.append("outer")
        shop.run(inner)

    with pytest.raises(psycopg.errors.SerializationFailure):
        shop.run(outer, attempts=3)
    assert calls == ["outer", "inner"] * 3


@pytest.mark.parametrize(
    "end",
    [
        "commit",
        "COMMIT AND NO CHAIN",
        "end",
        b" commit;",
        "/* a /* b */ */ commit",
        "-- c\ncommit and chain",
        ";commit",
        None,
    ],
)
def test_a_commit_by_hand_that_rolled_back_is_an_error(shop: Database, end: str | None) -> None:
    with shop.connection() as connection:
        connection.execute("begin")
        with suppress(psycopg.Error):
            connection.execute("select 1 / 0")
        with pytest.raises(psycopg.errors.InFailedSqlTransaction, match="nothing was committed"):
            connection.execute(end) if end else connection.commit()
        if connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
            connection.execute("begin")
        assert connection.execute("rollback").statusmessage == "ROLLBACK"
