"""The queues: what waits there and will not go on by itself."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from seawall.delivery import Queues, Transport
from seawall.doctor.finding import Finding, warning
from seawall.quantity import format_age
from seawall.text import many
from seawall.worker.names import advice, name_in

if TYPE_CHECKING:
    from celery import Celery


def audit_queues(app: "Celery") -> list[Finding]:
    """What the queues of our transport hold; a server that is away is said by `audit_redis`."""
    try:
        with app.connection_for_write() as connection:
            if not issubclass(connection.get_transport_cls(), Transport):
                return []
            with Queues.open(connection) as queues:
                return list(_unknown_names(queues))
    except (RedisError, OSError, OperationalError):
        return []


def _unknown_names(queues: Queues) -> Iterator[Finding]:
    for queue in queues.names():
        for each in queues.parked(queue):
            if (name := name_in(each.dependency)) is not None:
                yield warning(
                    "queues.unknown_name",
                    f"{many(each.many, 'task waits', 'tasks wait')} in queue {queue} "
                    f"for a worker that knows {name}, the oldest for {format_age(each.oldest)}",
                    advice(name),
                )
