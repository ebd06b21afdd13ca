"""An exception at any line or bytecode of what takes and gives back leaves nothing taken.

Each round runs one way of taking, in an attempt, and raises at one event of the interpreter within the code
of the platform; the event is drawn, and its number printed where something is left.
"""

import contextlib
import io
import logging
import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis.client
import redis.connection
import redis.sentinel
from celery.exceptions import SoftTimeLimitExceeded
from redis import Redis
from redis.sentinel import SentinelConnectionPool, SentinelManagedConnection

import seawall
from seawall import Poisoned, breaker, cluster, holdings, limits, silence
from seawall.cluster import client
from seawall.database import nesting
from seawall.database.guarding import Guard
from seawall.database.pool import Database
from seawall.limits import limit, shares
from seawall.sections import DatabaseSettings
from support import interrupted
from support.nodes import StartWorker
from support.proxy import Proxy
from support.waiting import wait_until

PACKAGE = Path(seawall.__file__).parent
TRACED = ("database", "limits", "breaker", "silence.py")
OTHERS = (logging.__file__, redis.client.__file__, redis.connection.__file__, redis.sentinel.__file__)
KEY = "interrupted"
FAR = 0.01  # seconds to a server whose answers are not there yet when the next one asks
SLOW = pytest.mark.slow
RULES: dict[str, Any] = {
    "min_calls": 1,
    "window": 1.0,
    "open_for": 0.001,
    "max_open_for": 0.001,
    "ramp_for": 0.0,
}


class Strangers(BaseException):
    """No exception of ours."""


class Interrupter:
    """Raises at one event of this thread; counts them."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.seen = 0
        self.struck = ""
        self._at = at
        self._error = error

    def __enter__(self) -> None:
        self._report, sys.unraisablehook = sys.unraisablehook, self._pass_on
        sys.settrace(self._enter)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)
        sys.unraisablehook = self._report

    def _pass_on(self, unraisable: "sys.UnraisableHookArgs") -> None:
        """Report what nobody can catch, unless it is our own: Python drops what is raised in a destructor."""
        if unraisable.exc_value is not self._error:
            self._report(unraisable)

    def _enter(self, frame: FrameType, _event: str, _argument: object) -> Any:
        path = Path(frame.f_code.co_filename)
        ours = PACKAGE in path.parents and path.relative_to(PACKAGE).parts[0] in TRACED
        if not ours and frame.f_code.co_filename not in OTHERS:
            return None
        frame.f_trace_opcodes = True
        return self._look

    def _look(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event in {"line", "opcode"}:
            self.seen += 1
            if self.seen == self._at:
                sys.settrace(None)
                self.struck = f"{event} of {frame.f_code.co_qualname}:{frame.f_lineno}"
                raise self._error
        return self._look


def wrong_answer(server: Any) -> str:
    """What comes instead of the answer to a question, in words; nothing if it is the right one."""
    try:
        return "" if server.echo(KEY) == KEY.encode() else "an answer for somebody else"
    except Exception as exc:  # noqa: BLE001
        return repr(exc)


class Manager:
    """Stands for sentinels that know one master."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).hostname, urlsplit(url).port

    def discover_master(self, _name: str) -> tuple[str | None, int | None]:
        return self._address


def through_sentinel(url: str) -> Redis:
    """A client whose connections are those to a master that sentinels name."""
    kind = silence.bounded(SentinelManagedConnection)
    options = {**silence.parameters({}), "password": urlsplit(url).password}
    pool = SentinelConnectionPool("main", Manager(url), connection_class=kind, **options)  # type: ignore[no-untyped-call]
    return Redis(connection_pool=pool)


