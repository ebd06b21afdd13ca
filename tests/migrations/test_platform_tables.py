"""The platform's own tables: one schema whatever the way to it, its partitions, and what `check` says."""

import datetime as dt
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from seawall.cli import group
from seawall.cli.status import AWAY, NOTHING_RUNS
from seawall.config import settings
from seawall.database import close, database
from seawall.database.migrations import History, Kind, Migrations, platform_history
from seawall.database.tables import TABLES
from support.migrations import Shop
from support.nodes import ROOT

CATALOG = """
    SELECT c.relname, c.relkind::text, c.reloptions::text, a.attname, format_type(a.atttypid, a.atttypmod),
           a.attnotnull::text, a.attidentity::text, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum)
    WHERE n.nspname IN ('seawall', 'demo') AND c.relname !~ '\\d{8}'
    UNION ALL
    SELECT conrelid::regclass::text, 'constraint', conname, pg_get_constraintdef(oid), '', '', '', ''
    FROM pg_constraint WHERE connamespace::regnamespace::text IN ('seawall', 'demo')
        AND conrelid::regclass::text !~ '\\d{8}'
    UNION ALL
    SELECT tablename, 'index', indexname, indexdef, '', '', '', '' FROM pg_indexes
    WHERE schemaname IN ('seawall', 'demo') AND tablename !~ '\\d{8}'
    UNION ALL
    SELECT proname, 'function', pg_get_functiondef(oid), '', '', '', '', '' FROM pg_proc
    WHERE pronamespace::regnamespace::text = 'seawall'
    ORDER BY 1, 2, 3, 4
"""


def histories(platform: Path | None = None) -> list[History]:
    own = platform_history() if platform is None else History("seawall", platform)
    return [own, History("workers", ROOT / "workers" / "migrations")]


def test_a_fresh_and_an_upgraded_database_end_with_the_same_schema(shop: Shop, tmp_path: Path) -> None:
    Migrations(shop.url, histories()).up()
    fresh = shop.sql(CATALOG)
    assert len(fresh) > 100
    Migrations(shop.url, histories()).down(steps=99)
    assert [row[0] for row in shop.sql(CATALOG) if row[1] in {"r", "p", "function"}] == [
        "migration_history"
    ] * 8
    shop.sql("DROP SCHEMA seawall CASCADE")
    platform = tmp_path / "platform"
    platform.mkdir()
    for path in sorted(platform_history().directory.glob("*.sql")):  # one release after another
        shutil.copy(path, platform)
        if path.name.endswith(".up.sql"):
            Migrations(shop.url, histories(platform)).up()
    Migrations(shop.url, histories()).up()
    assert shop.sql(CATALOG) == fresh
    assert Migrations(shop.url, histories(), expected=TABLES).check() == ()


def test_each_difference_from_what_the_code_expects_is_named(shop: Shop) -> None:
    migrations = Migrations(shop.url, [platform_history()], expected=TABLES)
    assert {problem.kind for problem in migrations.check()} == {Kind.PENDING}  # which explains it all
    migrations.up()
    shop.sql("ALTER TABLE seawall.dead_letters RENAME task_id TO id_task")
    shop.sql("DROP INDEX seawall.error_groups_last_seen")
    problems = migrations.check()
    assert [(problem.kind, problem.message.partition(":")[0]) for problem in problems] == [
        (Kind.SCHEMA, "column task_id is missing in seawall.dead_letters, found id_task"),
        (Kind.SCHEMA, "index error_groups_last_seen is missing on seawall.error_groups"),
    ]


def test_runs_go_to_the_partition_of_their_day_and_old_days_go(shop: Shop) -> None:
    Migrations(shop.url, [platform_history()]).up()
    today = dt.datetime.now(dt.UTC).replace(hour=12)
    ages = {"run": 0, "late": 5, "old": 8, "failed": 8}
    for task, days in ages.items():
        shop.sql(
            "INSERT INTO seawall.task_runs"
            " (finished_at, task_id, attempt, state, priority, name, queue, worker)"
            " VALUES (%s, %s, 1, %s, 5, 'n', 'q', 'w')",
            today - dt.timedelta(days=days),
            task,
            "failed" if task == "failed" else "success",
        )
    where = "SELECT task_id, tableoid::regclass::text FROM seawall.task_runs ORDER BY 1"
    partition = {task: f"seawall.task_runs_{today - dt.timedelta(days=d):%Y%m%d}" for task, d in ages.items()}
    default = "seawall.task_runs_default"
    assert shop.sql(where) == [
        ("failed", default),
        ("late", default),
        ("old", default),
        ("run", partition["run"]),
    ]
    for days in (5, 8):  # the day that was missed is made, with what waited for it
        shop.sql("SELECT seawall.add_task_runs_day(%s)", (today - dt.timedelta(days=days)).date())
    assert dict(shop.sql(where)) == partition
    shop.sql("SELECT seawall.maintain_task_runs(keep_failures => '30 days')")
    assert [row[0] for row in shop.sql(where)] == ["failed", "late", "run"]
    shop.sql("SELECT seawall.maintain_task_runs()")
    assert [row[0] for row in shop.sql(where)] == ["late", "run"]
    assert not shop.exists(partition["old"])


