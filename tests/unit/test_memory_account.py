"""Admission against a budget that several processes share: planted pressure, real processes and SIGKILLs."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seawall import MemoryBudgetExceeded, StartupError, policy
from seawall.admission import ADMIT, Candidate, Hold, Refuse
from seawall.memory import Marks, Pressure
from seawall.memory.account import PATIENCE, SILENT, STUCK, MemoryAccount
from seawall.memory.board import Board, Busy, Kind
from seawall.policies import Policy, policy_of
from support.waiting import wait_until

MB = 1 << 20
BUDGET = 400 * MB
ALL = Marks(exhausted=1.0)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def candidate(
    id_: str, memory: int | None = None, *, priority: int = 5, name: str = "shop.task"
) -> Candidate:
    declared = Policy() if memory is None else policy_of(policy(memory=memory)(lambda: None))
    return Candidate(id_, name, "celery", priority, declared, lambda: ((), {}))


@pytest.fixture
def board() -> Board:
    return Board.create(BUDGET)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def account(board: Board, clock: Clock) -> MemoryAccount:
    return MemoryAccount(board, ALL, clock=clock)


def held(verdict: object) -> str:
    assert isinstance(verdict, Hold), verdict
    return verdict.reason


def rested(account: MemoryAccount) -> None:
    """It gives up what it keeps for the next request."""
    for _ in range(2):
        account.rest()


def test_what_fits_is_admitted_and_what_does_not_is_held_until_a_share_comes_back(
    board: Board, account: MemoryAccount
) -> None:
    first, second, third = (candidate(each, 150 * MB) for each in "abc")
    assert account.ask(first) is account.ask(second) is ADMIT
    assert held(account.ask(third)) == "needs 150 MiB of memory, 100 MiB are unpromised"
    assert account.ask(candidate("small", 100 * MB)) is ADMIT
    assert board.promised == BUDGET
    account.release(first)
    assert account.ask(third) is ADMIT


def test_a_share_is_given_back_once_and_asking_twice_takes_one(board: Board, account: MemoryAccount) -> None:
    one = candidate("a", 100 * MB)
    account.release(one)
    assert account.ask(one) is account.ask(one) is ADMIT
    account.release(one)
    account.release(one)
    rested(account)
    assert (board.promised, board.shares) == (0, 0)


def test_the_next_request_has_the_share_of_the_last_until_somebody_waits(board: Board) -> None:
    one, other = MemoryAccount(board, ALL), MemoryAccount(board, ALL)
    assert one.ask(candidate("a", 300 * MB)) is ADMIT
    one.release(candidate("a"))
    with board.locked():  # so it is had without the lock
        assert one.ask(candidate("b", 300 * MB)) is ADMIT
    assert one.promised_to("b") == 300 * MB
    one.release(candidate("b"))
    one.rest()
    assert board.promised == 300 * MB
    assert other.ask(candidate("c", 200 * MB)) is not ADMIT
    one.rest()
    assert other.ask(candidate("c", 200 * MB)) is ADMIT
    assert (board.promised, board.shares) == (200 * MB, 1)


def test_a_share_of_another_size_is_given_up_first(board: Board, account: MemoryAccount) -> None:
    account.ask(candidate("a", 300 * MB))
    account.release(candidate("a"))
    assert account.ask(candidate("b", 400 * MB)) is ADMIT
    assert (board.promised, board.shares) == (400 * MB, 1)


def test_a_task_reserves_what_it_declares_else_what_was_learned_else_a_fair_share(
    board: Board, account: MemoryAccount
) -> None:
    with board.locked():
        board.take(Kind.WORKER, size=80 * MB, slots=4)
    board.learn("shop.known", 30 * MB)
    board.learn("shop.huge", 4000 * MB)
    declared = candidate("a", 10 * MB).policy
    assert account.reservation("shop.known", declared) == 10 * MB
    assert account.reservation("shop.known", Policy()) == 30 * MB
    assert account.reservation("shop.huge", Policy()) == BUDGET
    assert account.reservation("shop.unknown", Policy()) == 80 * MB
    assert MemoryAccount(board, ALL, unknown=5 * MB).reservation("shop.unknown", Policy()) == 5 * MB


def test_what_workers_use_beside_their_tasks_is_not_promised_again(
    board: Board, account: MemoryAccount
) -> None:
    with board.locked():
        worker = board.take(Kind.WORKER, size=300 * MB)
        assert worker is not None
    assert account.ask(candidate("a", 90 * MB)) is ADMIT
    assert account.ask(candidate("b", 90 * MB)) is not ADMIT
    with board.locked():
        board.change(worker, 100 * MB)
    assert account.ask(candidate("b", 90 * MB)) is ADMIT


def test_a_budget_above_all_there_is_is_refused_with_the_fix(account: MemoryAccount) -> None:
    verdict = account.ask(candidate("a", 500 * MB))
    assert isinstance(verdict, Refuse)
    assert isinstance(verdict.error, MemoryBudgetExceeded)
    assert "memory=500 MiB" in str(verdict.error)
    assert "share 400 MiB" in str(verdict.error)


def test_alone_a_task_starts_though_the_worker_itself_uses_too_much(
    board: Board, account: MemoryAccount
) -> None:
    with board.locked():
        board.take(Kind.WORKER, size=BUDGET)
    assert account.ask(candidate("a", 350 * MB)) is ADMIT
    assert account.ask(candidate("b", MB)) is not ADMIT


def test_small_ones_flow_past_a_big_one_for_two_seconds_and_then_it_is_served(
    account: MemoryAccount, clock: Clock
) -> None:
    running = [candidate(f"r{n}", 100 * MB) for n in range(3)]
    assert all(account.ask(each) is ADMIT for each in running)
    big = candidate("big", 300 * MB)
    account.ask(big)
    clock.now += PATIENCE
    account.ask(big)
    assert account.ask(candidate("early", 50 * MB)) is ADMIT

    clock.now += 0.1
    account.ask(big)
    assert held(account.ask(candidate("late", 50 * MB))) == "300 MiB are kept for a request that waits longer"
    assert account.ask(candidate("urgent", 50 * MB, priority=7)) is ADMIT
    for each in running:
        account.release(each)
    account.release(candidate("urgent"))
    assert account.ask(big) is ADMIT
    assert account.ask(candidate("late", 50 * MB)) is ADMIT


def test_one_that_waited_and_went_silent_keeps_nothing_from_others(
    account: MemoryAccount, clock: Clock
) -> None:
    account.ask(candidate("running", 300 * MB))
    account.ask(candidate("revoked", 200 * MB))
    clock.now += PATIENCE + SILENT + 0.1
    assert account.ask(candidate("other", 100 * MB)) is ADMIT


def test_two_that_wait_long_are_served_in_their_order_instead_of_blocking_each_other(
    board: Board, clock: Clock
) -> None:
    one, two = MemoryAccount(board, ALL, clock=clock), MemoryAccount(board, ALL, clock=clock)
    running = candidate("running", 200 * MB)
    one.ask(running)
    first, second = candidate("first", 250 * MB), candidate("second", 240 * MB)
    for _ in range(4):
        assert one.ask(first) is not ADMIT
        clock.now += 0.8
        assert two.ask(second) is not ADMIT
    one.release(running)
    assert two.ask(second) is not ADMIT
    assert one.ask(first) is ADMIT
    one.release(first)
    rested(one)
    assert two.ask(second) is ADMIT


@pytest.mark.parametrize(
    ("level", "starting"),
    [
        (Pressure.NORMAL, [1, 3, 5, 7, 9]),
        (Pressure.WARNING, [5, 7, 9]),
        (Pressure.CRITICAL, [9]),
        (Pressure.EXHAUSTED, []),
    ],
)
def test_under_pressure_only_the_urgent_start(
    board: Board, account: MemoryAccount, clock: Clock, level: Pressure, starting: list[int]
) -> None:
    account.ask(candidate("running", MB))
    with board.locked():
        board.set_level(level, clock.now)
    found = {
        priority: account.ask(candidate(f"p{priority}", MB, priority=priority))
        for priority in (1, 3, 5, 7, 9)
    }
    assert [priority for priority, verdict in found.items() if verdict is ADMIT] == starting
    assert all(level.name in held(verdict) for verdict in found.values() if verdict is not ADMIT)


def test_pressure_with_nothing_running_does_not_stop_a_worker_for_good(
    board: Board, account: MemoryAccount, clock: Clock
) -> None:
    with board.locked():
        board.set_level(Pressure.EXHAUSTED, clock.now)
    assert account.ask(candidate("a", MB)) is not ADMIT
    clock.now += STUCK + 0.1
    assert account.ask(candidate("a", MB)) is ADMIT
    assert account.ask(candidate("b", MB)) is not ADMIT


SIZES = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 200), st.booleans()), max_size=60)


@settings(max_examples=40, deadline=None)
@given(SIZES)
def test_however_requests_come_and_go_no_more_is_promised_than_there_is(
    events: list[tuple[int, int, bool]],
) -> None:
    board = Board.create(BUDGET)
    accounts = [MemoryAccount(board, ALL) for _ in range(2)]
    for number, megabytes, leaves in events:
        one = candidate(str(number), megabytes * MB)
        account = accounts[number % 2]
        account.release(one) if leaves else account.ask(one)
        shares = list(board.rows(Kind.SHARE))
        assert board.promised == sum(row.size for row in shares) <= BUDGET
        assert board.shares == len(shares)
    for number in range(6):
        accounts[number % 2].release(candidate(str(number)))
    for account in accounts:
        rested(account)
    assert (board.promised, board.shares, board.waits) == (0, 0, 0)


# Several processes


@contextmanager
def process(target: Callable[[], object]) -> Iterator[int]:
    """`target` in a forked process, which then waits; killed and reaped at the end."""
    context = get_context("fork")
    ready = context.Event()

    def life() -> None:
        target()
        ready.set()
        time.sleep(600)

    child = context.Process(target=life, daemon=True)
    child.start()
    assert ready.wait(20)
    assert child.pid is not None
    try:
        yield child.pid
    finally:
        child.kill()
        child.join()


def test_a_killed_process_gives_its_share_back_at_once(board: Board) -> None:
    account = MemoryAccount(board, ALL)
    with process(lambda: account.ask(candidate("a", 300 * MB))) as pid:
        assert account.ask(candidate("b", 200 * MB)) is not ADMIT
        os.kill(pid, signal.SIGKILL)  # it stays a zombie: nobody has waited for it yet
        wait_until(lambda: account.ask(candidate("b", 200 * MB)) is ADMIT, timeout=10)
    assert board.promised == 200 * MB


def test_a_supervisor_that_saw_the_death_frees_what_the_process_held(board: Board) -> None:
    account = MemoryAccount(board, ALL)
    with process(lambda: account.ask(candidate("a", 300 * MB))) as pid:
        assert board.promised == 300 * MB
        board.forget(pid)
        assert (board.promised, board.shares) == (0, 0)


def test_one_killed_between_two_writes_leaves_no_wrong_sum(board: Board) -> None:
    def die_inside() -> None:
        with board.locked():
            row = board.take(Kind.SHARE, size=100 * MB)
            assert row is not None
            row.size = 7  # the sum says otherwise
            os.kill(os.getpid(), signal.SIGKILL)

    context = get_context("fork")
    child = context.Process(target=die_inside)
    child.start()
    child.join(20)
    assert child.exitcode == -signal.SIGKILL
    with board.locked(patience=5):
        assert board.promised == 7
        assert board.sweep()
        assert board.promised == 0


def test_a_stopped_holder_of_the_lock_delays_nobody(board: Board) -> None:
    entered = []

    def hold() -> None:
        entered.append(board.locked(patience=5))
        entered[0].__enter__()

    account = MemoryAccount(board, ALL)
    with process(hold) as pid:
        os.kill(pid, signal.SIGSTOP)
        assert held(account.ask(candidate("a", MB))) == "the memory account is busy"
        with pytest.raises(Busy), board.locked():
            pass
    assert account.ask(candidate("a", MB)) is ADMIT


def test_workers_of_a_fleet_open_one_board_and_share_its_budget(board: Board) -> None:
    other = Board.open(board.path)
    assert MemoryAccount(other, ALL).ask(candidate("a", 300 * MB)) is ADMIT
    assert MemoryAccount(board, ALL).ask(candidate("b", 200 * MB)) is not ADMIT
    other.learn("shop.known", 5 * MB)
    assert board.learned("shop.known") == 5 * MB
    assert board.learned("shop.unknown") is None


def test_a_board_that_is_none_is_refused_with_its_path() -> None:
    with pytest.raises(StartupError, match=r"memory\.board='/nowhere' cannot be opened"):
        Board.open("/nowhere")


def test_a_full_board_holds_instead_of_failing(board: Board, account: MemoryAccount) -> None:
    with board.locked():
        while board.take(Kind.RUN) is not None:
            pass
    assert isinstance(account.ask(candidate("a", MB)), Hold)


def test_what_was_guessed_for_unknown_tasks_shrinks_when_the_pool_grows(board: Board, clock: Clock) -> None:
    account = MemoryAccount(board, ALL, clock=clock)
    with board.locked():
        worker = board.take(Kind.WORKER, slots=2)
        assert worker is not None
    assert account.ask(candidate("one")) == ADMIT
    assert account.ask(candidate("two")) == ADMIT
    with board.locked():
        run = board.take(Kind.RUN, id=b"two", size=200 * MB, used=150 * MB)
        assert run is not None
    assert "unpromised" in held(account.ask(candidate("three")))
    with board.locked():
        board.change(worker, worker.size, slots=4)
    assert account.ask(candidate("three")) == ADMIT
    assert "unpromised" in held(account.ask(candidate("four")))  # two uses more than the new share
    assert sorted(row.size // MB for row in board.rows(Kind.SHARE)) == [100, 100, 150]
    assert run.size == 150 * MB
