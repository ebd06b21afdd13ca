"""What becomes of the broker: its kind, the options of its transport, its queues, priorities and results."""

from collections.abc import Iterator, Mapping
from typing import Any, Final

from seawall.delivery.transport import transport_for
from seawall.doctor.adoption.application import Application
from seawall.doctor.adoption.notice import Notice, changes, fits, look, lost, refused
from seawall.doctor.routes import queue_of, routes_of
from seawall.errors import ConfigError
from seawall.urls import REDIS_SCHEMES, SENTINEL, scheme_of

_REDIS: Final = REDIS_SCHEMES | {SENTINEL}
_RABBITMQ: Final = frozenset({"amqp", "amqps", "pyamqp", "librabbitmq"})
_STOCK: Final = frozenset({"redis", "rediss", SENTINEL})
_GUIDE: Final = "docs/guides/adopt.md"
_LEASES: Final = (
    (
        "nothing waits for it: a worker's lease is renewed while it lives (15 s), so a task of any length "
        "is delivered once and what a dead worker held is back within a lease"
    ),
    "remove it; the lease is broker_transport_options['delivery']['lease']",
)
_LISTS: Final = (
    (
        "Seawall's queues are sorted sets with ten exact priorities. What waits in lists that were made "
        "with this option is not taken over"
    ),
    "remove it once these lists have run empty under the old workers",
)
_OPTIONS: Final[Mapping[str, tuple[str, str]]] = {
    "visibility_timeout": _LEASES,
    **dict.fromkeys(
        ("ack_emulation", "unacked_key", "unacked_index_key", "unacked_mutex_key", "unacked_mutex_expire"),
        _LEASES,
    ),
    **dict.fromkeys(
        ("unacked_restore_limit", "unacked_restore_interval", "unacked_restore_throttle"), _LEASES
    ),
    "priority_steps": _LISTS,
    "sep": _LISTS,
    "queue_order_strategy": (
        "the queues of a worker share it by weights",
        "broker_transport_options['delivery'] with queue_order ('weighted' or 'strict') and queue_weights",
    ),
    "polling_interval": ("a worker waits on a key that wakes it", "remove it"),
}
"""Options of the stock Redis transport that mean nothing on Seawall's."""

_SETTINGS: Final[Mapping[str, tuple[str, str]]] = {
    "worker_eta_task_limit": (
        "delayed tasks wait in the server and not in workers' memory, however many there are",
        "remove it, or keep the stock transport: broker_transport = 'redis'",
    ),
    "worker_state_db": (
        "revocations are kept in Redis for 30 days, for workers that start later too",
        "remove it, or keep the stock transport: broker_transport = 'redis'",
    ),
}
"""Settings that mean nothing on Seawall's transport."""


def broker(application: Application) -> str:
    """The URL of the application's broker; several servers are separated by `;`, and "" is none."""
    url = application.said("broker_url") or ""
    return url if isinstance(url, str) else ";".join(url)


def is_redis(application: Application) -> bool:
    """Whether the broker is a Redis, or will be one as nobody named a broker."""
    return not broker(application) or scheme_of(broker(application)) in _REDIS


def stays_stock(application: Application) -> bool:
    """Whether the application keeps the stock Redis transport by name."""
    return application.said("broker_transport") in _STOCK


def _broker(application: Application) -> Iterator[Notice]:
    url, where = broker(application), [application.place("broker_url")]
    scheme = scheme_of(url)
    if not url:
        yield changes(
            "broker.unset",
            where,
            "no broker is named: Celery goes to amqp://guest@localhost, Seawall to SEAWALL_BROKER_URL or "
            "SEAWALL_REDIS_URL, and without these to a server that it starts itself",
            "name it: broker_url",
        )
    elif scheme in _REDIS:
        try:
            transport_for(url)
        except ConfigError as exc:
            yield refused("broker.scheme", where, str(exc), "correct broker_url")
            return
        if stays_stock(application):
            yield fits("broker.stock", [application.place("broker_transport")], "the stock transport is kept")
        else:
            yield fits(
                "broker.redis",
                where,
                "Seawall's transport takes over what stock publishers send and what waits. Start its "
                f"workers first, then what publishes ({_GUIDE})",
            )
    elif scheme not in _RABBITMQ | {"memory"}:
        yield refused(
            "broker.scheme",
            where,
            f"the broker {scheme}:// is none that Seawall knows or is tested with",
            "Redis, Valkey, Sentinel or RabbitMQ",
        )


def _options(application: Application) -> Iterator[Notice]:
    if is_redis(application) and not stays_stock(application):
        for setting, (reason, fix) in _SETTINGS.items():
            if application.said(setting) is not None:
                yield lost(f"settings.{setting}", [application.place(setting)], reason, fix)
    options = application.said("broker_transport_options")
    if not isinstance(options, Mapping):
        return
    place = application.place("broker_transport_options")
    if is_redis(application) and not stays_stock(application):
        for name, (reason, fix) in _OPTIONS.items():
            if name in options:
                yield lost(f"broker.{name}", [f"{name} in {place}"], reason, fix)
    elif scheme_of(broker(application)) in _RABBITMQ and "confirm_publish" not in options:
        yield look(
            "broker.confirm_publish",
            [place],
            "these options take the place of Seawall's: without confirm_publish a publish that returned "
            "may not have arrived, as today",
            "add confirm_publish=True",
        )


