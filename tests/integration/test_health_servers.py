"""Health against real servers that are up, dead and deaf."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from seawall.health import Health, server_checks
from support.proxy import Proxy, proxy
from support.waiting import busyness, wait_until


@pytest.fixture
def proxies(redis_url: str, database_url: str) -> Iterator[dict[str, Proxy]]:
    with ExitStack() as stack:
        urls = {"redis": redis_url, "broker": redis_url, "database": database_url}
        yield {name: stack.enter_context(proxy(url)) for name, url in urls.items()}


def through(proxies: dict[str, Proxy]) -> Health:
    return Health(
        server_checks(
            redis=lambda: proxies["redis"].url,
            broker=lambda: proxies["broker"].url,
            database=lambda: proxies["database"].url,
        )
    )


def failing(health: Health) -> set[str]:
    return {each.name for each in health.ready().checks if not each.ok}


@pytest.mark.parametrize("server", ["redis", "broker", "database"])
@pytest.mark.parametrize("fail", [Proxy.die, Proxy.go_deaf], ids=["dead", "deaf"])
def test_one_lost_server_is_named_at_once_and_its_return_is_noticed(
    proxies: dict[str, Proxy], server: str, fail: Callable[[Proxy], None]
) -> None:
    health = through(proxies)
    wait_until(lambda: health.ready().ok, what="all to answer")

    fail(proxies[server])
    proxies[server].cut()

    wait_until(lambda: failing(health) == {server}, what=f"{server} alone to be missed")
    took = []
    for _ in range(20):
        began = time.monotonic()
        health.ready()
        took.append(time.monotonic() - began)
    assert min(took) < 0.05 * busyness()  # the rest is what a busy machine adds

    proxies[server].hear_again()
    proxies[server].revive()
    wait_until(lambda: health.ready().ok, what=f"{server} to be back")


def test_a_broker_that_is_the_redis_is_away_with_it(redis_url: str) -> None:
    with proxy(redis_url) as one:
        health = Health(server_checks(redis=lambda: one.url, broker=lambda: one.url))
        wait_until(lambda: health.ready().ok, what="both to answer")
        one.die()
        one.cut()
        wait_until(lambda: failing(health) == {"redis", "broker"}, what="both to be missed")
