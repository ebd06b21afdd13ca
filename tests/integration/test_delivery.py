"""Delivery over a real server, without workers: what each verb promises."""

import contextlib
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import Connection, Consumer, Exchange, Queue
from kombu.asynchronous import Hub

from seawall import delivery, identity
from seawall.cluster import micros
from seawall.delivery import Guardian, Queues, scripts, transport
from seawall.delivery.channel import Channel
from seawall.delivery.keeper import keeper
from seawall.errors import AlreadySubmitted, ConfigError, MessageTooLarge, QueueFull
from support.waiting import busyness, lease, wait_until

OURS = "seawall.delivery:Transport"
Connect = Callable[..., Connection]


@pytest.fixture
def connect(redis_url: str) -> Iterator[Connect]:
    opened = []

    def connect(**options: Any) -> Connection:
        connection = Connection(redis_url, transport=OURS, transport_options={"delivery": options})
        opened.append(connection)
        return connection

    yield connect
    for connection in opened:
        connection.release()


def channel_of(connection: Connection) -> Channel:
    channel = connection.channel()
    assert isinstance(channel, Channel)
    return channel


def put(connection: Connection, body: object, *, queue: str = "q", **options: Any) -> None:
    with connection.Producer() as producer:
        producer.publish(body, routing_key=queue, **options)


def get(channel: Channel, queue: str = "q") -> Any:
    return channel.basic_get(queue)


def bodies(channel: Channel, count: int, queue: str = "q") -> list[Any]:
    """The bodies of the next `count` messages, all acknowledged."""
    found: list[Any] = []
    for _ in range(count):
        message = get(channel, queue)
        assert message is not None, f"only {found}"
        found.append(message.decode())
        message.ack()
    return found


def consuming(connection: Connection, *, messages: int, window: int) -> tuple[Channel, list[Any]]:
    """A channel that may hold `window` of the messages, and those that it was handed."""
    for number in range(messages):
        put(connection, number)
    channel = channel_of(connection)
    got: list[Any] = []
    channel.basic_qos(0, window, False)  # noqa: FBT003 - kombu's
    channel.basic_consume("q", False, got.append, "tag")  # noqa: FBT003 - kombu's
    return channel, got


def test_urgent_first_and_in_order_within_a_priority(connect: Connect) -> None:
    connection = connect()
    for number in range(30):
        put(connection, number, priority=number % 10)
    expected = sorted(range(30), key=lambda number: (-(number % 10), number))
    assert bodies(channel_of(connection), 30) == expected


