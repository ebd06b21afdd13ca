"""Readings, cleanup, runs and the supervisor's watch, on this process and forked ones. All of it bounded."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from mmap import PROT_READ, mmap
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil
import pytest

import seawall.memory
from seawall import ConfigError, MemoryBudgetExceeded, events, policy
from seawall.memory import Marks, Pressure, leaks
from seawall.memory.board import Board, Kind
from seawall.memory.budget import ControlGroup
from seawall.memory.cleanup import Cleaner, release
from seawall.memory.events import CleanedUp, LimitExceeded, PressureChanged
from seawall.memory.guard import LATEST, SHARE, Guard, Overrun, act
from seawall.memory.learned import Sample
from seawall.memory.meter import Meter, Own, started_at
from seawall.memory.profile import profile
from seawall.memory.runs import SIGNAL, Reports, Runs, sizes
from seawall.policies import Policy, policy_of
from support import leaky
from support.nodes import environment
from support.waiting import wait_until

MB = 1 << 20
PLENTY = 64 << 30
FORK = get_context("fork")
TELL = int(SIGNAL or 0)


def filled(megabytes: int) -> bytearray:
    """Resident, not only reserved."""
    block = bytearray(megabytes * MB)
    block[::4096] = b"x" * len(block[::4096])
    return block


def send(overrun: Overrun) -> bool:
    os.kill(overrun.pid, signal.SIGKILL if overrun.hard else TELL)
    return True


@contextmanager
def forked(life: Callable[..., object], *args: Any) -> Iterator[Any]:
    process = FORK.Process(target=life, args=args, daemon=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


# Meter


def test_pages_that_forked_processes_share_are_counted_once() -> None:
    block = filled(40)
    wait = FORK.Event()
    with forked(wait.wait) as one, forked(wait.wait) as two:
        meter = Meter()
        held = meter.read([os.getpid(), one.pid, two.pid], time.monotonic())
        assert min(held.values()) > 40 * MB
        assert meter.total() < sum(held.values()) - 60 * MB
        assert meter.total() > 40 * MB
        meter.close()
    assert block


def test_a_dead_process_is_forgotten_and_a_zombie_has_no_start() -> None:
    wait, meter = FORK.Event(), Meter()
    with forked(wait.wait) as one:
        assert one.pid in meter.read([one.pid], 0.0)
        assert started_at(one.pid) is not None
        one.kill()
        wait_until(lambda: started_at(one.pid) is None, timeout=10)
        assert meter.read([one.pid], 1.0) == {}
    assert meter.total() == 0


def test_exact_readings_cost_no_more_than_their_share_of_the_time() -> None:
    ticks = iter(range(1000))
    meter = Meter(share_for_pss=0.001, clock=lambda: next(ticks) * 0.01)  # each exact reading takes 10 ms
    for second in range(100):
        meter.read([os.getpid()], float(second))
    assert next(ticks) <= 2 * 12  # one at first, then one every ten seconds
    meter.close()


def test_the_kernels_peak_sees_what_was_freed_before_anybody_looked() -> None:
    own = Own()
    release()
    before = own.held()
    own.reset_peak()
    filled(60)
    peak = own.peak()
    own.close()
    assert 40 * MB < peak - before < 100 * MB  # what the allocator had kept is used again


def test_pages_of_files_are_not_held_and_shared_memory_is(tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(os.urandom(MB) * 60)
    own, meter = Own(), Meter()
    release()
    before = own.held()
    own.reset_peak()
    with file.open("rb") as opened, mmap(opened.fileno(), 0, prot=PROT_READ) as mapped:
        assert sum(mapped[::4096]) > 0
        assert psutil.Process().memory_info().rss > before + 50 * MB
        assert abs(own.held() - before) < 20 * MB
        assert own.peak() - before < 20 * MB
        assert abs(meter.read([os.getpid()], 0.0)[os.getpid()] - before) < 20 * MB
        assert meter.total() < before + 20 * MB
    with mmap(-1, 60 * MB) as shared:
        shared[:] = b"x" * len(shared)
        release()
        wait_until(lambda: own.held() - before > 55 * MB)
        wait_until(lambda: meter.read([os.getpid()], 1.0)[os.getpid()] - before > 55 * MB)
    wait_until(lambda: own.held() - before < 20 * MB)
    own.close()
    meter.close()


# Cleanup


def test_callbacks_of_the_level_and_below_run_and_what_they_free_is_told() -> None:
    cleaner = Cleaner()
    called: list[str] = []
    heard: list[CleanedUp] = []
    cache = [filled(30)]
    cleaner.register(cache.clear, Pressure.WARNING)
    cleaner.register(lambda: called.append("critical"), Pressure.CRITICAL)
    stop = events.subscribe(CleanedUp, heard.append)
    event = cleaner.react(Pressure.WARNING)
    stop()
    assert (cache, called) == ([], [])
    assert heard == [event]
    assert event.freed > 20 * MB


def test_a_callback_out_of_time_is_left_alone_and_a_broken_one_harms_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import threading

    cleaner, gate, calls = Cleaner(), threading.Event(), []

    def slow() -> None:
        calls.append("slow")
        gate.wait(30)

    def broken() -> None:
        raise RuntimeError("no cache here")

    cleaner.register(slow, Pressure.WARNING, timeout=0.05)
    cleaner.register(broken, Pressure.WARNING)
    stop = cleaner.register(lambda: calls.append("last"), Pressure.WARNING)
    assert cleaner.react(Pressure.CRITICAL).late == (f"{slow.__qualname__}",)
    assert cleaner.react(Pressure.CRITICAL).late == ()  # still running: not called again
    stop()
    gate.set()
    wait_until(lambda: not cleaner._running)
    assert calls == ["slow", "last", "last"]
    assert "no cache here" in caplog.text


@pytest.mark.parametrize("wrong", [{"function": 5}, {"level": Pressure.NORMAL}, {"timeout": "soon"}])
def test_a_wrong_registration_is_refused(wrong: dict[str, Any]) -> None:
    arguments = {"function": gc.collect, "level": Pressure.WARNING, **wrong}
    with pytest.raises(ConfigError, match="on_pressure"):
        seawall.memory.on_pressure(arguments.pop("function"), **arguments)


def test_without_a_worker_there_is_no_pressure_and_usage_is_this_processs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seawall.memory, "_board", None)  # a worker of another test may live in this process
    assert seawall.memory.pressure() is Pressure.NORMAL
    usage = seawall.memory.usage()
    assert usage.process > 5 * MB
    assert usage.budget == 0


def test_a_process_of_a_worker_reads_the_workers_board() -> None:
    board = Board.create(100 * MB)
    seawall.memory.attach(board)
    with board.locked():
        board.set_level(Pressure.CRITICAL, 0.0)
    assert seawall.memory.pressure() is Pressure.CRITICAL
    assert seawall.memory.usage().budget == 100 * MB
    seawall.memory.attach(None)


# Runs and guard


def limited(memory: int, limit: int | None = None) -> Policy:
    return policy_of(policy(memory=memory, memory_limit=limit or memory * 4)(lambda: None))


def test_a_run_reports_its_peak_and_what_it_kept_is_measured_around_a_trim() -> None:
    """In a fresh interpreter: this one's heap is large and full of holes."""
    code = f"from support import leaky; print(leaky.measure({leaks.FIRST_RUNS + 6}))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment("redis://nowhere")},
        capture_output=True,
        text=True,
        check=True,
    )
    samples = [Sample(**fields) for fields in json.loads(done.stdout)]
    kept = {
        name: [s.kept for s in samples if s.name == name and s.kept is not None] for name in ("leak", "clean")
    }
    assert min(s.peak for s in samples) > 12 * MB, samples
    assert len(kept["leak"]) == len(kept["clean"]) == 6
    assert sum(size > leaks.FLOOR for size in kept["leak"]) >= 5, samples
    assert sum(size > leaks.FLOOR for size in kept["clean"]) <= 1, samples


