"""Submit, claim, settle, results, breakers, limits and the ledger while every way fails at random."""

import os
import random
import time
from collections import Counter
from typing import Any

import pytest

from seawall.delivery import Queues
from support import struck
from support.nodes import StartWorker, start_worker
from support.proxy import proxy
from support.recorded import Recorded, recorded
from support.strikes import Strikes
from support.struck import Producer, runs
from support.waiting import busyness, wait_until

__all__ = ["recorded", "start_worker"]

HEARD_WITHIN = 10.0


@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.timeout(2400)
def test_nothing_is_lost_or_doubled_while_every_way_is_struck(
    rounds: int,
    redis_url: str,
    start_worker: StartWorker,
    recorded: Recorded,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rounds = int(os.environ.get("STRIKES", rounds))
    seed = int(os.environ.get("STRIKES_SEED", time.time_ns() % 100_000))
    monkeypatch.setenv("STRUCK_DIRECT", redis_url)
    struck.direct.cache_clear()
    with proxy(redis_url) as way, proxy(recorded.url) as to_ledger:
        monkeypatch.setenv("SEAWALL_REDIS_URL", way.url)
        environment = {**recorded.env, "SEAWALL_REDIS_URL": way.url, "SEAWALL_DATABASE_URL": to_ledger.url}
        app = struck.create(way.url)
        start_worker("support.struck", "--concurrency=2", env=environment)
        producer, strikes = Producer(app), Strikes([way, to_ledger], random.Random(seed))  # noqa: S311
        producer.start()
        pauses = []
        try:
            for _ in range(rounds):
                strikes.strike()
                pauses.append(pause(producer))
        finally:
            producer.stopping.set()
            producer.join(60)
        with Queues.open(app.connection_for_read()) as queues:
            wait_until(lambda: is_empty(queues), timeout=60, what="everything to be worked off")
        report(seed, rounds, strikes, producer, pauses)
        judge(producer, recorded)
        app.close()


def pause(producer: Producer) -> float:
    """Seconds until something runs that was submitted from now on."""
    begun, known = time.monotonic(), len(producer.outcomes)
    after = len(runs())
    wait_until(
        lambda: len(producer.outcomes) > known + 1 and len(runs()) > after,
        timeout=40,
        what="work after a blow",
    )
    return time.monotonic() - begun


def is_empty(queues: Queues) -> bool:
    counts = queues.counts("celery")
    return (counts.ready, counts.delayed, counts.held) == (0, 0, 0)


def report(seed: int, rounds: int, strikes: Strikes, producer: Producer, pauses: list[float]) -> None:
    print(  # noqa: T201 - the account is to be seen
        f"\nseed {seed}, {rounds} rounds: {strikes.effective.total()} effective {dict(strikes.effective)}; "
        f"submitted {dict(Counter(producer.outcomes.values()))}, heard after {producer.longest:.1f} s at the "
        f"latest; work went on after {max(pauses):.1f} s at the latest",
        *producer.said,
        sep="\n",
    )


def judge(producer: Producer, recorded: Recorded) -> None:
    ran = Counter(runs())
    by_outcome: dict[str, list[str]] = {}
    for task_id, outcome in producer.outcomes.items():
        by_outcome.setdefault(outcome, []).append(task_id)
    lost = [each for each in by_outcome.get("accepted", []) if not ran[each]]
    doubled = [each for each, times in ran.items() if times > 1]
    assert (lost, doubled) == ([], [])
    assert not [each for each in by_outcome.get("refused", []) if ran[each]]
    assert producer.longest < HEARD_WITHIN + busyness()

    def rows() -> dict[str, int]:
        query = "SELECT task_id, count(*) FROM seawall.task_runs WHERE state = 'success' GROUP BY 1"
        return dict(recorded.sql(query))

    def is_complete() -> Any:
        return rows() == dict(ran)

    wait_until(is_complete, timeout=60, what="the ledger to hold each run once")
