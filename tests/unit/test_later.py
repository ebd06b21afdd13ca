"""Functions whose body runs after a call of them are refused wherever a call is guarded or asked."""

import asyncio
import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

import seawall
from seawall import Category, ConfigError, breaker, error_boundary, limit, recovers, service
from seawall.breaker import face
from seawall.database.pool import Database
from seawall.later import PREPARED, kind_of
from seawall.memory.cleanup import Cleaner
from seawall.memory.levels import Pressure


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
}


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
