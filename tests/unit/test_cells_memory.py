"""The pipe to a cell and the table of cells: what goes in comes out whole."""

import pytest

from seawall.worker.cells.channel import Channel
from seawall.worker.cells.table import Table


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