class World:
    """What is taken from, and whether anything is."""

    def __init__(self, url: str, redis_url: str, far_redis_url: str) -> None:
        settings = DatabaseSettings(max_connections_per_process=2, slow_query=1000)
        self.database = Database(url, settings)
        self.guarded = Database(url, settings)
        self.guard = Guard(breaker("postgres-interrupted"))
        self.guarded.guard(self.guard)
        self.probed = breaker("probed", **RULES)
        self.handler = logging.StreamHandler(io.StringIO())
        self.redis = cluster.connect(redis_url)
        self.far = cluster.connect(far_redis_url)
        self.elected = through_sentinel(far_redis_url)

    def left(self) -> list[str]:
        """What is taken now, in words."""
        found = []
        for name, database in (("database", self.database), ("guarded", self.guarded)):
            stats = database.stats()
            if stats["pool_size"] != stats["pool_available"] or stats["requests_waiting"]:
                found.append(f"{name}: {stats}")
            if nesting.connection_of(database) is not None:
                found.append(f"{name}: a transaction")
        if held := shares().held(KEY):
            found.append(f"{held} shares")
        if leases := client().keys("*leases*"):
            found.append(f"probes {leases!r}")
        if logging._lock._is_owned() or self.handler.lock._is_owned():  # type: ignore[attr-defined, union-attr]
            found.append("locks of logging")
        found += [wrong for server in (self.redis, self.far, self.elected) if (wrong := wrong_answer(server))]
        if silence.current() is not None:
            found.append("a deadline")
        if self.guard._under_way or self.probed._under_way.get() is not None:
            found.append("calls under way")
        return found

    # Ways of taking

    def fetch(self) -> None:
        self.database.fetch("SELECT 1")

    def fetch_guarded(self) -> None:
        self.guarded.fetch("SELECT 1")

    def connect(self) -> None:
        self.database.fetch("SELECT 1")

    def nest(self) -> None:
        with self.database.transaction(), self.database.connection(), self.database.transaction():
            self.database.execute("SELECT 1")

    def alter(self) -> None:
        with self.database.connection() as connection:
            connection.execute("SET statement_timeout = 1000")

    def share(self) -> None:
        with limit(KEY, 3, wait=1):
            pass

    def call(self) -> None:
        with self.probed:
            pass

    def probe(self) -> None:
        with self.probed:
            pass

    def hurry(self) -> None:
        with silence.within(silence.Deadline(1)):
            pass

    def greet(self) -> None:
        self.redis.ping()

    def greet_elected(self) -> None:
        self.elected.ping()

    def ask(self) -> None:
        self.redis.ping()

    def ask_far(self) -> None:
        self.far.ping()

    def ask_elected(self) -> None:
        self.elected.ping()

    def ask_much(self) -> None:
        with self.far.pipeline() as pipe:
            pipe.ping()
            pipe.echo("one")
            pipe.echo("two")
            pipe.execute()

    def log(self) -> None:
        logger = logging.getLogger("interrupted")
        logger.manager._clear_cache()  # type: ignore[attr-defined] # as if it were its first line
        logger.handlers, logger.propagate = [self.handler], False
        logger.warning("a line")

    def prepare(self, way: Callable[["World"], None]) -> None:
        """Have the breaker half open before it is probed, and no pool of connections before one is made."""
        if way is World.connect:
            self.database.close()
        if way is World.greet:
            self.redis.connection_pool.disconnect()
        if way is World.greet_elected:
            self.elected.connection_pool.disconnect()
        if way is World.probe:
            self.probed.reset()
            with contextlib.suppress(ConnectionError), self.probed:
                raise ConnectionError
            wait_until(lambda: self.probed.snapshot().retry_after == 0, what="the breaker to be half open")


WAYS: tuple[Callable[[World], None], ...] = (
    *(World.fetch, World.fetch_guarded, World.connect, World.nest, World.alter),
    *(World.share, World.call, World.probe, World.log, World.hurry, World.greet, World.ask),
    *(World.ask_far, World.ask_much, World.ask_elected, World.greet_elected),
)


