"""What a service is, and how one is declared.

A service is a class with `start` and `stop`, a generator function that yields once it is up (what follows
the `yield` is its stop), or a plain function that has nothing to stop. Declaring one starts nothing.
"""

import dataclasses
import inspect
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar, cast

from seawall.errors import ConfigError
from seawall.later import refuse_later
from seawall.quantity import Count, Wait, check_fields, shown

_ATTRIBUTE: Final = "__seawall_service__"
F = TypeVar("F", bound=Callable[..., Any])


class Service(Protocol):
    """Something that lives long. Made anew for every attempt to start it."""

    def start(self) -> object:
        """Return once it is up; threads it leaves running are named and guarded. Raise if it cannot be."""

    def stop(self) -> object:
        """End it and let go of everything. Safe to repeat, and safe before or after a failed `start`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Declaration:
    """One service and how it wants to be started.

    Attributes:
        name: by which others require it, and by which errors name it.
        factory: makes the service; called once for each attempt.
        requires: names of the services that must be up before it starts.
        critical: whether the process is of no use without it. One that is not may stay degraded: it is
            tried again in the background.
        attempts: how often it is tried before it counts as failed.
        timeout: seconds one attempt may take.
        within: seconds all attempts together may take; None for no such bound.
        check: asked while it is up: returns if all is well, raises if it is lost; None: nobody can tell.
    """

    name: str
    factory: Callable[[], Service]
    requires: tuple[str, ...] = ()
    critical: bool = True
    attempts: Count = 3
    timeout: Wait = 30.0
    within: Wait | None = None
    check: Callable[[], object] | None = None

    def __post_init__(self) -> None:
        check_fields(self, f"service {self.name!r}: {{}}")


def service(  # noqa: PLR0913 - all keyword-only
    name: str,
    *,
    requires: Iterable[str] = (),
    critical: bool = True,
    attempts: int = 3,
    timeout: float | str = 30.0,
    check: Callable[[], object] | None = None,
) -> Callable[[F], F]:
    """Declare the decorated class, generator function or plain function as a service; it stays as it is.

    `check` is asked, in a thread, while it is up: it raises if the service is lost. Readiness rests on it,
    and a worker takes no tasks while a critical service is lost.

    Raises:
        ConfigError: an argument is wrong, or the decorated object cannot be a service.
    """
    named = _name(name)
    if isinstance(requires, str):
        raise ConfigError(f"service {named!r}: requires={requires!r} is one text: write ({requires!r},)")
    if not isinstance(requires, Iterable):
        raise ConfigError(f"service {named!r}: requires={shown(requires)} is no list: write ('database',)")
    if check is not None and not callable(check):
        raise ConfigError(f"service {named!r}: check={shown(check)} cannot be called: pass a function")
    refuse_later(check, f"service {named!r} cannot ask check=")
    nothing = Declaration(
        name=named,
        factory=_FromGenerator,  # type: ignore[arg-type] # until it decorates something
        requires=tuple(_name(each) for each in requires),
        critical=critical,
        attempts=attempts,
        timeout=timeout,  # type: ignore[arg-type] # parsed there
        check=check,
    )

    def declare(declared: F) -> F:
        made = dataclasses.replace(nothing, factory=_factory(named, declared))
        try:
            setattr(declared, _ATTRIBUTE, made)
        except (AttributeError, TypeError) as exc:  # of C, as `print`
            raise ConfigError(
                f"service {named!r}: {shown(declared)} cannot be marked as one: decorate a function of yours"
            ) from exc
        return declared

    return declare


def declaration_of(declared: object) -> Declaration:
    """The declaration that `@service` left on `declared`, or `declared` itself if it is one.

    Raises:
        ConfigError: it has none.
    """
    if isinstance(declared, Declaration):
        return declared
    # Not getattr: a subclass of a service is not declared by its base.
    found = getattr(declared, "__dict__", {}).get(_ATTRIBUTE)
    if not isinstance(found, Declaration):
        raise ConfigError(
            f"services: {shown(declared)} is not declared: decorate it with @seawall.service(...)"
        )
    return found


class _FromGenerator:
    """A generator function as a service: up at its `yield`, stopped by what follows."""

    def __init__(self, function: Callable[[], Generator[Any, None, None]]) -> None:
        self._function = function
        self._generator: Generator[Any, None, None] | None = None

    def start(self) -> object:
        """Run to the `yield`; what it yields is the service's value."""
        self._generator = self._function()
        try:
            return next(self._generator)
        except StopIteration:
            raise ConfigError(f"{self._function.__qualname__} yields nothing: yield once it is up") from None

    def stop(self) -> None:
        """Run what follows the `yield`."""
        generator, self._generator = self._generator, None
        if generator is None:
            return
        try:
            next(generator)
        except StopIteration:
            return
        generator.close()
        raise ConfigError(f"{self._function.__qualname__} yields more than once: a service yields once")


class _FromFunction:
    """A plain function as a service that has nothing to stop."""

    def __init__(self, function: Callable[[], object]) -> None:
        self._function = function

    def start(self) -> object:
        """Call it; what it returns is the service's value."""
        return self._function()

    def stop(self) -> None:
        """Nothing was left running."""


def _factory(name: str, declared: Callable[..., Any]) -> Callable[[], Service]:
    if not callable(declared):
        raise ConfigError(
            f"service {name!r}: {shown(declared)} cannot be called: decorate a class or function"
        )
    if inspect.isclass(declared):
        for verb in ("start", "stop"):
            if not callable(method := getattr(declared, verb, None)):
                raise ConfigError(f"service {name!r}: {declared.__qualname__} has no {verb}(): add it")
            refuse_later(
                method, f"service {name!r} cannot call {verb}(),", instead="Run its loop in a thread"
            )
        return cast("type[Service]", declared)
    if inspect.iscoroutinefunction(declared) or inspect.isasyncgenfunction(declared):
        raise ConfigError(f"service {name!r}: {declared.__qualname__} is async: run its loop in a class")
    if inspect.isgeneratorfunction(declared):
        return lambda: _FromGenerator(declared)
    return lambda: _FromFunction(declared)


def _name(name: object) -> str:
    if not isinstance(name, str) or not name.strip():
        raise ConfigError(f"service name={shown(name)} is no name: write a text such as 'gateway'")
    return name
