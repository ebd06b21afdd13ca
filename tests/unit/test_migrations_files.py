from datetime import UTC, datetime
from pathlib import Path

import pytest

from seawall.database.migrations import History, Kind, new, platform_history
from seawall.database.migrations.files import discover
from seawall.database.migrations.history import Row, State, condition, drift, pending
from seawall.database.migrations.script import Script, normalise
from seawall.errors import ConfigError


@pytest.fixture
def shop(tmp_path: Path) -> History:
    return History("shop", tmp_path)


def write(history: History, *names: str, sql: str = "SELECT 1;") -> None:
    for name in names:
        (history.directory / name).write_text(sql)


def kinds(history: History) -> list[Kind]:
    return [problem.kind for problem in discover(history)[1]]


def row(history: History, version: int, state: State = "applied", *, checksum: str | None = None) -> Row:
    file = next(one for one in discover(history)[0] if one.version == version)
    return Row(
        *(history.name, version, file.name, checksum or file.up.checksum, None, state, datetime.now(UTC), 0.0)
    )


def test_migrations_are_found_in_order_with_their_way_back(shop: History) -> None:
    write(shop, "0002_b.up.sql", "0001_a.up.sql", "0001_a.down.sql")
    (shop.directory / "README.md").touch()
    migrations, problems = discover(shop)
    assert [(m.label, m.down is not None) for m in migrations] == [("0001_a", True), ("0002_b", False)]
    assert not problems


def test_two_files_with_one_number_are_refused(shop: History) -> None:
    write(shop, "0001_a.up.sql", "0001_b.up.sql")
    _, (problem,) = discover(shop)
    assert problem.kind is Kind.DUPLICATE
    assert "0001_b.up.sql has the number of 0001_a.up.sql" in problem.message


@pytest.mark.parametrize(
    "name",
    [
        *("1_a.up.sql", "0001_a.sql", "0001-a.up.sql", "0001_A.up.sql", "0001_a.UP.sql", "0001_a.up.SQL"),
        *("\u0660\u0660\u0660\u0661_a.up.sql", "\uff10\uff10\uff10\uff11_a.up.sql"),  # other digits
    ],
)
def test_a_file_with_another_name_is_refused(shop: History, name: str) -> None:
    write(shop, name)
    assert kinds(shop) == [Kind.INVALID]


def test_a_file_in_a_folder_below_is_named(shop: History) -> None:
    (shop.directory / "later").mkdir()
    write(shop, "later/0001_a.up.sql")
    _, (problem,) = discover(shop)
    assert f"{shop.directory}/later/0001_a.up.sql is in a folder below" in problem.message


def test_what_is_applied_is_compared_and_not_parsed_again(shop: History) -> None:
    write(shop, "0001_a.up.sql", sql="SELECT 'never closed;")
    text = (shop.directory / "0001_a.up.sql").read_bytes()
    (migration,), problems = discover(shop, {1: Script(normalise(text)).checksum})
    assert not problems
    assert migration.label == "0001_a"
    assert kinds(shop) == [Kind.INVALID]


def test_a_way_back_without_a_way_there_is_refused(shop: History) -> None:
    write(shop, "0001_a.down.sql")
    assert kinds(shop) == [Kind.INVALID]


def test_a_file_that_cannot_run_is_refused_with_its_line(shop: History) -> None:
    write(shop, "0001_a.up.sql", sql="SELECT 1;\nCOMMIT;")
    _, (problem,) = discover(shop)
    assert f"{shop.directory}/0001_a.up.sql:2: COMMIT would split" in problem.message


def test_a_file_that_is_not_utf8_is_refused(shop: History) -> None:
    (shop.directory / "0001_a.up.sql").write_bytes(b"SELECT '\xe9';")
    assert "byte 8 is not UTF-8" in discover(shop)[1][0].message


def test_a_missing_directory_is_a_wrong_setting(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        discover(History("shop", tmp_path / "nowhere"))


def test_new_continues_the_numbers_and_waits_to_be_filled(shop: History) -> None:
    write(shop, "0007_a.up.sql")
    up, down = new(shop, "add_index")
    assert (up.name, down.name) == ("0008_add_index.up.sql", "0008_add_index.down.sql")
    assert kinds(shop) == [Kind.INVALID, Kind.INVALID]  # no statement in them yet


@pytest.mark.parametrize("name", ["", "Add", "add index", "../up", "a__b"])
def test_new_refuses_a_name_that_is_no_part_of_a_file_name(shop: History, name: str) -> None:
    with pytest.raises(ConfigError, match="migration name"):
        new(shop, name)


def test_the_platform_has_migrations_and_they_are_sound() -> None:
    migrations, problems = discover(platform_history())
    assert migrations[0].label == "0001_seawall_schema"
    assert not problems


def test_only_what_is_not_applied_is_pending(shop: History) -> None:
    write(shop, "0001_a.up.sql", "0002_b.up.sql", "0003_c.up.sql")
    rows = [row(shop, 1), row(shop, 2, "failed")]
    assert [m.version for m in pending(discover(shop)[0], rows)] == [2, 3]


def test_an_edited_file_is_drift_and_an_unfinished_one_may_be_corrected(shop: History) -> None:
    write(shop, "0001_a.up.sql", "0002_b.up.sql")
    rows = [row(shop, 1, checksum="other"), row(shop, 2, "failed", checksum="other")]
    (problem,) = drift(discover(shop)[0], rows)
    assert problem.kind is Kind.EDITED
    assert "0001_a.up.sql was edited" in problem.message


def test_a_missing_file_is_drift(shop: History) -> None:
    write(shop, "0001_a.up.sql", "0002_b.up.sql")
    rows = [row(shop, 1), row(shop, 2)]
    (shop.directory / "0001_a.up.sql").unlink()
    (problem,) = drift(discover(shop)[0], rows)
    assert problem.kind is Kind.MISSING
    assert "0001_a.up.sql of 'shop'" in problem.message
    assert condition(rows[0], None) == "missing"


def test_a_number_below_an_applied_one_is_out_of_order(shop: History) -> None:
    write(shop, "0002_b.up.sql")
    rows = [row(shop, 2)]
    write(shop, "0001_a.up.sql")
    (problem,) = drift(discover(shop)[0], rows)
    assert problem.kind is Kind.OUT_OF_ORDER
    assert "0002 is applied already" in problem.message
