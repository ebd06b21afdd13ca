"""The pipe to a cell and the table of cells: what goes in comes out whole."""

import mmap
import subprocess
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from seawall.memory.meter import Own
from seawall.worker.cells.cell import Cell
from seawall.worker.cells.channel import Channel
from seawall.worker.cells.deaths import Described, describe
from seawall.worker.cells.pool import _reap
from seawall.worker.cells.table import DESCRIPTION_MAX, Table
from support.waiting import wait_until


@pytest.mark.parametrize("size", [0, 1, 32_767, 32_768, 65_536, 212_992, 400_000, 3_000_000])
def test_a_message_of_any_size_arrives_and_so_does_the_one_behind_it(size: int) -> None:
    ours, theirs = Channel.pair()
    ours.say("totals", text="x" * size)
    ours.say("stop")
    heard = theirs.heard()
    for _ in range(1000):  # rounds, each of which moves at least one packet
        ours.flush()
        heard += theirs.heard()
    assert [message["say"] for message in heard] == ["totals", "stop"]
    assert len(heard[0]["text"]) == size
    ours.close()
    theirs.close()


@pytest.mark.parametrize("length", [1, 127, 218, 219, 250, 255])
def test_tag_and_queue_come_back_whole(length: int) -> None:
    (row,) = Table(1).rows
    tag, queue = "t" * min(length, 127), "q" * length
    row.begin("id", "shop.task", tag, queue, 1.0, 0.0, 0.0)
    row.acknowledged(tag, queue)
    task = row.task()
    assert task is not None
    assert (task.tag, task.queue) == (tag, queue)
    assert row.recent_acks() == [(tag, queue)]


NAMED = {"id": "an-id", "task": "shop.task", "retries": 1}
EMBEDDED = {"callbacks": None, "errbacks": [{"task": "shop.on_error"}], "chain": None, "chord": None}


@pytest.mark.parametrize(
    ("headers", "payload"),
    [
        (NAMED, [[1], {}, EMBEDDED]),
        ({**NAMED, "when": datetime.now(UTC), "price": Decimal(1), "raw": b"\xff"}, [[1], {}, EMBEDDED]),
        (NAMED, [["x" * 200_000], {"y": 1}, EMBEDDED]),
        ({**NAMED, "trace": "x" * 200_000}, [[1], {}, EMBEDDED]),
        (NAMED, [[1], {}, {**EMBEDDED, "chain": [{"task": "x" * 200_000}]}]),
        ({}, {**NAMED, "args": ["x" * 200_000], "kwargs": {}}),
        ({}, {**NAMED, "args": [], "kwargs": {}, "callbacks": ["x" * 200_000]}),
        (NAMED, [[float("nan"), "\ud800"], {}, EMBEDDED]),
    ],
)
def test_a_message_whatever_it_holds_is_described_so_that_its_death_can_be_charged(
    headers: dict[str, Any], payload: Any
) -> None:
    message = SimpleNamespace(headers=headers, payload=payload, properties={}, delivery_info={})
    description = describe(message)
    assert 0 < len(description) <= DESCRIPTION_MAX
    described = Described(description)
    found = described.headers if "task" in described.headers else described.payload
    assert {name: found[name] for name in NAMED} == NAMED


@pytest.mark.parametrize("byte", [0x00, 0xFF, 0x41])
def test_a_row_that_was_overwritten_is_known_and_can_be_used_again(byte: int) -> None:
    row = Table(1).rows[0]
    row.clear()
    row.begin("id", "name", "tag", "queue", 1.0, 0.0, 0.0)
    before = row.sound
    row.memory[row.start : row.start + 4096] = bytes([byte]) * 4096
    overwritten = row.sound
    row.clear()
    assert (before, overwritten, row.sound) == (True, False, True)
    assert row.generation != row.doomed  # or it would wait for its end
    assert (row.task(), row.in_hand(), row.recent_acks(), row.unstored_results()) == (None, None, [], [])


def test_a_living_process_is_never_waited_for() -> None:
    """Its descriptor may have the number of one that has ended, for which there is an event still."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        assert _reap(process.pid) is None
        assert process.stdin is not None
        process.stdin.close()
        assert wait_until(lambda: (status := _reap(process.pid)) is not None and [status]) == [0]


def test_a_cell_that_reads_a_large_file_is_not_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(bytes(64 << 20))
    limit = Own().held() + (32 << 20)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
        assert sum(view[::4096]) == 0  # every page of it is resident now
        assert not too_large(limit)
    block = b"x" * (64 << 20)
    assert too_large(limit)
    del block


def too_large(limit: int) -> bool:
    """What a cell of this process's size says of itself."""
    return Cell._too_large(SimpleNamespace(_most_memory=limit, _look_at=0.0, _own=Own()))  # type: ignore[arg-type]
