import math
import threading
import traceback

import pytest
from redis.connection import SSLConnection

from seawall import ConfigError, limit, settings
from seawall.cluster import Packer, client, connect, micros
from seawall.urls import as_celery_reads

MOST = 1 << 53


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1.5, 1_500_000),
        (0, 0),
        (-1, -1_000_000),
        (math.inf, MOST),
        (-math.inf, -MOST),
        (1e300, MOST),
        (10**400, MOST),
    ],
)
def test_any_number_of_seconds_is_one_that_scripts_can_count(seconds: float, expected: int) -> None:
    assert micros(seconds) == expected


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="nan"):
        micros(math.nan)


@pytest.mark.parametrize("text", ["caf\udce9", "\ud83d", "a\udfff b", "caf\xe9", ""])
def test_any_text_becomes_bytes_for_a_server(text: str) -> None:
    (packed, *_) = Packer().pack("SET", text, b"value", 1, 1.5)
    assert text.encode(errors="backslashreplace") in packed


@pytest.mark.parametrize(
    "options",
    [
        "socket_timeout=abc",
        "max_connections=-1",
        "foo=bar",
        "protocol=9",
        "db=x",
        "ss=hunter2",
        "socket_timeout=hunter2",
    ],
)
def test_options_that_no_client_takes_are_refused_where_the_url_is_read(options: str) -> None:
    with pytest.raises(ConfigError, match=r"the URL of Redis has an option behind its \?") as caught:
        connect(f"redis://127.0.0.1:1/0?{options}")
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(("scheme", "secure"), [("valkey", False), ("valkeys", True), ("Valkey", False)])
def test_a_valkey_is_asked_as_a_redis(scheme: str, secure: bool) -> None:
    pool = connect(f"{scheme}://cache:1/3").connection_pool
    assert (pool.connection_kwargs["host"], pool.connection_kwargs["db"]) == ("cache", 3)
    assert issubclass(pool.connection_class, SSLConnection) is secure


def test_limits_and_breakers_of_a_url_that_no_client_takes_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", "redis://127.0.0.1:1/0?foo=bar")
    settings.cache_clear()
    client.cache_clear()
    try:
        with pytest.raises(ConfigError, match="the URL of Redis"), limit("x", 1):
            pass
        assert "seawall-limits" not in {thread.name for thread in threading.enumerate()}, "nothing is owed"
    finally:
        settings.cache_clear()
        client.cache_clear()


def test_celery_reads_the_url_of_a_valkey() -> None:
    assert as_celery_reads("valkey://a/0;valkeys://b/0") == ("redis://a/0;rediss://b/0", {})
