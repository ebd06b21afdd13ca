"""The journal, the spool and the recorder over a real PostgreSQL, in this process."""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from seawall import events
from seawall.database.pool import Database
from seawall.records.events import RecordsAdopted, RecordsCaughtUp, RecordsHeldBack, RecordsLost
from seawall.records.journal import LONGEST_ROW, SEGMENT, Gauge, Journal, line, quoted
from seawall.records.recorder import Recorder
from seawall.records.spool import Spool
from seawall.sections import RecordsSettings
from support.proxy import Proxy, proxy
from support.recorded import Recorded
from support.services import bear_start_and_stop
from support.waiting import wait_until


class Desk:
    """A recorder, its spool, and what it told."""

    def __init__(self, recorded: Recorded, folder: Path, url: str | None = None) -> None:
        self.recorded = recorded
        self.database = Database(url or recorded.url)
        self.spool = Spool.make(folder)
        self.recorder = Recorder(self.spool, lambda: self.database, RecordsSettings(spool_size=10_000))
        self.told: list[object] = []
        self._unsubscribe = events.subscribe(events.Event, self.told.append)

    def close(self) -> None:
        self._unsubscribe()
        self.recorder.stop()
        self.database.close()

    def heard(self, kind: type) -> list[object]:
        return [event for event in self.told if isinstance(event, kind)]


@pytest.fixture
def desk(recorded: Recorded, tmp_path: Path) -> Iterator[Desk]:
    made = Desk(recorded, tmp_path / "spool")
    yield made
    made.close()


@pytest.fixture
def way(recorded: Recorded) -> Iterator[Proxy]:
    """To the database, and it can be cut."""
    with proxy(recorded.url) as opened:
        yield opened


def run(task_id: str, state: str = "success", fingerprint: str | None = None) -> str:
    now = time.time()
    return line(
        "r", [now, task_id, 1, state, 5, "n", "q", "w", now - 2, now - 1, 1000, 1000, 99, fingerprint, None]
    )


def failed(task_id: str, fingerprint: str) -> str:
    seen = {
        "fingerprint": fingerprint,
        "exception": "E",
        "task": "n",
        "category": "network",
        "severity": "warning",
        "at": time.time(),
        "sample": "Traceback",
    }
    return line("e", seen) + run(task_id, "dead", fingerprint)


def turn(desk: Desk) -> None:
    while desk.recorder._turn():
        pass


def ids(desk: Desk) -> set[str]:
    return {row[0] for row in desk.recorded.sql("SELECT task_id FROM seawall.task_runs")}


def test_a_row_is_what_was_written_whatever_it_holds(desk: Desk) -> None:
    odd = 'a"b\\c\x00d\ud800\U0001f600\n'
    kept = 'a"b\\c\\x00d\\ud800\U0001f600\n'
    assert json.loads(quoted(odd)) == kept
    desk.recorder.journal.write(run(odd))
    turn(desk)
    ((task_id, wait, ran, peak),) = desk.recorded.sql(
        "SELECT task_id, wait_ms, run_ms, peak_rss_kib FROM seawall.task_runs"
    )
    assert (task_id, wait, ran, peak) == (kept, 1000, 1000, 99)


def test_files_are_followed_by_others_and_deleted_when_they_are_written(desk: Desk) -> None:
    rows = SEGMENT // len(run("0000")) + 500
    for n in range(rows):
        desk.recorder.journal.write(run(f"{n:04}"))
    assert len(desk.spool.segments()) == 2
    turn(desk)
    assert desk.recorded.states() == {"success": rows}
    assert len(desk.spool.segments()) == 1
    desk.recorder.journal.close()
    turn(desk)
    assert desk.spool.segments() == []


def test_a_batch_that_is_written_again_adds_nothing(desk: Desk) -> None:
    for n in range(5):
        desk.recorder.journal.write(failed(str(n), "f"))
    turn(desk)
    desk.recorder._applied.clear()  # as in another worker, or after a COMMIT of unknown fate
    desk.recorder._unsure = True
    desk.recorder.journal.write(failed("5", "f"))
    turn(desk)
    assert ids(desk) == set("012345")
    assert desk.recorded.sql("SELECT fingerprint, count FROM seawall.error_groups") == [("f", 6)]


