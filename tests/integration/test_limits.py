"""Limits on a real server: never more than n at once, and nothing stays taken."""

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.exceptions import RedisError

from seawall import ConfigError, LimitReached, identity, limit, limits
from seawall.cluster import connect
from seawall.limits import ROOT, Shares
from support.waiting import wait_until


@pytest.fixture
def url(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    own = shares_of(redis_url)
    monkeypatch.setattr(limits, "shares", lambda: own)
    yield redis_url
    own.stop()


def shares_of(url: str, lease: float = 15.0) -> Shares:
    client = connect(url, timeout=5)
    return Shares(lambda: client, lease=lease)


def test_a_full_limit_refuses_waits_if_asked_to_and_is_free_after_the_block(url: str) -> None:
    with limit("tenant:acme", 1):
        with pytest.raises(LimitReached, match="'tenant:acme' is reached: 1 at once") as refused:
            limit("tenant:acme", 1).__enter__()
        again = pickle.loads(pickle.dumps(refused.value))  # noqa: S301
        assert (again.name, again.retry_after) == ("tenant:acme", refused.value.retry_after)
        with limit("tenant:other", 1):
            pass
    with pytest.raises(KeyError), limit("tenant:acme", 1):
        raise KeyError
    with limit("tenant:acme", 1):
        pass


def test_never_more_than_n_are_inside_however_many_want_to(url: str) -> None:
    inside, most, lock = 0, 0, threading.Lock()

    @limit("busy", 3, wait="60s")
    def work(_: int) -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.005)
        with lock:
            inside -= 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(work, range(60)))
    assert most == 3
    assert limits.shares().held("busy") == 0


def test_a_killed_holders_share_is_free_within_its_lease_or_when_its_death_is_reported(url: str) -> None:
    for lease, report in ((0.5, False), (600.0, True)):
        child = os.fork()
        if child == 0:
            try:
                identity.become("worker", f"killed{lease:.0f}")
                holder = shares_of(url, lease)
                holder.take("killed", 1)
                signal.pause()
            finally:
                os._exit(1)
        watcher = shares_of(url)
        wait_until(lambda watcher=watcher: watcher.held("killed") == 1)  # type: ignore[misc]
        assert watcher.take("killed", 1)[0] == "", "renewed while it lives"
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if report:
            watcher.lost(identity.current().process)  # a namesake's end is no matter
            assert watcher.held("killed") == 1
            watcher.lost(f"killed{lease:.0f}")
        wait_until(lambda watcher=watcher: watcher.held("killed") == 0)  # type: ignore[misc]
        number, _ = watcher.take("killed", 1)
        watcher.give("killed", number)
        watcher.stop()


def test_a_living_holder_keeps_its_share_and_others_can_renew_it(url: str) -> None:
    own, other = shares_of(url, lease=0.3), shares_of(url)
    number, _ = own.take("long", 1)
    begun = time.monotonic()
    wait_until(lambda: time.monotonic() > begun + 1.0 or other.held("long") == 0)
    assert other.held("long") == 1, "three leases later"
    own.stop()
    other.renew([identity.current().process])
    assert other.held("long") == 1
    own.give("long", number)
    assert other.held("long") == 0


def test_what_cannot_be_given_back_now_is_given_back_later(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    down = connect("redis://127.0.0.1:1/0")
    up = connect(url, timeout=5)
    reachable = True
    own = Shares(lambda: up if reachable else down, lease=0.3)
    number, _ = own.take("later", 1)
    reachable = False
    own.give("later", number)
    with pytest.raises(RedisError):
        own.take("later", 1)
    reachable = True
    wait_until(lambda: own.held("later") == 0)
    own.stop()


def test_without_redis_nothing_is_let_in_and_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    down = connect("redis://127.0.0.1:1/0")
    own = Shares(lambda: down)
    monkeypatch.setattr(limits, "shares", lambda: own)
    with pytest.raises(LimitReached, match="Redis is away"), limit("x", 1):
        pass
    own.stop()


def test_a_key_that_somebody_was_refused_is_told_when_it_has_shares_free_until_nobody_waits(url: str) -> None:
    own = limits.shares()
    with connect(url) as client:
        first, _ = own.take("wanted", 2)
        assert own.take("wanted", 1)[0] == ""
        assert own.free() == [], "somebody waits, and none is free"
        assert own.give("wanted", first), "somebody waits perhaps"
        (free,) = own.free()
        assert (free.key, free.shares) == ("wanted", 1)
        own.forget(free)
        assert own.free() == [free], "who was refused a moment ago may not wait yet"
        client.hset(f"{ROOT}:wanted", "wanted", "1 0")  # refused an age ago
        own.forget(free)
        assert own.free() != [], "somebody was refused since"
        own.forget(own.free()[0])
        assert own.free() == []
        client.hset(f"{ROOT}:wanted", "wanted", "1 0")
        own.give("wanted", own.take("wanted", 1)[0])
        assert client.hlen(f"{ROOT}:wanted") == 0, "nor is it kept where nobody looks"


def test_every_key_has_a_time_to_live(url: str) -> None:
    with limit("x", 1), connect(url) as client:
        with pytest.raises(LimitReached):
            limit("x", 1).__enter__()
        names = client.keys(f"{ROOT}*")
        assert len(names) == 3
        assert all(client.ttl(name) > 0 for name in names)


@pytest.mark.parametrize(("key", "n", "message"), [("", 1, "limit key ''"), ("x", 0, "n=0")])
def test_a_wrong_argument_is_named(key: str, n: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message), limit(key, n):
        pass


def test_one_object_may_be_entered_again_and_by_several_at_once(url: str) -> None:
    several = limit("several", 2)
    inside = threading.Barrier(2, timeout=20)

    def work() -> None:
        with several:
            inside.wait()

    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            for each in [pool.submit(work) for _ in range(2)]:
                each.result()
    with several, several:
        assert limits.shares().held("several") == 2
    assert limits.shares().held("several") == 0


def test_a_wrong_argument_is_refused_before_the_first_call(url: str) -> None:
    for key, n, wait in (("", 1, 0), ("x", -1, 0), ("x", 1, "soon")):
        with pytest.raises(ConfigError):
            limit(key, n, wait=wait)


def test_a_decorated_function_that_returns_work_still_to_be_done_is_refused(url: str) -> None:
    guarded = limit("later", 1)(lambda: (number for number in range(3)))
    with pytest.raises(ConfigError, match="'later' guarded a call that returned a generator"):
        guarded()
    assert limits.shares().held("later") == 0
