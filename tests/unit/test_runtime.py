import dataclasses
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import seawall
from seawall import events
from seawall.errors import ConfigError, StartupError
from seawall.runtime import (
    Declaration,
    Runtime,
    RuntimeRolledBack,
    RuntimeStarted,
    RuntimeStopped,
    ServiceAttemptFailed,
    ServiceChanged,
    ServiceStopFailed,
    State,
)
from support.services import World, failing_at, quick, runtime_of, threads_of
from support.waiting import wait_until


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def heard() -> Iterator[list[events.Event]]:
    """Every event of this test."""
    found: list[events.Event] = []
    stop = events.subscribe(events.Event, found.append)
    yield found
    stop()


class Unwritable:
    """What cannot be shown in a message."""

    def __repr__(self) -> str:
        raise RuntimeError


def tree(world: World) -> list[Declaration]:
    """Two roots, a diamond, and one that hangs on all."""
    return [
        world.declare("web", "cache", "orders"),
        world.declare("cache", "redis"),
        world.declare("orders", "database", "redis"),
        world.declare("redis"),
        world.declare("database"),
        world.declare("metrics", "web"),
    ]


def test_services_start_after_what_they_require_and_stop_before_it(world: World) -> None:
    runtime = runtime_of(*tree(world))

    report = runtime.start()
    started = world.order("started")
    unfinished = runtime.stop()

    for each in tree(world):
        assert all(started.index(name) < started.index(each.name) for name in each.requires)
    assert world.order("stopped") == started[::-1]
    assert unfinished == ()
    assert {each.state for each in report.services} == {State.READY}
    assert "6 services in" in next(report.lines())
    assert set(runtime.states().values()) == {State.STOPPED}


def test_services_that_do_not_depend_on_each_other_start_side_by_side() -> None:
    together = threading.Barrier(3)  # none of them passes alone

    def meet() -> None:
        together.wait(30)

    services = [seawall.service(name)(lambda: meet()) for name in ("a", "b", "c")]  # noqa: PLW0108 - three

    Runtime(services).start()


def test_a_service_is_a_class_a_generator_function_or_a_function() -> None:
    log: list[str] = []

    @seawall.service("class")
    class Whole:
        def start(self) -> None:
            log.append("class up")

        def stop(self) -> None:
            log.append("class down")

    @seawall.service("generator", requires=["class"], timeout="5s")
    def generated() -> Iterator[str]:
        log.append("generator up")
        yield "a value"
        log.append("generator down")

    @seawall.service("function", requires=("generator",))
    def function() -> int:
        log.append("function up")
        return 42

    runtime = Runtime([function, generated, Whole])
    runtime.start()

    assert runtime["generator"] == "a value"
    assert runtime["function"] == 42
    assert isinstance(runtime["class"], Whole)
    runtime.stop()
    assert log == ["class up", "generator up", "function up", "generator down", "class down"]
    with pytest.raises(KeyError, match="stopped"):
        runtime["function"]


@pytest.mark.parametrize("position", ["redis", "database", "cache", "orders", "web", "metrics"])
def test_whoever_fails_everything_that_had_started_is_stopped(
    world: World, heard: list[events.Event], position: str
) -> None:
    runtime = runtime_of(*failing_at(tree(world), position))

    with pytest.raises(StartupError, match=f"service '{position}' did not start.*planted") as caught:
        runtime.start()

    assert isinstance(caught.value.__cause__, StartupError)
    assert world.up == []
    assert world.order("stopped") == world.order("started")[::-1]
    assert set(runtime.states().values()) == {State.STOPPED}
    assert not runtime.started
    [rolled_back] = [each for each in heard if isinstance(each, RuntimeRolledBack)]
    assert rolled_back.service == position
    wait_until(lambda: not threads_of("seawall-st"), what="the end of all threads")


def test_a_failure_that_passes_costs_attempts_and_a_wrong_setting_costs_one(
    world: World, heard: list[events.Event]
) -> None:
    tries: list[int] = []

    @seawall.service("late", attempts=3)
    def late() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise ConnectionError("not yet")

    report = Runtime([late], pause=quick).start()

    assert report.services[0].attempts == 3
    assert [each.error for each in heard if isinstance(each, ServiceAttemptFailed)] == [
        "ConnectionError: not yet"
    ] * 2

    world.failing["wrong"] = ConfigError("field='x' is wrong")
    with pytest.raises(StartupError, match=r"'wrong' did not start: ConfigError: field='x' is wrong$"):
        runtime_of(world.declare("wrong", attempts=5)).start()
    assert world.order("begun") == ["wrong"]


def test_a_start_that_hangs_fails_in_time_and_is_stopped_when_it_comes_back_after_all(world: World) -> None:
    world.hanging["deaf"] = threading.Event()
    runtime = runtime_of(world.declare("base"), world.declare("deaf", "base", timeout=0.05), stop_timeout=0.2)

    with pytest.raises(StartupError, match=r"'deaf' did not start: TimeoutError: .* within 0.05 s") as caught:
        runtime.start()

    assert world.up == []
    assert caught.value.__notes__ == ["service 'deaf' could not be stopped cleanly"]
    world.hanging["deaf"].set()
    wait_until(lambda: world.order("stopped") == ["base", "deaf"], what="the late start to be undone")
    assert world.up == []


