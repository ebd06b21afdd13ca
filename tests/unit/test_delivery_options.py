"""What delivery decides without a server."""

import json
from typing import Any

import pytest

from seawall.delivery import Options, transport_for
from seawall.delivery.claimant import Claimant
from seawall.delivery.claimed import Claimed
from seawall.delivery.envelope import unwrap, wrap
from seawall.delivery.line import Line
from seawall.delivery.server import warnings_about
from seawall.errors import ConfigError, MessageTooLarge
from support.claimants import Clock


def message(**headers: Any) -> dict[str, Any]:
    return {
        "body": "[[], {}, {}]",
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"task": "t", "id": "1", **headers},
        "properties": {"delivery_tag": "abc", "priority": 5, "delivery_info": {}},
    }


def claimed(*ids: str, queue: str = "q", history: bytes = b"") -> list[Claimed]:
    return [Claimed(queue, tag, b"{}", history) for tag in ids]


@pytest.mark.parametrize(
    ("field", "value", "fix"),
    [
        ("lease", 0, "use 100ms to 1d"),
        ("lease", "soon", "write seconds or a unit"),
        ("delivery_limit", 0, "use 1 to "),
        ("delivery_limit", True, "is not a whole number"),
        ("claim_ahead", -1, "use 0s to 1m"),
        ("max_batch", 5000, "use 1 to 1,000"),
        ("ageing", 0, "use 1ms to 24d"),
        ("max_length", {"q": 0}, "['q']=0 is out of range: use 1 to "),
        ("when_full", "drop", '"refuse", "block"'),
        ("queue_order", "random", '"weighted", "strict"'),
        ("queue_weights", {"q": 0}, "['q']=0 is out of range: use 0.001 to "),
        ("import_stock", 1, "True or False"),
    ],
)
def test_a_wrong_option_is_refused_in_one_line(field: str, value: object, fix: str) -> None:
    with pytest.raises(ConfigError, match=rf"\['{field}'\].* is .*") as refusal:
        Options.from_transport_options({"delivery": {field: value}})
    assert fix in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_an_unknown_option_of_ours_is_refused_and_kombus_are_left_alone() -> None:
    with pytest.raises(ConfigError, match=r"\['leese'\] is unknown: use lease"):
        Options.from_transport_options({"delivery": {"leese": 3}})
    assert Options.from_transport_options({"visibility_timeout": 10}) == Options()


@pytest.mark.parametrize(
    ("url", "transport"),
    [
        ("redis://h/0", "seawall.delivery:Transport"),
        ("valkey://h:1", "seawall.delivery:Transport"),
        ("rediss://h", "seawall.delivery:SecureTransport"),
        ("sentinel://a:1;sentinel://b:2", "seawall.delivery:SentinelTransport"),
        (["redis://a", "redis://b"], "seawall.delivery:Transport"),
        ("amqp://h", None),
        ("memory://", None),
    ],
)
def test_the_url_chooses_the_transport(url: str | list[str], transport: str | None) -> None:
    assert transport_for(url) == transport


def test_a_cluster_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="Redis Cluster is not supported"):
        transport_for("redis+cluster://h")


@pytest.mark.parametrize("url", ["redis+socket:///run/redis.sock", "unix:///run/redis.sock"])
def test_a_unix_socket_is_refused_and_not_left_to_the_stock_transport(url: str) -> None:
    with pytest.raises(ConfigError, match="unix sockets are not supported, let the server"):
        transport_for(url)


def test_a_retry_does_not_compete_with_its_submission_for_the_unique_key() -> None:
    assert wrap(message(unique_key="k"), level=4, limit=10_000).unique == "k"
    assert wrap(message(unique_key="k", retries=1), level=4, limit=10_000).unique == ""


@pytest.mark.parametrize(("key", "unique"), [(0, "0"), (7, "7"), ("", ""), (None, ""), (False, "")])
def test_any_value_but_none_and_false_is_a_unique_key(key: object, unique: str) -> None:
    assert wrap(message(unique_key=key), level=4, limit=10_000).unique == unique


