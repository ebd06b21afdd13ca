"""One URL of Sentinels is enough for the broker, results and shared state; its primary may die or freeze."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from seawall import Seawall, breaker, cluster, servers, silence
from seawall.breaker import State
from seawall.config import settings
from seawall.errors import ConfigError
from seawall.health.probes import broker_answers, redis_answers
from support.nodes import StartWorker
from support.sentinels import Site, sentinels
from support.waiting import wait_until


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    with sentinels(tmp_path) as site:
        monkeypatch.setenv("SEAWALL_REDIS_URL", site.url)
        monkeypatch.setenv("SEAWALL_HOME", str(tmp_path / "unused"))
        settings.cache_clear()
        cluster.client.cache_clear()
        yield site
        servers._attachment.cache_clear()
        assert not (tmp_path / "unused").exists(), "an embedded server was started beside a named one"


def add(app: Any, number: int) -> int:
    """A task and its result, asked for again while the server is away.

    It is asked for, not waited for: a subscription to a server that stands still hears nothing.
    """

    def submitted() -> Any:
        with contextlib.suppress(OperationalError):
            return app.tasks["shop.add"].delay(number, 1)

    def ready() -> bool:
        with contextlib.suppress(RedisError):
            return bool(result.ready())
        return False

    result = wait_until(submitted, timeout=60, what="the broker")
    wait_until(ready, timeout=60, what="the result")
    return int(result.get())


@pytest.mark.parametrize("how", [pytest.param("killed", marks=pytest.mark.slow), "frozen"])
def test_tasks_results_and_shared_state_follow_the_primary(
    site: Site, start_worker: StartWorker, how: str
) -> None:
    from support import shop

    app = shop.create()
    try:
        assert "SentinelTransport" in str(app.conf.broker_transport)
        start_worker("support.shop", "--concurrency=2", env={"SEAWALL_REDIS_URL": site.url})
        assert add(app, 1) == 2
        with breaker("of-sentinels"):
            pass
        assert cluster.client().ping()
        first = site.primary
        with site.without(first, how):
            begun = time.monotonic()
            assert add(app, 2) == 3
            print(f"{how}: works again {time.monotonic() - begun:.1f} s after there is a primary")  # noqa: T201
            wait_until(_answers, timeout=20, what="shared state")
            redis_answers(site.url)
            broker_answers(site.url)
            breaker("of-sentinels").force_open("a test", for_=60)
            assert breaker("of-sentinels").state is State.FORCED_OPEN
        assert add(app, 3) == 4
    finally:
        app.close()


def test_results_wait_for_no_silent_primary_or_sentinel_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "SEAWALL_REDIS_URL", "sentinel://127.0.0.1:1;sentinel://127.0.0.1:2/0?master_name=main"
    )
    settings.cache_clear()
    app = Seawall("sentinels", set_as_current=False)
    pool: Any = app.backend.client.connection_pool  # type: ignore[attr-defined]
    assert issubclass(pool.connection_class, silence._Bounded)
    assert pool.connection_kwargs["socket_timeout"] == silence.SILENCE
    for sentinel in pool.sentinel_manager.sentinels:
        waits = sentinel.connection_pool.connection_kwargs
        assert waits["socket_timeout"] == waits["socket_connect_timeout"] == silence.SILENCE


def _answers() -> bool:
    try:
        return bool(cluster.client().ping())
    except (RedisError, OSError):
        return False


def test_a_url_that_does_not_name_its_master_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", "sentinel://127.0.0.1:26379")
    settings.cache_clear()
    with pytest.raises(ConfigError, match="master_name"):
        settings()


def test_a_broker_on_sentinel_is_the_redis_of_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "sentinel://:secret@10.0.0.1:26379;sentinel://10.0.0.2:26379/2?master_name=main"
    monkeypatch.setenv("SEAWALL_BROKER_URL", url)
    monkeypatch.delenv("SEAWALL_REDIS_URL", raising=False)
    settings.cache_clear()
    assert servers.redis_url() == url
    app = Seawall("sentinels", set_as_current=False)
    plain = "sentinel://:secret@10.0.0.1:26379;sentinel://10.0.0.2:26379/2"
    assert (app.conf.broker_url, app.conf.result_backend) == (plain, plain)
    assert app.conf.broker_transport_options["master_name"] == "main"
    assert app.conf.result_backend_transport_options["master_name"] == "main"
