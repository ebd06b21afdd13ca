"""Fleets of real processes around one breaker, while things go wrong."""

import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from seawall.breaker.machine import Rules
from seawall.breaker.store import CHANGES, ROOT, Store
from support.breakers import Fleet, fleet
from support.delivery import Server, own_server
from support.waiting import busyness, wait_until

LEAKED = 60
"""Calls that may reach a dead dependency; the benchmark shows about 15, a loaded machine has more."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with own_server(tmp_path / "server", fsync="everysec") as found:
        yield found


@contextmanager
def healthy(server: Server, folder: Path, many: int, *, children: int = 0, **options: Any) -> Iterator[Fleet]:
    """A fleet of so many processes (or one process with so many children), all well for a while.

    One that has made few calls so far takes some failures by chance for trouble, as its rules say.
    """
    options = {"open_for": 1.0, "max_open_for": 1.0, "ramp_for": 0.2} | options
    with fleet(server.url, folder / "fleet", **options) as found:
        found.start(1 if children else many, children=children)

        def well() -> bool:
            made = Counter(entry.by for entry in found.entries("succeeded"))
            return sum(calls > 50 for calls in made.values()) >= max(many, children)

        wait_until(well, timeout=60)
        yield found


def state(server: Server) -> str:
    with server.client() as client:
        found: Any = client.hget(f"{ROOT}:dependency:state", "state")
        return found.decode() if found else ""


def listeners(server: Server) -> int:
    """How many processes hear of changes: those that are back after the server's restart."""
    with server.client() as client:
        found: Any = client.pubsub_numsub(CHANGES)
        return int(found[0][1])


def dies(found: Fleet, server: Server) -> float:
    """The dependency dies; returns when, once the cluster's circuit is open."""
    died = time.monotonic()
    found.fail(100)
    wait_until(lambda: state(server) == "open", timeout=30)
    return died


@pytest.mark.parametrize("children", [0, 8])
def test_a_dead_dependency_gets_few_calls_then_one_probe_at_a_time_and_no_stampede_when_it_is_back(
    server: Server, tmp_path: Path, children: int
) -> None:
    with healthy(server, tmp_path, 3, children=children) as found:
        died = dies(found, server)
        opened = time.monotonic()
        wait_until(lambda: found.counts(after=opened)["refused"] > 100, timeout=30)
        assert found.counts(after=died)["failed"] <= LEAKED
        wait_until(lambda: len(half_opens(found, opened)) >= 3, timeout=30)
        spans = half_opens(found, opened)
        # A probe may have failed before anybody wrote down that the circuit is half-open.
        probes = [e.at for e in found.entries("failed", after=spans[0] - 0.4, before=spans[2] - 0.4)]
        assert len(probes) == 2, "one probe in each half-open time, whichever process makes it"
        found.fail(0)
        back = time.monotonic()
        wait_until(lambda: found.counts(after=back)["succeeded"] > 100, timeout=30)
        closed = found.entries("cluster half_open closed", after=back)[0].at
        assert [e.what for e in found.entries("succeeded", after=back, before=closed - 0.01)] in (
            [],
            ["succeeded"],
        )
        found.stop()
        assert not any("Traceback" in process.output for process in found.processes)


def half_opens(found: Fleet, after: float) -> list[float]:
    """When the cluster's circuit went half-open, each once."""
    moments: list[float] = []
    for entry in found.entries("cluster open half_open", after=after):
        if not moments or entry.at - moments[-1] > 0.5:
            moments.append(entry.at)
    return moments


def test_noise_below_the_rate_trips_nothing_and_more_than_it_trips(server: Server, tmp_path: Path) -> None:
    with healthy(server, tmp_path, 3) as found:
        noisy = time.monotonic()
        found.fail(25)
        wait_until(lambda: found.counts(after=noisy)["succeeded"] > 1000, timeout=60)
        assert found.counts(after=noisy)["failed"] > 200
        assert not found.entries("cluster closed open", "process closed open")
        found.fail(60)
        wait_until(lambda: state(server) == "open", timeout=30)


def test_one_bad_host_opens_alone(server: Server, tmp_path: Path) -> None:
    with healthy(server, tmp_path, 2) as found:
        found.start(2, host="bad", bad=True)
        begun = time.monotonic()
        found.fail(0, bad=100)
        wait_until(lambda: len(found.entries("process closed open")) == 2, timeout=30)
        wait_until(lambda: found.counts(after=begun)["succeeded"] > 500, timeout=60)
        good = [e for e in found.entries("refused", after=begun) if e.by[:2] in ("p0", "p1")]
        assert good == []
        assert state(server) == "closed"


