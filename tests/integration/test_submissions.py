"""Submitting while the server, or the way to it, fails: what is there afterwards, and when one hears."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Queue
from kombu.exceptions import OperationalError

from seawall import Seawall, silence
from seawall.delivery import scripts, submit_many
from seawall.delivery.channel import Channel
from seawall.errors import AlreadySubmitted, QueueFull
from support.proxy import Proxy, proxy
from support.waiting import busyness, wait_until

OURS = "seawall.delivery:Transport"


@pytest.fixture
def way(redis_url: str) -> Iterator[Proxy]:
    with proxy(redis_url) as opened:
        yield opened


def nothing(_number: int = 0) -> None:
    """Never run."""


@pytest.fixture
def app(way: Proxy) -> Iterator[Celery]:
    with Seawall("submitting", broker=way.url, backend="cache+memory://", set_as_current=False) as made:
        made.task(name="t", ignore_result=True, shared=False)(nothing)
        yield made


@pytest.fixture
def consumer(redis_url: str) -> Iterator[Channel]:
    with Connection(redis_url, transport=OURS) as connection:
        channel = connection.channel()
        assert isinstance(channel, Channel)
        yield channel


def consume(channel: Channel) -> int:
    """Take and acknowledge all there is; how many it was."""
    found = 0
    while (message := channel.basic_get("celery")) is not None:
        message.ack()
        found += 1
    channel.flush()
    return found


def lose_first_answer(way: Proxy, then: Callable[[], object] = lambda: None) -> list[object]:
    """Of the next submission the answer is lost, once the server has it; what happened `then`."""
    happened: list[object] = []
    digest = scripts.submit.digest.encode()
    way.loses_answer = lambda piece: digest in piece and not happened

    def lost() -> None:
        happened.append(then())

    way.lost = lost
    return happened


@pytest.mark.parametrize("delay", [None, 3600], ids=["now", "delayed"])
def test_a_submission_that_was_repeated_is_there_once_though_it_is_done_already(
    app: Celery, way: Proxy, consumer: Channel, delay: int | None
) -> None:
    app.send_task("t")
    assert consume(consumer) == 1

    def worked_off() -> int:
        return consume(consumer) if delay is None else consumer._purge("celery")

    done = lose_first_answer(way, worked_off)
    app.send_task("t", countdown=delay)
    assert done == [1]
    assert consumer._size("celery") == 0


def test_a_batch_that_was_repeated_is_there_once(app: Celery, way: Proxy, consumer: Channel) -> None:
    app.send_task("t")
    assert consume(consumer) == 1
    done = lose_first_answer(way, lambda: consume(consumer))
    submit_many((app.tasks["t"].s(number) for number in range(100)), app=app)
    assert done == [100]
    assert consumer._size("celery") == 0


def test_a_repeated_batch_says_again_which_of_it_were_submitted_before(consumer: Channel) -> None:
    def batch(*uniques: str) -> list[Any]:
        return [consumer.envelope(message(unique)) for unique in uniques]

    def message(unique: str) -> dict[str, Any]:
        made: dict[str, Any] = consumer.prepare_message("{}", headers={"unique_key": unique, "id": unique})
        consumer._inplace_augment_message(made, "", "celery")
        return made

    consumer.submit("celery", batch("a"))
    second = batch("a", "b")
    for _ in range(2):
        with pytest.raises(AlreadySubmitted, match="a"):
            consumer.submit("celery", second)
    assert consume(consumer) == 2
    with pytest.raises(AlreadySubmitted, match="a"):
        consumer.submit("celery", second)
    assert consume(consumer) == 0


def test_a_repetition_is_no_submission_to_a_full_queue(consumer: Channel) -> None:
    consumer._length_limits["celery"] = 1
    message = consumer.prepare_message("{}")
    consumer._inplace_augment_message(message, "", "celery")
    envelopes = [consumer.envelope(message)]
    for _ in range(2):
        consumer.submit("celery", envelopes)
    assert consume(consumer) == 1


def test_what_a_full_queue_refused_is_not_remembered(consumer: Channel) -> None:
    consumer._length_limits["celery"] = 1
    first, second = (consumer.prepare_message("{}") for _ in range(2))
    for message in (first, second):
        consumer._inplace_augment_message(message, "", "celery")
    consumer.submit("celery", [consumer.envelope(first)])
    with pytest.raises(Exception, match="max_length is 1"):
        consumer.submit("celery", [consumer.envelope(second)])
    assert consume(consumer) == 1
    consumer.submit("celery", [consumer.envelope(second)])
    assert consume(consumer) == 1


def test_what_is_remembered_of_submissions_expires(app: Celery, consumer: Channel) -> None:
    for _ in range(3):
        app.send_task("t")
    keys: Any = consumer.redis.keys("*:submitted:*")
    assert 1 <= len(keys) <= 2
    for key in keys:
        assert 20_000 <= consumer.redis.pttl(key) <= 40_000
    assert sum(consumer.redis.scard(key) for key in keys) == 3


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A producer hears within two seconds: the arithmetic is that of ten."""
    monkeypatch.setattr(silence, "HEARD_WITHIN", 2.0)
    monkeypatch.setattr(silence, "SILENCE", 0.5)