def test_a_message_keeps_its_eta_with_the_server() -> None:
    envelope = wrap(message(eta="2030-01-01T00:00:00+00:00"), level=4, limit=10_000)
    assert envelope.id == "4abc"
    assert envelope.due == 1_893_456_000_000_000
    headers = json.loads(envelope.body)["headers"]
    assert headers["eta"] is None
    assert headers["delayed_until"] == "2030-01-01T00:00:00+00:00"


def test_a_message_over_the_limit_is_refused_with_its_size() -> None:
    with pytest.raises(MessageTooLarge, match=r"t takes \d+ bytes and max_message is 100"):
        wrap(message(), level=4, limit=100)


def test_a_redelivered_message_says_so() -> None:
    body = json.dumps(message()).encode()
    first = unwrap(Claimed("q", "4abc", body, b""))
    again = unwrap(Claimed("q", "4abc", body, b'{"strikes": 2, "events": [[1, "c", "r"]]}'))
    assert first["properties"]["delivery_tag"] == "4abc"
    assert "redelivered" not in first["properties"]["delivery_info"]
    assert again["properties"]["delivery_info"] == {
        "queue": "q",
        "redelivered": True,
        "strikes": 2,
    }


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"properties": 1}'])
def test_what_is_no_message_is_named_as_such(body: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        unwrap(Claimed("q", "4abc", body, b""))


def test_a_server_that_can_lose_messages_is_named() -> None:
    assert warnings_about({"aof_enabled": 1, "maxmemory": 0, "maxmemory_policy": "allkeys-lru"}) == []
    evicting, forgetful = warnings_about(
        {"aof_enabled": 0, "maxmemory": 1, "maxmemory_policy": "allkeys-lru"}
    )
    assert "maxmemory-policy is allkeys-lru" in evicting
    assert "appendonly is off" in forgetful


def test_only_the_last_word_about_a_message_is_sent(claimant: Claimant) -> None:
    claimant.claimed(claimed("4a", "4b"))
    claimant.started("4a")
    claimant.settle("4a", "a")
    claimant.started("4b")
    assert claimant.take_outbox() == {"q": {"4a": "a4a", "4b": "s4b"}}
    assert not claimant.settle("4a", "r")


def test_a_settlement_without_confirmation_goes_again_unless_overtaken(claimant: Claimant) -> None:
    claimant.claimed(claimed("4a", "4b"))
    claimant.started("4a")
    claimant.settle("4b", "a")
    lost = claimant.take_outbox()
    claimant.settle("4a", "a")
    claimant.put_back(lost)
    assert claimant.take_outbox() == {"q": {"4a": "a4a", "4b": "a4b"}}


@pytest.mark.parametrize(("kind", "goes_again"), [("r", False), ("d", False), ("k", False), ("a", True)])
def test_a_settlement_of_what_was_claimed_again_meanwhile_does_not_undo_that(
    claimant: Claimant, kind: str, *, goes_again: bool
) -> None:
    claimant.claimed(claimed("4a"))
    claimant.settle("4a", kind)
    lost = claimant.take_outbox()
    claimant.claimed(claimed("4a"))  # the server had done it, only its answer was lost
    claimant.put_back(lost)
    assert claimant.take_outbox() == ({"q": {"4a": f"{kind}4a"}} if goes_again else {})


def test_what_was_claimed_ahead_of_a_long_task_goes_back(claimant: Claimant, clock: Clock) -> None:
    claimant.claimed(claimed("4a", "4b"))
    assert claimant.next() == claimed("4a")[0]
    clock.now += 1
    assert claimant.give_back(lambda waited, _message: waited > 0.5) == 1
    assert claimant.take_outbox() == {"q": {"4b": "r4b"}}
    assert claimant.held == 1


def test_a_loop_that_hangs_loses_its_lease_but_a_task_inside_it_does_not(
    claimant: Claimant, clock: Clock
) -> None:
    claimant.turned()
    clock.now += 61
    found = []
    for looping, busy in [(False, False), (True, False), (True, True)]:
        claimant.looping, claimant.busy = looping, busy
        found.append(claimant.stalled)
    assert found == [False, True, False]  # without an event loop nobody can tell


def test_a_line_claims_until_nothing_is_left_and_then_waits(claimant: Claimant) -> None:
    line = Line(claimant)
    assert line.wish(room=2) == "claim"
    line.prepare(["q"], 2)
    line.accept([-1, 0, 0, [[b"4a", b"{}", b""], [], [], []]])
    assert line.wish(room=2) == ""  # first hand out what is here
    claimant.next()
    assert line.wish(room=1) == "wait"
    claimant.settle("4a", "a")
    assert line.wish(room=2) == "claim"  # it carries the settlement


def test_a_line_with_a_full_window_only_settles(claimant: Claimant, clock: Clock) -> None:
    line = Line(claimant, clock=clock)
    claimant.claimed(claimed("4a"))
    claimant.next()
    assert line.wish(room=0) == ""
    claimant.settle("4a", "r")
    clock.now += 1
    assert line.wish(room=0) == "claim"


def test_a_line_settles_early_while_something_could_be_overtaken(claimant: Claimant, clock: Clock) -> None:
    line = Line(claimant, clock=clock)
    claimant.claimed(claimed("4a", "4b"))
    claimant.next()
    claimant.settle("4a", "a")
    assert line.wish(room=1) == ""
    clock.now += claimant.options.settle_within * 0.7
    assert line.wish(room=1) == "claim"


def test_the_pace_decides_how_much_is_claimed_ahead(claimant: Claimant, clock: Clock) -> None:
    line = Line(claimant, clock=clock)
    assert line._appetite(4) == 4
    for _ in range(10):  # 2,000 a second: 40 in the 20 ms that may be claimed ahead
        claimant.worked_off += 200
        clock.now += 0.1
        wanted = line._appetite(4)
    assert 40 <= wanted <= 44
    clock.now += 60
    assert line._appetite(4) < 44
    assert line._appetite(0) == 0


@pytest.mark.parametrize("kind", ["a", "p"])
def test_what_is_acknowledged_or_parked_makes_the_pace(claimant: Claimant, clock: Clock, kind: str) -> None:
    line = Line(claimant, clock=clock)
    for number in range(5):  # 1,000 a second each time
        tags = [f"4{number}.{part}" for part in range(100)]
        claimant.claimed(claimed(*tags))
        for tag in tags:
            claimant.next()
            claimant.settle(tag, kind)
        clock.now += 0.1
        wanted = line._appetite(1)
    assert wanted > 15


def test_the_more_urgent_overtake_what_waits_and_never_make_it_more(claimant: Claimant) -> None:
    line = Line(claimant)
    claimant.claimed(claimed("8aged", "2a", "5b", "5c"))
    assert claimant.least_urgent == 8
    claimant.claimed(claimed("0x", "5d", queue="other") + claimed("1y", "2z"))
    order = [claimant.next() for _ in range(8)]
    assert [message.id for message in order if message] == ["1y", "2z", "8aged", "2a", "5b", "5c", "0x", "5d"]
    claimant.claimed(claimed("5e", "5f"))
    assert line._room_to_overtake(room=2) == 0
    claimant.next()
    assert line._room_to_overtake(room=2) == 1


def test_weights_decide_how_often_a_queue_is_first(claimant: Claimant) -> None:
    options = Options(queue_weights={"often": 9.0})
    claimant.options = options
    line = Line(claimant)
    first = [line._in_order(["often", "rarely"])[0] for _ in range(2000)]
    assert 0.85 < first.count("often") / 2000 < 0.95
    claimant.options = Options(queue_order="strict")
    assert line._in_order(["b", "a"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("asked", "server", "answered", "ahead"),
    [
        (100.0, 100.5, 101.0, 0.0),  # the clocks may be equal
        (100.0, 103.0, 100.5, 2.5),  # the server's is ahead by 2.5 to 3 seconds
        (100.0, 99.0, 160.0, -1.0),  # the answer waited for a minute, and says no more than that
    ],
)
def test_what_an_answer_proves_about_the_servers_clock_is_believed_and_no_more(
    claimant: Claimant, asked: float, server: float, answered: float, ahead: float
) -> None:
    claimant.compare_clocks(asked, server, answered)
    assert claimant.clock_ahead == pytest.approx(ahead)