def test_the_row_that_a_sigkill_cut_off_is_counted(desk: Desk, tmp_path: Path) -> None:
    pid = os.fork()
    if not pid:
        journal = Journal(desk.spool.path, Gauge())
        journal.write(run("whole"))
        os.write(journal._descriptor, run("half").encode()[:40])
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    turn(desk)
    turn(desk)
    assert ids(desk) == {"whole"}
    assert desk.heard(RecordsLost) == [RecordsLost(rows=1, reason="it was cut off")]
    assert desk.spool.segments() == []


def test_a_row_that_postgres_refuses_takes_no_other_with_it(desk: Desk) -> None:
    desk.recorder.journal.write(run("before") + run("odd").replace(",5,", ",500000,") + failed("after", "f"))
    turn(desk)
    assert ids(desk) == {"before", "after"}
    (lost,) = desk.heard(RecordsLost)
    assert isinstance(lost, RecordsLost)
    assert "out of range" in lost.reason


# Each is one row, and none can be written.
DEEP = "[" * 20_000 + "]" * 20_000
REFUSED = {
    "a task id that no index takes": run(os.urandom(6000).hex()),
    "a number that no column takes": run("odd").replace(",5,", f",{10**400},"),
    "a moment that no calendar has": run("odd").replace("r[", "r[9e300,"),
    "nan": run("odd").replace("r[", "r[NaN,"),
    "no JSON": "r[\n",
    "no list": "r5\n",
    "nested deep": run("odd").replace(",null]", f",{DEEP}]"),
    "text that UTF-8 does not carry": run("odd").replace("odd", "\\ud800"),
    "NUL": run("odd").replace("odd", "\\u0000"),
    "a failure that is none": "e5\n",
    "a failure without its fields": "e{}\n",
    "a failure nested deep": f"e{DEEP}\n",
    "a dead letter that is none": "d{}\n",
    "a dead letter with an id that no index takes": line("d", {"task_id": os.urandom(6000).hex()}),
    "a breaker without its moment": 'b{"name":"b","epoch":"soon"}\n',
    "a gap that is none": "g5\n",
    "a gap nested deep": f'g{{"rows":1,"why":{DEEP}}}\n',
    "a gap of no number": 'g{"rows":"many","why":"x"}\n',
    "a row that is too large": line("r", ["x" * LONGEST_ROW]),
    "no row": "?\n",
}


def test_each_row_that_cannot_be_written_is_left_out_and_told_and_the_others_are_written(
    desk: Desk, tmp_path: Path
) -> None:
    rows = [failed(f"{n}", "f") + row + run(f"{n} after") for n, row in enumerate(REFUSED.values())]
    pid = os.fork()
    if not pid:  # a worker that is killed leaves the same to the next one
        spool = Spool.make(tmp_path / "spool")
        journal = Journal(spool.path, Gauge())
        for row in rows:
            journal.write(row)
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    desk.recorder._adopt()
    turn(desk)
    assert desk.recorder.held_back_since is None
    assert desk.recorded.states() == {"success": len(REFUSED), "dead": len(REFUSED)}
    lost = [each for each in desk.heard(RecordsLost) if isinstance(each, RecordsLost)]
    assert sum(each.rows for each in lost) == len(REFUSED)
    assert all(each.reason for each in lost)
    turn(desk)
    assert desk.spool.segments() == []


def test_rows_that_are_left_out_are_counted_once_however_often_nothing_can_be_written(tmp_path: Path) -> None:
    folder = tmp_path / "missing"
    journal = Journal(folder, Gauge())
    for n in range(3):
        assert not journal.write(run(str(n)))
        journal._left_out_since -= 10
    folder.mkdir()
    assert journal.write(run("later"))
    journal.close()
    (file,) = folder.iterdir()
    assert json.loads(file.read_bytes().splitlines()[0][1:])["rows"] == 3


def test_nobody_else_may_write_above_the_spool_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spool = Spool.make(tmp_path / "home" / "spool")
    finally:
        os.umask(before)
    made = [spool.path, *spool.path.parents][:3]
    assert [oct(path.stat().st_mode & 0o777) for path in made] == ["0o700"] * 3
    spool.leave()