def test_a_killed_probe_holder_blocks_recovery_for_no_longer_than_its_lease(
    server: Server, tmp_path: Path
) -> None:
    with healthy(server, tmp_path, 2, call_timeout=0.5) as found:
        dies(found, server)
        with server.client() as client:
            killer = Store(client, "killed/1")
            rules = Rules(open_for=1.0, max_open_for=1.0, ramp_for=0.2, probe_for=1.5)
            # What a process leaves behind that was killed between taking a probe's lease and its call.
            wait_until(lambda: killer.ask("dependency", rules, "of the dead")[0] == "granted", timeout=30)
        found.fail(0)
        back = time.monotonic()
        wait_until(lambda: state(server) == "closed", timeout=30)
        assert time.monotonic() - back > 0.2, "nobody probed while the lease was held"


def test_a_fresh_process_makes_no_call_while_the_circuit_is_open(server: Server, tmp_path: Path) -> None:
    with healthy(server, tmp_path, 2, open_for=600, max_open_for=600) as found:
        dies(found, server)
        found.start(1)
        found.start(1, children=2)
        newcomers = [e for e in found.entries("succeeded", "failed") if e.by[:2] in ("p2", "p3")]
        assert newcomers == []


def test_while_redis_is_frozen_killed_or_emptied_calls_go_on_and_the_circuit_stays_where_it_was(
    server: Server, tmp_path: Path
) -> None:
    with healthy(server, tmp_path, 3, open_for=2.0, max_open_for=2.0) as found:
        assert server.proc is not None
        server.proc.signal(signal.SIGSTOP)
        frozen = time.monotonic()
        wait_until(lambda: found.counts(after=frozen)["succeeded"] > 1000, timeout=60)
        stalls = longest_gap(found, frozen, time.monotonic())
        assert stalls < 2.0 * busyness(), "calls do not wait for Redis"
        found.fail(100)
        wait_until(lambda: len(found.entries("process closed open", after=frozen)) == 3, timeout=30)
        found.fail(0)
        server.proc.signal(signal.SIGCONT)
        back = time.monotonic()
        wait_until(lambda: found.counts(after=back)["succeeded"] > 500, timeout=60)

        dies(found, server)
        with server.client() as client:
            client.flushall()
            flushed = time.monotonic()
            wait_until(lambda: state(server) != "", timeout=30)
        assert found.counts(after=flushed, before=flushed + 0.5)["failed"] <= 3, "still open for everybody"
        found.fail(0)
        server.kill()
        killed = time.monotonic()
        wait_until(lambda: found.counts(after=killed)["succeeded"] > 500, timeout=60)
        server.start()
        wait_until(lambda: state(server) == "closed" and listeners(server) == 3, timeout=60)
        again = time.monotonic()
        found.fail(100)
        wait_until(lambda: state(server) == "open", timeout=60)
        assert found.counts(after=again)["failed"] > 0


def longest_gap(found: Fleet, after: float, before: float) -> float:
    """The longest time for which any process made no call."""
    moments: dict[str, float] = {}
    longest = 0.0
    for entry in found.entries("succeeded", "failed", "refused", after=after, before=before):
        longest = max(longest, entry.at - moments.get(entry.by, entry.at))
        moments[entry.by] = entry.at
    return longest


def test_a_killed_worker_parent_leaves_children_that_find_their_own_way(
    server: Server, tmp_path: Path
) -> None:
    with healthy(server, tmp_path, 0, children=3) as found:
        os.kill(found.processes[0].pid, signal.SIGSTOP)  # a parent that hangs is as good as none
        hung = time.monotonic()
        wait_until(lambda: found.counts(after=hung)["succeeded"] > 4500, timeout=60)
        found.fail(100)
        wait_until(lambda: state(server) == "open", timeout=30)
        os.kill(found.processes[0].pid, signal.SIGCONT)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("percent", [20, 30])
def test_a_minute_of_noise_trips_nothing(server: Server, tmp_path: Path, percent: int) -> None:
    with healthy(server, tmp_path, 8) as found:
        found.fail(percent)
        noisy = time.monotonic()
        wait_until(lambda: time.monotonic() > noisy + 60, timeout=90)
        assert not found.entries("cluster closed open", "process closed open")
