"""Work that runs later: functions whose body has not run when a call of them returns.

A call of a coroutine function, of a generator function, or of one that makes a context manager prepares
something, and the work is done while that is awaited, iterated over or entered. Whatever stands around the
call (a breaker, a limit, a transaction) has ended by then, and a caller that only wants an answer gets an
object, which is always true. Such functions are refused where they are given to us.
"""

import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from types import AsyncGeneratorType, CodeType, CoroutineType, GeneratorType, TracebackType
from typing import Any, Final, Generic, ParamSpec, TypeVar

from seawall.errors import ConfigError
from seawall.quantity import shown

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_MOST_KINDS: Final = 10_000
"""Classes of results that are remembered; some programs make them by the thousand at run time."""


def _yields() -> Iterator[None]:
    yield


async def _yields_later() -> Any:
    yield


_CONTEXT_MANAGERS: Final[dict[CodeType, str]] = {
    contextmanager(_yields).__code__: "a context manager",
    asynccontextmanager(_yields_later).__code__: "an asynchronous context manager",
}
_PREPARED: Final = (
    CoroutineType,
    GeneratorType,
    AsyncGeneratorType,
    Future,
    type(contextmanager(_yields)()),
    type(asynccontextmanager(_yields_later)()),
)


class _Kinds(dict[type, bool]):
    """Whether objects of a class are prepared work, worked out once for each class."""

    def __missing__(self, kind: type) -> bool:
        if len(self) >= _MOST_KINDS:
            self.clear()
        awaitable = any("__await__" in vars(base) for base in kind.__mro__)
        self[kind] = prepared = awaitable or issubclass(kind, _PREPARED)
        return prepared


PREPARED: Final = _Kinds()
"""`PREPARED[type(result)]`: whether a result is work that is still to be done. Asked for every call."""


def kind_of(function: Any) -> str | None:
    """What a function is whose body runs after a call of it has returned, in words; None of all others."""
    while isinstance(function, functools.partial):
        function = function.func
    called = getattr(type(function), "__call__", None)  # noqa: B004 - an object may have an async one
    for form in (function, called):
        if inspect.iscoroutinefunction(form):
            return "a coroutine function"
        if inspect.isasyncgenfunction(form):
            return "an asynchronous generator function"
        if inspect.isgeneratorfunction(form):
            return "a generator function"
        code = getattr(form, "__code__", None)
        if isinstance(code, CodeType) and (found := _CONTEXT_MANAGERS.get(code)) is not None:
            return found
    return None


def is_coroutine_function(function: Any) -> bool:
    """Whether a call of it has to be awaited."""
    return kind_of(function) == "a coroutine function"


def refuse_later(function: Any, cannot: str, *, instead: str = "Pass a plain function") -> None:
    """Refuse a function whose body runs after a call of it has returned.

    Args:
        function: whatever was given.
        cannot: who cannot do what with it, such as "limit 'x' cannot guard".
        instead: a sentence that says what to do.

    Raises:
        ConfigError: it is one.
    """
    if (kind := kind_of(function)) is not None:
        raise ConfigError(
            f"{cannot} {shown(function)}, {kind}: its body runs after the call has ended. {instead}"
        )


def too_late(result: Any, who: str, instead: str) -> ConfigError:
    """The error for work that was only prepared in a call; a coroutine is closed, nobody will await it."""
    return _not_begun(result, f"{who} guarded a call that", instead)


def _not_begun(result: Any, which: str, instead: str) -> ConfigError:
    if isinstance(result, CoroutineType):
        result.close()
    return ConfigError(f"{which} returned a {type(result).__name__}, whose work has not begun: {instead}")


def called(who: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """What a function that was registered with `who` returns: a plain one may still only prepare its work.

    Raises:
        ConfigError: it did.
    """
    result = function(*args, **kwargs)
    if PREPARED[type(result)]:
        raise _not_begun(result, f"{who} called {shown(function)}, which", "do it in the function")
    return result


class Block(Generic[T]):
    """A `with` block that may be entered any number of times, and decorates functions.

    Args:
        make: makes the context manager of one pass.
        name: what it is, for messages.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[T]], name: str) -> None:
        self._make = make
        self._name = name
        self._entered: list[tuple[int, AbstractContextManager[T]]] = []

    def __enter__(self) -> T:
        block = self._make()
        value = block.__enter__()
        self._entered.append((threading.get_ident(), block))
        return value

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._innermost().__exit__(kind, exc, trace)

    def _innermost(self) -> AbstractContextManager[T]:
        """The last one that this thread has entered; another's if a thread leaves what it has not entered."""
        own = [entry for entry in self._entered if entry[0] == threading.get_ident()]
        entry = (own or self._entered)[-1]
        self._entered.remove(entry)
        return entry[1]

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """A function each of whose calls is such a block.

        Raises:
            ConfigError: the body of `function` would run after the block.
        """
        refuse_later(function, f"{self._name} cannot guard", instead="Write the `with` block inside it")

        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            with self._make():
                result = function(*args, **kwargs)
                if PREPARED[type(result)]:
                    raise too_late(result, self._name, "write the `with` block where it is done")
                return result

        return guarded