def _priorities(application: Application) -> Iterator[Notice]:
    if not is_redis(application) or stays_stock(application):
        return
    where = [task.place for task in application.tasks if task.said("priority") is not None]
    if application.said("task_default_priority") is not None:
        where.append(application.place("task_default_priority"))
    if any("priority" in each for each in _routes(application)):
        where.append(f"priority in {application.place('task_routes')}")
    if where:
        yield changes("broker.priorities", where, *PRIORITIES)


PRIORITIES: Final = (
    (
        "0 is the most urgent on the stock Redis transport; under Seawall 9 is, as on RabbitMQ, and what "
        "names no priority has 5, wherever it was submitted"
    ),
    "write 9 - n for n, from 0 to 9 (or Priority.HIGH and the like), in the same release",
)


def _queues(application: Application) -> Iterator[Notice]:
    arguments = {name: _arguments(queue) for name, queue in _declared(application)}
    priorities = [name for name, each in arguments.items() if "x-max-priority" in each]
    quorum = [name for name, each in arguments.items() if each.get("x-queue-type", "classic") != "classic"]
    types = ("task_default_queue_type", "task_create_missing_queue_type")
    kinds = [application.place(each) for each in types if application.said(each) not in (None, "classic")]
    place = application.place("task_queues")
    if is_redis(application):
        if where := [f"{name} in {place}" for name in dict.fromkeys(priorities + quorum)] + kinds:
            yield lost(
                "queues.arguments",
                where,
                "x-max-priority and x-queue-type are RabbitMQ's; every queue on Redis has priorities 0 to 9",
                "remove them",
            )
        return
    if scheme_of(broker(application)) not in _RABBITMQ:
        return
    if where := [f"{name} in {place}" for name in quorum] + kinds:
        yield look(
            "queues.quorum",
            where,
            "quorum queues and streams are declared without x-max-priority and have two levels (0-4, 5-9) "
            "from RabbitMQ 4 on, none before. Their own delivery limit counts beside Seawall's",
            "give them a dead-letter exchange, which keeps what no task takes",
        )
    if not application.mentions("task_queue_max_priority") and not kinds:
        yield look(
            "queues.max_priority",
            [place],
            "classic queues are declared with x-max-priority=9; RabbitMQ refuses that (406) for a queue "
            "that exists and was declared otherwise",
            "delete such a queue once it is empty, or write task_queue_max_priority = None in app.conf",
        )


def _routes(application: Application) -> Iterator[Mapping[str, Any]]:
    """Where `task_routes` send tasks, as options."""
    tasks = {each.name: each.task for each in application.tasks}
    return (options for _, options in routes_of(application.said("task_routes"), tasks).entries)


def _declared(application: Application) -> Iterator[tuple[str, Any]]:
    queues = application.said("task_queues") or ()
    if isinstance(queues, Mapping):
        yield from queues.items()
    else:
        yield from ((each.name, each) for each in queues if hasattr(each, "name"))


def queue_names(application: Application) -> set[str]:
    """The queues that settings, routes and tasks name."""
    named = [
        application.after("task_default_queue"),
        *(name for name, _ in _declared(application)),
        *map(queue_of, _routes(application)),
        *(task.said("queue") for task in application.tasks),
    ]
    return {name for name in named if isinstance(name, str)}


def _arguments(queue: Any) -> Mapping[str, Any]:
    if isinstance(queue, Mapping):
        found = dict(queue.get("queue_arguments") or {})
        most = queue.get("max_priority")
    else:
        found, most = dict(queue.queue_arguments or {}), queue.max_priority
    return {**found, "x-max-priority": most} if most else found


def _results(application: Application) -> Iterator[Notice]:
    said, where = application.said("result_backend"), [application.place("result_backend")]
    ignored = application.said("task_ignore_result")
    if said is None:
        if not ignored:
            yield changes(
                "results.unset",
                where,
                "no result backend is named, so results were thrown away; they are stored for a day, in "
                "the broker if that is Redis, else in Seawall's Redis",
                "task_ignore_result = True where nobody asks for results, or result_backend = 'disabled://'",
            )
        return
    scheme = scheme_of(said) if isinstance(said, str) and "://" in said else str(said)
    scheme = scheme.partition("+")[0] if "://" not in scheme else scheme
    if scheme in _REDIS:
        yield fits("results.redis", where, "results stay there, and one script stores and announces each")
    elif scheme not in {"disabled", "None"}:
        yield look(
            "results.backend",
            where,
            f"results stay in {scheme}, stored by Celery's own way, in two round trips each. Whether a task "
            "that is delivered again has succeeded already is known only where the backend keeps results "
            "for everybody (not rpc, cache+memory)",
            "nothing, or result_backend = 'redis://...'",
        )


TRANSPORT: Final = (_broker, _options, _priorities, _queues, _results)
"""Everything about the way of a message and its result."""
