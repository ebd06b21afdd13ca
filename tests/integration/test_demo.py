"""The import demo: its rows one by one, its tasks repeated, and the whole of it on a real worker."""

import csv
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner, Result

from seawall import ConfigError, database
from seawall.config import settings
from seawall.database import close
from seawall.database.migrations import History, Migrations, platform_history
from support.nodes import ROOT, StartWorker, processes_of
from support.processes import alive
from support.waiting import wait_until
from workers.app import app
from workers.demo import group, storage
from workers.demo.datasets import DATASETS, Dataset, count_rows, records
from workers.demo.tasks import import_chunk

AIRPORTS = DATASETS["airports"]
HEADER = "iata,name,city,state,country,latitude,longitude"
GOOD = "AAA,Anaa,Anaa,XX,Tuamotu,-17.35,-145.5"


@pytest.fixture
def tables(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """This process's settings point to servers of the test, with the demo's tables."""
    monkeypatch.setenv("SEAWALL_DATABASE_URL", database_url)
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    settings.cache_clear()
    close()
    Migrations(database_url, [platform_history(), History("workers", ROOT / "workers" / "migrations")]).up()
    yield database_url
    close()
    settings.cache_clear()


@pytest.fixture
def airports(tmp_path: Path) -> Path:
    """A file with a good row, a bad row of every kind, and a key twice."""
    path = tmp_path / "airports.csv"
    lines = (HEADER, GOOD, *BAD, GOOD.replace("Anaa", "Again"))
    path.write_bytes("\n".join(lines).encode("latin-1"))
    return path


BAD = {
    ",Anaa,Anaa,XX,Tuamotu,-17.35,-145.5": "iata is empty",
    "BBB,Anaa,Anaa,XX,Tuamotu,north,-145.5": "latitude='north' is not a number",
    "CCC,Anaa,Anaa,XX,Tuamotu,-90.1,-145.5": "latitude=-90.1 is not within -90 to 90",
    "DDD,Anaa,Anaa,XX,Tuamotu,nan,-145.5": "latitude=nan is not within -90 to 90",
    "EEE,Anaa,Anaa,XX,Tuamotu,-17.35,181": "longitude=181 is not within -180 to 180",
    "FFF,Anaa,Anaa": "the row has 3 fields instead of 7",
    "": "the row has 0 fields instead of 7",
    "GGG,Anaå,Anaa,XX,Tuamotu,-17.35,-145.5": "the row holds bytes that are not UTF-8 text",
    "HHH,An\0a,Anaa,XX,Tuamotu,-17.35,-145.5": "the row holds bytes that are not UTF-8 text",
}


def begun(rows: int, chunks: int) -> str:
    import_id = str(uuid.uuid4())
    storage.begin(import_id, AIRPORTS, rows=rows, chunks=chunks)
    return import_id


def imported() -> list[tuple[int, str]]:
    return [(r["row_number"], r["name"]) for r in database().fetch("SELECT * FROM demo.airports ORDER BY 3")]


def rejected() -> list[tuple[int, str]]:
    rows = database().fetch("SELECT row_number, reason FROM demo.rejects ORDER BY row_number")
    return [(row["row_number"], row["reason"]) for row in rows]


@pytest.mark.parametrize("dataset", DATASETS.values(), ids=lambda dataset: dataset.name)
def test_every_row_of_the_shipped_files_is_good_and_counted_alike(dataset: Dataset) -> None:
    rows = [dataset.values(record) for record in records(dataset.path)]
    assert len(rows) == count_rows(dataset.path) > 3000
    assert len({row[0] for row in rows}) == len(rows)


def test_a_part_of_a_file_keeps_its_row_numbers(tmp_path: Path) -> None:
    path = tmp_path / "file.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("a", "b"), *((number, "two\nlines") for number in range(1, 11))])
    part = list(records(path, first=4, count=3))
    assert [(record.number, record.fields["a"]) for record in part] == [(4, "4"), (5, "5"), (6, "6")]
    assert part[0].raw == '4,"two\nlines"'
    assert [record.number for record in records(path, first=10, count=3)] == [10]


def test_without_the_demo_extra_the_fix_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(ConfigError, match=r"pip install 'seawall\[demo\]'"):
        _ = AIRPORTS.path


@pytest.mark.usefixtures("tables")
def test_a_bad_row_is_kept_with_its_number_its_text_and_the_reason(airports: Path) -> None:
    import_id = begun(rows=11, chunks=1)
    assert import_chunk(import_id, "airports", 0, 500, str(airports)) == 10
    assert imported() == [(1, "Anaa")]
    assert rejected() == [*enumerate(BAD.values(), 2), (11, "another row has its iata")]
    raw = database().fetch_value("SELECT raw FROM demo.rejects WHERE row_number = 3")
    assert raw == "BBB,Anaa,Anaa,XX,Tuamotu,north,-145.5"


@pytest.mark.usefixtures("tables")
def test_a_chunk_that_runs_again_doubles_nothing(airports: Path) -> None:
    import_id = begun(rows=11, chunks=3)
    for chunk in (0, 2, 1, 2, 0, 0):
        import_chunk(import_id, "airports", chunk, 4, str(airports))
    assert len(imported()) == 1
    assert [number for number, _ in rejected()] == list(range(2, 12))
    storage.finish(import_id, AIRPORTS)
    state = storage.progress(import_id)
    assert state is not None
    assert (state["loaded"], state["rejected"], state["done"]) == (1, 10, 11)


@pytest.mark.usefixtures("tables")
def test_chunks_that_run_twice_at_the_same_time_double_nothing() -> None:
    import_id = begun(rows=3376, chunks=7)
    both = [
        threading.Thread(target=import_chunk, args=(import_id, "airports", chunk, 500))
        for chunk in (*range(7), *reversed(range(7)))
    ]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert len(imported()) == 3376
    assert rejected() == []


def run(*arguments: str) -> Result:
    return CliRunner().invoke(group, ["import", *arguments])


@pytest.mark.usefixtures("tables")
def test_without_a_worker_the_command_says_so() -> None:
    result = run("--dataset", "airports", "--answer-within", "0.3")
    assert result.exit_code == 1
    assert "no worker took the import within 0 s: is `make workers` running?" in result.output


def test_without_its_tables_the_command_says_so(tables: str) -> None:
    database(tables).execute("DROP SCHEMA demo CASCADE")
    result = run()
    assert result.exit_code == 1
    assert "run `seawall migrate up`" in result.output


def test_a_wrong_password_is_said_at_once(tables: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = urlsplit(tables)
    wrong = parts._replace(netloc=f"{parts.username}:wrong@{parts.hostname}:{parts.port}").geturl()
    monkeypatch.setenv("SEAWALL_DATABASE_URL", wrong)
    settings.cache_clear()
    close()
    result = run("--dataset", "airports")
    assert result.exit_code == 1
    assert f'password authentication failed for user "{parts.username}"' in str(result.exception)
    assert "wrong" not in str(result.exception)


def test_the_fleet_imports_every_file_and_every_row_is_accounted_for(
    tables: str, start_worker: StartWorker, airports: Path
) -> None:
    start_worker("workers.app", "--concurrency=2", env={"SEAWALL_DATABASE_URL": tables})
    result = run()
    assert result.exit_code == 0, result.output
    for line in (
        "airports: 3376 rows in the file = 3376 loaded + 0 rejected (complete",
        "seattle-temps: 8759 rows in the file = 8759 loaded + 0 rejected (complete",
        "sf-temps: 8759 rows in the file = 8759 loaded + 0 rejected (complete",
    ):
        assert line in result.output
    result = run("--dataset", "airports", "--file", str(airports), "--chunk-rows", "2")
    assert "airports: 11 rows in the file = 1 loaded + 10 rejected (complete" in result.output
    assert result.exit_code == 0


def test_processes_killed_in_the_middle_of_an_import_lose_and_double_no_row(
    tables: str, start_worker: StartWorker
) -> None:
    worker = start_worker("workers.app", "--concurrency=2", env={"SEAWALL_DATABASE_URL": tables})
    import_id = str(uuid.uuid4())
    app.tasks["demo.import_dataset"].apply_async((import_id, "sf-temps", 20))

    def done() -> int:
        state = storage.progress(import_id)
        return state["done"] if state else 0

    for rows in (400, 1200):
        wait_until(lambda: done() > rows, timeout=30, what=f"{rows} rows")  # noqa: B023 - called in this turn only
        alive(processes_of(worker))[0].kill()
    assert done() < 8759
    wait_until(
        lambda: (storage.progress(import_id) or {}).get("loaded") == 8759, timeout=90, what="the totals"
    )
    assert database().fetch_value("SELECT count(*) FROM demo.temperatures") == 8759
    assert rejected() == []
