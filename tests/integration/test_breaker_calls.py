"""Calls that a breaker could miss, take for another's failure, or keep a probe for."""

import asyncio
import contextlib
import contextvars
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from seawall import BreakerOpen, ConfigError, Retry, Seawall, breaker, policy
from seawall.breaker import Breaker, Place, State, close, face
from seawall.breaker import place as places
from seawall.cluster import connect
from seawall.worker.task import Postponed
from support.waiting import wait_until


class Down(Exception):  # noqa: N818
    pass


SHARED = Down("one object for all")


def down(*_: object) -> None:
    raise Down


def down_again() -> None:
    raise SHARED


def fail(one: Breaker, times: int = 10) -> None:
    for _ in range(times):
        if one.state is State.OPEN:
            return
        with pytest.raises(Down):
            one.call(down)


def probing(name: str = "payments", **options: Any) -> Breaker:
    """A breaker whose next call is the trial call."""
    one = breaker(name, open_for=0.1, ramp_for=0, **options)
    fail(one)
    wait_until(lambda: one.snapshot().retry_after == 0)
    return one


@pytest.fixture(autouse=True)
def _url(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A server, and breakers of this test's own."""
    monkeypatch.setattr(face, "_registry", {})
    places.use(Place(lambda: connect(redis_url)))
    yield
    close()


# Work that runs later


def test_a_call_that_returns_work_still_to_be_done_is_refused() -> None:
    one = breaker("payments")

    class Awaitable:
        def __await__(self) -> Iterator[None]:
            yield

    @contextlib.contextmanager
    def connection() -> Iterator[None]:
        yield

    async def submitted() -> None:
        with pytest.raises(ConfigError, match="returned a Task"):
            one.call(asyncio.ensure_future, asyncio.sleep(0))
        with pytest.raises(ConfigError, match="returned a Task"):
            one(lambda: asyncio.ensure_future(asyncio.sleep(0)))()
        assert await one.acall(lambda: asyncio.ensure_future(asyncio.sleep(0, 7))) == 7

    asyncio.run(submitted())
    with ThreadPoolExecutor(1) as threads:
        for function in (Awaitable, connection, lambda: threads.submit(int)):
            with pytest.raises(ConfigError, match="has not begun"):
                one.call(function)


@pytest.mark.parametrize("options", [{}, {"slow_call": 5.0}])
def test_what_cannot_be_called_or_awaited_is_nobodys_failure(options: Any) -> None:
    one = breaker("payments", **options)
    nothing: Any = "not callable"
    for _ in range(20):
        with pytest.raises(ConfigError, match="cannot call 'not callable'"):
            one.call(nothing)
        with pytest.raises(ConfigError, match="cannot call 'not callable'"):
            asyncio.run(one.acall(nothing))
        with pytest.raises(ConfigError, match="returned a int, which cannot be awaited"):
            asyncio.run(one.acall(int))
    assert (one.state, one.snapshot().failed) == (State.CLOSED, 0)
    for kind in (classmethod, staticmethod, property):
        with pytest.raises(ConfigError, match=f"below @{kind.__name__}"):
            one(kind(down))  # type: ignore[arg-type] # it is what is tested
    with pytest.raises(ConfigError, match="cannot call 'not callable'"):
        one(nothing)


# Fallbacks


def test_a_fallback_that_meets_the_same_breaker_is_refused_in_its_turn() -> None:
    one = breaker("payments", fallback=lambda: breaker("payments").call(int))
    two = breaker("orders", fallback=lambda: breaker("orders").acall(asyncio.sleep, 0))
    for each in (one, two):
        each.force_open("test")
    with pytest.raises(BreakerOpen):
        one.call(int)
    with pytest.raises(BreakerOpen):
        asyncio.run(two.acall(lambda: asyncio.sleep(0)))


def test_a_coroutine_function_is_the_fallback_of_coroutine_functions_alone() -> None:
    async def later() -> int:
        return 7

    one = breaker("payments", fallback=later)
    with pytest.raises(ConfigError, match="only a guarded coroutine function"):
        one(down)
    one.force_open("test")
    with pytest.raises(ConfigError, match="only a guarded coroutine function"):
        one.call(int)
    assert asyncio.run(one.acall(lambda: asyncio.sleep(0))) == 7


# Whose failure it is


def refused() -> BreakerOpen:
    return BreakerOpen("another is open", name="another", retry_after=1.0)


def raised_from(cause: Exception) -> Exception:
    error = RuntimeError("no answer")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("exc", "counted"),
    [
        (ExceptionGroup("", [refused(), refused()]), 0),
        (ExceptionGroup("", [ExceptionGroup("", [refused()])]), 0),
        (ExceptionGroup("", [KeyError("ignored")]), 0),
        (ExceptionGroup("", [KeyError("ignored"), refused()]), 0),
        (ExceptionGroup("", [raised_from(refused())]), 0),
        (raised_from(refused()), 0),
        (raised_from(raised_from(ExceptionGroup("", [refused()]))), 0),
        (ConfigError("nobody asked"), 0),
        (ExceptionGroup("", [Down(), refused()]), 1),
        (raised_from(ExceptionGroup("", [Down(), refused()])), 1),
        (raised_from(Down()), 1),
    ],
)
def test_a_group_is_judged_by_its_exceptions_and_what_was_raised_from_a_refusal_is_one(
    exc: Exception, counted: int
) -> None:
    one = breaker("payments", ignore=KeyError)
    with pytest.raises(type(exc)), one:
        raise exc
    assert one.snapshot().failed == counted


