"""What each verb does, on a real server."""

import dataclasses
import threading
from pathlib import Path
from typing import Any

import psycopg
import pytest

from seawall.database.migrations import (
    History,
    Kind,
    MigrationProblem,
    Migrations,
    Patience,
    Step,
    platform_history,
)
from seawall.errors import ConfigError, DatabaseUnavailable
from support.migrations import Shop


def refused(caught: pytest.ExceptionInfo[MigrationProblem]) -> list[Kind]:
    return [problem.kind for problem in caught.value.problems]


def test_up_applies_what_is_pending_in_order_and_once(shop: Shop) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int);")
    shop.write("0002_b", "ALTER TABLE a ADD b int;\nINSERT INTO a VALUES (1, 2);")
    reported: list[Step] = []
    assert [step.label for step in shop.migrations.up(reported.append)] == ["0001_a", "0002_b"]
    assert [step.label for step in reported] == ["0001_a", "0002_b"]
    assert shop.migrations.up() == ()
    assert shop.sql("SELECT * FROM a") == [(1, 2)]


def test_reading_changes_nothing_on_an_empty_database(shop: Shop) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int);")
    assert [one.label for one in shop.migrations.plan()] == ["0001_a"]
    assert shop.states() == ["0001_a pending"]
    assert [problem.kind for problem in shop.migrations.check()] == [Kind.PENDING]
    assert not shop.exists("a")
    assert not shop.exists("seawall.migration_history")


def test_percent_signs_and_several_results_are_plain_sql(shop: Shop) -> None:
    shop.write("0001_a", "CREATE TABLE a AS SELECT '100%s' AS x; SELECT * FROM a WHERE x LIKE '%0%';")
    shop.migrations.up()
    assert shop.value("SELECT x FROM a") == "100%s"


def test_a_failing_statement_leaves_nothing_and_is_named_by_file_and_line(shop: Shop) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int);")
    path = shop.write("0002_b", "CREATE TABLE b (id int);\nSELECT 1,\n  nonsense;\nCREATE TABLE c (id int);")
    with pytest.raises(MigrationProblem) as caught:
        shop.migrations.up()
    assert str(caught.value) == f'{path}:3: column "nonsense" does not exist'
    assert caught.value.exit_code == Kind.FAILED
    assert shop.states() == ["0001_a applied", "0002_b pending"]
    assert not shop.exists("b")


def test_a_failure_without_a_position_is_named_by_its_statement(shop: Shop) -> None:
    path = shop.write("0001_a", "CREATE TABLE a (id int PRIMARY KEY);\n\nINSERT INTO a\nVALUES (1), (1);")
    with pytest.raises(MigrationProblem, match=f"{path}:3: duplicate key value .*already exists"):
        shop.migrations.up()


@pytest.mark.parametrize(
    "row",
    [
        "CREATE TABLE u (id int, password text UNIQUE); INSERT INTO u VALUES (1, '{}'), (2, '{}');",
        "CREATE TABLE u (a int, b text CHECK (a > 1)); INSERT INTO u VALUES (1, '{}');",
        "CREATE TABLE u (token text); INSERT INTO u VALUES ('{}'), ('{}'); CREATE UNIQUE INDEX ON u (token);",
    ],
    ids=["unique", "check", "index"],
)
def test_a_failure_shows_no_secret_of_a_row(shop: Shop, row: str) -> None:
    shop.write("0001_a", row.replace("{}", "Xk9vQ2mZ7rT4"))
    with pytest.raises(MigrationProblem, match=r"\*\*\*") as caught:
        shop.migrations.up()
    assert "Xk9vQ2mZ7rT4" not in str(caught.value)


def test_a_failure_at_commit_is_named_by_its_file(shop: Shop) -> None:
    path = shop.write(
        "0001_a",
        "CREATE TABLE a (id int PRIMARY KEY, b int REFERENCES a DEFERRABLE INITIALLY DEFERRED);"
        "INSERT INTO a VALUES (1, 2);",
    )
    with pytest.raises(MigrationProblem, match=f"{path}: .* violates foreign key"):
        shop.migrations.up()
    assert not shop.exists("a")


def test_nothing_runs_when_any_file_is_wrong(shop: Shop) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int);")
    shop.write("0002_b", "CREATE TABLE b (id int);\nCOMMIT;")
    with pytest.raises(MigrationProblem, match=r"0002_b.up.sql:2: COMMIT") as caught:
        shop.migrations.up()
    assert refused(caught) == [Kind.INVALID]
    assert not shop.exists("a")


def test_an_edited_file_is_refused_until_it_is_accepted(shop: Shop) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int);", "DROP TABLE a;")
    shop.migrations.up()
    shop.write("0001_a", "CREATE TABLE a (id bigint);", "DROP TABLE a CASCADE;")
    with pytest.raises(MigrationProblem, match=r"0001_a.up.sql was edited") as caught:
        shop.migrations.up()
    assert refused(caught) == [Kind.EDITED]
    assert shop.states() == ["0001_a edited"]
    assert [one.label for one in shop.migrations.repair()] == ["0001_a"]
    assert shop.migrations.repair() == ()
    assert shop.migrations.check() == ()
    assert shop.value("SELECT down_sql FROM seawall.migration_history") == "DROP TABLE a CASCADE;\n"


