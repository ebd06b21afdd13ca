"""Of several beats one sends the schedule, whatever happens to it: no run is doubled and none left out."""

import contextlib
import itertools
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from celery.beat import Scheduler
from celery.schedules import crontab, schedule
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from seawall import Seawall
from seawall.cluster import connect
from seawall.worker.beat import ROOT, schedules
from seawall.worker.beat.turn import Turn
from support.nodes import environment
from support.processes import Proc
from support.waiting import wait_until

EVERY = 90.0
BEGIN = datetime(2030, 1, 1, 12, 0, 1, tzinfo=UTC)


class Killed(BaseException):
    """A beat is dead."""


class Sea:
    """Beats of one schedule, their clock, and what they sent."""

    def __init__(self, app: Seawall, client: "Redis") -> None:
        self.app = app
        self.client = client
        self.now = BEGIN
        self.before: Callable[[], None] = lambda: None
        self.after: Callable[[], None] = lambda: None
        self._tokens = 0

    def beat(self) -> Turn:
        """A new one, with a schedule file of its own: its entries count from now."""
        self._tokens += 1
        entries = {
            "interval": schedule(EVERY, nowfun=lambda: self.now, app=self.app),
            "minute": crontab(nowfun=lambda: self.now, app=self.app),
        }
        scheduler: Any = Scheduler(self.app, lazy=True)
        for name, when in entries.items():
            scheduler.add(name=name, task=f"tides.{name}", schedule=when)
        send = scheduler.send_task

        def send_task(*args: Any, **options: Any) -> Any:
            self.before()
            result = send(*args, **{**options, "headers": {**options["headers"], "slot": f"{self.now}"}})
            self.after()
            return result

        scheduler.send_task = send_task
        turn = Turn(scheduler, "tides", lease=60.0, client=lambda: self.client, token=str(self._tokens))
        turn.install()
        return turn

    def expire(self) -> None:
        """The lease runs out."""
        self.client.hset(f"{ROOT}:lease:tides", "ends", 0)

    def slots(self, name: str) -> list[datetime]:
        """When each message of an entry was sent, in order."""
        return sorted(
            datetime.fromisoformat(each["slot"])
            for each in sent(self.client)
            if each["task"] == f"tides.{name}"
        )


def sent(client: "Redis") -> list[dict[str, Any]]:
    """The headers of all that is in line."""
    bodies: Any = client.hvals("seawall:{celery}:messages")
    return [json.loads(each)["headers"] for each in bodies]


@pytest.fixture
def sea(redis_url: str) -> Iterator[Sea]:
    with Redis.from_url(redis_url) as client:
        app = Seawall("tides", set_as_current=False)
        app.conf.update(broker_url=redis_url, result_backend="disabled://", task_ignore_result=True)
        yield Sea(app, client)
        app.close()


def run(turn: Turn) -> None:
    """Tick as Celery does until there is nothing to do now."""
    for _ in range(20):
        if turn.tick():
            return
    raise AssertionError("it has something to do for ever")


def fail(error: BaseException) -> Callable[[], None]:
    def raise_it() -> None:
        raise error

    return raise_it


def test_one_sends_and_the_others_wait(sea: Sea) -> None:
    beats = [sea.beat() for _ in range(3)]
    for _ in range(10):
        sea.now += timedelta(seconds=30)
        for each in beats:
            run(each)
    assert len(sea.slots("minute")) == 5
    assert len(sea.slots("interval")) == 3
    [row] = schedules(sea.client)
    assert (row["schedule"], row["sent by"] == row["waiting"]) == ("tides", True)
    assert (sea.now - timedelta(minutes=2)).timestamp() < row["last sent"] <= sea.now.timestamp()


def test_who_takes_over_counts_from_the_last_send_and_not_from_its_own_start(sea: Sea) -> None:
    first = sea.beat()
    run(first)
    sea.now += timedelta(seconds=80)
    second = sea.beat()
    run(second)
    sea.expire()
    sea.now += timedelta(seconds=11)
    run(second)
    assert len(sea.slots("interval")) == 1


def test_a_beat_that_ends_lets_another_send_at_once(sea: Sea) -> None:
    first, second = sea.beat(), sea.beat()
    run(first)
    first.close()
    first.close()
    sea.now += timedelta(seconds=60)
    run(second)
    assert len(sea.slots("minute")) == 1


