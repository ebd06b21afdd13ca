"""Captured messages, changed at random, through real workers: each ends as one outcome."""

from pathlib import Path

import pytest
from redis import Redis

from support.fuzz import account, rabbit
from support.fuzz.capture import CORPUS
from support.fuzz.fuzzer import POOLS, Plan, fuzz
from support.rabbitmq import is_installed, node

SEEDS = {"cells": 11, "prefork": 12, "threads": 13}
_FEW, _MANY, _FEW_ON_RABBITMQ = 120, 20_000, 400


@pytest.mark.parametrize(
    "pool", [pytest.param(pool, marks=pytest.mark.slow if pool == "threads" else ()) for pool in POOLS]
)
def test_every_mutated_message_ends_as_one_outcome(redis_url: str, tmp_path: Path, pool: str) -> None:
    totals = fuzz(redis_url, tmp_path / pool, Plan(pool=pool, seed=SEEDS[pool], messages=_FEW))
    assert not totals.problems, "\n".join(totals.problems)
    assert totals.most_deaths <= account.DELIVERY_LIMIT
    with Redis.from_url(redis_url) as client:
        left = [text for _, _, text in account.Broker.read(client).unsettled()]
        assert all(map(account.waits, left)), "what waits for its moment is back in line, and nothing else"


@pytest.mark.rabbitmq
@pytest.mark.skipif(not is_installed(), reason="no RabbitMQ (apt-get install rabbitmq-server)")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("pool", POOLS)
def test_on_rabbitmq_every_mutated_message_ends_as_one_outcome(
    tmp_path: Path, redis_url: str, pool: str
) -> None:
    plan = Plan(pool=pool, seed=SEEDS[pool], messages=_FEW_ON_RABBITMQ)
    with node(tmp_path / "rabbitmq") as url:
        totals = rabbit.fuzz(url, redis_url, tmp_path / pool, plan)
    assert not totals.problems, "\n".join(totals.problems)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("pool", POOLS)
def test_many_mutated_messages_end_as_one_outcome_each(redis_url: str, tmp_path: Path, pool: str) -> None:
    totals = fuzz(redis_url, tmp_path / pool, Plan(pool=pool, seed=SEEDS[pool] + 100, messages=_MANY))
    assert not totals.problems, "\n".join(totals.problems)
    assert totals.most_deaths <= account.DELIVERY_LIMIT


def test_the_corpus_has_messages_of_every_client() -> None:
    text = CORPUS.read_text()
    for kind in (
        "stock: chord",
        "protocol 1: eta",
        "seawall: bulk",
        "worker: what follows",
        "broadcast: control",
    ):
        assert f'"kind": "{kind}"' in text