def test_missing_duplicate_and_out_of_order_files_are_told_apart(shop: Shop) -> None:
    shop.write("0002_b", "SELECT 1;")
    shop.migrations.up()
    (shop.directory / "0002_b.up.sql").unlink()
    for stem in ("0001_a", "0003_c", "0003_d"):
        shop.write(stem, "SELECT 1;")
    assert {problem.kind: problem.kind.value for problem in shop.migrations.check()} == {
        Kind.DUPLICATE: 7,
        Kind.MISSING: 9,
        Kind.OUT_OF_ORDER: 10,
        Kind.PENDING: 3,
    }
    with pytest.raises(MigrationProblem, match="and 2 more"):
        shop.migrations.plan()


def test_down_undoes_the_newest_with_the_sql_recorded_with_it(shop: Shop) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int);", "DROP TABLE a;")
    shop.write("0002_b", "CREATE TABLE b (id int);", "DROP TABLE b;")
    shop.migrations.up()
    for path in shop.directory.iterdir():
        path.unlink()  # as after a rollback of the code
    assert [(step.label, step.direction) for step in shop.migrations.down()] == [("0002_b", "down")]
    assert (shop.exists("a"), shop.exists("b")) == (True, False)
    assert [step.label for step in shop.migrations.down(steps=5)] == ["0001_a"]
    assert shop.states() == []


@pytest.mark.parametrize(
    "steps", [-1, 0, None, True, 1.0, float("nan"), 10**400, "two"], ids=lambda steps: repr(steps)[:9]
)
def test_down_undoes_nothing_for_what_is_no_count(shop: Shop, steps: Any) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int);", "DROP TABLE a;")
    shop.write("0002_b", "CREATE TABLE b (id int);", "DROP TABLE b;")
    shop.migrations.up()
    with pytest.raises(ConfigError, match=r"^steps="):
        shop.migrations.down(steps)
    assert shop.states() == ["0001_a applied", "0002_b applied"]


def test_down_undoes_nothing_when_one_step_cannot_be_undone(shop: Shop) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int);")
    shop.write("0002_b", "CREATE TABLE b (id int);", "DROP TABLE b;")
    shop.migrations.up()
    with pytest.raises(MigrationProblem, match=r"0001_a of 'shop' has no down.sql") as caught:
        shop.migrations.down(steps=2)
    assert refused(caught) == [Kind.IRREVERSIBLE]
    assert shop.exists("b")


def test_a_failing_way_back_leaves_everything(shop: Shop) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int);", "DROP TABLE a;\nDROP TABLE nothing;")
    shop.migrations.up()
    with pytest.raises(MigrationProblem, match=r'0001_a.down.sql:2: table "nothing" does not exist'):
        shop.migrations.down()
    assert shop.exists("a")
    assert shop.states() == ["0001_a applied"]


def test_histories_are_counted_by_themselves_and_undone_newest_first(shop: Shop, tmp_path: Path) -> None:
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "0001_a.up.sql").write_text("CREATE TABLE fleet ();")
    (tmp_path / "fleet" / "0001_a.down.sql").write_text("DROP TABLE fleet;")
    both = Migrations(shop.url, [platform_history(), History("fleet", tmp_path / "fleet")])
    assert [step.history for step in both.up()][-1] == "fleet"
    assert [step.history for step in both.down()] == ["fleet"]
    assert [step.history for step in both.down()] == ["seawall"]


def test_settings_of_one_file_do_not_reach_the_next(shop: Shop) -> None:
    shop.write(
        "0001_a", "SET search_path = nowhere; SET ROLE pg_monitor; SET statement_timeout = 30000; RESET ROLE;"
    )
    shop.write("0002_b", "CREATE TABLE b AS SELECT current_setting('statement_timeout') AS x;")
    shop.migrations.up()
    assert shop.value("SELECT x FROM public.b") == "0"


def test_nothing_that_one_file_leaves_in_its_session_reaches_the_next(shop: Shop) -> None:
    shop.write(
        "0001_a",
        "CREATE TEMP TABLE scratch (id int); PREPARE p AS SELECT 1; LISTEN news;"
        "SELECT pg_advisory_lock(1), pg_advisory_lock(1), pg_advisory_lock(-1, -2);"
        "SELECT pg_advisory_lock_shared(-3); DECLARE c CURSOR WITH HOLD FOR SELECT 1;"
        "SET SESSION AUTHORIZATION pg_monitor;",
    )
    shop.write(
        "0002_b",
        "CREATE TABLE found AS SELECT"
        " (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks,"
        " (SELECT count(*) FROM pg_prepared_statements) AS prepared,"
        " (SELECT count(*) FROM pg_cursors) AS cursors,"
        " (SELECT count(*) FROM pg_listening_channels()) AS channels, to_regclass('scratch') AS scratch,"
        " current_user = 'app' AS ourselves;",
    )
    for number in range(3, 12):  # the runner's own statements go on working
        shop.write(f"{number:04}_more", "SET ROLE pg_monitor;")
    assert len(shop.migrations.up()) == 11
    assert shop.sql("SELECT * FROM found") == [(1, 0, 0, 0, None, True)]  # the lock is the runner's turn