def test_a_returned_message_keeps_its_place(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    for number in range(3):
        put(connection, number)
    message = get(channel)
    message.requeue()
    wait_until(lambda: channel._size("q") == 3)
    assert bodies(channel, 3) == [0, 1, 2]


def test_the_oldest_passes_more_urgent_ones_once_it_has_aged(connect: Connect) -> None:
    connection = connect(ageing=0.05, ageing_share=5)
    channel = channel_of(connection)
    put(connection, "old", priority=1)
    waited = Queues(channel.redis)
    wait_until(lambda: (waited.counts("q").oldest or 0) > 0.06)
    for _ in range(20):
        put(connection, "new", priority=9)
    assert "old" in bodies(channel, 6)


def test_without_ageing_only_priority_counts(connect: Connect) -> None:
    connection = connect(ageing=None)
    channel = channel_of(connection)
    put(connection, "low", priority=1)
    for _ in range(20):
        put(connection, "high", priority=9)
    assert bodies(channel, 20) == ["high"] * 20


def test_a_delayed_message_comes_when_it_is_due_and_waits_in_the_server(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    due = time.time() + 0.3
    put(connection, "later", headers={"eta": datetime.fromtimestamp(due, UTC).isoformat()})
    assert get(channel) is None
    assert Queues(channel.redis).counts("q").delayed == 1
    message = wait_until(lambda: get(channel))
    assert time.time() >= due
    assert message.headers["eta"] is None


def test_an_idle_consumer_is_woken_when_a_delay_ends(connect: Connect) -> None:
    connection = connect()
    late: list[float] = []
    due = time.time() + 0.4
    with connection.SimpleQueue("q") as queue:
        queue.put("later", headers={"eta": datetime.fromtimestamp(due, UTC).isoformat()})
        queue.get(timeout=5).ack()
        late.append(time.time() - due)
    assert (
        0 <= late[0] < busyness()
    )  # the benchmark says how late; without the wake-up it would be the next poll


def test_a_dead_consumers_messages_are_back_within_its_lease(connect: Connect) -> None:
    silent, living = connect(lease=0.5), connect(lease=0.5)
    put(living, "kept")
    channel = channel_of(silent)
    assert get(channel) is not None
    assert channel.claimant is not None
    channel.claimant.left = True  # the keeper forgets it, as if its process were gone
    queues = Queues(channel.redis)
    wait_until(lambda: queues.counts("q").held == 0, timeout=1.5, what="an end without anybody who claims")
    assert queues.counts("q").ready == 1
    other = channel_of(living)
    message = wait_until(lambda: get(other), timeout=1.5)
    assert message.delivery_info["redelivered"] is True
    assert message.delivery_info["strikes"] == 0


def test_a_message_that_was_given_up_while_its_task_still_ran_is_no_dead_letter_once_it_ended(
    connect: Connect,
) -> None:
    connections = [connect(lease=lease(0.3), delivery_limit=1) for _ in range(3)]
    put(connections[0], "slow")
    for connection in connections[:2]:  # lost once, it is a suspect, and the second time it is charged
        channel = channel_of(connection)
        message = wait_until(lambda channel=channel: get(channel), timeout=5)  # type: ignore[misc]
        delivery.started(message)
        assert channel.claimant is not None
        channel.claimant.flush()
        channel.claimant.left = True  # the keeper forgets it: its machine stands still
    last, queues = channel_of(connections[2]), Queues(channel.redis)
    wait_until(lambda: get(last) or queues.counts("q").dead == 1, timeout=5, what="a dead letter")
    assert channel.claimant is not None
    message.ack()
    channel.claimant.flush()
    assert (queues.counts("q").dead, queues.dead("q")) == (0, [])


def test_a_claim_from_a_queue_with_nothing_special_asks_the_server_few_questions(connect: Connect) -> None:
    """The best round counts: on a busy machine an acknowledgement may go before the next claim."""
    connection = connect(import_stock=False)
    channel, many, rounds = channel_of(connection), 50, 10
    for number in range(rounds * many + 1):
        put(connection, number)
    bodies(channel, 1)
    found = []
    for _ in range(rounds):
        channel.redis.config_resetstat()
        bodies(channel, many)
        calls = {name: stat["calls"] for name, stat in channel.redis.info("commandstats").items()}
        found.append((calls["cmdstat_evalsha"], sum(calls.values())))
    claims, questions = min(found)
    assert claims <= many + 5, "an acknowledgement travels with the next claim"
    assert questions / claims < 19, found


def test_a_held_message_stays_held_for_as_long_as_its_consumer_lives(connect: Connect) -> None:
    kept = lease(0.6)
    connection, other = connect(lease=kept), connect(lease=kept)
    put(connection, "long")
    message = get(channel_of(connection))
    waiting = channel_of(other)
    begun, long = time.monotonic(), 3.3 * kept
    wait_until(lambda: get(waiting) or time.monotonic() - begun > long)
    assert time.monotonic() - begun > long
    message.ack()
    wait_until(lambda: Queues(waiting.redis).counts("q").held == 0)


def test_closing_a_channel_gives_back_what_is_not_settled(connect: Connect) -> None:
    connection, other = connect(), connect()
    put(connection, "mine")
    channel = channel_of(connection)
    assert get(channel) is not None
    channel.close()
    counts = Queues(channel_of(other).redis).counts("q")
    assert (counts.ready, counts.held) == (1, 0)
    assert Queues(channel_of(other).redis).consumers("q") == {}


def test_an_acknowledgement_survives_the_loss_of_its_connection(connect: Connect) -> None:
    connection, other = connect(lease=5), connect()
    put(connection, "running")
    message = get(channel_of(connection))
    connection.collect()  # what kombu and Celery do with a broken connection
    queues = Queues(channel_of(other).redis)
    assert queues.counts("q").held == 1
    message.ack()
    wait_until(lambda: queues.counts("q").held == 0)
    assert queues.counts("q").ready == 0
    wait_until(lambda: queues.consumers("q") == {})


@pytest.mark.parametrize("leave", ["cancel", "close"])
def test_who_leaves_while_an_acknowledgement_travels_does_not_give_the_message_back(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, leave: str
) -> None:
    connection, other = connect(settle_within=60.0), channel_of(connect())
    put(connection, "once")
    channel = channel_of(connection)
    channel.basic_consume("q", False, lambda _message: None, "tag")  # noqa: FBT003 - kombu's
    message = get(channel)
    leaver = threading.Thread(
        target={"cancel": lambda: channel.basic_cancel("tag"), "close": channel.close}[leave]
    )
    copies: list[Any] = []
    settle = scripts.settle

    def settle_late(*args: Any) -> Any:
        leaver.start()
        leaver.join(0.5)  # until it has left, which it must not
        copies.append(get(other))
        return settle(*args)

    monkeypatch.setattr(scripts, "settle", settle_late)
    message.ack()
    channel.flush()
    leaver.join(10)
    monkeypatch.undo()
    assert copies == [None]
    counts = Queues(other.redis).counts("q")
    assert (counts.ready, counts.held) == (0, 0)


def test_what_is_forgotten_after_a_lost_connection_goes_back(connect: Connect) -> None:
    connection, other = connect(lease=5), connect()
    put(connection, "forgotten")
    message = get(channel_of(connection))
    connection.collect()
    del message
    queues = Queues(channel_of(other).redis)
    wait_until(lambda: queues.counts("q").ready == 1)


def test_a_claim_whose_answer_was_lost_is_reconciled(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    put(connection, "known")
    put(connection, "leaked")
    assert get(channel) is not None
    claimant = channel.claimant
    assert claimant is not None
    assert get(channel) is not None
    leaked = next(tag for tag in reversed(claimant._held))
    claimant._held.pop(leaked)
    claimant.reconcile()
    counts = Queues(channel.redis).counts("q")
    assert (counts.ready, counts.held) == (1, 1)


def test_a_running_message_that_was_restored_is_taken_again(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    put(connection, "running")
    message = get(channel)
    claimant = channel.claimant
    assert claimant is not None
    channel.redis.delete(f"seawall:{{q}}:held:{claimant.name}")
    channel.redis.zadd("seawall:{q}:ready", {message.delivery_tag: 5.0})
    claimant.reconcile()
    counts = Queues(channel.redis).counts("q")
    assert (counts.ready, counts.held) == (0, 1)


@pytest.mark.parametrize("by_now", ["in line", "given up"])
def test_who_was_taken_for_lost_and_lives_takes_again_what_nobody_else_has(
    connect: Connect, by_now: str
) -> None:
    connection, other = connect(lease=0.3), channel_of(connect())
    put(connection, "first")
    put(connection, "second")
    channel = channel_of(connection)
    messages = [wait_until(lambda: get(channel)) for _ in range(2)]
    for message in messages:
        delivery.started(message)
    claimant = channel.claimant
    assert claimant is not None
    claimant.flush()
    keeper.discard(claimant)  # as if this process stood still
    taken = wait_until(lambda: get(other))
    left = next(each.delivery_tag for each in messages if each.delivery_tag != taken.delivery_tag)
    if by_now == "given up":
        other.redis.zrem("seawall:{q}:suspects", left)
        other.redis.zadd("seawall:{q}:dead", {left: time.time() * 1e6})
    claimant.upkeep()
    counts = Queues(other.redis).counts("q")
    assert (counts.ready, counts.held, counts.dead) == (0, 2, 0)
    assert other.redis.hkeys(f"seawall:{{q}}:held:{claimant.name}") == [left.encode()]
    assert b'"suspect"' not in (other.redis.hget("seawall:{q}:history", left) or b"")


def test_a_late_acknowledgement_cancels_a_restored_copy(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    put(connection, "done")
    message = get(channel)
    claimant = channel.claimant
    assert claimant is not None
    channel.redis.delete(f"seawall:{{q}}:held:{claimant.name}")
    channel.redis.zadd("seawall:{q}:ready", {message.delivery_tag: 5.0})
    message.ack()
    claimant.flush()
    assert Queues(channel.redis).counts("q").ready == 0
    assert not channel.redis.exists("seawall:{q}:messages")


def test_strikes_lead_to_the_dead_letters_with_their_history(connect: Connect) -> None:
    connection = connect(delivery_limit=2)
    channel = channel_of(connection)
    heard: list[Any] = []

    def listen(**fields: Any) -> None:
        heard.append(fields)

    delivery.poisoned.connect(listen)
    put(connection, "bad", headers={"task": "t", "id": "1"})
    for _ in range(2):
        message = wait_until(lambda: get(channel))
        delivery.started(message)
        assert delivery.strike(message, "signal 9")
    queues = Queues(channel.redis)
    wait_until(lambda: queues.counts("q").dead == 1)
    (letter,) = queues.dead("q")
    assert [reason for _, _, reason in letter.history] == ["signal 9", "signal 9"]
    assert letter.message["headers"]["id"] == "1"
    wait_until(lambda: heard)
    assert heard[0]["queue"] == "q"
    assert queues.revive("q", [letter.id]) == 1
    assert bodies(channel, 1) == ["bad"]


def test_a_message_that_cannot_be_read_is_a_dead_letter(connect: Connect, redis_url: str) -> None:
    connection = connect()
    channel = channel_of(connection)
    with connection.SimpleQueue("q") as queue:
        with redis.Redis.from_url(redis_url) as client:
            client.hset("seawall:{q}:messages", "5x", "no json")
            client.zadd("seawall:{q}:ready", {"5x": 1.0})
        queue.put("fine")
        message = queue.get(timeout=5)
        assert message.decode() == "fine"
        message.ack()
    queues = Queues(channel.redis)
    wait_until(lambda: queues.counts("q").dead == 1)
    assert "cannot be read" in queues.dead("q")[0].history[0][2]
    assert queues.discard("q", ["5x"]) == 1


def test_a_message_can_be_deferred_without_cost(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    put(connection, "not yet")
    begun = time.monotonic()
    assert delivery.defer(get(channel), 0.3)
    message = wait_until(lambda: get(channel))
    assert time.monotonic() - begun > 0.29
    assert "redelivered" not in message.delivery_info


def park_four(connection: Any, channel: Any) -> None:
    for number in range(4):
        put(connection, number)
        delivery.park(get(channel), "payments")


def test_parked_messages_wait_for_their_dependency(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    park_four(connection, channel)
    assert channel.claimant is not None
    channel.claimant.flush()
    queues = Queues(channel.redis)
    assert queues.counts("q").parked == {"payments": 4}
    assert get(channel) is None
    assert queues.release("q", "payments") == 4
    assert bodies(channel, 4) == [0, 1, 2, 3]
    assert queues.counts("q").parked == {}


def test_parked_messages_go_one_by_one_with_what_is_sent_anyway(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    park_four(connection, channel)
    assert not delivery.let_go("another", "payments"), "nobody here takes part in it"
    assert delivery.let_go("q", "payments")
    assert delivery.let_go("q", "payments")
    assert bodies(channel, 2) == [0, 1]
    assert get(channel) is None
    assert Queues(channel.redis).counts("q").parked == {"payments": 2}
    channel.close()
    assert not delivery.let_go("q", "payments")


def test_a_release_can_be_spread_over_time(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    for number in range(10):
        put(connection, number)
        delivery.park(get(channel), "d")
    assert channel.claimant is not None
    channel.claimant.flush()
    queues = Queues(channel.redis)
    begun = time.monotonic()
    assert queues.release("q", "d", rate=20) == 10
    last = [wait_until(lambda: get(channel)) for _ in range(10)]
    assert time.monotonic() - begun > 0.4
    for message in last:
        message.ack()


def test_a_unique_submission_is_refused_while_its_key_is_taken(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    headers = {"unique_key": "invoice-1", "unique_for": 0.3, "id": "first"}
    put(connection, 1, headers=headers)
    with pytest.raises(AlreadySubmitted, match="invoice-1 is taken by first") as refusal:
        put(connection, 2, headers=headers)
    assert refusal.value.task_id == "first"
    put(connection, 3, headers=headers | {"unique_key": "invoice-2"})
    wait_until(lambda: not channel.redis.exists("seawall:{q}:unique:invoice-1"))
    put(connection, 4, headers=headers)
    assert bodies(channel, 3) == [1, 3, 4]


def test_a_full_queue_refuses(connect: Connect) -> None:
    connection = connect(max_length={"q": 2})
    put(connection, 1)
    put(connection, 2)
    with pytest.raises(QueueFull, match="queue q holds 2 messages and max_length is 2"):
        put(connection, 3)
    put(connection, 3, queue="other")


def test_a_full_queue_can_block_until_there_is_room(connect: Connect) -> None:
    connection = connect(max_length=1, when_full="block", block_for=0.3)
    put(connection, 1)
    begun = time.monotonic()
    with pytest.raises(QueueFull):
        put(connection, 2)
    assert time.monotonic() - begun >= 0.3


def test_a_blocked_producer_goes_on_when_there_is_room(connect: Connect) -> None:
    connection, other = connect(max_length=1, when_full="block", block_for=30), connect()
    put(connection, 1)
    producer = threading.Thread(target=put, args=(connection, 2), name="producer")
    producer.start()
    channel = channel_of(other)
    assert bodies(channel, 1) == [1]
    second = wait_until(lambda: get(channel))
    assert second.decode() == 2
    producer.join(10)
    assert not producer.is_alive()


def test_strict_order_empties_the_first_queue_first(connect: Connect) -> None:
    connection = connect(queue_order="strict")
    channel = channel_of(connection)
    for number in range(3):
        put(connection, f"second {number}", queue="second", priority=9)
        put(connection, f"first {number}", queue="first", priority=1)
    claimant, line = channel._consume()
    claimant.serve(["first", "second"])
    keys, arguments = line.prepare(["first", "second"], 4)
    line.accept(scripts.claim(claimant.client, keys, arguments))
    taken = [claimant.next() for _ in range(4)]
    assert [message.queue for message in taken if message] == ["first"] * 3 + ["second"]


def test_an_urgent_message_overtakes_what_was_claimed_before_it(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    for number in range(3):
        put(connection, number, priority=3)
    claimant, line = channel._consume()
    claimant.serve(["q"])

    def claim(wanted: int, *, below: int = 10) -> None:
        keys, arguments = line.prepare(["q"], wanted, below=below)
        line.accept(scripts.claim(claimant.client, keys, arguments))

    claim(3)
    for priority in (3, 9, 2):
        put(connection, f"late {priority}", priority=priority)
    claim(3, below=claimant.least_urgent)
    assert claimant.ahead == 4
    order = [claimant.next() for _ in range(4)]
    assert [message.level for message in order if message] == [0, 6, 6, 6]
    assert Queues(channel.redis).counts("q").ready == 2


def test_many_that_are_due_at_one_moment_come_in_order_and_in_small_steps(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    put(connection, "template", headers={"eta": "2100-01-01T00:00:00+00:00"})
    channel.queue_purge("q")
    message = channel.prepare_message("due", headers={"eta": time.time()})
    envelopes = []
    for number in range(1200):
        message["properties"] = {"delivery_tag": f"{number:04d}", "delivery_info": {}}
        envelopes.append(channel.envelope(message))
    due = time.time() + 0.5  # from here on it is one command
    channel.submit("q", [envelope._replace(due=micros(due)) for envelope in envelopes])
    wait_until(lambda: time.time() > due)
    queues = Queues(channel.redis)
    first = get(channel)
    assert queues.counts("q").delayed == 700  # one claim moves 500 and holds the server up no longer
    tags = [first.delivery_tag, *(get(channel).delivery_tag for _ in range(1199))]
    assert tags == sorted(tags)
    assert get(channel) is None


def test_a_large_message_is_refused(connect: Connect) -> None:
    with pytest.raises(MessageTooLarge, match="max_message is 1000"):
        put(connect(max_message=1000), "x" * 2000)


def test_a_paused_queue_gives_nothing_and_others_do(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    queues = Queues(channel.redis)
    with connection.SimpleQueue("q"):
        put(connection, 1)
        put(connection, 2, queue="other")
        queues.pause("q")
        assert queues.counts("q").paused
        assert get(channel) is None
        assert bodies(channel, 1, "other") == [2]
        queues.resume("q")
        assert bodies(channel, 1) == [1]
        put(connection, 3)
        queues.pause()
        assert get(channel) is None
        queues.resume()
        assert bodies(channel, 1) == [3]


def test_messages_of_stock_publishers_are_imported(connect: Connect, redis_url: str) -> None:
    with Connection(redis_url, transport="redis") as stock, stock.Producer() as producer:
        for number in range(3):
            producer.publish(number, routing_key="q", priority=0)
        producer.publish("nine", routing_key="q", priority=9)
    assert bodies(channel_of(connect()), 4) == ["nine", 0, 1, 2]


def test_counting_and_purging_see_what_waits(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    for number in range(5):
        put(connection, number)
    put(connection, "later", headers={"eta": "2100-01-01T00:00:00+00:00"})
    held = get(channel)
    assert channel._size("q") == 5
    assert channel.queue_purge("q") == 5
    assert channel._size("q") == 0
    held.requeue()
    wait_until(lambda: channel._size("q") == 1)


def test_counting_and_purging_see_what_stock_publishers_left(connect: Connect, redis_url: str) -> None:
    connection = connect()
    channel = channel_of(connection)
    queues = Queues(channel.redis)
    for purge in (channel.queue_purge, queues.purge):
        with Connection(redis_url, transport="redis") as stock, stock.Producer() as producer:
            for priority in (0, 3, 9):
                producer.publish("left", routing_key="q", priority=priority)
        put(connection, "ours")
        assert channel._size("q") == queues.counts("q").ready == 4
        assert purge("q") == 4
        assert channel._size("q") == queues.counts("q").ready == 0
        assert get(channel) is None


def test_what_stock_publishers_left_is_not_counted_where_nobody_imports_it(
    connect: Connect, redis_url: str
) -> None:
    with Connection(redis_url, transport="redis") as stock, stock.Producer() as producer:
        producer.publish("left", routing_key="q")
    connection = connect(import_stock=False)
    channel = channel_of(connection)
    with Queues.open(connection) as queues:
        assert queues.counts("q").ready == queues.purge("q") == 0
    assert channel._size("q") == channel.queue_purge("q") == 0
    assert bodies(channel_of(connect()), 1) == ["left"]


def test_deleting_a_queue_leaves_no_key(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    with connection.SimpleQueue("gone") as queue:
        queue.put(1)
        queue.queue.delete()
    wait_until(lambda: not channel.redis.keys("seawall:{gone}*"))


def test_a_binary_body_travels(connect: Connect) -> None:
    connection = connect()
    put(connection, b"\x00\xff", content_type="application/data", content_encoding="binary")
    message = get(channel_of(connection))
    assert message.body == b"\x00\xff"
    message.ack()


def test_a_retried_submission_is_in_line_once(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    message = channel.prepare_message("once", properties={"delivery_mode": 2})
    for _ in range(2):  # kombu repeats a publish whose confirmation was lost
        channel.basic_publish(message, "", "q")
    assert channel._size("q") == 1


def test_a_connection_that_was_cut_while_nobody_used_it_is_replaced(connect: Connect) -> None:
    connection = connect()
    channel, got = consuming(connection, messages=2, window=1)
    connection.drain_events(timeout=5)
    assert not channel._in_poll, "nothing is asked while the window is full"
    channel.client.connection._sock.shutdown(socket.SHUT_RDWR)  # what a restarted server looks like from here
    got[0].ack()
    connection.drain_events(timeout=5)
    assert [message.body for message in got] == [b"0", b"1"]
    channel.close()


def test_who_does_not_listen_for_long_hears_what_came_meanwhile(connect: Connect) -> None:
    connection = connect(lease=lease(3.0))  # of which a server may say nothing for a third
    channel, got = consuming(connection, messages=0, window=1)
    with pytest.raises(TimeoutError):
        connection.drain_events(timeout=0.1)
    put(connect(), 0)
    wait_until(lambda: channel.line and channel.line.overdue, what="nobody to have listened for long")
    connection.drain_events(timeout=5)
    assert [message.body for message in got] == [b"0"]
    channel.close()


def test_no_message_is_handed_out_beyond_the_window(connect: Connect) -> None:
    connection = connect()
    channel, got = consuming(connection, messages=10, window=3)

    def drain() -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                connection.drain_events(timeout=0.2)

    drain()
    assert len(got) == 3
    got[0].ack()
    drain()
    assert len(got) == 4
    channel.close()


def test_what_a_busy_process_has_not_started_is_recalled_only_while_it_is_busy(connect: Connect) -> None:
    connection, guardian = connect(), Guardian(connect())
    for number in range(3):
        put(connection, number, queue="long")
        put(connection, number, queue="other")
    channel = channel_of(connection)
    working, *_ = [get(channel, queue) for queue in ("long", "long", "other")]

    def recall(done: str = "") -> int:
        return guardian.recall(
            ["long", "other"],
            identity.current().process,
            queue="long",
            tag=working.delivery_tag,
            done=[done],
        )

    finished = get(channel, "other")
    finished.ack()  # and the server has not heard of it
    assert recall(done=finished.delivery_tag) == 2
    counts = Queues(channel.redis).counts("long")
    assert (counts.ready, counts.held) == (2, 1)
    assert get(channel, "other") is not None
    working.ack()
    channel.flush()
    assert recall() == 0  # what it holds now, it may have begun
    assert Queues(channel.redis).counts("other").held == 1
    guardian.close()


def test_a_namesake_is_neither_renewed_nor_settled(connect: Connect) -> None:
    """Of the same host name and pid, as in containers: only the token that was given tells them apart."""
    connection, guardian = connect(lease=0.5), Guardian(connect(lease=0.5))
    put(connection, "kept")
    before = identity.current()
    try:
        channel = channel_of(connection)
        message = get(channel)
    finally:
        identity.become(identity.token(), identity.token())  # whoever comes after it
    assert channel.claimant is not None
    channel.claimant.left = True  # its process is gone: nobody renews for it
    own, stranger = identity.current().process, before.process
    queues = Queues(channel.redis)
    guardian.estate(["q"], own).distribute()
    assert guardian.estate(["q"], own).message("q", message.delivery_tag) is None
    assert queues.counts("q").held == 1
    other = channel_of(connect(lease=0.5))

    def back() -> bool:
        guardian.renew(["q"], [own])
        return get(other) is not None

    wait_until(back, timeout=5, what="the lease of the dead one to end, whatever its namesake renews")
    assert stranger != own
    guardian.close()


def test_what_a_claim_under_way_brings_is_given_back_with_the_rest(connect: Connect) -> None:
    connection = connect()
    channel, got = consuming(connection, messages=3, window=3)
    cycle: Any = channel.connection.cycle
    cycle._register_BRPOP(channel)
    assert channel.unstarted == 1
    wait_until(lambda: Queues(channel.redis).counts("q").held == 3)
    channel.give_back()
    assert channel.unstarted == 0
    channel.flush()
    assert not got
    assert Queues(channel.redis).counts("q").ready == 3


def test_a_child_that_closes_what_it_inherited_leaves_its_parent_connected(connect: Connect) -> None:
    connection = connect()
    got: list[Any] = []
    with connection.Consumer(Queue("q", auto_delete=True), on_message=got.append):
        put(connection, "before")
        connection.drain_events(timeout=5)
        if (pid := os.fork()) == 0:
            connection.transport.close_connection(connection)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        got.pop().ack()
        put(connection, "after")
        connection.drain_events(timeout=5)
        assert got.pop().decode() == "after"


def test_a_listener_whose_connection_a_child_still_holds_can_be_replaced(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect()
    hub = Hub()
    monkeypatch.setattr(transport, "_looping_in", None)  # or later tests wait for their servers as workers do
    connection.register_with_event_loop(hub)
    loop = hub.create_loop()
    held, released = os.pipe()
    heard: list[Any] = []

    def listen() -> Any:
        channel = channel_of(connection)
        queue = Queue(uuid.uuid4().hex, Exchange("said", type="fanout"), auto_delete=True)
        Consumer(channel, queue, callbacks=[lambda body, _message: heard.append(body)], no_ack=True).consume()
        hub.call_soon(lambda: None)
        next(loop)
        wait_until(channel.redis.pubsub_numpat, what="the subscription")
        return channel

    old = listen()
    if (pid := os.fork()) == 0:
        os.close(released)
        os.read(held, 1)
        os._exit(0)
    try:
        old.close()
        # Until the child has come round to closing its copies, the closed connection wakes the loop.
        wait_until(lambda: not hub.poller.poll(0), what="the closed connection to leave the loop")
        listen()
        with connection.Producer(exchange=Exchange("said", type="fanout")) as producer:
            producer.publish("news")

        def turned() -> bool:
            hub.call_later(0.1, lambda: None)
            next(loop)
            return bool(heard)

        wait_until(turned, what="the broadcast")
    finally:
        os.close(released)
        os.waitpid(pid, 0)
        os.close(held)
        hub.close()


def test_a_queue_that_is_cancelled_during_a_claim_is_left_after_it(connect: Connect) -> None:
    connection = connect()
    channel = channel_of(connection)
    for queue in ("stays", "goes"):
        channel.basic_consume(queue, False, lambda _message: None, queue)  # noqa: FBT003 - kombu's
    cycle: Any = channel.connection.cycle
    cycle._register_BRPOP(channel)
    channel.basic_cancel("goes")
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=0.1)
    wait_until(lambda: not Queues(channel.redis).consumers("goes"), timeout=5)
    assert len(Queues(channel.redis).consumers("stays")) == 1


def test_two_consumers_share_a_queue_without_repeating(connect: Connect) -> None:
    connections = [connect(), connect()]
    for number in range(200):
        put(connections[0], number)
    channels = [channel_of(connection) for connection in connections]
    seen = [body for _ in range(100) for channel in channels for body in bodies(channel, 1)]
    assert sorted(seen) == list(range(200))


def test_many_are_submitted_in_few_round_trips(redis_url: str) -> None:
    with Celery("bulk", broker=redis_url) as app:
        app.conf.broker_transport = OURS

        @app.task(name="bulk.t")
        def task(number: int) -> None: ...

        with redis.Redis.from_url(redis_url) as client:
            delivery.submit_many([task.s(-1)], app=app)
            before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
            ids = delivery.submit_many(
                [task.s(n).set(countdown=n % 2 * 100, priority=7) for n in range(2000)], app=app
            )
            assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 4
        assert len(set(ids)) == 2000
        with app.connection_for_read() as connection:
            channel = channel_of(connection)
            counts = Queues(channel.redis).counts("celery")
            assert (counts.ready, counts.delayed) == (1001, 1000)
            message = get(channel, "celery")
            assert message.headers["id"] == ids[0]
            assert message.payload[0] == [0]
            assert message.properties["priority"] == 7


def test_a_cluster_is_refused_and_a_stranger_has_no_queues(redis_url: str) -> None:
    with (
        Connection(redis_url, transport="redis") as stock,
        pytest.raises(ConfigError, match="these verbs need"),
        Queues.open(stock),
    ):
        pass
