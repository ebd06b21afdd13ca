"""Which guarantee holds on which transport: the table in docs/delivery.md, checked.

A guarantee that a transport does not give is declared in `ABSENT` with its reason, and the test must fail
there: a difference that goes away has to be taken out of the table.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from kombu import Connection, Consumer, Exchange, Queue

from support.waiting import lease, wait_until

TRANSPORTS = ("ours", "stock", pytest.param("rabbitmq", marks=pytest.mark.rabbitmq))

ABSENT = {
    ("stock", "test_priority_is_exact"): "four steps, and 0 is the most urgent",
    ("stock", "test_a_delay_stays_with_the_broker"): "workers hold delayed tasks in memory",
    ("stock", "test_a_lost_consumers_messages_are_back_in_seconds"): "only after the visibility timeout",
    ("stock", "test_a_long_task_is_delivered_once"): "again after each visibility timeout",
    ("stock", "test_an_acknowledgement_outlives_its_connection"): "it fails, the task runs again",
    ("stock", "test_a_bounded_queue_refuses"): "no bound on a queue",
    ("rabbitmq", "test_a_delay_stays_with_the_broker"): "needs quorum queues and Celery's delayed delivery",
    ("rabbitmq", "test_an_acknowledgement_outlives_its_connection"): "delivery tags die with the channel",
    ("rabbitmq", "test_a_bounded_queue_refuses"): "drops the oldest unless the queue says reject-publish",
}


@dataclass
class Broker:
    """One transport: connections to it, and a queue that is its own."""

    name: str
    connect: Callable[[], Connection]
    lease: float

    def queue(self, **arguments: Any) -> Queue:
        exchange = Exchange("conformance", type="direct")
        return Queue("conformance", exchange, routing_key="conformance", max_priority=9, **arguments)

    def put(self, body: object, **options: Any) -> None:
        with self.connect() as connection, connection.Producer() as producer:
            queue = self.queue()
            producer.publish(
                body, exchange=queue.exchange, routing_key="conformance", declare=[queue], **options
            )

    def get(self, connection: Connection) -> Any:
        return self.queue()(connection.default_channel).get()


@pytest.fixture(params=TRANSPORTS)
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    name = request.param
    function = getattr(request, "function").__name__  # noqa: B009 - pytest types it as a property of nodes
    if reason := ABSENT.get((name, function)):
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    opened: list[Connection] = []
    kept = lease(0.5)
    url = str(request.getfixturevalue("rabbitmq_url" if name == "rabbitmq" else "redis_url"))
    options: dict[str, dict[str, Any]] = {
        "ours": {"delivery": {"lease": kept, "max_length": 100}},
        "stock": {"visibility_timeout": 1, "unacked_restore_interval": 1, "unacked_restore_throttle": 1},
        "rabbitmq": {"confirm_publish": True},
    }
    transport = {"ours": "seawall.delivery:Transport", "stock": "redis", "rabbitmq": None}[name]

    def connect() -> Connection:
        opened.append(Connection(url, transport=transport, transport_options=options[name]))
        return opened[-1]

    if name == "rabbitmq":  # its queues are durable, and one node serves all tests
        with connect() as connection:
            Queue("conformance")(connection.default_channel).delete()
    yield Broker(name, connect, kept)
    for connection in opened:
        connection.release()


def test_first_come_first_served(broker: Broker) -> None:
    for number in range(5):
        broker.put(number)
    with broker.connect() as connection:
        assert [broker.get(connection).payload for _ in range(5)] == list(range(5))


def test_priority_is_exact(broker: Broker) -> None:
    for number in range(10):
        broker.put(number, priority=number)
    with broker.connect() as connection:
        assert [broker.get(connection).payload for _ in range(10)] == list(range(9, -1, -1))


def test_a_closed_channel_gives_back_what_it_had(broker: Broker) -> None:
    broker.put("kept")
    with broker.connect() as first:
        assert broker.get(first).payload == "kept"
    with broker.connect() as second:
        message = wait_until(lambda: broker.get(second))
        assert message.payload == "kept"
        message.ack()


def test_an_acknowledged_message_is_gone(broker: Broker) -> None:
    broker.put("done")
    with broker.connect() as first:
        broker.get(first).ack()
    with broker.connect() as second:
        assert broker.get(second) is None


def test_a_rejected_message_comes_again_if_it_shall(broker: Broker) -> None:
    broker.put("again")
    with broker.connect() as connection:
        broker.get(connection).requeue()
        message = wait_until(lambda: broker.get(connection))
        message.reject()
        assert broker.get(connection) is None


def test_a_delay_stays_with_the_broker(broker: Broker) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=0.3)
    broker.put("later", headers={"eta": moment.isoformat()})
    with broker.connect() as connection:
        assert broker.get(connection) is None
        wait_until(lambda: broker.get(connection))
        assert datetime.now(UTC) >= moment


def test_a_lost_consumers_messages_are_back_in_seconds(broker: Broker, redis_url: str) -> None:
    broker.put("held")
    lost = broker.connect()
    assert broker.get(lost) is not None
    if broker.name == "ours":
        lost.default_channel.claimant.left = True  # type: ignore[attr-defined]  # its process renews no more
    elif broker.name == "rabbitmq":
        lost.transport.close_connection(lost.connection)
    with redis.Redis.from_url(redis_url) as client:
        client.ping()
    with broker.connect() as living:
        wait_until(lambda: broker.get(living), timeout=broker.lease + 0.4)


def test_a_long_task_is_delivered_once(broker: Broker) -> None:
    broker.put("long")
    with broker.connect() as busy, broker.connect() as other:
        message = broker.get(busy)
        until = time.monotonic() + 4 * broker.lease + 0.5
        seen = []
        while time.monotonic() < until:
            if broker.name == "stock":  # a stock consumer restores while it waits for messages
                other.default_channel.qos.restore_visible(interval=1)  # type: ignore[attr-defined]
            seen.append(broker.get(other))
        message.ack()
        assert not any(seen)


def test_an_acknowledgement_outlives_its_connection(broker: Broker) -> None:
    broker.put("running")
    first = broker.connect()
    message = broker.get(first)
    first.collect()
    with contextlib.suppress(Exception):
        message.ack()
    with broker.connect() as second:
        until = time.monotonic() + 1.0 + broker.lease  # a stock message is back after its second
        while time.monotonic() < until:
            if broker.name == "stock":
                second.default_channel.qos.restore_visible(interval=1)  # type: ignore[attr-defined]
            assert broker.get(second) is None


def test_every_subscriber_hears_a_broadcast(broker: Broker) -> None:
    exchange = Exchange("conformance.fanout", type="fanout")
    heard: list[str] = []
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(broker.connect()) for _ in range(2)]
        for number, connection in enumerate(connections):
            queue = Queue(f"ear{number}", exchange, exclusive=True, auto_delete=True)
            hear = lambda _body, _message, number=number: heard.append(str(number))  # noqa: E731
            stack.enter_context(Consumer(connection, queue, callbacks=[hear], no_ack=True))

        def both() -> bool:
            with broker.connect() as speaker, speaker.Producer() as producer:
                producer.publish("hello", exchange=exchange, declare=[exchange])
            for connection in connections:
                with contextlib.suppress(TimeoutError):
                    connection.drain_events(timeout=0.1)
            return {"0", "1"} <= set(heard)

        wait_until(both)


def test_purging_says_how_many(broker: Broker) -> None:
    for number in range(3):
        broker.put(number)
    with broker.connect() as connection:
        queue = broker.queue()(connection.default_channel)
        queue.declare()
        assert queue.purge() == 3
        assert broker.get(connection) is None


def test_a_bounded_queue_refuses(broker: Broker) -> None:
    for number in range(100):
        broker.put(number)
    with pytest.raises(Exception, match="max_length"):
        broker.put("too many")
