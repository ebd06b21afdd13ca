"""`breaker(name, ...)`: what a user holds in hand."""

import asyncio
import contextlib
import functools
import getpass
import hashlib
import inspect
import os
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import fields
from types import AsyncGeneratorType, CoroutineType, TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from redis.exceptions import RedisError

from seawall import holdings
from seawall.breaker import place as places
from seawall.breaker.calls import Call, FallingBack, asked, is_left_early, settled
from seawall.breaker.circuit import Circuit, Snapshot
from seawall.breaker.config import LONGEST_KEY, Config, check_name, parse
from seawall.breaker.counting import Ok
from seawall.breaker.machine import State
from seawall.errors import BreakerOpen, ConfigError, SeawallError
from seawall.later import PREPARED, is_coroutine_function, refuse_later, too_late
from seawall.quantity import parse_duration, shown
from seawall.text import to_bytes

P = ParamSpec("P")
R = TypeVar("R")

OVERFLOW = "*"
"""The key that all keys beyond `max_keys` share."""


class Breaker:
    """A breaker of the fleet: `breaker(name, ...)` makes one, the same object for the same name.

    It is a decorator for functions and coroutine functions, a context manager (`with`, `async with`), and has
    `call` and `acall`. Its keys (`payments["eu"]`) are breakers of their own with the same options.

    A call that is made within a probe of the same breaker belongs to that probe. It is known by its context
    (`contextvars`), which asyncio tasks and `asyncio.to_thread` take along. A bare `threading.Thread` and an
    executor begin with an empty one, so a call there is one of its own, and refused while the circuit is half
    open: hand them `contextvars.copy_context().run`.
    """

    def __init__(self, name: str, config: Config) -> None:
        self.name = name
        self.config = config
        self.circuit = Circuit(name, config)
        self._keys: dict[str, Breaker] = {}
        # The calls that are under way in this thread or asyncio task, innermost first.
        self._under_way: ContextVar[tuple[Any, Any] | None] = ContextVar(f"breaker:{name}", default=None)
        # Trial calls that are `with` blocks; some are left in another context than they were entered in.
        self._probing_blocks: list[Call] = []
        self._measured = (
            config.slow_call is not None
            or config.call_timeout is not None
            or config.record_result is not None
        )

    def __repr__(self) -> str:
        return f"<Breaker {self.name} {self.state}>"

    def __getitem__(self, key: str) -> "Breaker":
        """The breaker of one host, tenant or whatever the dependency consists of.

        Beyond `max_keys` all further keys share one.
        """
        if (known := self._keys.get(key)) is not None:
            return known
        if len(self._keys) >= self.config.max_keys and key not in self._keys:
            key = OVERFLOW
        name = f"{self.name}[{_short(str(key))}]"
        return self._keys.get(key) or self._keys.setdefault(key, Breaker(name, self.config))

    # Calls

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function` under this breaker.

        Raises:
            BreakerOpen: it was refused, and there is no fallback.
        """
        circuit = self.circuit
        if self.config.mode == "disabled":
            return function(*args, **kwargs)
        if self._measured or circuit.flag[0] != circuit.calm:
            return self._carefully(function, args, kwargs)
        ok = circuit.ok
        try:
            result = function(*args, **kwargs)
        except BaseException as exc:
            self._check_callable(function)
            circuit.failed(exc, ok)
            raise
        if not next(ok):
            circuit.settle(ok)
        if PREPARED[type(result)]:
            raise self._too_late(result)
        return result

    async def acall(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The same for a coroutine function; `call_timeout` cancels it, and it raises `TimeoutError`."""
        self._check_callable(function)
        if self.config.mode == "disabled" or self._within_probe():
            return await self._awaited(function(*args, **kwargs), function)
        try:
            call = await self._admit_async()
        except BreakerOpen:
            if not self._falls_back:
                raise
            with self._falling_back():
                result = self._fall_back(args, kwargs)
                return await result if inspect.isawaitable(result) else result
        outer = self._under_way.set((call, self._under_way.get()))
        try:
            async with asyncio.timeout(self.config.call_timeout):
                result = await self._awaited(function(*args, **kwargs), function)
        except BaseException as exc:
            await settled(call, call.failed, exc)
            raise
        finally:
            self._under_way.reset(outer)
        await settled(call, call.ended, result)
        if PREPARED[type(result)]:
            raise self._too_late(result)
        return result

    async def _awaited(self, work: Any, function: object) -> Any:
        """What comes of `work`; an asynchronous generator stays as it is, and is refused as a result."""
        if work.__class__ is AsyncGeneratorType:
            return work
        if not inspect.isawaitable(work):
            raise ConfigError(
                f"breaker {self.name!r}: acall({function!r}) returned a {type(work).__name__}, which cannot "
                "be awaited: pass a coroutine function, or use `call`"
            )
        return await work

    def _check_callable(self, function: object) -> None:
        if not callable(function):
            raise ConfigError(f"breaker {self.name!r} cannot call {shown(function)}: pass a function")

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function, or a coroutine function.

        Raises:
            ConfigError: `function` is none, or its body runs after the call has ended, as a generator's.
        """
        if isinstance(function, classmethod | staticmethod | property):
            kind = type(function).__name__
            raise ConfigError(
                f"breaker {self.name!r} cannot guard a {kind} object: write the breaker below @{kind}"
            )
        self._check_callable(function)
        if self.config.mode == "disabled":
            return function
        if is_coroutine_function(function):
            return self._decorate_async(function)
        refuse_later(
            function,
            f"breaker {self.name!r} cannot guard",
            instead="Guard the calls inside it, or iterate over it in a `with` block",
        )
        if is_coroutine_function(self.config.fallback):
            raise self._fallback_too_late()
        return self._decorate(function)

    def _decorate(self, function: Callable[P, R]) -> Callable[P, R]:
        if self._measured:

            @functools.wraps(function)
            def measured(*args: P.args, **kwargs: P.kwargs) -> R:
                return self._carefully(function, args, kwargs)

            return measured
        circuit, carefully = self.circuit, self._carefully
        falls_back, within_probe, late = (
            self.config.fallback is not None,
            self._within_probe,
            self._too_late,
        )

        # The same as `call`, written out: each attribute and each call here is paid for by every call.
        @functools.wraps(function)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
            if circuit.flag[0] != circuit.calm:
                if falls_back or within_probe() or (refusal := circuit.refusal()) is None:
                    return carefully(function, args, kwargs)
                try:
                    raise refusal
                finally:
                    del refusal  # it holds this frame: each would keep the other until a garbage collection
            ok = circuit.ok
            try:
                result = function(*args, **kwargs)
            except BaseException as exc:
                circuit.failed(exc, ok)
                raise
            if not next(ok):
                circuit.settle(ok)
            if PREPARED[type(result)]:
                raise late(result)
            return result

        return guarded

    def _decorate_async(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def guarded(*args: Any, **kwargs: Any) -> Any:
            return await self.acall(function, *args, **kwargs)

        return guarded

    def _carefully(self, function: Callable[..., R], args: Any, kwargs: Any) -> R:
        self._check_callable(function)
        if self._within_probe():
            return function(*args, **kwargs)
        try:
            call = self.circuit.admit()
        except BreakerOpen:
            if not self._falls_back:
                raise
            with self._falling_back():
                result: R = self._fall_back(args, kwargs)
            if isinstance(result, CoroutineType):
                result.close()
                raise self._fallback_too_late() from None
            return result
        outer = self._under_way.get()
        restored = holdings.Restored(self._under_way, outer)
        holdings.note(restored)
        try:
            self._under_way.set((call, outer))
            result = function(*args, **kwargs)
        except BaseException as exc:
            call.failed(exc)
            raise
        finally:
            self._under_way.set(outer)
            holdings.forget(restored)
        call.ended(result)
        if PREPARED[type(result)]:
            raise self._too_late(result)
        return result

    def _within_probe(self) -> bool:
        """Whether the call is part of the trial call of this breaker, whose outcome is its own too."""
        return self._is_within(Call)

    def _is_within(self, kind: type[Call | FallingBack]) -> bool:
        """Whether it is part of one that is under way; a task that outlives it takes its context along."""
        entry = self._under_way.get()
        while entry is not None:
            begun, entry = entry
            if isinstance(begun, kind) and begun.encloses:
                return True
        return False

    def _too_late(self, result: Any) -> ConfigError:
        """The error for work that was only prepared in the call, and would run after it has ended."""
        return too_late(
            result,
            f"breaker {self.name!r}",
            "decorate the coroutine function or await `acall`, and iterate in a `with` block",
        )

    @property
    def _falls_back(self) -> bool:
        """Whether a refused call has a fallback; one that such a fallback makes itself has none."""
        return self.config.fallback is not None and not self._is_within(FallingBack)

    @contextlib.contextmanager
    def _falling_back(self) -> Iterator[None]:
        under_way, outer = FallingBack(), self._under_way.get()
        self._under_way.set((under_way, outer))
        try:
            yield
        finally:
            under_way.encloses = False
            self._under_way.set(outer)

    def _fall_back(self, args: Any, kwargs: Any) -> Any:
        fallback = self.config.fallback
        return fallback(*args, **kwargs) if callable(fallback) else fallback

    def _fallback_too_late(self) -> ConfigError:
        return ConfigError(
            f"breaker {self.name!r} has fallback={self.config.fallback!r}, a coroutine function, which "
            "only a guarded coroutine function or `acall` awaits: pass a plain function"
        )

    # With blocks

    @holdings.sheltered
    def __enter__(self) -> Self:
        """Begin a call; raises `BreakerOpen`, a block has no fallback."""
        circuit = self.circuit
        if self.config.mode == "disabled":
            return self
        begun: Call | Ok | None
        if not self._measured and circuit.flag[0] == circuit.calm:
            begun = circuit.ok
        else:
            begun = None if self._within_probe() else self._entered(circuit.admit())
        outer = self._under_way.get()
        holdings.note(holdings.Restored(self._under_way, outer))
        self._under_way.set((begun, outer))
        return self

    @holdings.sheltered
    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        begun = self._leave()
        if begun is None:
            return
        if is_left_early(exc, trace):
            exc = None
        if isinstance(begun, Call):
            if exc is None:
                begun.ended()
            else:
                begun.failed(exc)
        elif exc is not None:
            self.circuit.failed(exc, begun)
        elif not next(begun):
            self.circuit.settle(begun)

    async def __aenter__(self) -> Self:
        """Begin a call; `call_timeout` does not cut a block short, wrap it in `asyncio.timeout`."""
        if self.config.mode != "disabled":
            call = None if self._within_probe() else self._entered(await self._admit_async())
            self._under_way.set((call, self._under_way.get()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        call = self._leave()
        if call is None:
            return
        if not isinstance(call, Call):
            call = Call(self.circuit)
        if exc is None or is_left_early(exc, trace):
            await settled(call, call.ended)
        else:
            await settled(call, call.failed, exc)

    def _entered(self, call: Call) -> Call:
        if call.probing:
            self._probing_blocks.append(call)
        return call

    def _leave(self) -> Any:
        """The innermost call of this context; None if it is part of a probe.

        A block may be left in another context than it was entered in, as web frameworks do that run both ends
        in threads. That is the trial call if there is one, else it counts as begun now.
        """
        if self.config.mode == "disabled":
            return None
        if (under_way := self._under_way.get()) is None:
            return self._probing_blocks.pop() if self._probing_blocks else self.circuit.ok
        begun, outer = under_way
        self._under_way.set(outer)
        holdings.forget(holdings.Restored(self._under_way, outer))
        if self._probing_blocks and begun in self._probing_blocks:
            self._probing_blocks.remove(begun)
        return begun

    async def _admit_async(self) -> Call:
        """As `Circuit.admit`, with the round trips in a thread."""
        circuit = self.circuit
        if not circuit.bound:
            await asyncio.to_thread(circuit.look)
        decided = circuit.decide(time.monotonic())
        if decided is None:
            decided = await asked(circuit)
        if isinstance(decided, Call):
            return decided
        return circuit.refuse(decided)

    # Looking and operating

    @property
    def state(self) -> State:
        """What calls meet now."""
        return self.snapshot().state

    def snapshot(self) -> Snapshot:
        """Everything about it that this process knows."""
        return self.circuit.snapshot()

    def force_open(self, reason: str, for_: float | str | None = None, *, author: str | None = None) -> None:
        """Refuse every call of the fleet, for `for_` seconds (or "10m") or until `reset`.

        Raises:
            SeawallError: Redis cannot be reached; nothing has changed.
        """
        self._force(State.FORCED_OPEN, reason, for_, author)

    def force_closed(
        self, reason: str, for_: float | str | None = None, *, author: str | None = None
    ) -> None:
        """Let every call of the fleet through, whatever happens; as `force_open`."""
        self._force(State.FORCED_CLOSED, reason, for_, author)

    def reset(self, reason: str = "", *, author: str | None = None) -> None:
        """Close it and forget what it has seen, in the fleet and in this process; ends a forced state."""
        self._force("reset", reason, None, author)
        self.circuit.reset_locally()

    def _force(self, to: str, reason: str, for_: float | str | None, author: str | None) -> None:
        if not isinstance(reason, str) or (not reason and to != "reset"):
            raise ConfigError(f"reason={shown(reason)} says nothing: write why, others will read it")
        if not isinstance(author, str | None):
            raise ConfigError(f"author={shown(author)} is no text: write who does this")
        seconds = None if for_ is None else parse_duration(for_, field="for_", least=0.001)
        place = self.circuit.place
        try:
            place.force(
                self.name, self.circuit.rules, to, for_=seconds, reason=reason, author=author or whoami()
            )
        except (RedisError, OSError) as exc:
            raise SeawallError(f"{self.name} stays as it is, Redis cannot be reached: {exc}") from exc


def whoami() -> str:
    """The author of what is done by hand here."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return f"uid {os.getuid()}"


def _short(key: str) -> str:
    """`key` as part of a name: what is too long, or more than a line, is told apart by its hash."""
    text = to_bytes(key)
    shown = text.replace(b"\n", b"_")
    if len(text) <= LONGEST_KEY and shown == text:
        return text.decode()
    return shown[: LONGEST_KEY - 12].decode(errors="ignore") + hashlib.sha256(text).hexdigest()[:12]


_registry: dict[str, Breaker] = {}


def make(name: str, options: dict[str, Any]) -> Breaker:
    """What `seawall.breaker.breaker` does."""
    check_name(name)
    config = parse(options)
    # No lock: who is interrupted inside one would leave it taken, and every other thread waiting.
    known = _registry.get(name) or _registry.setdefault(name, Breaker(name, config))
    if options and known.config != config:
        raise ConfigError(_difference(name, known.config, config))
    return known


def _difference(name: str, known: Config, given: Config) -> str:
    field = next(one.name for one in fields(Config) if getattr(known, one.name) != getattr(given, one.name))
    return (
        f"breaker({name!r}) has {field}={getattr(known, field)!r} already and is given "
        f"{getattr(given, field)!r}: configure it in one place, elsewhere write breaker({name!r})"
    )


def breakers() -> list[Breaker]:
    """Every breaker of this process, those of keys included."""
    found = []
    for one in list(_registry.values()):
        found += [one, *one._keys.values()]  # noqa: SLF001 - the same module
    return found


def is_known(name: str) -> bool:
    """Whether this process has a breaker of that name."""
    return any(one.name == name for one in breakers())


def shut_for(name: str) -> float | None:
    """Seconds for which the fleet's circuit of a breaker of this process lets no call through, or None."""
    return next((one.circuit.shut_for for one in breakers() if one.name == name), None)


def close() -> None:
    """Stop what breakers run in this process and forget what they have seen; the next call starts afresh."""
    places.use(None)
    for one in breakers():
        one.circuit.unbind()


def _after_fork() -> None:
    """Nothing a parent knew is true in its child: no lock, no count, no thread."""
    for one in breakers():
        one.circuit.unbind()
        one._probing_blocks.clear()  # noqa: SLF001 - the same module


os.register_at_fork(after_in_child=_after_fork)
