"""The scripts on a real server do what the pure machine does."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from redis import Redis

from seawall.breaker import store
from seawall.breaker.machine import Machine, Report, Rules, State
from seawall.breaker.store import CHANGES, ROOT, Shared, Store
from seawall.cluster import MICROSECONDS, Script, connect

RULES = Rules(
    window=10, min_calls=5, open_for=4, max_open_for=32, probe_for=2, ramp_for=2, probes=2, slow_rate=0.5
)
_TIME = "redis.call('TIME')"

Step = tuple[str, Any]

reports = st.lists(
    st.builds(
        Report,
        reporter=st.sampled_from(["a/1", "a/2", "b/1"]),
        earlier=st.integers(0, 3),
        succeeded=st.integers(0, 3),
        failed=st.integers(0, 6),
        slow=st.integers(0, 2),
    ),
    min_size=1,
    max_size=3,
)
outcomes = st.sampled_from(["succeeded", "failed", "released"])
forced = st.sampled_from([State.FORCED_OPEN, State.FORCED_CLOSED])
steps: st.SearchStrategy[list[Step]] = st.lists(
    st.one_of(
        st.tuples(st.just("wait"), st.sampled_from([0.25, 1.0, 2.0, 4.0, 16.0])),
        st.tuples(st.just("report"), st.tuples(reports, st.booleans())),
        st.tuples(st.just("ask"), st.none()),
        st.tuples(st.just("finish"), st.tuples(st.integers(0, 5), outcomes)),
        st.tuples(st.just("force"), st.tuples(forced, st.sampled_from([None, 3.0]))),
        st.tuples(st.just("reset"), st.none()),
        st.tuples(st.just("sync"), st.none()),
    ),
    min_size=5,
    max_size=40,
)


@pytest.fixture
def client(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator["Redis"]:
    """A server whose clock the scripts read from a key."""
    for name in ("_report", "_ask", "_finish", "_force", "_sync"):
        script: Script = getattr(store, name)
        timed = Script(script.package, script.name)
        assert _TIME in script.text
        timed.__dict__["text"] = script.text.replace(_TIME, "redis.call('LRANGE', 'clock', 0, 1)")
        monkeypatch.setattr(store, name, timed)
    with connect(redis_url, timeout=5) as found:
        yield found


class Both:
    """The machine and the scripts, told the same."""

    def __init__(self, client: "Redis") -> None:
        self.client = client
        client.flushall()
        self.machine = Machine(RULES)
        self.store = Store(client, "me/1")
        self.now = 1000.0
        self.leases: list[tuple[str, int]] = []
        self.wait(0)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        whole = int(self.now)
        self.client.delete("clock")
        self.client.rpush("clock", whole, round((self.now - whole) * MICROSECONDS))

    def report(self, seen: tuple[list[Report], bool]) -> None:
        reports, late = seen
        epoch = self.machine.epoch - late
        self.store.report([("n", RULES, "", epoch, reports)])
        self.machine.report(self.now, epoch, reports)

    def ask(self, _: None) -> None:
        lease = f"lease{len(self.leases)}"
        answer, shared = self.store.ask("n", RULES, lease)
        assert answer == self.machine.ask(self.now, lease)
        assert shared.free == (self.machine.free(self.now) if self.machine.state is State.HALF_OPEN else 0)
        if answer == "granted":
            self.leases.append((lease, self.machine.epoch))

    def finish(self, how: tuple[int, Any]) -> None:
        number, outcome = how
        if self.leases:
            lease, epoch = self.leases[number % len(self.leases)]
            self.store.finish("n", RULES, lease, epoch, outcome)
            self.machine.finish(self.now, lease, epoch, outcome)

    def force(self, how: tuple[State, float | None]) -> None:
        to, for_ = how
        self.store.force("n", RULES, to, for_=for_, reason="why", author="who")
        self.machine.force(self.now, to, for_=for_, reason="why", author="who")

    def reset(self, _: None) -> None:
        self.store.force("n", RULES, "reset", for_=None, reason="", author="")
        self.machine.reset(self.now)

    def sync(self, _: None) -> None:
        self.machine.refresh(self.now)

    def compare(self) -> None:
        machine = self.machine
        machine.refresh(self.now)
        shared = self.store.sync([("n", RULES, "")])[0]
        assert (shared.state, shared.cause, shared.epoch) == (machine.state, machine.cause, machine.epoch)
        assert (shared.trips, shared.open_time) == (machine.trips, machine.open_time)
        assert (shared.reason, shared.author, shared.ramping) == (
            machine.reason,
            machine.author,
            machine.ramping,
        )
        if machine.state is not State.HALF_OPEN:
            assert shared.left == (None if machine.until is None else max(0, machine.until - self.now))
        score = int(self.client.hget(f"{ROOT}:n:state", "score") or 0)
        assert score == machine.score


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=steps)
def test_scripts_and_machine_agree_on_random_histories(client: "Redis", history: list[Step]) -> None:
    both = Both(client)
    for verb, argument in history:
        getattr(both, verb)(argument)
        both.compare()


def test_a_transition_is_published_with_everything_and_the_version_grows(redis_url: str) -> None:
    with connect(redis_url, timeout=5) as client, client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(CHANGES)
        heard.get_message(timeout=5)
        verbs = Store(client, "me/1")
        verbs.force("n", RULES, State.FORCED_OPEN, for_=5, reason="repair", author="ann")
        message = heard.get_message(timeout=5)
        assert message is not None
        told = Shared.read(message["data"])
        assert (told.name, told.state, told.reason, told.author) == ("n", State.FORCED_OPEN, "repair", "ann")
        assert told.left == pytest.approx(5, abs=1)
        assert (told.by, told.version, verbs.version()) == ("me/1", 1, 1)
        read = Store(client, "you/2").sync([("n", RULES, "")])[0]
        assert (read.by, read.epoch) == ("me/1", told.epoch), "also for who missed the message"


def test_every_key_has_a_time_to_live(redis_url: str) -> None:
    with connect(redis_url, timeout=5) as client:
        verbs = Store(client, "me/1")
        rules = replace(RULES, probe_for=30, open_for=0.25)
        verbs.sync([("n", rules, "")])
        verbs.report([("n", rules, "", 0, [Report(reporter="a/1", succeeded=1, failed=1)])])
        epoch = verbs.sync([("n", rules, "")])[0].epoch
        verbs.report([("n", rules, "", epoch, [Report(reporter=f"{h}/1", failed=9) for h in "ab"])])
        known = verbs.sync([("n", rules, "")])[0].text(older=1)  # as if a second had passed
        client.delete(f"{ROOT}:n:state")
        assert verbs.ask("n", rules, "lease", known=known)[0] == "granted"
        names: Any = client.keys("*")
        assert {name.decode().rpartition(":")[2] for name in names} >= {"state", "leases", "version", "names"}
        assert all(client.ttl(name) > 0 for name in names)


def test_a_server_without_memory_learns_from_who_knows_the_newest_epoch(redis_url: str) -> None:
    with connect(redis_url, timeout=5) as client:
        verbs = Store(client, "me/1")
        opened = verbs.force("n", RULES, State.FORCED_OPEN, for_=None, reason="stop", author="ann")
        client.flushall()
        again = verbs.sync([("n", RULES, opened.text(older=1))])[0]
        assert (again.state, again.epoch, again.reason) == (State.FORCED_OPEN, opened.epoch, "stop")
        older = json.loads(opened.text(older=0)) | {"epoch": str(opened.epoch - 1), "state": "closed"}
        assert verbs.sync([("n", RULES, json.dumps(older))])[0].state is State.FORCED_OPEN
        client.flushall()
        assert verbs.force("n", RULES, "reset", for_=None, reason="", author="").epoch > opened.epoch