def test_reports_cross_processes_and_never_block() -> None:
    reports = Reports()
    with forked(reports.send, Sample("shop.a task", 5, None)):
        found = wait_until(lambda: list(reports.received()), timeout=20)
    for _ in range(5000):
        reports.send(Sample("shop.many", 7, 3))
    many = list(reports.received())
    reports.close()
    assert found == [Sample("shop.a task", 5, None)]
    assert 0 < len(many) < 5000
    assert set(many) == {Sample("shop.many", 7, 3)}


def watched(board: Board, runs: Runs, policy_: Policy, megabytes: int, said: Any) -> None:
    """A process that runs one task, says what became of it, and waits."""
    release()  # what earlier tests left free in the heap would be used again, and nothing would grow
    try:
        with runs.run("id-1", "shop.greedy", policy_, policy_.memory or MB):
            block = filled(megabytes)
            said.put("grown")
            for _ in range(600):
                time.sleep(0.05)
            del block
    except MemoryBudgetExceeded as exc:
        said.put(str(exc))
    for _ in range(600):
        time.sleep(0.05)


def test_a_task_above_its_budget_is_told_once_and_may_clean_up() -> None:
    board, said = Board.create(PLENTY), FORK.Queue()
    heard: list[LimitExceeded] = []
    guard = Guard(board)
    stop = events.subscribe(LimitExceeded, heard.append)
    with forked(watched, board, Runs(board, lambda _: None), limited(20 * MB), 40, said) as process:
        assert said.get(timeout=30) == "grown"
        found = guard.look([process.pid], 1.0)
        assert [(each.name, each.id, each.hard) for each in found] == [("shop.greedy", "id-1", False)]
        assert act(found[0], send)
        assert guard.look([process.pid], 2.0) == []  # told is told
        message = said.get(timeout=30)
        assert message.startswith("shop.greedy used ")
        assert "20 MiB are allowed" in message
        assert not act(found[0], send)  # it is over
        os.kill(process.pid, TELL)  # a late one hits nobody
        assert process.is_alive()
    stop()
    guard.close()
    assert [event.hard for event in heard] == [False]