def test_a_failure_waits_for_starts_beside_it_and_undoes_them_too(world: World) -> None:
    gate = world.hanging["slow"] = threading.Event()
    world.failing["broken"] = OSError("no")
    runtime = runtime_of(world.declare("slow"), world.declare("broken"))
    stop = events.subscribe(ServiceAttemptFailed, lambda _event: gate.set())

    with pytest.raises(StartupError, match="broken"):
        runtime.start()
    stop()

    assert world.order("started") == world.order("stopped") == ["slow"]


def test_a_service_that_is_not_critical_is_degraded_and_comes_back_by_itself(
    world: World, heard: list[events.Event]
) -> None:
    world.failing["mail"] = ConnectionError("away")
    services = (
        world.declare("core"),
        world.declare("mail", critical=False, attempts=2),
        world.declare("news", "mail", critical=False),
    )
    runtime = runtime_of(*services)

    report = runtime.start()

    assert report.degraded == ("mail", "news")
    assert runtime.ready
    assert "requires 'mail', which is degraded" in "\n".join(report.lines())
    assert [each.degraded for each in heard if isinstance(each, RuntimeStarted)] == [("mail", "news")]

    del world.failing["mail"]
    wait_until(lambda: not runtime.report().degraded, what="both to come back")
    wait_until(lambda: not threads_of("seawall-runtime"), what="the loop to end when nothing is degraded")
    runtime.stop()
    assert world.order("stopped") == ["news", "mail", "core"]


def test_stopping_ends_the_attempts_of_what_is_degraded(world: World) -> None:
    world.failing["mail"] = ConnectionError("away")
    runtime = runtime_of(world.declare("mail", critical=False))
    runtime.start()

    runtime.stop()

    assert not threads_of()
    assert runtime.states() == {"mail": State.STOPPED}


def test_a_stop_is_safe_before_a_start_twice_and_from_many_threads(
    world: World, heard: list[events.Event]
) -> None:
    runtime = runtime_of(*tree(world))
    runtime.stop()
    runtime.start()
    runtime.start()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _n: runtime.stop(), range(4)))

    assert world.up == []
    assert len(world.order("started")) == len(world.order("stopped")) == 6
    assert len([each for each in heard if isinstance(each, RuntimeStopped)]) == 1


def test_stopping_during_a_start_rolls_it_back(world: World) -> None:
    world.hanging["b"] = threading.Event()
    runtime = runtime_of(world.declare("a"), world.declare("b", "a"), stop_timeout=0.2)
    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(runtime.start)
        wait_until(lambda: "b" in world.order("begun"), what="b to hang")
        runtime.stop()
        with pytest.raises(StartupError, match="stopped while it was starting"):
            starting.result(30)
        world.hanging["b"].set()

    wait_until(lambda: world.order("stopped") == ["a", "b"], what="both to be stopped")
    del world.hanging["b"]
    runtime.start()
    assert sorted(world.up) == ["a", "b"]
    runtime.stop()


def test_a_stop_that_hangs_or_raises_keeps_nobody_else_from_stopping(
    world: World, heard: list[events.Event]
) -> None:
    gate = world.releasing["hangs"] = threading.Event()

    @seawall.service("raises", requires=("hangs",))
    def raises() -> Iterator[None]:
        yield
        raise OSError("stuck")

    runtime = Runtime([world.declare("base"), world.declare("hangs", "base"), raises], stop_timeout=0.1)
    runtime.start()

    assert runtime.stop() == ("raises", "hangs")
    assert world.order("stopped") == ["base"]
    assert next(each.error for each in heard if isinstance(each, ServiceStopFailed)) == "OSError: stuck"
    gate.set()
    wait_until(lambda: not threads_of("seawall-stop"), what="the last one to end")


def test_every_step_is_an_event_and_legal(world: World, heard: list[events.Event]) -> None:
    runtime = runtime_of(world.declare("only"))
    runtime.start()
    runtime.stop()

    changes = [(each.before, each.after) for each in heard if isinstance(each, ServiceChanged)]
    assert changes == [
        (State.STOPPED, State.STARTING),
        (State.STARTING, State.READY),
        (State.READY, State.STOPPING),
        (State.STOPPING, State.STOPPED),
    ]


def test_a_child_after_a_fork_stops_nothing_of_its_parents_and_can_start_its_own(world: World) -> None:
    runtime = runtime_of(*tree(world))
    runtime.start()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            runtime.stop()
            untouched = world.order("stopped") == []
            runtime.start()
            status = 0 if untouched and runtime.ready else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert runtime.ready
    runtime.stop()
    assert world.up == []


