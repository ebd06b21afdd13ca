"""The connection budget: its decision in Lua and in Python, and processes that come, go and die under it."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from seawall.cluster import Script, connect
from seawall.database import governor as governing
from seawall.database import keeper
from seawall.database.governor import Governor, Lease, base_of, decide, leases
from seawall.database.pool import Database
from seawall.errors import DatabaseUnavailable
from seawall.sections import DatabaseSettings
from support.database_load import TABLE, Load, one
from support.processes import Proc
from support.proxy import proxy
from support.waiting import wait_until

BASE = base_of("test:1")
STEPS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 12), st.sampled_from(["obeys", "slow", "dies", "leaves"])),
    max_size=30,
)


@examples(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 20), STEPS)
def test_the_script_decides_as_python_does_and_never_grants_more_than_the_budget(
    redis_url: str, budget: int, steps: Sequence[tuple[int, int, str]]
) -> None:
    script = Script("seawall.database", "lease")
    shares: dict[str, Lease] = {}
    with redis.Redis.from_url(redis_url) as client:
        client.flushall()
        for number, want, manner in steps:
            process = f"p{number}"
            before = shares.get(process, Lease(process, 0, 0, 0))
            # held is at most what was granted before; a slow process has not closed its surplus yet
            held = before.held if manner == "slow" else min(before.held, before.grant)
            others = [lease for lease in shares.values() if lease.process != process]
            grant, fair = decide(budget, process, want, others)
            answer = script(client, [BASE], [process, want, held, budget, 60_000_000, "label"])
            assert [int(value) for value in answer] == [grant, fair, budget]
            shares[process] = Lease(process, max(held, grant), grant, want)  # it opens all it may
            client.hset(  # what it opened is told with its next question; here at once
                f"{BASE}:leases",
                process,
                f"{max(held, grant)} {grant} {want} {9_000_000_000_000_000} label",
            )
            if manner in {"dies", "leaves"}:
                del shares[process]
                client.hdel(f"{BASE}:leases", process)
            assert sum(max(lease.held, lease.grant) for lease in shares.values()) <= budget


def test_all_get_their_fair_share_once_the_others_have_shrunk() -> None:
    wants = {"a": 1, "b": 10, "c": 10, "d": 10}
    shares = {"b": Lease("b", 10, 10, 10), "c": Lease("c", 6, 6, 10)}
    for _ in range(3):
        for process, want in wants.items():
            others = [lease for lease in shares.values() if lease.process != process]
            grant, _ = decide(16, process, want, others)
            shares[process] = Lease(process, grant, grant, want)
    assert {process: lease.grant for process, lease in shares.items()} == {"a": 1, "b": 5, "c": 5, "d": 5}


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    with redis.Redis.from_url(redis_url) as opened:
        yield opened


def test_a_killed_processes_share_comes_back_with_the_end_of_its_lease(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governing, "LEASE", 0.3)
    killed, heir = (Governor(lambda: client, BASE, 10, lambda: 0) for _ in range(2))
    assert killed.renew(0.0, 10, 0) == (10, governing.RENEW)
    grant, pause = heir.renew(0.0, 10, 0)
    assert (grant, pause < governing.RENEW) == (0, True)
    wait_until(lambda: heir.renew(0.0, 10, 0)[0] == 10, what="the dead process's share")


def test_a_process_that_leaves_gives_its_share_back(
    client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governing, "_FADING", 0.1)
    leaver, heir = (Governor(lambda: client, BASE, 10, lambda: 0) for _ in range(2))
    leaver.renew(0.0, 10, 0)
    leaver.leave(10)
    wait_until(lambda: heir.renew(0.0, 10, 0)[0] == 10, what="the leaver's share")
    assert leases(client, "test:1")[0] == 10


def test_redis_away_keeps_the_last_grant_and_a_newcomer_takes_one(
    client: "redis.Redis", caplog: pytest.LogCaptureFixture
) -> None:
    away = connect("redis://127.0.0.1:1/0")
    current = [client]
    old, new = (Governor(lambda: current[0], BASE, 10, lambda: 0) for _ in range(2))
    assert old.renew(0.0, 7, 0)[0] == 7
    current[0] = away
    assert [governor.renew(1.0, 7, 0)[0] for governor in (old, new)] == [7, 1]
    assert not caplog.text, "a busy machine misses one answer"
    assert [old.renew(1.0, 7, 7)[0] for _ in range(3)] == [7, 7, 7]
    assert new.renew(1.0, 7, 0)[0] == 1
    assert caplog.text.count("keeping the last grant") == 2
    current[0] = client
    assert old.renew(2.0, 3, 3)[0] == 3


def test_without_a_configured_budget_the_server_is_asked_once_for_all(client: "redis.Redis") -> None:
    asked = []

    def ask() -> int:
        asked.append(1)
        return 6

    grants = [Governor(lambda: client, BASE, None, ask).renew(0.0, 4, 0)[0] for _ in range(3)]
    assert (grants, len(asked)) == ([4, 2, 0], 1)


def governed(url: str, client: "redis.Redis", budget: int | None, size: int, **limits: Any) -> Database:
    settings = DatabaseSettings(max_connections_per_process=size, **limits)
    return Database(
        url,
        settings,
        application="governed",
        govern=lambda opened: Governor(
            lambda: client, base_of(opened.server), budget, opened.usable_connections
        ),
    )


def test_a_pool_shrinks_when_others_come_and_grows_back_when_they_leave(
    database_url: str, client: "redis.Redis"
) -> None:
    first, second = (governed(database_url, client, 4, 4) for _ in range(2))
    stop = threading.Event()

    def use(database: Database) -> None:
        while not stop.is_set():
            assert database.fetch_value("SELECT pg_sleep(0.02)::text || 'x'") == "x"

    def granted(database: Database) -> int:
        return database.stats()["granted"]

    threads = [threading.Thread(target=use, args=(first,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: first.stats()["pool_size"] == 4, what="all of the budget")
        late = [threading.Thread(target=use, args=(second,)) for _ in range(4)]
        threads += late
        for thread in late:
            thread.start()
        wait_until(lambda: (granted(first), granted(second)) == (2, 2), timeout=30, what="even shares")
        wait_until(lambda: first.stats()["pool_size"] == 2, timeout=30, what="the surplus to close")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        second.close()
    with first.connection(), first.connection(), first.connection():
        assert granted(first) >= 3
    first.close()


def test_who_gets_nothing_of_the_budget_is_told_so(database_url: str, client: "redis.Redis") -> None:
    first = governed(database_url, client, 1, 1)
    second = governed(database_url, client, 1, 1, connect_timeout=1.0)
    try:
        with (
            first.connection(),
            pytest.raises(DatabaseUnavailable, match=r"budget grants .*: raise database\.max_connections"),
        ):
            second.execute("SELECT 1")
    finally:
        first.close()
        second.close()


def test_the_end_of_an_outage_is_noticed_although_nobody_wanted_connections_meanwhile(
    database_url: str, client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    wishes: list[int] = []

    def renew(governor: Governor, now: float, want: int, held: int) -> tuple[int, float]:
        wishes.append(want)
        return original(governor, now, want, held)

    original = Governor.renew
    monkeypatch.setattr(Governor, "renew", renew)
    monkeypatch.setattr(governing, "RENEW", 0.05)
    monkeypatch.setattr(keeper, "_RECENT", 0.1)  # what was needed is forgotten during the outage
    with proxy(database_url) as way, contextlib.closing(governed(way.url, client, 4, 4)) as database:

        def answers() -> bool:
            with contextlib.suppress(DatabaseUnavailable, psycopg.OperationalError):
                return bool(database.fetch_value("SELECT 1") == 1)
            return False

        assert answers()
        way.die()
        wait_until(lambda: not answers(), what="the outage to be met")
        wishes.clear()
        wait_until(lambda: len(wishes) > 20, what="the need to be forgotten")
        way.revive()
        wait_until(answers, timeout=10, what="the end of the outage")


def test_the_default_budget_is_what_the_server_allows_less_its_reserves(database_url: str) -> None:
    database = Database(database_url)
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT current_setting('max_connections')::int").fetchone()
    assert row is not None
    assert 1 <= database.usable_connections() <= row[0] - 6


class Watch(threading.Thread):
    """Samples how many connections a load holds."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._stop_asked = threading.Event()
        self.most = self.samples = 0

    def run(self) -> None:
        query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'load'"
        with psycopg.connect(self._url, autocommit=True, application_name="watch") as connection:
            while not self._stop_asked.wait(0.02):
                row = connection.execute(query).fetchone()
                self.most = max(self.most, row[0] if row else 0)
                self.samples += 1

    def stop(self) -> None:
        self._stop_asked.set()
        self.join()


