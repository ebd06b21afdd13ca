"""Limits: at most so many at once, cluster-wide, for each value of a key.

Shares are leased: a holder is a process, its one lease is renewed by a thread for as long as it holds
anything, and a SIGKILLed holder's shares are free when the lease ends, or as soon as whoever watches over the
process says so (`Shares.lost`).
"""

import functools
import itertools
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from seawall import backoff, cluster, holdings, identity
from seawall.cluster import MICROSECONDS, Script, micros
from seawall.errors import ConfigError, LimitReached
from seawall.later import Block
from seawall.quantity import Whole, parse_duration, shown

__all__ = ["LEASE", "Shares", "limit", "shares"]

logger = logging.getLogger(__name__)

ROOT: Final = "seawall:{limits}"
LEASE: Final = 15.0
"""Seconds after which the shares of a process that is gone are free."""

Verb = partial(Script, __package__)

_take = Verb("take")
_give = Verb("give")
_renew = Verb("renew")
_lose = Verb("lose")
_free = Verb("free")
_forget = Verb("forget")
_count = Verb("count")


_AT_ONCE: Final = 200
_SHARES: Final = Whole(least=1)
_UNDECIDED: Final = 5.0  # seconds that somebody who was refused may take until he waits where he is found


class Free(NamedTuple):
    """A key that somebody waits for, and how many of its shares are free; `mark` is for `Shares.forget`."""

    key: str
    shares: int
    mark: str


class _Share(NamedTuple):
    """One that an attempt may hold."""

    shares: "Shares"
    key: str
    number: str

    def give_back(self) -> None:
        """Give it back."""
        self.shares.give_back(self.key, self.number)


class Shares:
    """The shares that this process holds. `shares()` is the one everybody uses."""

    def __init__(self, client: Callable[[], "Redis"] = cluster.client, *, lease: float = LEASE) -> None:
        self._client = client
        self._lease = lease
        self._holder = identity.new_name(secrets.token_hex(4))
        self._numbers = itertools.count()
        self.forget_inherited()

    def forget_inherited(self) -> None:
        """Hold nothing, and have locks that no thread of a parent's holds."""
        self._held: set[tuple[str, str]] = set()
        self._owed: set[tuple[str, str]] = set()
        self._lock: Any = threading.RLock()  # so that a thread that was interrupted in it may leave it
        self._stopping = threading.Event()
        self._keeper: threading.Thread | None = None

    def take(self, key: str, n: int) -> tuple[str, float]:
        """Take a share of `key`, of which there are `n`: its number, or "" and seconds to wait.

        Raises redis-py's errors; a share that was taken all the same is given back later.
        """
        client = self._client()  # what cannot be made has taken nothing
        number = str(next(self._numbers))
        share = _Share(self, key, number)
        holdings.note(share)
        arguments: list[Any] = [key, n, self._holder, number, micros(self._lease)]
        try:
            wait = self._ask(client, arguments)
        except BaseException as exc:
            self._keep(self._owed, key, number)
            if isinstance(exc, RedisError | OSError):  # else the attempt gives it back
                holdings.forget(share)
            raise
        if wait:
            holdings.forget(share)
            return "", wait
        self._keep(self._held, key, number)
        return number, 0.0

    @holdings.interruptible
    def _ask(self, client: "Redis", arguments: list[Any]) -> float:
        return int(_take(client, [ROOT], arguments)) / MICROSECONDS

    def give(self, key: str, number: str) -> bool:
        """Give a share back, once; if Redis is away, as soon as it is there again.

        Returns whether somebody found none free, and waits perhaps.
        """
        with self._lock:
            if (key, number) not in self._held:
                return False
        try:
            waiting = self._return(key, number)
        except (RedisError, OSError) as exc:
            logger.warning("limit %s: a share is given back later: %s", key, exc)
            waiting = True
        holdings.forget(_Share(self, key, number))
        return waiting

    def _return(self, key: str, number: str) -> bool:
        """Owed until the server has answered. Raises redis-py's errors."""
        self._keep(self._owed, key, number)
        with self._lock:
            self._held.discard((key, number))
        waiting = self._tell(key, number)
        with self._lock:
            self._owed.discard((key, number))
        return waiting

    @holdings.interruptible
    def _tell(self, key: str, number: str) -> bool:
        return bool(_give(self._client(), [ROOT], [key, self._holder, number]))

    def give_back(self, key: str, number: str) -> None:
        """After an interruption at any place of `take` or `give`: it may be held, owed, or neither."""
        holdings.unlock(self._lock)
        try:
            self._return(key, number)
        except (RedisError, OSError) as exc:
            logger.warning("limit %s: a share is given back later: %s", key, exc)

    def _keep(self, which: set[tuple[str, str]], key: str, number: str) -> None:
        """Remember a share, and have the lease renewed for as long as there is any."""
        with self._lock:
            which.add((key, number))
            if self._keeper is None or not self._keeper.is_alive():  # interrupted before it began
                self._stopping.clear()
                self._keeper = threading.Thread(target=self._run, name="seawall-limits", daemon=True)
                self._keeper.start()

    def _run(self) -> None:
        while not self._stopping.wait(self._lease / 3):
            with self._lock:
                owed = list(self._owed)
                if not self._held and not owed:
                    self._keeper = None
                    return
            try:
                _renew(self._client(), [ROOT], [micros(self._lease), self._holder])
                for key, number in owed:
                    _give(self._client(), [ROOT], [key, self._holder, number])
                    with self._lock:
                        self._owed.discard((key, number))
            except (RedisError, OSError) as exc:
                logger.warning("limits: the lease of this process cannot be renewed: %s", exc)

    def stop(self) -> None:
        """End the thread; what is held is free when its lease ends. Safe to repeat."""
        self._stopping.set()
        with self._lock:
            keeper, self._keeper = self._keeper, None
        if keeper is not None and keeper is not threading.current_thread():
            keeper.join(5)

    def held(self, key: str) -> int:
        """How many shares of `key` the cluster holds now."""
        return int(_count(self._client(), [ROOT], [key]))

    # For whoever lets go what waits

    def free(self) -> list[Free]:
        """Some of the keys that somebody waits for although shares are free: to be asked again and again."""
        found: Any = _free(self._client(), [ROOT], [_AT_ONCE])
        triples = zip(found[::3], found[1::3], found[2::3], strict=True)
        return [Free(key.decode(), int(free), mark.decode()) for key, free, mark in triples]

    def forget(self, free: Free) -> None:
        """Nobody waits for this key, it was found, except perhaps somebody refused a moment ago."""
        _forget(self._client(), [ROOT], [free.key, free.mark, micros(_UNDECIDED)])

    # For the process that watches over others

    def renew(self, processes: Sequence[str]) -> None:
        """Extend the leases of processes that are known to live, by their tokens (`seawall.identity`)."""
        if names := self._of(processes):
            _renew(self._client(), [ROOT], [micros(self._lease), *names])

    def lost(self, process: str) -> None:
        """A process is dead, by its token: its shares are free now and not when its lease ends."""
        if names := self._of([process]):
            _lose(self._client(), [ROOT], list(names))

    def _of(self, processes: Sequence[str]) -> list[str]:
        holders: Any = self._client().zrange(f"{ROOT}:holders", 0, -1)
        names = (holder.decode() for holder in holders)
        return [name for name in names if identity.process_of(name) in processes]