class Late(Meter):
    """Something happens between a reading and what follows from it."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__()
        self._happens = happens

    def total(self) -> int:
        self._happens()
        return super().total()


@pytest.mark.parametrize("another_begins", [False, True])
def test_what_a_task_used_is_not_held_against_its_process_or_the_next_task(another_begins: bool) -> None:
    board = Board.create(PLENTY)
    runs = Runs(board, lambda _: None)
    greedy = runs.run("id-1", "shop.greedy", limited(MB, 2 * MB), MB)

    def ends() -> None:
        greedy.__exit__(None, None, None)
        if another_begins:
            runs.run("id-2", "shop.modest", limited(MB, 2 * MB), MB).__enter__()

    guard = Guard(board, meter=Late(ends))
    release()
    greedy.__enter__()
    block = filled(8)
    found = guard.look([], 1.0)
    assert not any(act(each, lambda _: True) for each in found)
    assert block
    guard.close()


def test_a_task_above_its_limit_loses_its_process() -> None:
    board, said = Board.create(PLENTY), FORK.Queue()
    guard = Guard(board)
    with forked(watched, board, Runs(board, lambda _: None), limited(10 * MB, 20 * MB), 40, said) as process:
        assert said.get(timeout=30) == "grown"
        found = guard.look([process.pid], 1.0)
        assert [(each.limit, each.hard) for each in found] == [(20 * MB, True)]
        assert act(found[0], send)
        process.join(20)
        board.forget(process.pid)
    guard.close()
    assert list(board.rows(Kind.RUN)) == []


def test_with_the_budget_spent_the_task_furthest_beyond_its_share_goes() -> None:
    board, said = Board.create(30 * MB), FORK.Queue()
    guard = Guard(board)
    with forked(watched, board, Runs(board, lambda _: None), Policy(), 60, said) as process:
        assert said.get(timeout=30) == "grown"
        found = guard.look([process.pid], 1.0)
        assert [(each.name, each.hard) for each in found] == [("shop.greedy", True)]
    guard.close()


def holding(board: Board, kind: Kind, size: int, said: Any) -> None:
    """Another process of the board: a worker that uses that much, or one that runs a task which may."""
    with board.locked(patience=5):
        board.take(kind, used=size, size=size)
    said.put("has it")
    time.sleep(60)


def test_what_killed_processes_used_and_reserved_keeps_nobody_waiting() -> None:
    board, said = Board.create(PLENTY), FORK.Queue()
    guard = Guard(board)

    def level(now: float) -> Pressure:
        guard.look((), now)
        return board.level

    with (
        forked(holding, board, Kind.WORKER, PLENTY - MB, said) as worker_of_another,
        forked(holding, board, Kind.SHARE, MB, said) as cell,
    ):
        assert [said.get(timeout=30) for _ in range(2)] == ["has it"] * 2
        assert (level(1.0), board.shares) == (Pressure.EXHAUSTED, 1)
        worker_of_another.kill()
        worker_of_another.join()
        assert (level(2.0), board.shares) == (Pressure.NORMAL, 1)
        cell.kill()
        cell.join()
        assert (level(3.0), board.shares) == (Pressure.NORMAL, 0)
    (worker,) = board.rows(Kind.WORKER)
    assert (board.used(), board.promised) == (worker.used, worker.size)
    guard.close()


def test_use_raises_the_level_and_what_running_tasks_reserved_is_not_counted_twice() -> None:
    board, said = Board.create(PLENTY), FORK.Queue()
    heard: list[PressureChanged] = []
    stop = events.subscribe(PressureChanged, heard.append)
    guard = Guard(board, slots=2)
    with forked(watched, board, Runs(board, lambda _: None), limited(50 * MB), 40, said) as process:
        assert said.get(timeout=30) == "grown"
        guard.look([process.pid], 1.0)
        (worker,) = board.rows(Kind.WORKER)
        young = worker.used - worker.size  # it may still come to own what it shares
        guard.look([process.pid], 5.0)
        assert (worker.slots, board.slots) == (2, 2)
        assert max(30 * MB, young) < worker.used - worker.size < 50 * MB
        assert board.promised == worker.size
        assert heard == []

        board._header.budget = worker.used + MB
        guard.look([process.pid], 6.0)
        assert board.level is Pressure.EXHAUSTED
        board._header.budget = PLENTY
        guard.look([process.pid], 7.0)
    stop()
    guard.close()
    assert [(event.before, event.level) for event in heard] == [
        (Pressure.NORMAL, Pressure.EXHAUSTED),
        (Pressure.EXHAUSTED, Pressure.NORMAL),
    ]
    assert board.promised == 0


def test_a_control_group_that_waits_for_memory_is_under_critical_pressure(tmp_path: Path) -> None:
    (tmp_path / "memory.current").write_text("1000")
    (tmp_path / "memory.pressure").write_text("some avg10=50.0\nfull avg10=30.00 avg60=0 avg300=0 total=1\n")
    board = Board.create(PLENTY)
    guard = Guard(board, marks=Marks(), group=ControlGroup(tmp_path, 2))
    guard.look([], 1.0)
    assert board.level is Pressure.CRITICAL
    (tmp_path / "memory.pressure").write_text("full avg10=0.00 avg60=0 avg300=0 total=1\n")
    (tmp_path / "memory.current").write_text(str(60 << 30))
    guard.look([], 3.0)
    guard.close()
    assert board.level is Pressure.CRITICAL  # 60 of 64 GiB are charged to the group


def test_looking_never_costs_more_than_its_share_of_a_core() -> None:
    ticks = iter(range(1000))
    meter = Meter(clock=lambda: 0.0)
    guard = Guard(Board.create(PLENTY), meter=meter, clock=lambda: next(ticks) * 0.010)
    guard.look([], 1.0)
    assert guard.interval == pytest.approx(0.010 / SHARE)
    idle = Guard(Board.create(PLENTY), clock=lambda: 0.0)
    idle.look([], 1.0)
    assert idle.interval == LATEST
    guard.close()
    idle.close()


def test_arguments_are_told_by_their_sizes_not_by_what_they_are() -> None:
    told = sizes(["secret" * 1000], {"tenant": "acme"})
    assert told == " (arguments 0: 5.861 KiB, tenant: 6 B)"
    assert sizes((), {}) == ""


# Profile


def test_a_profile_names_the_line_that_keeps_memory() -> None:
    found = profile(leaky.leak, runs=10)
    leaky.kept.clear()
    lines = Path(leaky.__file__).read_text().splitlines()
    assert found.growing[0].file == leaky.__file__
    assert "the line that leaks" in lines[found.growing[0].line - 1]
    assert found.growing[0].bytes == pytest.approx(50_000, rel=0.1)
    assert profile(leaky.clean, runs=10).traced < 1000


@pytest.mark.parametrize("names", [1, 20, 500])
def test_measuring_keeps_to_its_share_however_many_names_there_are(
    names: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each collection takes 10 ms; a quarter of a second is free, and then a hundredth of the time."""
    collections = []
    processor = iter(range(100_000))
    monkeypatch.setattr("seawall.memory.runs.cleanup.release", lambda: collections.append(1))
    monkeypatch.setattr("seawall.memory.runs.time.thread_time", lambda: next(processor) * 0.01)
    board = Board.create(PLENTY)
    runs, free = Runs(board, lambda _: None), limited(MB)
    begun = time.monotonic()

    def work() -> None:
        for number in range(2000):
            with runs.run("id", f"shop.name{number % names}", free, MB):
                pass
            runs.after()

    work()
    assert len(collections) <= 27 + (time.monotonic() - begun)
    collections.clear()
    runs._born -= 3600  # an hour without work saves up next to nothing
    work()
    assert 1 <= len(collections) <= 4 + (time.monotonic() - begun)


def test_reports_that_are_no_news_keep_to_their_share_however_many_names_there_are() -> None:
    told: list[Sample] = []
    board = Board.create(PLENTY)
    runs, free = Runs(board, told.append), limited(MB)
    begun = time.monotonic()
    for number in range(5000):
        with runs.run("id", f"shop.name{number % 500}", free, MB):
            pass
        runs.after()
    assert {sample.name for sample in told} == {f"shop.name{number}" for number in range(500)}
    assert len(told) < 2 * 500 + 200 + 50 * (time.monotonic() - begun)  # a peak above the last one is news