def test_a_full_spool_leaves_out_successes_first_and_says_how_many(
    recorded: Recorded, way: Proxy, tmp_path: Path
) -> None:
    desk = Desk(recorded, tmp_path / "spool", way.url)
    journal = desk.recorder.journal
    try:
        way.die()
        for n in range(100):
            journal.write(run(f"s{n}"), expendable=True)
        desk.recorder._turn()
        assert desk.recorder.gauge.level == Gauge.SCARCE
        assert not journal.write(run("left out"), expendable=True)
        assert journal.write(run("kept", "dead"))
        for n in range(100):
            journal.write(run(f"d{n}", "dead"))
        desk.recorder._turn()
        assert desk.recorder.gauge.level == Gauge.FULL
        assert not journal.write(run("left out too", "dead"))
        assert len(desk.heard(RecordsHeldBack)) == 1

        way.revive()
        wait_until(lambda: not desk.recorder._turn() and ids(desk), timeout=20, what="PostgreSQL to be asked")
        turn(desk)
        assert recorded.states() == {"success": 100, "dead": 101}
        (caught_up,) = desk.heard(RecordsCaughtUp)
        assert isinstance(caught_up, RecordsCaughtUp)
        assert caught_up.rows == 201
        journal._left_out_since -= 10
        desk.recorder._turn()
        journal.write(run("later"))
        turn(desk)
        assert [replace(each) for each in desk.heard(RecordsLost)] == [  # type: ignore[type-var]
            RecordsLost(rows=2, reason="the spool was full")
        ]
    finally:
        desk.close()


def test_what_another_left_is_adopted_and_what_a_living_one_has_is_not(
    desk: Desk, recorded: Recorded, tmp_path: Path
) -> None:
    pid = os.fork()
    if not pid:
        spool = Spool.make(tmp_path / "spool")
        Journal(spool.path, Gauge()).write(run("orphan") + failed("dead orphan", "f"))
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    living = Spool.make(tmp_path / "spool")
    Journal(living.path, Gauge()).write(run("not ours"))
    desk.recorder._adopt()
    turn(desk)
    assert ids(desk) == {"orphan", "dead orphan"}
    assert len(desk.heard(RecordsAdopted)) == 1
    desk.recorder._adopt()
    assert sorted(each.name for each in (tmp_path / "spool").iterdir()) == sorted(
        [desk.spool.path.name, living.path.name]
    )
    living.leave()


def test_a_child_has_a_file_of_its_own(desk: Desk) -> None:
    desk.recorder.journal.write(run("parent"))
    pid = os.fork()
    if not pid:
        os._exit(0 if desk.recorder.journal.write(run("child")) else 1)
    assert os.waitpid(pid, 0)[1] == 0
    desk.recorder.journal.write(run("parent again"))
    assert len(desk.spool.segments()) == 2
    turn(desk)
    assert ids(desk) == {"parent", "child", "parent again"}


def test_nothing_can_be_written_and_nobody_is_harmed(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "missing", Gauge())
    assert not journal.write(run("nowhere"))


def test_it_bears_being_started_and_stopped(recorded: Recorded, tmp_path: Path) -> None:
    database = Database(recorded.url)

    def make() -> Recorder:
        return Recorder(Spool.make(tmp_path / "spool"), lambda: database, RecordsSettings())

    bear_start_and_stop(make)
    database.close()
    assert list((tmp_path / "spool").iterdir()) == []


def test_what_is_old_is_deleted(desk: Desk) -> None:
    desk.recorder.journal.write(failed("a", "f"))
    letter = {
        "task_id": "a",
        "name": "n",
        "queue": "q",
        "args": [],
        "kwargs": {},
        "headers": {},
        "size": 1,
        "fingerprint": "f",
        "traceback": "",
        "at": time.time() - 100 * 86_400,
        "reason": "r",
        "attempts": 1,
    }
    desk.recorder.journal.write(line("d", letter))
    turn(desk)
    assert desk.recorded.sql("SELECT count(*) FROM seawall.dead_letters") == [(1,)]
    desk.recorder._look_around()
    assert desk.recorded.sql("SELECT count(*) FROM seawall.dead_letters") == [(0,)]
    assert desk.recorded.sql("SELECT count(*) FROM seawall.error_groups") == [(1,)]
    partitions = desk.recorded.sql(
        "SELECT count(*) FROM pg_inherits WHERE inhparent = 'seawall.task_runs'::regclass"
    )
    assert partitions[0][0] >= 5