@pytest.fixture
def world(database_url: str, redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    proxy = Proxy(redis_url)
    proxy.delay = FAR
    made = World(database_url, redis_url, proxy.url)
    yield made
    made.database.close()
    made.guarded.close()
    made.redis.close()
    made.far.close()
    made.elected.close()
    proxy.close()
    shares().stop()


def once(world: World, way: Callable[[World], None], at: int, error: BaseException) -> Interrupter:
    """One attempt, interrupted at the event with that number."""
    interrupter = Interrupter(at, error)
    world.prepare(way)
    outer = holdings.begin()
    try:
        with interrupter:
            way(world)
    except BaseException as exc:
        if not interrupter.struck:
            raise AssertionError(f"{way.__name__} failed by itself") from exc
    finally:
        sys.settrace(None)
        holdings.end(outer)
        error.__traceback__ = None  # who keeps it keeps what was under way
    return interrupter


def storm(world: World, way: Callable[[World], None], rounds: int) -> int:
    """So many rounds; how many of them struck."""
    *_, events = (once(world, way, sys.maxsize, Strangers()).seen for _ in range(3))  # the first are longer
    struck = 0
    for number in range(rounds):
        at = random.randint(1, events)  # noqa: S311 - no secret
        error = random.choice([Strangers(), SoftTimeLimitExceeded(1), ValueError("a user's own")])  # noqa: S311
        interrupter = once(world, way, at, error)
        struck += bool(interrupter.struck)
        what = (
            f"nothing to be left of {way.__name__}, round {number}, {error!r} at {at}, {interrupter.struck}"
        )
        try:
            wait_until(lambda: not world.left(), timeout=5, what=what)
        except AssertionError:
            raise AssertionError(f"{what}: {world.left()}") from None
    print(f"{way.__name__}: {struck} of {rounds} rounds struck, {events} events")  # noqa: T201
    return struck


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("rounds", [40, pytest.param(1250, marks=SLOW)])
def test_nothing_stays_taken_whatever_is_interrupted(
    world: World, way: Callable[[World], None], rounds: int
) -> None:
    assert storm(world, way, rounds) > rounds // 4


@pytest.mark.parametrize("read", [0, 1, 2])
@pytest.mark.parametrize("way", ["command", "pipeline", "transaction"])
@pytest.mark.parametrize("server", ["far", "elected"])
def test_an_answer_that_nobody_has_read_is_nobodys(
    world: World, monkeypatch: pytest.MonkeyPatch, server: str, way: str, read: int
) -> None:
    """Who asked was interrupted when he had read so many, by a server whose answers are still under way."""
    reads = iter(range(read))

    def ask(client: Any, patch: pytest.MonkeyPatch) -> None:
        parse = client.parse_response

        def parse_or_end(*arguments: Any, **options: Any) -> Any:
            if next(reads, None) is None:
                raise Strangers
            return parse(*arguments, **options)

        patch.setattr(client, "parse_response", parse_or_end)
        many = [client.echo("mine") for _ in range(3)]
        if many[0] is client:
            client.execute()

    client = getattr(world, server)
    client.ping()
    with (
        monkeypatch.context() as patch,
        pytest.raises(Strangers),
        client.pipeline(way == "transaction") as pipe,
    ):
        ask(client if way == "command" else pipe, patch)
    assert not wrong_answer(client)


@pytest.mark.parametrize(
    ("pool", "rounds"),
    [("cells", 1), pytest.param("prefork", 2, marks=SLOW), pytest.param("cells", 40, marks=SLOW)],
)
def test_tasks_that_are_interrupted_take_nothing_along(
    redis_url: str, database_url: str, start_worker: StartWorker, pool: str, rounds: int
) -> None:
    """By their soft limit, by handlers of their own, from another thread."""
    app = interrupted.create(redis_url)
    options = ["-P", "prefork"] if pool == "prefork" else []
    env = {"INTERRUPTED_DATABASE": database_url, "SEAWALL_DATABASE__MAX_CONNECTIONS_PER_PROCESS": "3"}
    start_worker("support.interrupted", "--concurrency=1", *options, env=env)

    def run(name: str, *arguments: object) -> Any:
        result: Any = app.tasks[f"interrupted.{name}"].apply_async(arguments)
        wait_until(result.ready, timeout=20, what=f"{name} {arguments}")
        return result.get(propagate=False)

    def interruptions(name: str, way: str) -> int:
        """How many there were; nobody knows it of a task whose attempts all ended in a crash of hiredis."""
        said = run(name, way, 0.6)
        assert isinstance(said, int | Poisoned), f"{name} {way}: {said!r}"
        return said if isinstance(said, int) else 0

    def taken() -> list[int]:
        said = run("left")
        assert isinstance(said, dict), f"nothing can be taken any more: {said!r}"
        return [number for number in said.values() if number]

    try:
        ends, struck = [], 0
        for _ in range(rounds):
            ends += [run("endless", way) for way in ("fetch", "share", "shelter")]
            ends += [run("wait_for_the_server")]
            for way in ("fetch", "share")[:rounds]:  # hiredis may crash: not in every run of the suite
                struck += interruptions("alarmed", way) + interruptions("stopped_from_a_thread", way)
            # hiredis may crash where it is interrupted: shares of the dead are free when their lease ends.
            wait_until(lambda: not taken(), timeout=limits.LEASE + 5, what="all to be given back")
        assert {type(end) for end in ends} == {SoftTimeLimitExceeded}
        assert struck > 4 * rounds
        print(f"{pool}: {struck} interruptions beside {len(ends)} soft limits")  # noqa: T201
    finally:
        app.close()