def test_a_beat_that_was_frozen_while_it_was_about_to_send_sends_nothing(sea: Sea) -> None:
    first, second = sea.beat(), sea.beat()
    run(first)
    scheduler: Any = first._scheduler
    reserve = scheduler.reserve

    def freeze(entry: Any) -> Any:
        sea.expire()
        run(second)
        return reserve(entry)

    scheduler.reserve = freeze
    sea.now += timedelta(seconds=60)
    run(first)
    assert len(sea.slots("minute")) == 1


def test_an_entry_with_a_task_id_of_its_own_is_sent_each_time(sea: Sea) -> None:
    beat = sea.beat()
    scheduler: Any = beat._scheduler
    scheduler.schedule["minute"].options["task_id"] = "nightly"
    for _ in range(3):
        run(beat)
        sea.now += timedelta(seconds=60)
    assert len(sea.slots("minute")) == 2
    assert {each["id"] for each in sent(sea.client) if each["task"] == "tides.minute"} == {"nightly"}


@pytest.mark.parametrize("place", ["before", "after"])
def test_what_a_killed_beat_had_begun_is_there_once(sea: Sea, place: str) -> None:
    first, second = sea.beat(), sea.beat()
    run(first)
    sea.now += timedelta(seconds=60)
    setattr(sea, place, fail(Killed()))
    with pytest.raises(Killed):
        run(first)
    setattr(sea, place, lambda: None)
    sea.expire()
    run(second)
    run(second)
    assert len(sea.slots("minute")) == 1
    assert not sea.client.hexists(f"{ROOT}:lease:tides", "id")


@pytest.mark.parametrize("place", ["before", "after"])
def test_what_an_outage_interrupts_is_sent_once_after_it(sea: Sea, place: str) -> None:
    beat = sea.beat()
    run(beat)
    sea.now += timedelta(seconds=60)
    setattr(sea, place, fail(RedisConnectionError("away")))
    beat.tick()
    setattr(sea, place, lambda: None)
    run(beat)
    run(beat)
    assert len(sea.slots("minute")) == 1


def test_a_beat_without_redis_sends_nothing_and_goes_on_after_it(sea: Sea) -> None:
    beat, there = sea.beat(), sea.client
    run(beat)
    sea.now += timedelta(seconds=60)
    sea.client = connect("redis://127.0.0.1:1")
    assert beat.tick() > 0
    sea.client = there
    run(beat)
    assert len(sea.slots("minute")) == 1


