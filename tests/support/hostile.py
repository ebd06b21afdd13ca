"""Exceptions that may be anything but helpful, made by a seed: for what has to take any."""

import contextlib
import random
from collections.abc import Callable
from typing import Any, Final

BASES: Final[tuple[Any, ...]] = (
    Exception, BaseException, OSError, ConnectionError, TimeoutError, KeyError, UnicodeDecodeError,
    SyntaxError, ImportError, RecursionError, MemoryError, StopIteration, SystemExit, KeyboardInterrupt,
    GeneratorExit, object,
)  # fmt: skip
NAMES: Final = (
    "__str__", "__repr__", "__class__", "__cause__", "__context__", "__suppress_context__", "args", "name",
    "response", "status", "status_code", "code", "errno", "reason", "exceptions", "sqlstate", "diag",
    "retry_after", "__traceback__", "__eq__", "__hash__", "__getattribute__", "__getattr__", "__reduce__",
    "__format__", "__bool__", "__len__", "__iter__", "__module__", "__qualname__", "__notes__",
    "__init_subclass__",
)  # fmt: skip
RAISED: Final[tuple[type[BaseException], ...]] = (
    RuntimeError, RecursionError, SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError, AttributeError,
)  # fmt: skip


class Words(str):
    """A text that is a text by name only."""

    __slots__ = ()

    def _no(self, *_: object) -> Any:
        raise RuntimeError


for _name in ("__getitem__", "__contains__", "__eq__", "__hash__", "__len__", "partition", "encode", "find"):
    setattr(Words, _name, Words._no)


VALUES: Final[tuple[Callable[[], Any], ...]] = (
    lambda: None, lambda: 5, lambda: -1, lambda: "", lambda: "\ud800", lambda: b"x", object, list, dict,
    lambda: 10**5000, lambda: float("nan"), lambda: int, lambda: ..., lambda: Words("secret"),
    lambda: "x" * 100_000, lambda: "'" * 5000, lambda: (1, (2, (3,))), lambda: "\0" * 10,
    lambda: ValueError("inner"),
)  # fmt: skip


def made(chance: random.Random) -> Any:
    """One object; what it is depends on `chance` alone."""
    exc = _alone(chance)
    if not issubclass(type(exc), BaseException):
        return exc
    for _ in range(chance.choice((0, 0, 1, 3))):
        exc = _around(exc, chance)
    return exc


def _alone(chance: random.Random) -> Any:
    body = {name: _how(chance) for name in chance.sample(NAMES, chance.choice((0, 1, 2, 6)))}
    slots = body.pop("__init_subclass__", None) is not None
    if slots and chance.random() < 0.5:
        body["__slots__"] = ()
    base = chance.choice(BASES)
    kind = _kind(chance, base, body)
    exc: Any = base.__new__(kind)
    for name in ("__module__", "__qualname__", "__name__"):
        if chance.random() < 0.2:
            try:
                type.__setattr__(kind, name, chance.choice(VALUES)())
            except (TypeError, UnicodeEncodeError, ValueError):
                continue
    if base is not object and chance.random() < 0.5:
        given = [chance.choice(VALUES)() for _ in range(chance.randint(0, 3))]
        with contextlib.suppress(BaseException):
            _put(exc, "args", tuple(given))
    return exc


def _kind(chance: random.Random, base: Any, body: dict[str, Any]) -> type:
    meta: type = type
    if chance.random() < 0.15:
        error = chance.choice(RAISED)
        meta = type(
            "Meta",
            (type,),
            {chance.choice(("__getattribute__", "__eq__", "__hash__", "__repr__")): _raising(error)},
        )
    name = chance.choice(("X", "a" * 500, "Ärger", "Retry"))
    try:
        made: type = meta(name, (base,), body)
    except BaseException:  # noqa: BLE001 - the body breaks the making of the class itself
        return type(name, (base,), {})
    return made


def _how(chance: random.Random) -> Any:
    how = chance.randrange(3)
    if how == 0:
        return property(_raising(chance.choice(RAISED)))
    return _raising(chance.choice(RAISED)) if how == 1 else chance.choice(VALUES)()


def _raising(error: type[BaseException]) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise error

    return fail


def _around(exc: BaseException, chance: random.Random) -> BaseException:
    """The exception as a cause, a context, an argument or in a group, or chained to itself."""
    outer: BaseException = chance.choice((Exception, RuntimeError, KeyError, OSError))(exc, "x")
    how = chance.randrange(5)
    if how == 0:
        _put(outer, "__cause__", exc)
    elif how == 1:
        _put(outer, "__context__", exc)
    elif how == 2:
        with contextlib.suppress(BaseException):  # a group asks its members what they are
            return BaseExceptionGroup("group", [exc, outer])
    elif how == 3:
        _put(exc, "__context__", outer)
        _put(outer, "__context__", exc)
    return outer


def _put(exc: BaseException, name: str, value: object) -> None:
    """As the interpreter does it, whatever the class says."""
    vars(BaseException)[name].__set__(exc, value)
