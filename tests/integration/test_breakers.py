"""`breaker(...)` in one process, on a real server."""

import asyncio
import contextlib
import gc
import os
import pickle
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

import pytest

from seawall import BreakerOpen, ConfigError, LimitReached, SeawallError, breaker
from seawall.breaker import Breaker, BreakerChanged, BreakersCutOff, Place, State, close, face, store
from seawall.breaker import place as places
from seawall.breaker.circuit import lease_name
from seawall.breaker.store import ROOT, Store
from seawall.cluster import connect
from seawall.events import Event, subscribe
from support.waiting import wait_until


class Down(Exception):  # noqa: N818
    pass


def down(*_: object) -> None:
    raise Down


def fail(one: Breaker, times: int = 10) -> None:
    """So many failures, or as many as it takes to open it."""
    for _ in range(times):
        if one.state is State.OPEN and one.config.mode == "on":
            return
        with pytest.raises(Down):
            one.call(down)


@pytest.fixture
def url(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A server, and breakers of this test's own."""
    monkeypatch.setattr(face, "_registry", {})
    places.use(Place(lambda: connect(redis_url)))
    yield redis_url
    close()


@pytest.fixture
def heard() -> Iterator[list[Event]]:
    events: list[Event] = []
    stop = subscribe(Event, events.append)
    yield events
    stop()


def test_failures_open_it_refusals_cost_nothing_and_it_recovers_by_a_probe(
    url: str, heard: list[Event]
) -> None:
    one = breaker("payments", open_for=0.3, ramp_for=0)
    assert one.call(lambda: 7) == 7
    fail(one)
    with pytest.raises(BreakerOpen) as refused:
        one.call(lambda: 7)
    assert (refused.value.name, one.state) == ("payments", State.OPEN)
    assert 0 < refused.value.retry_after <= 0.3
    again = pickle.loads(pickle.dumps(refused.value))  # noqa: S301
    assert (again.name, again.retry_after, str(again)) == (
        "payments",
        refused.value.retry_after,
        str(refused.value),
    )
    wait_until(lambda: one.snapshot().retry_after == 0)
    assert one.call(lambda: 8) == 8
    assert one.state is State.CLOSED
    assert one.snapshot().refused == 1
    changes = [(e.scope, e.old, e.new) for e in heard if isinstance(e, BreakerChanged)]
    assert changes == [
        ("process", "closed", "open"),
        ("process", "open", "half_open"),
        ("process", "half_open", "closed"),
    ], "a single process opens alone"


def test_a_call_in_a_thread_belongs_to_the_probe_whose_context_it_has(url: str) -> None:
    one = breaker("payments", open_for=0.3, ramp_for=0)

    def probe() -> tuple[int, int]:
        with ThreadPoolExecutor(2) as pool:
            with pytest.raises(BreakerOpen):
                pool.submit(one.call, lambda: 1).result()
            run: Any = copy_context().run
            told: int = pool.submit(run, one.call, lambda: 2).result()
        return told, asyncio.run(asyncio.to_thread(one.call, lambda: 3))

    fail(one)
    wait_until(lambda: one.snapshot().retry_after == 0)
    assert one.call(probe) == (2, 3)
    assert one.state is State.CLOSED


def test_a_refusal_leaves_nothing_to_the_garbage_collector(url: str) -> None:
    one = breaker("payments")
    fail(one)

    def block() -> None:
        with one:
            raise AssertionError

    left = []
    gc.disable()
    try:
        for call in (one(int), lambda: one.call(int), block):
            for _ in range(2):
                try:
                    call()
                except BreakerOpen as exc:
                    left.append(weakref.ref(exc))
        assert [one() for one in left] == [None] * 6
    finally:
        gc.enable()


def test_calm_successes_are_all_counted_whoever_looks_meanwhile(url: str) -> None:
    one = breaker("payments", record=KeyError)
    beside = one(int)
    with ThreadPoolExecutor(4) as threads:
        for _ in range(4):
            threads.submit(lambda: [beside() for _ in range(500)])
        for _ in range(500):
            with pytest.raises(Down):  # speaks for the dependency: it is not what is recorded
                one.call(down)
            one.snapshot()
    assert one.snapshot().calls == 2500


def test_it_decorates_and_is_a_context_manager_for_functions_and_coroutines(url: str) -> None:
    one = breaker("payments", call_timeout=0.05)

    @one
    def plain(x: int) -> int:
        """Doc."""
        return x

    @one
    async def slow(x: int) -> int:
        await asyncio.sleep(5)
        return x

    async def work() -> None:
        async with one:
            pass
        with pytest.raises(TimeoutError):
            await slow(1)
        with pytest.raises(TimeoutError):
            async with one:
                raise TimeoutError

    assert (plain(3), plain.__name__, plain.__doc__) == (3, "plain", "Doc.")
    with one, one:
        pass
    with pytest.raises(Down), one:
        down()
    asyncio.run(work())
    snapshot = one.snapshot()
    assert (snapshot.calls, snapshot.failed) == (7, 3)


def test_a_process_forgets_none_of_its_own_calls_when_the_cluster_moves_on(url: str) -> None:
    one = breaker("payments")
    for _ in range(5):
        one.call(int)
    with connect(url) as client:
        Store(client, "else/1").force("payments", one.circuit.rules, "reset", for_=None, reason="", author="")
    wait_until(lambda: (view := one.circuit.look()) and view.epoch)
    assert one.snapshot().calls == 5


def test_what_counts_as_a_failure_can_be_chosen_by_exception_and_by_result(url: str) -> None:
    one = breaker("one", ignore=KeyError, record=lambda exc: not isinstance(exc, ValueError))
    two = breaker("two", record_result=lambda result: result == 503)
    refused: list[BaseException] = [
        KeyError(),
        ValueError(),
        KeyboardInterrupt(),
        LimitReached("full", name="x", retry_after=1),
        BreakerOpen("other", name="other", retry_after=1),
        Down(),
    ]
    for exc in refused:
        with pytest.raises(type(exc)), one:
            raise exc
    assert (one.snapshot().calls, one.snapshot().failed) == (2, 1), "ValueError succeeded, Down failed"
    assert [two.call(lambda code=code: code) for code in (200, 503)] == [200, 503]  # type: ignore[misc]
    assert (two.snapshot().calls, two.snapshot().failed) == (2, 1)


def test_slow_calls_open_it_although_they_succeed(url: str) -> None:
    one = breaker("slow", slow_call=0.001, min_calls=3)
    for _ in range(3):
        one.call(time.sleep, 0.002)
    assert (one.state, one.snapshot().slow, one.snapshot().failed) == (State.OPEN, 0, 0)
    assert one.snapshot().cause == "slow rate"


def test_a_fallback_replaces_refused_calls_and_only_those(url: str) -> None:
    one = breaker("payments", fallback=lambda x: f"later {x}")
    guarded = one(down)
    for _ in range(10):
        with pytest.raises(Down):
            guarded(1)
    assert guarded(2) == "later 2"
    assert asyncio.run(one.acall(asyncio.sleep, 5)) == "later 5"
    with pytest.raises(BreakerOpen), one:
        pass


def test_observing_counts_and_never_refuses_and_disabled_does_nothing(url: str) -> None:
    watch = breaker("watch", mode="observe", open_for=0.2, ramp_for=0)
    off = breaker("off", mode="disabled")
    fail(watch, 20)
    fail(off, 20)
    assert watch.call(lambda: 1) == off.call(lambda: 1) == 1
    assert (watch.state, off.state) == (State.OPEN, State.CLOSED)
    assert watch.snapshot().refused > 0, "those it would have refused"
    assert off(down) is down

    def recovers() -> bool:
        return watch.call(lambda: 1) == 1 and watch.state is State.CLOSED

    wait_until(recovers, what="a probe that closes it")


def test_forced_states_have_a_reason_an_author_and_an_end(url: str, heard: list[Event]) -> None:
    one = breaker("payments", ramp_for=0)
    one.call(int)
    one.force_open("gateway moves", for_=1.0, author="ann")
    with pytest.raises(BreakerOpen):
        one.call(int)
    assert one.state == "forced_open"
    wait_until(lambda: one.state is State.CLOSED)
    one.force_closed("we know better")
    fail(one, 30)
    assert one.state == "forced_closed"
    one.reset()
    assert one.state == "closed"
    told = [e for e in heard if isinstance(e, BreakerChanged)]
    assert (told[0].new, told[0].reason, told[0].author, told[0].scope) == (
        "forced_open",
        "gateway moves",
        "ann",
        "cluster",
    )
    assert told[0].ours
    with pytest.raises(ConfigError, match="reason=''"):
        one.force_open("")
    with pytest.raises(ConfigError, match="for_=0"):
        one.force_open("x", for_=0)


def test_keys_are_breakers_of_their_own_and_their_number_is_bounded(url: str) -> None:
    one = breaker("hosts", max_keys=2)
    fail(one["eu"])
    assert (one["eu"].state, one["us"].state, one.state) == (State.OPEN, State.CLOSED, State.CLOSED)
    assert one["eu"] is one["eu"]
    assert one["eu"].name == "hosts[eu]"
    assert one["asia"] is one["africa"]
    assert one["asia"].name == "hosts[*]"
    assert len(breaker("long")["x" * 5000].name) < 150


def test_two_configurations_under_one_name_are_an_error() -> None:
    face._registry.pop("twice", None)
    first = breaker("twice", open_for="1m")
    assert breaker("twice") is first
    assert breaker("twice", open_for=60) is first
    with pytest.raises(ConfigError, match=r"breaker\('twice'\) has open_for=60.0 already and is given 5.0"):
        breaker("twice", open_for=5)
    face._registry.pop("twice")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"failure_rate": 1.5}, "failure_rate=1.5 is out of range"),
        ({"min_calls": 0}, "min_calls=0 is out of range"),
        ({"open_for": "soon"}, "open_for='soon' is not a duration"),
        ({"window": 0}, "window=0 is out of range"),
        ({"mode": "off"}, "mode='off' is unknown"),
        ({"ignore": "KeyError"}, "ignore='KeyError' selects nothing"),
        ({"slow_rate": 0.5}, "slow_rate=0.5 has no slow_call"),
        ({"record_result": 503}, "record_result=503 is not callable"),
        ({"threshold": 5}, "breaker option 'threshold' is unknown"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("(", r"\(")):
        breaker("wrong", **options)
    with pytest.raises(ConfigError, match="breaker name 'a\\[b\\]' is not usable"):
        breaker("a[b]")