@pytest.fixture
def command(shop: Shop, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """The command's settings point to the servers of this test."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("SEAWALL_DATABASE_URL", shop.url)
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    settings.cache_clear()
    close()
    yield shop
    close()
    settings.cache_clear()


def seawall(*arguments: str) -> Result:
    return CliRunner().invoke(group, arguments)


def test_the_command_says_what_it_applied_and_what_differs(command: Shop) -> None:
    result = seawall("migrate", "up")
    assert (result.exit_code, "applied in" in result.output) == (0, True), result.output
    assert "applied   workers 0001_demo_tables in" in result.output
    assert seawall("migrate", "check").exit_code == 0
    command.sql("ALTER TABLE demo.imports RENAME dataset TO data_set")
    result = seawall("migrate", "check")
    assert result.exit_code == 14
    assert "column dataset is missing in demo.imports, found data_set" in result.output


REFUSED = {
    "edited": 8,
    "missing": 9,
    "duplicate": 7,
    "out of order": 10,
    "commit": 6,
    "failing": 11,
    "irreversible": 13,
}


@pytest.mark.parametrize("case", REFUSED)
def test_every_refusal_has_its_own_exit_code_and_names_the_file(
    command: Shop, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(f'app = "a"\n[migrations]\nshop = "{command.directory}"\n[workers.default]\n')
    monkeypatch.setenv("SEAWALL_FLEET", str(fleet))
    settings.cache_clear()
    named = command.write("0002_b", "CREATE TABLE b (id int);")
    assert seawall("migrate", "up").exit_code == 0
    verb, place = "up", f"{named}"
    if case == "edited":
        command.write("0002_b", "CREATE TABLE b (id bigint);")
    elif case == "missing":
        named.unlink()
        place = named.name
    elif case == "duplicate":
        command.write("0003_c", "SELECT 1;")
        place = str(command.write("0003_d", "SELECT 1;"))
    elif case == "out of order":
        place = str(command.write("0001_a", "SELECT 1;"))
    elif case == "irreversible":
        verb, place = "down", "0002_b"
    else:
        text = "SELECT 1;\nCOMMIT;" if case == "commit" else "SELECT 1;\nSELECT nonsense;"
        place = f"{command.write('0003_c', text)}:2"
    result = seawall("migrate", verb)
    assert (result.exit_code, place in result.output) == (REFUSED[case], True), result.output


@pytest.mark.usefixtures("command")
def test_migrations_through_a_transaction_pooler_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_DATABASE__POOLER", "transaction")
    settings.cache_clear()
    result = seawall("migrate", "status")
    assert result.exit_code == 2
    assert "set SEAWALL_DATABASE__DIRECT_URL" in result.output


def test_status_shows_who_holds_connections_and_what_of_the_budget(
    command: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWALL_DATABASE__MAX_CONNECTIONS", "9")
    settings.cache_clear()
    database().fetch_value("SELECT 1")
    result = seawall("status", "--json")
    assert result.exit_code == NOTHING_RUNS, result.output
    found = json.loads(result.output)
    assert list(found) == [
        "fleet",
        "workers",
        "beat",
        "database",
        "connections",
        "connection budget",
        "breakers",
        "leaks",
    ]
    assert found["database"][0]["database"] == "ok"
    (own, total) = found["connection budget"]
    assert own["held"] <= own["granted"] == 1
    assert total["process"] == "all, of a budget of 9"
    assert "all, of a budget of 9" in seawall("status").output
    monkeypatch.setenv("SEAWALL_REDIS_URL", "redis://127.0.0.1:1/0")
    settings.cache_clear()
    away = seawall("status")
    assert away.exit_code == AWAY
    assert away.output.startswith("nobody can say whether a fleet runs: Redis at 127.0.0.1:1 (connection ref")
    assert command.url
