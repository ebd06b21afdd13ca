"""Files that PostgreSQL does not let into a transaction."""

from typing import Any

import pytest
from seawall.database.migrations import Kind, MigrationProblem

Shop = Any

BUILD = "-- seawall: no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY a_id ON a (id);"


@pytest.fixture
def duplicates(shop: Shop) -> Shop:
    """A table whose unique index cannot be built yet, and the file that tries."""
    shop.sql("CREATE TABLE a AS SELECT 1 AS id FROM generate_series(1, 2)")
    shop.write("0001_index", BUILD, "-- seawall: no-transaction\nDROP INDEX CONCURRENTLY IF EXISTS a_id;")
    return shop


def valid(shop: Shop) -> Any:
    return shop.sql("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('a_id')")


def test_concurrently_in_an_ordinary_file_is_told_how_to_be_written(shop: Shop) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int);\nCREATE INDEX CONCURRENTLY a_id ON a (id);")
    with pytest.raises(MigrationProblem, match=r"0001_a.up.sql:2: .*starts with `-- seawall: no-transaction`"):
        shop.migrations.up()


def test_an_index_that_failed_is_dropped_and_built_again(duplicates: Shop) -> None:
    shop = duplicates
    with pytest.raises(MigrationProblem, match="0001_index.up.sql:2: could not create unique index"):
        shop.migrations.up()
    assert valid(shop) == [(False,)]
    assert shop.states() == ["0001_index failed"]
    assert [problem.kind for problem in shop.migrations.check()] == [Kind.INCOMPLETE, Kind.INVALID_INDEX]

    shop.sql("DELETE FROM a")
    assert len(shop.migrations.up()) == 1
    assert valid(shop) == [(True,)]
    assert shop.migrations.check() == ()


def test_a_file_that_failed_may_be_corrected(duplicates: Shop) -> None:
    shop = duplicates
    with pytest.raises(MigrationProblem):
        shop.migrations.up()
    shop.write("0001_index", BUILD.replace("UNIQUE ", ""))
    shop.migrations.up()
    assert valid(shop) == [(True,)]
    assert shop.migrations.check() == ()


def test_an_index_that_a_killed_runner_had_finished_is_kept(duplicates: Shop) -> None:
    shop = duplicates
    shop.sql("DELETE FROM a")
    shop.migrations.up()
    before = shop.value("SELECT 'a_id'::regclass::oid")
    shop.sql("UPDATE seawall.migration_history SET state = 'running'")  # killed before the second record
    assert len(shop.migrations.up()) == 1
    assert shop.value("SELECT 'a_id'::regclass::oid") == before
    assert shop.states() == ["0001_index applied"]


def test_an_index_of_someone_else_is_neither_taken_nor_dropped(duplicates: Shop) -> None:
    shop = duplicates
    shop.sql("CREATE INDEX a_id ON a (id)")
    for _ in range(2):
        with pytest.raises(MigrationProblem, match='relation "a_id" already exists'):
            shop.migrations.up()
    assert valid(shop) == [(True,)]


def test_it_is_undone_outside_a_transaction_too(duplicates: Shop) -> None:
    shop = duplicates
    shop.sql("DELETE FROM a")
    shop.migrations.up()
    assert [step.label for step in shop.migrations.down()] == ["0001_index"]
    assert valid(shop) == []
    assert shop.states() == ["0001_index pending"]