def test_a_baseline_records_without_running(shop: Shop) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int);")
    shop.write("0002_b", "CREATE TABLE b (id int);")
    with pytest.raises(ConfigError, match="version=7 is not in history 'shop'"):
        shop.migrations.baseline("shop", 7)
    assert [one.label for one in shop.migrations.baseline("shop", 1)] == ["0001_a"]
    assert shop.states() == ["0001_a applied", "0002_b pending"]
    assert not shop.exists("a")
    with pytest.raises(MigrationProblem, match="'shop' is not empty"):
        shop.migrations.baseline("shop", 2)


def test_a_waiting_migration_gives_up_unrecorded_and_lets_readers_pass(shop: Shop) -> None:
    shop.sql("CREATE TABLE a (id int)")
    path = shop.write("0001_a", "-- wide\nALTER TABLE a ADD b int;")
    with psycopg.connect(shop.url) as reader:
        reader.execute("SELECT * FROM a")  # holds its lock until the end of the transaction
        with pytest.raises(MigrationProblem, match=f"{path}:2: gave up after 3 tries of 0.1 s") as caught:
            shop.migrations.up()
    assert refused(caught) == [Kind.LOCKED]
    assert shop.states() == ["0001_a pending"]


def test_a_waiting_migration_gets_through_when_the_lock_is_given_back(shop: Shop) -> None:
    shop.sql("CREATE TABLE a (id int)")
    shop.write("0001_a", "ALTER TABLE a ADD b int;")
    migrations = Migrations(shop.url, [shop.history], patience=Patience(lock_timeout=0.05, tries=50))
    with psycopg.connect(shop.url) as reader:
        reader.execute("SELECT * FROM a")
        steps: list[Step] = []
        thread = threading.Thread(target=lambda: steps.extend(migrations.up()))
        thread.start()
        shop.wait_for_backend("ALTER TABLE a")
        reader.rollback()
        thread.join(20)
    assert steps[0].label == "0001_a"
    assert shop.states() == ["0001_a applied"]


def test_a_second_runner_waits_for_its_turn_and_says_who_has_it(shop: Shop) -> None:
    shop.write("0001_a", "SELECT 1;")
    with psycopg.connect(shop.url, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", (int.from_bytes(b"seawall!", "big"),))
        impatient = Migrations(
            shop.url, [shop.history], patience=dataclasses.replace(shop.patience, turn=0.2)
        )
        with pytest.raises(MigrationProblem, match=f"backend {other.info.backend_pid}") as caught:
            impatient.up()
    assert refused(caught) == [Kind.LOCKED]
    assert len(shop.migrations.up()) == 1


@pytest.mark.parametrize(
    "release",
    ["SELECT pg_advisory_unlock_all();", "-- seawall: no-transaction\nDISCARD ALL;"],
    ids=["unlocked", "discarded"],
)
def test_a_file_that_lets_go_of_all_locks_leaves_its_runner_the_only_one(shop: Shop, release: str) -> None:
    shop.write("0001_a", release)
    shop.write("0002_b", "CREATE TABLE b (id int);")
    impatient = Migrations(shop.url, [shop.history], patience=dataclasses.replace(shop.patience, turn=0.2))
    refusals: list[MigrationProblem] = []

    def beside(_: object, number: int, __: int) -> None:
        if number == 2:
            with pytest.raises(MigrationProblem, match=r"another runner .*backend \d+") as caught:
                impatient.up()
            refusals.append(caught.value)

    assert [step.label for step in shop.migrations.up(begin=beside)] == ["0001_a", "0002_b"]
    assert [one.exit_code for one in refusals] == [Kind.LOCKED]
    assert shop.states() == ["0001_a applied", "0002_b applied"]


def test_a_server_that_is_not_there_is_unavailable(shop: Shop) -> None:
    nowhere = Migrations("postgresql://u:secret@127.0.0.1:1/d", [shop.history])
    with pytest.raises(DatabaseUnavailable, match=r"127\.0\.0\.1:1/d cannot be used") as caught:
        nowhere.up()
    assert "secret" not in str(caught.value)


def test_a_wrong_option_of_the_url_is_named(shop: Shop) -> None:
    wrong = Migrations(f"{shop.url}?connect_timeout=abc", [shop.history])
    with pytest.raises(DatabaseUnavailable, match=r"connect_timeout.*correct this option of database_url"):
        wrong.plan()
