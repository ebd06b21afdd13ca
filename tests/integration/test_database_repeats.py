"""What runs again after an error, and what never does."""

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest

from seawall import logs
from seawall.database import label
from seawall.database.circuit import Outcome
from seawall.database.events import DatabaseEvent, StatementRan, StatementWasSlow, TransactionRepeated
from seawall.database.pool import Database
from seawall.errors import CommitUnknown, ConfigError, DatabaseUnavailable, SeawallError
from seawall.events import subscribe
from seawall.sections import DatabaseSettings
from support.proxy import proxy
from support.waiting import wait_until


@pytest.fixture
def shop(database_url: str) -> Iterator[Database]:
    limits = DatabaseSettings(max_connections_per_process=3, slow_query=0.5)
    database = Database(database_url, limits)
    database.execute("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    database.execute("INSERT INTO t VALUES (1, 0)")
    yield database
    database.close()


@pytest.fixture
def told() -> Iterator[list[DatabaseEvent]]:
    heard: list[DatabaseEvent] = []
    stop = subscribe(DatabaseEvent, heard.append)
    yield heard
    stop()


def end_session(connection: psycopg.Connection[Any]) -> None:
    """The server ends the session of `connection`, as at a restart."""
    pid = connection.info.backend_pid
    with psycopg.connect(connection.info.dsn, password=connection.info.password, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


def test_transactions_in_conflict_run_again_until_all_have_counted(
    shop: Database, told: list[DatabaseEvent]
) -> None:
    meet = threading.Barrier(3)

    def add(connection: psycopg.Connection[Any]) -> None:
        connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        row = connection.execute("SELECT n FROM t WHERE id = 1").fetchone()
        assert row is not None
        if not meet.broken:
            try:
                meet.wait(5)
            except threading.BrokenBarrierError:
                pass
            finally:
                meet.abort()
        connection.execute("UPDATE t SET n = %s WHERE id = 1", (row["n"] + 1,))

    threads = [threading.Thread(target=shop.run, args=(add,), kwargs={"attempts": 20}) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert shop.fetch_value("SELECT n FROM t") == 3
    repeated = [event for event in told if isinstance(event, TransactionRepeated)]
    assert shop.stats()["repeats"] == len(repeated) > 0
    assert {event.kind for event in repeated} == {"conflict"}


def test_a_transaction_that_lost_its_connection_before_commit_runs_again(shop: Database) -> None:
    runs = []

    def insert(connection: psycopg.Connection[Any]) -> int:
        runs.append(connection.info.backend_pid)
        connection.execute("INSERT INTO t VALUES (2)")
        if len(runs) == 1:
            end_session(connection)
            connection.execute("SELECT 1")
        return len(runs)

    assert shop.run(insert) == 2
    assert shop.fetch_value("SELECT count(*) FROM t") == 2


def test_a_transaction_that_lost_its_connection_during_commit_is_never_run_again(database_url: str) -> None:
    runs = []

    def insert(connection: psycopg.Connection[Any]) -> None:
        runs.append(1)
        connection.execute("INSERT INTO t VALUES (2)")

    with proxy(database_url) as way, psycopg.connect(database_url, autocommit=True) as direct:
        way.cut_after = lambda piece: b"COMMIT" in piece
        direct.execute("CREATE TABLE t (id int)")
        database = Database(way.url)
        try:
            with pytest.raises(CommitUnknown, match="was lost during COMMIT: look whether it is in effect"):
                database.run(insert)
        finally:
            database.close()
        assert runs == [1]
        wait_until(  # it is in effect: a second run would have doubled it
            lambda: direct.execute("SELECT count(*) FROM t").fetchone() == (1,), what="the commit"
        )


@pytest.mark.parametrize("error", ["SELECT 1 / 0", "INSERT INTO t VALUES (1)", "SELECT nonsense"])
def test_what_would_fail_again_is_not_run_again(shop: Database, error: str) -> None:
    runs = []

    def work(connection: psycopg.Connection[Any]) -> None:
        runs.append(1)
        connection.execute(error.encode())

    with pytest.raises(psycopg.Error):
        shop.run(work)
    assert runs == [1]


def test_a_statement_is_repeated_only_where_that_is_said_to_be_safe(shop: Database) -> None:
    def lose_connection() -> None:
        with shop.connection() as connection:
            end_session(connection)

    lose_connection()
    with pytest.raises(psycopg.OperationalError):
        shop.execute("UPDATE t SET n = 5")
    lose_connection()
    assert shop.execute("UPDATE t SET n = 5", retry=True) == 1
    lose_connection()
    assert shop.fetch_value("SELECT n FROM t", retry=True) == 5
    with pytest.raises(ConfigError, match="attempts=0"):
        shop.run(lambda _: None, attempts=0)


def test_a_slow_statement_is_told_without_its_parameters(
    shop: Database, told: list[DatabaseEvent], caplog: pytest.LogCaptureFixture
) -> None:
    shop.fetch_value("SELECT pg_sleep(0.55)::text || %s", ("secret",))
    (slow,) = [event for event in told if isinstance(event, StatementWasSlow)]
    assert slow.statement == "SELECT pg_sleep(0.55)::text || %s"
    assert "secret" not in caplog.text
    assert "slow statement" in caplog.text
    assert shop.stats()["slow_statements"] == 1
    with pytest.raises(psycopg.errors.UndefinedColumn):
        shop.execute("SELECT nonsense")
    ran = [event.failure for event in told if isinstance(event, StatementRan)]
    assert ran == [None, "statement"]


class Recorder:
    """A circuit that writes down what it is told, and refuses when told to."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.refusing = False

    def before(self) -> None:
        if self.refusing:
            raise SeawallError("open")

    def after(self, outcome: Outcome, error: BaseException | None, seconds: float) -> None:
        assert (error is None, seconds >= 0) == (outcome is Outcome.SUCCESS, True)
        self.outcomes.append(outcome)


def test_a_circuit_hears_how_each_use_ended_and_nothing_of_its_own_refusals(database_url: str) -> None:
    circuit = Recorder()
    limits = DatabaseSettings(max_connections_per_process=1, connect_timeout=0.2, statement_timeout=0.2)
    database = Database(database_url, limits)
    away = Database("postgresql://u:p@127.0.0.1:1/d", limits)

    def fails(work: Callable[[], object]) -> None:
        with pytest.raises((psycopg.Error, SeawallError, KeyError)):
            work()

    def misuse() -> None:
        with database.connection():
            raise KeyError

    def saturate() -> None:
        database.guard(None)
        with database.connection():
            database.guard(circuit)
            database.execute("SELECT 1")

    database.guard(circuit)
    away.guard(circuit)
    try:
        database.execute("SELECT 1")
        for work in (
            lambda: database.execute("SELECT nonsense"),
            lambda: database.execute("SELECT pg_sleep(5)"),
            lambda: away.execute("SELECT 1"),
            misuse,
            saturate,
        ):
            fails(work)
        circuit.refusing = True
        fails(lambda: database.execute("SELECT 1"))
    finally:
        database.close()
        away.close()
    assert [outcome.value for outcome in circuit.outcomes] == [
        *("success", "ignored", "slow", "failure", "ignored", "ignored")
    ]


def test_connections_carry_the_worker_and_the_task(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label, "_process", "worker1@host")
    database = Database(database_url, DatabaseSettings(max_connections_per_process=1))
    names = []
    try:
        for task in ("", "shop.charge", "shop.charge", "é" * 60):
            running = SimpleNamespace(fields={"task": task}, secrets=())
            token = logs.scope.set(running if task else None)
            names.append(database.fetch_value("SHOW application_name"))
            logs.scope.reset(token)
    finally:
        database.close()
    assert names[:3] == ["worker1@host", "worker1@host shop.charge", "worker1@host shop.charge"]
    assert names[3].startswith("worker1@host ")


def test_a_pooler_gets_no_startup_options_and_limits_that_end_with_the_transaction(database_url: str) -> None:
    limits = DatabaseSettings(max_connections_per_process=1, pooler="transaction", statement_timeout=7.0)
    database = Database(database_url, limits)
    try:
        with database.transaction() as connection:
            inside = connection.execute("SHOW statement_timeout").fetchone()
        assert inside == {"statement_timeout": "7s"}
        assert database.fetch_value("SHOW statement_timeout") == "0"
    finally:
        database.close()


def test_health_says_why_not(shop: Database) -> None:
    assert shop.health().ok
    away = Database("postgresql://u:p@127.0.0.1:1/d", DatabaseSettings(connect_timeout=0.2))
    try:
        health = away.health()
    finally:
        away.close()
    assert not health.ok
    assert "refused" in str(health.reason)


def test_callers_are_refused_at_once_while_the_server_is_away() -> None:
    database = Database("postgresql://u:p@127.0.0.1:1/d", DatabaseSettings(connect_timeout=30.0))
    try:
        for _ in range(200):
            with pytest.raises(DatabaseUnavailable, match="refused"):
                database.fetch_value("SELECT 1")
        assert database.stats()["refused"] >= 199
    finally:
        database.close()