def silent(way: Proxy) -> None:
    way.go_deaf()


def gone(way: Proxy) -> None:
    way.die()


def submits_one(app: Celery) -> None:
    app.send_task("t")


def submits_many(app: Celery) -> None:
    submit_many((app.tasks["t"].s(number) for number in range(3)), app=app)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("submit", [submits_one, submits_many])
@pytest.mark.parametrize("fails", [silent, gone])
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "new"])
def test_a_producer_hears_in_time_that_the_broker_does_not_answer(
    app: Celery, way: Proxy, submit: Callable[[Celery], None], fails: Callable[[Proxy], None], connected: bool
) -> None:
    if connected:
        submit(app)
    fails(way)
    begun = time.monotonic()
    with pytest.raises(OperationalError) as heard:
        submit(app)
    assert time.monotonic() - begun < 2.0 + busyness()
    if connected:
        assert "The task may have been accepted" in str(heard.value)
        assert "unique_key" in str(heard.value)
    else:
        assert "Nothing was submitted" in str(heard.value)


@pytest.mark.usefixtures("hasty")
def test_a_producer_hears_in_time_that_the_result_backend_does_not_answer(way: Proxy, redis_url: str) -> None:
    with Seawall("waiting", broker=redis_url, backend=way.url, set_as_current=False) as app:
        app.task(name="t")(nothing)
        way.go_deaf()
        begun = time.monotonic()
        with pytest.raises(OperationalError, match="Nothing was submitted"):
            app.send_task("t")
        assert time.monotonic() - begun < 2.0 + busyness()


@pytest.mark.parametrize("fails", [silent, gone])
def test_who_lets_go_of_a_result_waits_for_no_server(
    way: Proxy, redis_url: str, fails: Callable[[Proxy], None]
) -> None:
    """Celery tries for 20 s to connect anew, wherever a program loses its last reference."""
    with Seawall("forgetful", broker=redis_url, backend=way.url, set_as_current=False) as app:
        app.task(name="t")(nothing)
        results = [app.send_task("t") for _ in range(3)]
        fails(way)
        begun = time.monotonic()
        while results:
            results.pop().__del__()
        assert time.monotonic() - begun < 5.0 * busyness()


@pytest.mark.usefixtures("hasty")
def test_who_waits_for_room_waits_on_while_the_server_answers(way: Proxy) -> None:
    options = {"delivery": {"max_length": 1, "when_full": "block", "block_for": 3.0}}
    with Seawall("room", broker=way.url, backend="cache+memory://", set_as_current=False) as app:
        app.conf.broker_transport_options = options
        app.task(name="t", ignore_result=True)(nothing)
        app.send_task("t")
        with pytest.raises(QueueFull):
            app.send_task("t")


@pytest.mark.usefixtures("hasty")
def test_a_submission_goes_on_over_a_new_connection(app: Celery, way: Proxy, consumer: Channel) -> None:
    app.send_task("t")
    way.black_hole()
    app.send_task("t")
    assert consume(consumer) == 2


@pytest.mark.parametrize("work", [0, 1], ids=["idle", "busy"])
def test_a_consumer_leaves_a_connection_that_leads_nowhere(way: Proxy, work: int) -> None:
    got: list[Any] = []
    options = {"delivery": {"lease": 1.5}}
    with Connection(way.url, transport=OURS, transport_options=options) as connection:
        with connection.Producer() as producer:
            for _ in range(work):
                producer.publish("before", routing_key="celery")
        consumer = connection.Consumer([Queue("celery")], on_message=got.append, prefetch_count=2)
        consumer.consume()
        wait_until(lambda: drained(connection) and len(got) == work)
        way.black_hole()

        def left() -> bool:
            try:
                drained(connection)
            except connection.connection_errors:
                return True
            return False

        wait_until(left, timeout=8, what="the consumer to hear of it")


def drained(connection: Connection) -> bool:
    """Hand out what is there; true."""
    with contextlib.suppress(TimeoutError):
        connection.drain_events(timeout=0.1)
    return True


def test_a_channel_whose_connection_is_gone_says_so_in_a_way_that_kombu_repeats(way: Proxy) -> None:
    with Connection(way.url, transport=OURS) as connection:
        channel = connection.channel()
        assert isinstance(channel, Channel)
        vars(channel)["connection"] = None  # as kombu leaves it when the connection is lost
        with pytest.raises(connection.recoverable_connection_errors, match="closed"):
            channel._put("celery", {"headers": {}, "properties": {}, "body": ""})
