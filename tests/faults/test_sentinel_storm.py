"""Primaries die and freeze again and again behind real sentinels, while producers and a worker are busy.

Replication is asynchronous, so a failover may lose what the next primary had not received: this counts what
was accepted and lost. SENTINEL_ROUNDS says how often, SENTINEL_REPLICAS for how many a submission waits.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from seawall import cluster, servers
from seawall.config import settings
from seawall.delivery import Queues
from support import struck
from support.delivery import own_server
from support.nodes import StartWorker, start_worker
from support.sentinels import Site, sentinels
from support.struck import Producer, runs
from support.waiting import busyness, wait_until

__all__ = ["start_worker"]

WORKS_AGAIN_WITHIN = 30.0  # seconds from a primary's end: a sentinel takes some, and a lease is 15


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with own_server(tmp_path / "journal", fsync="no") as journal, sentinels(tmp_path) as site:
        monkeypatch.setenv("SEAWALL_REDIS_URL", site.url)
        monkeypatch.setenv("STRUCK_DIRECT", journal.url)
        settings.cache_clear()
        _forget_clients()
        yield site
        servers._attachment.cache_clear()
        _forget_clients()


def _forget_clients() -> None:
    cluster.client.cache_clear()
    struck.direct.cache_clear()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_work_goes_on_whatever_becomes_of_the_primary(
    site: Site, start_worker: StartWorker, how: str
) -> None:
    rounds = int(os.environ.get("SENTINEL_ROUNDS", "2"))
    replicas = int(os.environ.get("SENTINEL_REPLICAS", "0"))
    app = struck.create()
    app.conf.broker_transport_options |= {"delivery": {"replicas": replicas}}
    environment = {"SEAWALL_REDIS_URL": site.url, "STRUCK_DIRECT": os.environ["STRUCK_DIRECT"]}
    start_worker("support.struck", "--concurrency=2", env=environment)
    producer = Producer(app)
    pauses: list[Pause] = []
    producer.start()
    try:
        wait_until(lambda: len(runs()) > 20, timeout=60, what="work")
        for _ in range(rounds):
            pauses.append(strike(site, producer, how))
            say(f"{how}: {pauses[-1]}")
    finally:
        producer.stopping.set()
        producer.join(60)
    with Queues.open(app.connection_for_read()) as queues:
        wait_until(lambda: is_empty(queues), timeout=90, what="everything to be worked off")
    account(producer, pauses, how, replicas)
    app.close()


class Pause(NamedTuple):
    """Seconds from a primary's end until there is another, until it may write, and until work goes on."""

    elected: float
    writes: float
    works: float

    def __str__(self) -> str:
        return (
            f"primary after {self.elected:.1f} s, writes after {self.writes:.1f}, work after {self.works:.1f}"
        )


def strike(site: Site, producer: Producer, how: str) -> Pause:
    """The primary ends; it is back, as a replica, when this returns."""
    primary, begun = site.primary, time.monotonic()
    with site.without(primary, how):
        elected = time.monotonic() - begun
        wait_until(site.accepts, timeout=60, what="a replica of the next primary")
        writes = time.monotonic() - begun
        known, ran = len(producer.outcomes), set(runs())

        def goes_on() -> bool:
            assert producer.is_alive(), "its error is printed at the end"
            since = list(producer.outcomes)[known:]
            return any(each in new for each in since) if (new := set(runs()) - ran) else False

        wait_until(goes_on, timeout=WORKS_AGAIN_WITHIN, what="work with the next primary")
        works = time.monotonic() - begun
    site.revive(primary)
    return Pause(elected, writes, works)


def is_empty(queues: Queues) -> bool:
    counts = queues.counts("celery")
    return (counts.ready, counts.delayed, counts.held) == (0, 0, 0)


def account(producer: Producer, pauses: list[Pause], how: str, replicas: int) -> None:
    ran = Counter(runs())
    lost = [each for each, outcome in producer.outcomes.items() if outcome == "accepted" and not ran[each]]
    twice = [each for each, times in ran.items() if times > 1]
    outcomes = dict(Counter(producer.outcomes.values()))
    say(
        f"{how}, {len(pauses)} rounds, waiting for {replicas} replicas: submitted {outcomes}, heard after "
        f"{producer.longest:.1f} s at most; {len(lost)} accepted and lost, {len(twice)} run twice; "
        f"next primary after {shown(each.elected for each in pauses)}, which accepts after "
        f"{shown(each.writes for each in pauses)}, work after {shown(each.works for each in pauses)}: "
        f"{shown(each.works - each.writes for each in pauses)} later"
    )
    assert not [each for each, outcome in producer.outcomes.items() if outcome == "refused" and ran[each]]
    assert producer.longest < 10 + busyness()
    if replicas:
        assert not lost


def shown(figures: Iterable[float]) -> str:
    seconds = list(figures)
    return f"{sum(seconds) / len(seconds):.1f} s on average and {max(seconds):.1f} s at most"


def say(line: str) -> None:
    print(f"\n{line}", flush=True)  # noqa: T201 - the account is to be seen