def test_no_lock_is_held_during_a_call(url: str) -> None:
    one = breaker("parallel")
    inside, together = threading.Barrier(8, timeout=20), []

    def meet() -> None:
        inside.wait()  # passes only if all eight are inside at the same time
        together.append(1)

    threads = [threading.Thread(target=one.call, args=(meet,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(together) == 8


def test_a_straggler_from_before_the_trip_neither_closes_nor_reopens_it(url: str) -> None:
    for outcome in ("succeeded", "failed"):
        one = breaker(f"straggler {outcome}", open_for=0.2)
        go, started = threading.Event(), threading.Event()

        def straggle(outcome: str = outcome, go: Any = go, started: Any = started) -> None:
            started.set()
            go.wait(20)
            if outcome == "failed":
                down()

        def run(one: Breaker = one, straggle: Any = straggle) -> None:
            with contextlib.suppress(Down):
                one.call(straggle)

        one.call(int)
        thread = threading.Thread(target=run)
        thread.start()
        started.wait(20)
        fail(one)
        wait_until(lambda one=one: one.snapshot().retry_after == 0)  # type: ignore[misc]
        probe = one.circuit.admit()  # half-open, its only probe is under way
        go.set()
        thread.join(20)
        assert one.state == "half_open"
        probe.ended()
        assert one.state == "closed"


def test_a_forked_child_starts_anew_and_a_child_of_a_sharing_parent_reads_its_table(url: str) -> None:
    one = breaker("forked")
    one.call(int)
    one.force_open("test")
    wait_until(lambda: one.circuit.look() is not None and one.state is State.FORCED_OPEN)
    with connect(url) as client:
        before = len(client.client_list())

        def child() -> int:
            """What a child sees: refused at its first call, and how many clients it costs."""
            try:
                one.call(int)
            except BreakerOpen:
                return len(client.client_list()) - before - 1  # the one that asks here
            return 99

        assert in_child(child) >= 1, "on its own: it asked Redis before its first call"
        places.share()
        assert in_child(child) == 0, "no connection of its own"
        assert one.state is State.FORCED_OPEN, "the parent is as it was"


def in_child(work: Any) -> int:
    """Run `work` in a fork; its return value comes back as the exit status."""
    pid = os.fork()
    if pid == 0:
        status = 98
        try:
            status = work()
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_whose_hub_is_gone_connects_by_itself(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = breaker("orphan")
    one.call(int)
    places.share()
    monkeypatch.setattr(places, "LOST_AFTER", 0.0)

    def child() -> int:
        one.call(int)
        return 0 if places.current().hub is not None else 1

    assert in_child(child) == 0


def test_without_redis_a_process_goes_by_what_it_sees_and_pays_for_it_once(
    monkeypatch: pytest.MonkeyPatch, heard: list[Event]
) -> None:
    monkeypatch.setattr(face, "_registry", {})
    places.use(Place(lambda: connect("redis://127.0.0.1:1/0")))
    one = breaker("alone", open_for=0.2, ramp_for=0)
    assert one.call(lambda: 1) == 1
    fail(one)
    with pytest.raises(BreakerOpen):
        one.call(int)
    wait_until(lambda: one.snapshot().retry_after == 0)
    assert one.call(lambda: 2) == 2
    assert one.snapshot().cut_off
    assert [type(e) for e in heard].count(BreakersCutOff) == 1
    with pytest.raises(SeawallError, match="alone stays as it is"):
        one.force_open("test")
    close()


def test_a_flushed_server_learns_again_that_it_is_open(url: str) -> None:
    one = breaker("flushed")
    one.call(int)
    one.force_open("test")
    wait_until(lambda: one.state is State.FORCED_OPEN)
    epoch = one.circuit.look().epoch  # type: ignore[union-attr]
    with connect(url) as client:
        client.flushall()
        wait_until(lambda: client.hget(f"{ROOT}:flushed:state", "state") == b"forced_open")
        assert int(client.hget(f"{ROOT}:flushed:state", "epoch") or 0) == epoch
    assert one.state is State.FORCED_OPEN


def test_the_fleet_knows_of_a_failure_before_the_caller_does(url: str) -> None:
    one = breaker("told")
    one.call(int)
    wait_until(lambda: one.circuit.look().epoch > 0)  # type: ignore[union-attr]
    with connect(url) as client:
        for failures in (1, 2, 3):
            with pytest.raises(Down):
                one.call(down)
            (shared,) = Store(client, "test").overview()
            assert shared.failed == failures


def test_in_an_event_loop_a_failure_is_reported_by_the_hub(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = breaker("looped")
    one.call(int)
    wait_until(lambda: one.circuit.look().epoch > 0)  # type: ignore[union-attr]
    hub, told = one.circuit.place.hub, list[object]()
    assert hub is not None
    monkeypatch.setattr(hub, "tell", told.append)

    async def fails() -> None:
        with pytest.raises(Down):
            one.call(down)

    asyncio.run(fails())
    assert not told
    with connect(url) as client:
        wait_until(lambda: Store(client, "test").overview()[0].failed == 1)
    with pytest.raises(Down):
        one.call(down)
    assert len(told) == 1


def test_a_calm_call_costs_no_command(url: str) -> None:
    one = breaker("calm")
    one.call(int)
    with connect(url) as client:
        wait_until(lambda: one.circuit.flag[0] == one.circuit.calm)
        before = client.info("commandstats")
        for _ in range(10_000):
            one.call(int)
        scripts = [
            sum(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("evalsha", "eval"))
            for stats in (before, client.info("commandstats"))
        ]
        assert scripts[1] - scripts[0] <= 5, "reports, a second apart"


def probing(name: str = "payments", **options: Any) -> Breaker:
    """A breaker whose next call is the trial call."""
    one = breaker(name, open_for=0.1, ramp_for=0, **options)
    fail(one)
    wait_until(lambda: one.snapshot().retry_after == 0)
    return one


def in_a_block(one: Breaker) -> int:
    with one, one:
        return 7


def in_functions(one: Breaker) -> int:
    return one(one(lambda: 7))()


def in_calls(one: Breaker) -> int:
    return one.call(lambda: one.call(lambda: 7))


def in_coroutines(one: Breaker) -> Any:
    async def inner() -> Any:
        async with one:
            return await one.acall(asyncio.sleep, 0, 7)

    return asyncio.run(one.acall(inner))


def in_tasks(one: Breaker) -> Any:
    async def outer() -> Any:
        async with one:
            return sum(await asyncio.gather(*(one(asyncio.sleep)(0, part) for part in (3, 4))))

    return asyncio.run(outer())


@pytest.mark.parametrize("nested", [in_a_block, in_functions, in_calls, in_coroutines, in_tasks])
def test_the_trial_call_may_call_the_same_breaker_inside(url: str, nested: Any) -> None:
    one = probing()
    assert nested(one) == 7
    assert one.state is State.CLOSED


def test_a_call_inside_the_trial_call_does_not_settle_it(url: str) -> None:
    one = probing()

    def work() -> None:
        one.call(int)
        raise Down

    with pytest.raises(Down):
        one.call(work)
    assert one.state is State.OPEN


def test_an_ignored_exception_of_the_trial_call_is_an_answer_and_closes(url: str) -> None:
    one = probing(ignore=KeyError)
    with pytest.raises(KeyError):
        one.call(dict[str, int]().__getitem__, "no such order")
    assert one.state is State.CLOSED


@pytest.mark.parametrize("option", ["ignore", "record"])
def test_a_selector_that_raises_hides_no_exception_of_a_call(url: str, option: str) -> None:
    one = breaker("payments", **{option: lambda _: 1 / 0})  # type: ignore[arg-type]
    fail(one, times=20)
    assert one.state is State.OPEN


def test_a_judge_of_results_that_raises_hides_no_result(url: str) -> None:
    one = breaker("payments", record_result=lambda result: result["status"] >= 500)
    assert one.call(lambda: "no dict") == "no dict"


def test_generator_functions_are_refused_where_they_are_decorated(url: str) -> None:
    one = breaker("payments")

    def rows() -> Iterator[int]:
        yield 1

    async def pages() -> Any:
        yield 1

    for function in (rows, pages):
        with pytest.raises(ConfigError, match="generator function"):
            one(function)


def test_work_that_has_not_begun_when_the_call_ends_is_refused(url: str) -> None:
    one = breaker("payments")

    async def later() -> None:
        """Never awaited."""

    def prepared() -> Any:
        return later()

    for work in (later, prepared, lambda: (number for number in range(3))):
        with pytest.raises(ConfigError, match="has not begun"):
            one.call(work)
    with pytest.raises(ConfigError, match="has not begun"):
        one(prepared)()

    async def pages() -> Any:
        yield 1

    async def prepared_pages() -> Any:
        return pages()

    for page in (pages, prepared_pages):
        with pytest.raises(ConfigError, match="has not begun"):
            asyncio.run(one.acall(page))


def test_an_object_with_a_coroutine_for_its_call_is_awaited_in_the_call(url: str) -> None:
    one = breaker("payments")

    class Client:
        async def __call__(self) -> None:
            raise Down

    guarded: Any = one(Client())
    for _ in range(10):
        with contextlib.suppress(Down, BreakerOpen):
            asyncio.run(guarded())
    assert one.state is State.OPEN


@pytest.mark.parametrize("name", ["\ud800", "", "a\n", "x" * 101, b"bytes", None])
def test_a_name_that_is_none_is_refused(url: str, name: Any) -> None:
    with pytest.raises(ConfigError, match="breaker name"):
        breaker(name)


@pytest.mark.parametrize("value", [10**12, 10**400, 0, -1, True, 1.5, float("nan")])
@pytest.mark.parametrize("option", ["min_calls", "probes", "quorum", "max_keys"])
def test_a_count_out_of_range_is_refused(url: str, option: str, value: Any) -> None:
    words = "out of range: use 1 to 1,000,000|not a whole number"
    with pytest.raises(ConfigError, match=f"{option}=.* is ({words})"):
        breaker("payments", **{option: value})


def test_the_probe_of_a_killed_process_is_free_for_the_next_call_long_before_its_lease_ends(url: str) -> None:
    one = breaker("payments", open_for=0.2, ramp_for=0, quorum=1)
    fail(one)
    wait_until(lambda: one.snapshot().retry_after == 0)
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            places.use(Place(lambda: connect(url)))
            probe_for_good(one, writer)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 7) == b"probing"
    with connect(url) as client:
        left = Store(client, "test").overview()[0].left
        assert left is not None
        assert left > 25, "the lease is for a call without a call_timeout"
        with pytest.raises(BreakerOpen):
            one.call(lambda: 7)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)
        wait_until(lambda: Store(client, "test").overview()[0].free == 1, what="the probe to be free")

    def answered() -> bool:
        with contextlib.suppress(BreakerOpen):  # it may say for a moment what it said before
            return one.call(lambda: 7) == 7
        return False

    wait_until(answered)
    assert one.snapshot().cluster is State.CLOSED


def probe_for_good(one: Breaker, writer: int) -> None:
    """Take the probe as soon as it is to be had, say so, and never end it."""

    def probe() -> bool:
        os.write(writer, b"probing")
        signal.pause()
        return True

    def taken() -> bool:
        with contextlib.suppress(BreakerOpen):
            return one.call(probe)
        return False

    wait_until(taken)


def test_the_probes_of_living_processes_and_of_other_machines_are_left_alone(url: str) -> None:
    here, there = lease_name("h", os.getpid(), 1), lease_name("h", 2**22 + 1, 1)
    assert not store.is_of_the_dead(here)
    assert store.is_of_the_dead(there)
    for lease in ("h/4194305:1", "h/4194305:1@", "h/4194305:1@another", "of the dead", "@", ""):
        assert not store.is_of_the_dead(lease)