@functools.cache
def shares() -> Shares:
    """This process's shares; a forked child has none of its parent's."""
    return Shares()


def limit(key: str, n: int, *, wait: float | str = 0.0) -> Block[None]:
    """At most `n` blocks (or calls, as a decorator) under `key` at once, in the whole cluster.

    What it returns may be kept, and used for any number of blocks and functions.

    Args:
        key: what is limited, such as "tenant:acme".
        n: how many at once.
        wait: seconds (or "5s") to wait for a share.

    Raises:
        LimitReached: there was none in that time, or Redis could not be asked; when a block begins.
        ConfigError: an argument is wrong, or the body of a decorated function would run after its call.
    """
    if not isinstance(key, str) or not key:
        raise ConfigError(f"limit key {shown(key)} is empty: use a text such as 'tenant:acme'")
    n, patience = _SHARES.parse(n, field="n"), parse_duration(wait, field="wait")
    return Block(lambda: _holding(key, n, patience), f"limit {key!r}")


@holdings.sheltered
@contextmanager
def _holding(key: str, n: int, patience: float) -> Iterator[None]:
    own = shares()
    number = _await_share(own, key, n, patience)
    try:
        yield
    finally:
        own.give(key, number)


def _await_share(own: Shares, key: str, n: int, patience: float) -> str:
    deadline = time.monotonic() + patience
    for attempt in itertools.count(1):
        try:
            number, retry_after = own.take(key, n)
        except (RedisError, OSError) as exc:
            why = "is away" if cluster.away(exc) else "refuses"
            message = f"limit {key!r} cannot be asked for, Redis {why}: {exc}"
            raise LimitReached(message, name=key, retry_after=1.0) from exc
        if number:
            return number
        left = deadline - time.monotonic()
        if left <= 0:
            message = f"limit {key!r} is reached: {n} at once"
            raise LimitReached(message, name=key, retry_after=min(retry_after, 1.0))
        _pause(min(left, backoff.equal_jitter(backoff.exponential(attempt, base=0.01, cap=0.2))))
    raise AssertionError("unreachable")


@holdings.interruptible
def _pause(seconds: float) -> None:
    time.sleep(seconds)


def _after_fork() -> None:
    """What the parent holds is not a child's to give back, also in a block that the fork happened in."""
    if shares.cache_info().currsize:
        shares().forget_inherited()
    shares.cache_clear()


os.register_at_fork(after_in_child=_after_fork)