@pytest.mark.parametrize(
    ("services", "message"),
    [
        ([("a", "b"), ("b", "c"), ("c", "a")],
         r"in a circle: (a -> b -> c -> a|b -> c -> a -> b|c -> a -> b -> c)"),
        ([("web", "orders"), ("orders", "databse"), ("database",)],
         r"'orders' requires 'databse', .* \(web -> orders -> databse\): did you mean 'database'"),
        ([("a",), ("a",)], "'a' is declared twice"),
        ([("a", "a")], "in a circle: a -> a"),
    ],
)  # fmt: skip
def test_a_graph_that_cannot_start_is_refused_with_its_path(
    world: World, services: list[tuple[str, ...]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Runtime([world.declare(*each) for each in services])
    assert world.log == []


def test_a_critical_service_may_not_rely_on_one_that_may_be_missing(world: World) -> None:
    with pytest.raises(ConfigError, match="'a' is critical and requires 'b', which is not"):
        Runtime([world.declare("a", "b"), world.declare("b", critical=False)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": ""}, "name='' is no name"),
        ({"name": "a", "requires": "b"}, "requires='b' is one text"),
        ({"name": "a", "requires": 5}, "requires=5 is no list"),
        ({"name": Unwritable()}, r"name=\(Unwritable that cannot be written\) is no name"),
        ({"name": "a", "attempts": 0}, "attempts=0 is out of range"),
        ({"name": "a", "timeout": 0}, "timeout=0 is out of range"),
        ({"name": "a", "timeout": "soon"}, "timeout='soon' is not a duration"),
    ],
)
def test_a_wrong_declaration_is_refused_where_it_is_written(
    arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        seawall.service(**arguments)  # type: ignore[arg-type]


def test_what_cannot_be_a_service_is_refused() -> None:
    async def coroutine() -> None: ...

    class NoStop:
        def start(self) -> None: ...

    with pytest.raises(ConfigError, match="is async"):
        seawall.service("a")(coroutine)
    with pytest.raises(ConfigError, match=r"has no stop\(\)"):
        seawall.service("a")(NoStop)
    with pytest.raises(ConfigError, match="decorate it with"):
        Runtime([NoStop])
    with pytest.raises(ConfigError, match="5 cannot be called"):
        seawall.service("a")(5)  # type: ignore[type-var]
    with pytest.raises(ConfigError, match="cannot be marked"):
        seawall.service("a")(print)


def test_random_graphs_with_random_failures_never_leave_anything_half_started() -> None:
    for seed in range(100):
        dice = random.Random(seed)  # noqa: S311 - no secret
        world = World()
        names = [f"s{number}" for number in range(dice.randint(1, 10))]
        services: list[Declaration] = []
        for number, name in enumerate(names):
            critical = dice.random() < 0.7
            ground = [each for each in services if each.critical or not critical]
            requires = [each.name for each in dice.sample(ground, min(len(ground), dice.randint(0, 3)))]
            services.append(world.declare(name, *requires, critical=critical, attempts=dice.randint(1, 3)))
            if dice.random() < 0.15:
                world.failing[name] = ConnectionError(str(number))
        doomed = {each.name for each in services if each.critical} & world.failing.keys()
        dice.shuffle(services)
        runtime = runtime_of(*services)
        if doomed:
            with pytest.raises(StartupError, match="|".join(f"'{name}'" for name in doomed)):
                runtime.start()
        else:
            report = runtime.start()
            assert world.failing.keys() <= set(report.degraded), seed
            assert runtime.ready, seed
            runtime.stop()
        assert world.up == [], seed
        assert world.order("stopped") == world.order("started")[::-1], seed
    assert not threads_of()


def test_a_service_that_stops_its_own_runtime_waits_for_nothing() -> None:
    told: list[tuple[str, ...]] = []

    @seawall.service("ends itself")
    def ends() -> Iterator[None]:
        yield
        told.append(runtime.stop())

    runtime = Runtime([ends], stop_timeout=20.0)
    runtime.start()
    began = time.monotonic()
    assert runtime.stop() == ()
    assert told == [()]
    assert time.monotonic() - began < 10.0


def test_a_service_that_stops_its_runtime_in_its_start_has_that_undone() -> None:
    @seawall.service("ends all")
    def ends() -> None:
        if not again:
            runtime.stop()

    again: list[bool] = []
    runtime = Runtime([ends], stop_timeout=20.0)
    with pytest.raises(StartupError, match="was stopped while it was starting"):
        runtime.start()
    again.append(True)
    runtime.start()
    assert runtime.ready
    runtime.stop()


NOTHING = seawall.Features(
    **dict.fromkeys((each.name for each in dataclasses.fields(seawall.Features)), False)
)


def test_a_service_that_bootstraps_what_starts_it_is_refused_at_once() -> None:
    @seawall.service("eager", timeout=20.0)
    def eager() -> None:
        seawall.bootstrap(features=NOTHING)

    began = time.monotonic()
    with pytest.raises(StartupError, match="by a service that it starts"):
        seawall.bootstrap(services=[eager], features=NOTHING)
    assert time.monotonic() - began < 10.0
    seawall.bootstrap(features=NOTHING).shutdown()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"services": 5}, "services=5 is no list"),
        ({"services": "web"}, "services='web' is no list"),
        ({"features": {"health": False}}, "is no Features"),
        ({"features": {}}, "is no Features"),
    ],
)
def test_wrong_arguments_of_bootstrap_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        seawall.bootstrap(**arguments)