@pytest.mark.parametrize(
    ("most", "killed", "least", "threads", "budget"),
    [
        pytest.param(4, 1, 1, 5, 8, id="short"),
        pytest.param(12, 3, 3, 10, 40, id="storm", marks=pytest.mark.slow),
    ],
)
def test_a_fleet_that_grows_dies_and_shrinks_stays_within_its_budget(  # noqa: PLR0913 - the size of the storm
    *,
    database_url: str,
    redis_url: str,
    tmp_path: Path,
    most: int,
    killed: int,
    least: int,
    threads: int,
    budget: int,
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(TABLE.encode())
    orders = {"url": database_url, "threads": threads, "redis": redis_url, "budget": budget, "pause": 0.02}
    orders["limits"] = {"connect_timeout": 60.0}
    watch = Watch(database_url)
    watch.start()
    processes: list[Proc] = []
    contexts = []

    def start() -> None:
        context = one(tmp_path, len(processes), **orders)
        contexts.append(context)
        processes.append(context.__enter__())

    def rows(number: int) -> int:
        with psycopg.connect(database_url, autocommit=True) as connection:
            row = connection.execute("SELECT count(*) FROM load WHERE process = %s", (number,)).fetchone()
            return int(row[0]) if row else 0

    try:
        start()
        wait_until(lambda: rows(0) > 20, timeout=60, what="work of the first process")
        while len(processes) < most:
            start()
        wait_until(lambda: all(rows(n) > 20 for n in range(most)), timeout=120, what="work of all")
        for victim in processes[1 : killed + 1]:
            victim.destroy()
        for leaver in processes[killed + 1 : most - least + 1]:
            leaver.signal(signal.SIGTERM)
        later = time.monotonic() + governing.LEASE + 2
        with redis.Redis.from_url(redis_url) as client:
            crowded = least * (budget // most)  # what the survivors had while all were there

            def back() -> bool:
                shares = leases(client, Database(database_url).server)[1]
                satisfied = len(shares) == least and all(lease.grant >= lease.want for lease in shares)
                return (
                    time.monotonic() > later and satisfied and sum(lease.grant for lease in shares) > crowded
                )

            wait_until(back, timeout=90, what="the shares of the dead to come back")
        alive = [processes[0], *processes[most - least + 1 :]]
        seen = Load(alive).seen()
        seen += [Load.read(leaver) for leaver in processes[killed + 1 : most - least + 1]]
    finally:
        for context in contexts:
            context.__exit__(None, None, None)
        watch.stop()
    assert [each.errors for each in seen if each.errors] == []
    assert [each.wrong for each in seen if each.wrong] == []
    assert watch.samples > 50
    assert watch.most <= budget, f"{watch.most} connections in {watch.samples} samples"
