"""What a cell finds out about its process after a task."""

import os
import resource
import signal
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from seawall.worker.cells.vitals import Vitals


@pytest.fixture
def descriptor() -> Iterator[int]:
    reader, writer = os.pipe()
    yield reader
    os.close(writer)
    os.close(reader)


def vitals(descriptor: int) -> Vitals:
    seconds = count()
    return Vitals(descriptor, clock=lambda: float(next(seconds)))


def test_nothing_is_wrong_with_a_process_that_was_left_as_it_was(descriptor: int) -> None:
    known = vitals(descriptor)
    before = set(Path("/proc/self/fd").iterdir())
    assert known.damage() is None
    assert set(Path("/proc/self/fd").iterdir()) <= before  # fewer when what other tests left is collected


def test_a_number_that_names_another_file_now_is_noticed(descriptor: int) -> None:
    known = vitals(descriptor)
    other, end = os.pipe()
    os.dup2(other, descriptor)
    os.close(other)
    os.close(end)
    assert known.damage() == "closed descriptors of its process"


def test_closed_and_used_up_descriptors_are_told_apart(descriptor: int) -> None:
    known = vitals(descriptor)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert known.damage() == "used up the descriptors of its process"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    copy = os.dup(descriptor)
    os.close(descriptor)
    try:
        assert known.damage() == "closed descriptors of its process"
    finally:
        os.dup2(copy, descriptor)
        os.close(copy)
    assert known.damage() is None


def test_a_trace_function_is_removed(descriptor: int) -> None:
    known, before = vitals(descriptor), sys.gettrace()
    sys.settrace(lambda *_: None)
    assert known.damage() is None
    assert sys.gettrace() is before
    assert known.undone == ["left a trace function behind"]


@pytest.mark.parametrize("timer", [signal.ITIMER_VIRTUAL, signal.ITIMER_PROF])
def test_an_alarm_that_a_task_left_rings_in_no_other(descriptor: int, timer: int) -> None:
    known = vitals(descriptor)  # the real one is pytest's own
    signal.setitimer(timer, 600)
    assert known.damage() is None
    assert signal.getitimer(timer) == (0.0, 0.0)
    assert len(known.undone) == 1


def test_what_a_task_did_to_signals_is_undone(descriptor: int) -> None:
    known, before = vitals(descriptor), signal.getsignal(signal.SIGUSR1)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    assert known.damage() is None
    assert signal.getsignal(signal.SIGUSR1) == before
    assert signal.SIGUSR1 not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
    assert known.undone == ["left a handler of SIGUSR1 behind", "left signals blocked"]
    assert known.damage() is None
    assert known.undone == []


def test_a_directory_that_is_gone_is_noticed(
    descriptor: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = vitals(descriptor)
    monkeypatch.chdir(tmp_path)
    assert known.damage() is None
    (gone := tmp_path / "gone").mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert known.damage() == "left its process in a directory that is gone"
    assert vitals(descriptor).damage() is None  # it was there from the beginning


def test_it_looks_at_most_once_a_millisecond(descriptor: int) -> None:
    known = Vitals(descriptor, clock=lambda: 1.0)
    assert known.damage() is None
    copy = os.dup(descriptor)
    os.close(descriptor)
    try:
        assert known.damage() is None
    finally:
        os.dup2(copy, descriptor)
        os.close(copy)