def test_a_group_that_an_option_names_is_judged_as_one() -> None:
    one = breaker("payments", ignore=ExceptionGroup)
    with pytest.raises(ExceptionGroup), one:
        raise ExceptionGroup("", [Down()])
    assert one.snapshot().failed == 0


def test_an_ignored_exception_in_a_group_of_the_trial_call_is_an_answer_too() -> None:
    one = probing(ignore=KeyError)
    with pytest.raises(ExceptionGroup), one:
        raise ExceptionGroup("", [KeyError("no such order")])
    assert one.state is State.CLOSED


# Probes


def test_a_task_that_outlives_the_trial_call_is_no_part_of_it() -> None:
    one = probing()

    async def background(go: asyncio.Event) -> Any:
        await go.wait()
        return await one.acall(asyncio.sleep, 0)

    async def work() -> None:
        go = asyncio.Event()
        async with one:
            task = asyncio.create_task(background(go))
            await asyncio.sleep(0)
        one.force_open("test")
        go.set()
        with pytest.raises(BreakerOpen):
            await task

    asyncio.run(work())


@pytest.mark.parametrize("granted_first", [True, False])
def test_who_is_cancelled_while_it_asks_gives_the_probe_back(
    monkeypatch: pytest.MonkeyPatch, granted_first: bool
) -> None:
    one = probing(quorum=1)
    wait_until(lambda: one.circuit.shared_state is State.OPEN)
    ask, asking, cancelled = one.circuit.ask, threading.Event(), threading.Event()

    def slowly(_: object) -> Any:
        answer = ask() if granted_first else None
        asking.set()
        cancelled.wait(20)
        return answer or ask()

    async def work() -> None:
        task = asyncio.create_task(one.acall(asyncio.sleep, 0))
        await asyncio.to_thread(asking.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        cancelled.set()

    with monkeypatch.context() as patch:
        patch.setattr(type(one.circuit), "ask", slowly)
        asyncio.run(work())

    def passes() -> bool:
        with contextlib.suppress(BreakerOpen):
            return one.call(lambda: True)
        return False

    wait_until(passes, timeout=10, what="the probe, long before its lease of 30 s ends")


def test_a_generator_that_is_closed_early_ends_the_trial_call_well() -> None:
    one, two = probing("one"), probing("two")

    def rows() -> Iterator[int]:
        with one:
            yield 1
            yield 2

    async def pages() -> Any:
        async with two:
            yield 1
            yield 2

    async def first_page() -> None:
        found = pages()
        await anext(found)
        await found.aclose()

    found = rows()
    next(found)
    found.close()  # type: ignore[attr-defined] # it is a generator
    asyncio.run(first_page())
    assert (one.state, two.state) == (State.CLOSED, State.CLOSED)


def test_a_coroutine_that_is_closed_while_it_awaits_tells_nothing() -> None:
    one = probing()

    async def work() -> None:
        with one:
            await asyncio.Future()

    async def begin() -> None:
        work_ = work()
        work_.send(None)
        work_.close()

    asyncio.run(begin())
    assert one.state is not State.CLOSED


def elsewhere(one: Breaker, exc: BaseException | None = None) -> None:
    """A block that is entered in one context and left in another, as FastAPI does with its dependencies."""
    contextvars.copy_context().run(one.__enter__)
    contextvars.copy_context().run(one.__exit__, type(exc) if exc else None, exc, None)


@pytest.mark.parametrize("options", [{}, {"slow_call": 5.0}])
def test_a_block_that_is_left_in_another_context_counts_and_ends_its_probe(options: Any) -> None:
    one = breaker("payments", open_for=0.1, ramp_for=0, **options)
    elsewhere(one)
    assert (one.snapshot().calls, one.snapshot().failed) == (1, 0)
    for _ in range(20):
        with contextlib.suppress(BreakerOpen):
            elsewhere(one, Down())
    assert one.state == "open"
    wait_until(lambda: one.snapshot().retry_after == 0)
    elsewhere(one)
    assert one.state == "closed"


def test_a_refusal_without_an_end_names_a_time_that_can_be_slept_and_written() -> None:
    one = breaker("payments")
    one.force_open("test")
    for call in (lambda: one.call(int), lambda: one.call(int), one(int), lambda: asyncio.run(one.acall(int))):
        with pytest.raises(BreakerOpen) as refusal:
            call()
        assert 59 < json.loads(json.dumps(refusal.value.retry_after, allow_nan=False)) <= 60
    assert one.snapshot().retry_after is None


# Tasks


@pytest.fixture
def app() -> Seawall:
    return Seawall("calls", set_as_current=False)


def outcome(app: Seawall, work: Callable[[], object], *, requires: tuple[str, ...] = ("payments",)) -> Any:
    """What an attempt at a task that does `work` raises, as a worker would run it."""

    @app.task(shared=False, name=f"calls.{len(app.tasks)}")
    @policy(requires=requires, retry=Retry(max_attempts=1))
    def task() -> object:
        return work()

    made: Any = task
    made.push_request(called_directly=False, is_eager=False, retries=0, timelimit=(None, None), id="1")
    try:
        made()
    except Exception as exc:  # noqa: BLE001 - it is what is asked for
        return exc
    finally:
        made.pop_request()


def probe_in_a_thread() -> None:
    with ThreadPoolExecutor(1) as threads:
        threads.submit(breaker("payments").call, down_again).result()


def probe_in_a_task_group() -> None:
    async def call() -> None:
        breaker("payments").call(down_again)

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(call())

    asyncio.run(group())


def probe_that_is_translated() -> None:
    try:
        breaker("payments").call(down_again)
    except Down as exc:
        raise RuntimeError from exc


@pytest.mark.parametrize(
    "probe",
    [
        lambda: breaker("payments").call(down_again),
        probe_in_a_thread,
        probe_in_a_task_group,
        probe_that_is_translated,
    ],
)
def test_a_failed_probe_excuses_its_own_attempt_and_no_other_that_raises_the_same_object(
    app: Seawall, probe: Any
) -> None:
    one = probing()
    assert isinstance(outcome(app, probe), Postponed)
    one.reset()
    assert outcome(app, down_again) is SHARED
    assert isinstance(outcome(app, probe), Exception)
    assert outcome(app, lambda: one.call(down_again)) is SHARED, "no probe: the circuit is closed"


def test_a_task_whose_group_was_refused_is_put_aside_and_one_that_failed_besides_is_not(app: Seawall) -> None:
    one = breaker("payments")
    one.force_open("test")

    def refused_group(*others: Exception) -> None:
        try:
            one.call(int)
        except BreakerOpen as exc:
            raise ExceptionGroup("", [exc, *others]) from None

    aside = outcome(app, refused_group)
    assert (type(aside), aside.dependency) == (Postponed, "breaker:payments")
    assert aside.seconds == float("inf"), "parked until somebody lets it go"
    assert isinstance(outcome(app, lambda: refused_group(Down())), ExceptionGroup)
    assert isinstance(outcome(app, refused_group, requires=("another",)), ExceptionGroup)


def test_a_refusal_of_an_earlier_attempt_excuses_no_other_that_raises_the_same_object(app: Seawall) -> None:
    one, same = breaker("payments"), Down("one object for all")

    def work() -> None:
        try:
            one.call(int)
        except BreakerOpen as exc:
            raise same from exc
        raise same

    one.force_open("test")
    assert isinstance(outcome(app, work), Postponed)
    one.reset()
    assert outcome(app, work) is same
    assert isinstance(same.__cause__, BreakerOpen), "it clings to it"


def test_a_failure_counts_although_it_was_raised_from_a_refusal_long_ago() -> None:
    one, same = breaker("payments"), Down("one object for all")
    refusal = refused()
    refusal.made_at = time.monotonic() - 61
    same.__cause__ = refusal
    with pytest.raises(Down), one:
        raise same
    assert one.snapshot().failed == 1
