"""Functions whose body runs after a call of them are refused wherever a call is guarded or asked."""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

import seawall
from seawall import (
    Category,
    ConfigError,
    Failure,
    Severity,
    StartupError,
    breaker,
    error_boundary,
    limit,
    recovers,
    service,
)
from seawall.breaker import face
from seawall.breaker.config import parse
from seawall.database.pool import Database
from seawall.events import Event, emit, subscribe
from seawall.health.checks import Check, CheckReport
from seawall.later import PREPARED, Block, kind_of
from seawall.memory.cleanup import Cleaner
from seawall.memory.levels import Pressure
from seawall.recovery import consider
from seawall.runtime import Runtime
from support.waiting import wait_until


async def coroutine(*_: object) -> None:
    pass


def generator(*_: object) -> Iterator[int]:
    yield 1


async def asynchronous_generator(*_: object) -> Any:
    yield 1


@contextlib.contextmanager
def block(*_: object) -> Iterator[None]:
    yield


@contextlib.asynccontextmanager
async def asynchronous_block(*_: object) -> Any:
    yield


class Called:
    async def __call__(self, *_: object) -> None:
        pass


LATER = (coroutine, generator, asynchronous_generator, block, asynchronous_block, Called())
AWAITED = (LATER[0], LATER[-1])


class Server:
    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


def served(**verbs: Any) -> type:
    return service("later")(type("Served", (Server,), verbs))


def registered(work: Any) -> None:
    try:
        recovers(Category.DATABASE, name="later")(work)
    finally:
        seawall.recovery.unregister("later")


@pytest.fixture(autouse=True)
def _breakers_of_this_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face, "_registry", {})


def nowhere() -> Database:
    return Database("postgresql://nobody@127.0.0.1:1/none")


DOORS: dict[str, Callable[[Any], object]] = {
    "limit": limit("k", 1),
    "transaction": lambda function: nowhere().transaction().__call__(function),
    "run": lambda function: nowhere().run(function),
    "ignore": lambda function: breaker("b", ignore=function),
    "record": lambda function: breaker("b", record=function),
    "record_result": lambda function: breaker("b", record_result=function),
    "on_pressure": lambda function: Cleaner().register(function, Pressure.WARNING),
    "recovers": registered,
    "recovers(when)": lambda function: recovers(Category.DATABASE, when=function),
    "start": lambda function: served(start=function),
    "stop": lambda function: served(stop=function),
    "check": lambda function: service("later", check=function),
    "subscribe": lambda function: subscribe(Event, function),
    "health": lambda function: Check("later", function),
}


def reasons(answer: Callable[[], object], caplog: pytest.LogCaptureFixture) -> str:
    """What is said when a callback was called whose work has not begun: raised, answered or logged."""
    try:
        answered = answer()
    except ConfigError as exc:
        answered = exc
    wait_until(lambda: "has not begun" in f"{answered} {caplog.text}", what="a word of it")
    return f"{answered} {caplog.text}"


def heard(observer: Any) -> None:
    stop = subscribe(Event, observer)
    emit(Event())
    stop()


def recovered(work: Any, when: Any = lambda _: True) -> None:
    recovers(Category.DATABASE, name="later", when=when)(work)
    try:
        consider(Failure(Category.DATABASE, Severity.ERROR, retryable=True, fingerprint=""), ValueError())
    finally:
        seawall.recovery.unregister("later")


def cleaned(function: Any) -> None:
    cleaner = Cleaner()
    cleaner.register(function, Pressure.WARNING)
    cleaner.react(Pressure.WARNING)


def checked(probe: Any) -> CheckReport:
    check = Check("later", probe)
    check.begin()
    return check.report(10.0)


def started(function: Any) -> None:
    runtime = Runtime([service("later", attempts=1)(function)])
    try:
        runtime.start()
    except StartupError as exc:
        raise ConfigError(str(exc)) from exc
    finally:
        runtime.stop()


CALLED: dict[str, Callable[[Any], object]] = {
    "subscribe": heard,
    "on_pressure": cleaned,
    "recovers": recovered,
    "recovers(when)": lambda function: recovered(lambda _: "done", when=function),
    "ignore": lambda function: parse({"ignore": function}).failed(ValueError()),
    "record": lambda function: parse({"record": function}).failed(ValueError()),
    "record_result": lambda function: parse({"record_result": function}).is_bad(1),
    "check": checked,
    "service": started,
    "error_boundary": lambda function: error_boundary("here", stop=True)(function)(),
    "breaker": lambda function: breaker("b")(function)(),
    "limit": lambda function: Block(contextlib.nullcontext, "limit 'k'")(function)(),
}
"""What calls each registered function, and each decorator around one."""


@pytest.mark.parametrize("door", CALLED)
@pytest.mark.parametrize("later", [coroutine, generator, Future])
def test_a_plain_function_that_only_prepares_its_work_is_told_when_it_is_called(
    door: str, later: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    def plain(*_: object) -> Any:
        return later()

    assert f"returned a {later.__name__}, whose work has not begun" in reasons(
        lambda: CALLED[door](plain), caplog
    )


@pytest.mark.parametrize("door", DOORS)
def test_a_function_whose_body_runs_later_is_refused_where_it_is_given(door: str) -> None:
    for function in (*LATER, functools.partial(generator, 1)):
        with pytest.raises(ConfigError, match="its body runs after the call has ended"):
            DOORS[door](function)


def test_a_breaker_and_a_boundary_guard_coroutine_functions_and_refuse_the_others() -> None:
    for guard in (breaker("b"), error_boundary()):
        for function in LATER:
            if function in AWAITED:
                guard(function)
                continue
            with pytest.raises(ConfigError, match="its body runs after the call has ended"):
                guard(function)


@pytest.mark.parametrize(
    "function", [len, int, Server, Server().start, functools.partial(max, 1), lambda: 1, Future]
)
def test_plain_functions_and_classes_are_called_at_once(function: Any) -> None:
    assert kind_of(function) is None


def test_a_plain_function_around_a_generator_function_is_plain() -> None:
    @functools.wraps(generator)
    def rows() -> list[int]:
        return list(generator())

    assert kind_of(rows) is None
    assert breaker("b", mode="observe")(rows) is not None


def test_results_are_told_apart_by_their_class() -> None:
    class Awaitable:
        def __await__(self) -> Iterator[None]:
            yield

    class Derived(Awaitable):
        pass

    async def task() -> asyncio.Task[None]:
        return asyncio.create_task(coroutine())

    later: list[Any] = [
        generator(),
        block(),
        asynchronous_block(),
        Future(),
        Awaitable(),
        Derived(),
        asyncio.run(task()),
    ]
    assert [PREPARED[type(each)] for each in later] == [True] * len(later)
    now: list[Any] = [None, 1, "text", [], iter([]), open, Server()]
    assert not any(PREPARED[type(each)] for each in now)