@pytest.mark.parametrize(
    "seed", [*range(2), *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 50))]
)
def test_whatever_happens_to_beats_each_run_is_there_once(sea: Sea, seed: int) -> None:
    """A random history: beats are killed, frozen, stopped and cut off, also in the middle of a send."""
    chance = random.Random(seed)  # noqa: S311 - a seed of a test
    beats = [sea.beat(), sea.beat()]
    struck: Counter[str] = Counter()
    steps = 120
    for step in range(steps):
        sea.now = BEGIN + timedelta(seconds=20 * step)
        victim = chance.choice(beats)
        fault = chance.choice(["", "", "", "freeze", "stop", "cut", "kill before", "kill after", "lose"])
        if step == steps - 1:
            fault = ""
        suffer(sea, victim, fault, struck)
        if fault.startswith(("kill", "stop")):
            beats[beats.index(victim)] = sea.beat()
        if fault not in ("", "cut"):
            sea.expire()
        for each in beats:
            run(each)
    minutes = [(moment - BEGIN) // timedelta(minutes=1) for moment in sea.slots("minute")]
    assert minutes == list(range(minutes[0], minutes[0] + len(minutes)))
    assert len(minutes) == steps // 3 - 1
    intervals = sea.slots("interval")
    gaps = [later - former for former, later in itertools.pairwise(intervals)]
    assert {gap.total_seconds() for gap in gaps} <= {100.0}
    assert struck["in a send"], struck


def suffer(sea: Sea, victim: Turn, fault: str, struck: Counter[str]) -> None:
    """Let the fault hit one beat, if it can in the middle of a send."""

    def strike(error: BaseException) -> Callable[[], None]:
        def hit() -> None:
            struck["in a send"] += 1
            raise error

        return hit

    if fault == "stop":
        victim.close()
    if fault in ("kill before", "kill after"):
        setattr(sea, fault.removeprefix("kill "), strike(Killed()))
        with contextlib.suppress(Killed):
            run(victim)
    if fault == "cut":
        sea.after = strike(RedisConnectionError("away"))
        victim.tick()
    if fault == "lose":
        there, sea.client = sea.client, connect("redis://127.0.0.1:1")
        victim.tick()
        sea.client = there
    sea.before = sea.after = lambda: None


class Beats:
    """`celery beat` of one application, two or more times, each with a schedule file of its own."""

    def __init__(self, client: "Redis", redis_url: str, folder: Path) -> None:
        self.client = client
        self._env = environment(redis_url)
        self._folder = folder
        self.processes: list[Proc] = []

    def start(self, **settings: str) -> Proc:
        name = str(self._folder / f"beat{len(self.processes)}")
        argv = [
            *(sys.executable, "-m", "celery", "-A", "support.tides", "beat", "--pidfile="),
            *("--schedule", name),
        ]
        env = {**self._env, **settings}
        self.processes.append(Proc(argv, log=Path(f"{name}.log"), env=env, cwd=self._folder))
        return self.processes[-1]

    def sender(self) -> Proc:
        """Who has the lease."""

        def found() -> Proc | None:
            rows = schedules(self.client)
            return next(
                (each for each in self.processes for row in rows if row["sent by"].endswith(f":{each.pid}")),
                None,
            )

        return wait_until(found, timeout=40, what="a beat that sends")

    def count(self, proc: Proc) -> int:
        """How many messages it has sent."""
        return sum(str(each["origin"]).startswith(f"gen{proc.pid}@") for each in sent(self.client))

    def sends(self, proc: Proc) -> None:
        """Wait until it sends more than it has."""
        before = self.count(proc)
        wait_until(lambda: self.count(proc) > before + 1, timeout=40, what=f"runs sent by {proc.pid}")

    def takes_over_from(self, proc: Proc) -> None:
        wait_until(lambda: self.sender() is not proc, timeout=15, what="another beat to take over")

    def minutes(self, least: int) -> list[int]:
        """The minutes in which the entry of each minute was sent, once there are so many."""

        def found() -> list[int]:
            moments = [
                each["seawall-submitted"] for each in sent(self.client) if "minute" in each["argsrepr"]
            ]
            return sorted(int(moment // 60) for moment in moments) if len(moments) >= least else []

        return wait_until(found, timeout=90, what="the next minute")


@pytest.fixture
def beats(redis_url: str, tmp_path: Path) -> Iterator[Beats]:
    with Redis.from_url(redis_url) as client:
        made = Beats(client, redis_url, tmp_path)
        yield made
        for each in made.processes:
            each.destroy()


def test_another_beat_takes_over_from_one_that_is_frozen_or_ends(beats: Beats) -> None:
    first = beats.start(SEAWALL_BEAT__LEASE="1s")
    beats.sends(first)
    second = beats.start(SEAWALL_BEAT__LEASE="1s")
    second.wait_for(f":{first.pid} sends the schedule 'tides celery PersistentScheduler'")
    beats.sends(first)
    assert beats.count(second) == 0

    first.signal(signal.SIGSTOP)
    beats.sends(second)
    before = beats.count(first)
    first.signal(signal.SIGCONT)
    first.wait_for("beat: waits while")
    beats.sends(second)
    assert beats.count(first) == before

    second.signal(signal.SIGTERM)
    assert second.wait() == 0
    beats.sends(first)
    assert [each.output.count("waits while") for each in beats.processes] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_each_minute_is_sent_once_through_takeovers_under_the_default_lease(
    beats: Beats, end: signal.Signals
) -> None:
    """Who sends is ended, or frozen for a while, after each of four minutes."""
    beats.start()
    beats.start()
    for count in range(1, 5):
        beats.minutes(count)
        sender = beats.sender()
        sender.signal(end)
        beats.takes_over_from(sender)
        if end is signal.SIGSTOP:
            sender.signal(signal.SIGCONT)
        else:
            beats.start()
    found = beats.minutes(5)
    assert found == list(range(found[0], found[0] + len(found)))
