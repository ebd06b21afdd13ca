"""A task that no queue gets is refused where it is submitted; a broadcast that nobody hears is not."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from kombu import Exchange, Queue
from kombu.pidbox import Mailbox

from seawall import ConfigError, Seawall, submit_many
from seawall.delivery import Queues

TOPIC, ROOMS = Exchange("animals", type="topic"), Exchange("rooms", type="fanout")


@pytest.fixture
def app(redis_url: str) -> Iterator[Any]:
    app: Any = Seawall("routes", broker=redis_url, backend="disabled://", set_as_current=False)
    app.conf.task_queues = [
        Queue("celery"),
        Queue("cats", TOPIC, routing_key="*.cat"),
        Queue("dogs", Exchange("dogs"), routing_key="dog"),
    ]

    @app.task(name="routes.feed", shared=False)  # type: ignore[untyped-decorator]
    def feed() -> None: ...

    yield app
    app.close()


def feed(app: Any, **options: Any) -> str:
    return str(app.tasks["routes.feed"].apply_async(**options).id)


def waiting(app: Any) -> dict[str, int]:
    with app.connection_for_write() as connection, Queues.open(connection) as queues:
        return {name: many for name in queues.names() if (many := queues.counts(name).ready)}


LOST: list[dict[str, Any]] = [
    {"exchange": "nosuch", "routing_key": "x"},
    {"exchange": "dogs", "routing_key": "wolf"},
    {"exchange": TOPIC, "routing_key": "grey.wolf"},
    {"exchange": "animals", "routing_key": "grey.wolf"},
]


@pytest.mark.parametrize("options", LOST)
def test_a_task_that_no_queue_gets_is_refused_with_exchange_and_key(
    app: Any, options: dict[str, Any]
) -> None:
    name = getattr(options["exchange"], "name", options["exchange"])
    with pytest.raises(ConfigError) as refused:
        feed(app, **options)
    for said in (f"exchange={name!r}", f"routing_key={options['routing_key']!r}", "task_queues"):
        assert said in str(refused.value)
    with pytest.raises(ConfigError, match="has no queue bound"):
        submit_many([app.tasks["routes.feed"].s().set(**options) for _ in range(3)], app=app)
    assert waiting(app) == {}


def test_what_a_queue_gets_is_submitted(app: Any) -> None:
    with app.connection_for_write() as connection:
        for queue in app.conf.task_queues:
            queue.bind(connection.default_channel).declare()
    feed(app)
    feed(app, queue="cats")
    feed(app, exchange="animals", routing_key="black.cat")
    feed(app, exchange=TOPIC, routing_key="white.cat")
    feed(app, exchange="dogs", routing_key="dog")
    feed(app, exchange="", routing_key="celery")
    assert waiting(app) == {"celery": 2, "cats": 3, "dogs": 1}


def test_a_broadcast_may_be_heard_by_nobody(app: Any) -> None:
    feed(app, exchange=ROOMS, routing_key="")
    app.control.broadcast("ping")
    with app.events.default_dispatcher() as events:
        events.send("task-sent", uuid="1")
    with app.connection_for_write() as connection:
        mailbox = Mailbox("celery", type="fanout", connection=connection)
        mailbox._publish_reply({}, "reply.celery.pidbox", "gone", "ticket", channel=connection.channel())
        with connection.Producer() as producer:
            producer.publish({}, exchange=TOPIC, routing_key="grey.wolf")
            with pytest.raises(ConfigError, match="has no queue bound"):
                producer.publish({}, exchange=TOPIC, routing_key="grey.wolf", mandatory=True)


def test_a_task_whose_bindings_the_server_has_lost_is_refused(app: Any, redis_url: str) -> None:
    feed(app, queue="dogs")
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    with pytest.raises(ConfigError, match="has no queue bound"):
        feed(app, exchange="dogs", routing_key="dog")
