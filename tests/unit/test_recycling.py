"""Replacing a process for what it retains has to help."""

from seawall.memory.recycling import EVERY, SELDOM, WORTH, Recycling

MB = 1 << 20


def replaced(held: int, unused: int, *, seconds: int, used: int) -> list[int]:
    """The seconds at which process 1 is replaced while memory stays short and nothing changes."""
    recycling = Recycling()
    return [
        second
        for second in range(seconds)
        if recycling.due(second, pressed=True)
        and recycling.choose(second, {1: held}, {2: unused}, used=used) is not None
    ]


def test_a_process_that_has_little_more_than_a_newborn_one_is_left_alone() -> None:
    assert replaced(34 * MB, 34 * MB, seconds=600, used=900 * MB) == []
    assert replaced(340 * MB, 340 * MB - WORTH + 1, seconds=600, used=900 * MB) == []


def test_a_newborn_process_is_never_chosen() -> None:
    assert Recycling().choose(0.0, {}, {1: 900 * MB}, used=900 * MB) is None


def test_what_a_newborn_has_is_remembered_when_all_have_run_something() -> None:
    recycling = Recycling()
    assert recycling.choose(0.0, {1: 500 * MB}, {2: 480 * MB}, used=900 * MB) is None
    assert recycling.choose(EVERY, {1: 500 * MB}, {}, used=900 * MB) is None


def test_the_largest_goes_first() -> None:
    assert Recycling().choose(0.0, {1: 100 * MB, 2: 300 * MB}, {3: 34 * MB}, used=900 * MB) == 2


def test_where_it_does_not_help_it_happens_ever_more_seldom() -> None:
    at = replaced(300 * MB, 34 * MB, seconds=2000, used=900 * MB)
    assert at[:4] == [0, EVERY, EVERY * 3, EVERY * 7]
    assert at[-1] - at[-2] == SELDOM


def test_where_it_helps_or_once_there_was_room_it_goes_on_at_its_pace() -> None:
    recycling, used = Recycling(), 900 * MB
    for second in (0.0, EVERY, 2 * EVERY):
        assert recycling.due(second, pressed=True)
        assert recycling.choose(second, {1: 300 * MB}, {}, used=used) == 1
        used -= WORTH
    recycling.choose(3 * EVERY, {1: 300 * MB}, {}, used=900 * MB)
    assert not recycling.due(4 * EVERY, pressed=True)
    recycling.due(4 * EVERY, pressed=False)
    recycling.choose(5 * EVERY, {1: 300 * MB}, {}, used=900 * MB)
    assert recycling.due(6 * EVERY, pressed=True)
