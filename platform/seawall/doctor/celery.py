"""The application: Celery settings that contradict each other, and what it promises and cannot keep."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from kombu import serialization

from seawall.config import settings
from seawall.doctor.finding import Finding, error, warning
from seawall.doctor.routes import destinations
from seawall.doctor.shapes import Readable, number
from seawall.redaction import redact_text
from seawall.urls import REDIS_SCHEMES, scheme_of

if TYPE_CHECKING:
    from celery import Celery

    from seawall.fleet import FleetSpec

_serializers: Any = serialization
_STOCK_REDIS: Final = frozenset({"redis", "rediss"})
_STOCK_VISIBILITY: Final = 3600.0
_UNSAFE: Final = frozenset({"pickle", "application/x-python-serialize", "yaml", "application/x-yaml"})


def audit_celery(app: "Celery", spec: "FleetSpec | None" = None) -> list[Finding]:
    """Everything that `app.conf` says, and how it fits the fleet."""
    conf: Any = Readable(app)
    return [
        *(
            error("celery.value", f"{redact_text(fault)}: it is left out here", "correct it")
            for fault in conf.faults
        ),
        *_times(conf),
        *_acknowledgement(conf),
        *_serialization(conf),
        *_submission(conf),
        *_results(conf),
        *_prefix(conf),
        *_schedule(app, conf.beat_schedule, spec),
        *(_queues(app, spec) if spec is not None else ()),
    ]


def _times(conf: Any) -> Iterator[Finding]:
    soft, hard = conf.task_soft_time_limit, conf.task_time_limit
    if soft and hard and soft >= hard:
        yield error(
            "celery.time_limits",
            f"task_soft_time_limit={soft:g} is not below task_time_limit={hard:g}: no task can clean up",
            "leave some seconds between them",
        )
    if not hard:
        yield warning(
            "celery.no_time_limit",
            "task_time_limit is unset: a task that hangs holds its cell for ever",
            "set it",
        )
    if _is_stock_redis(conf):
        options: Mapping[str, Any] = conf.broker_transport_options or {}
        said = number(options.get("visibility_timeout"))
        visible = _STOCK_VISIBILITY if said is None else said
        if hard and visible <= hard:
            yield error(
                "celery.visibility_timeout",
                f"visibility_timeout={visible:g} is not above task_time_limit={hard:g}: long tasks run twice",
                "raise it, or use Seawall's transport, which leases",
            )


def _acknowledgement(conf: Any) -> Iterator[Finding]:
    if not conf.task_acks_late:
        yield warning(
            "celery.acks_early",
            "task_acks_late is off: a task is lost with the process that runs it",
            "set task_acks_late = True, and make tasks harmless to run twice",
        )
    elif conf.task_reject_on_worker_lost:
        yield error(
            "celery.reject_on_worker_lost",
            "task_reject_on_worker_lost is on: a task that kills its process is repeated for ever",
            "leave it off: Seawall counts such deaths and redelivers by itself",
        )
    ahead = conf.worker_prefetch_multiplier
    if ahead == 0:
        yield error(
            "celery.prefetch",
            "worker_prefetch_multiplier=0 lets one worker fetch every task there is",
            "set it to 1",
        )
    elif ahead and ahead > 1 and conf.task_acks_late:
        yield warning(
            "celery.prefetch",
            f"worker_prefetch_multiplier={ahead}: what is fetched waits out of priority order",
            "set it to 1",
        )


def _serialization(conf: Any) -> Iterator[Finding]:
    accepted = set(conf.accept_content or ())
    if not is_accepted(conf.task_serializer, accepted):
        yield error(
            "celery.serializer",
            f"task_serializer={conf.task_serializer!r} is not in accept_content={sorted(accepted)}: "
            "workers refuse every task",
            "name the same in both",
        )
    if unsafe := accepted & _UNSAFE:
        yield warning(
            "celery.pickle",
            f"accept_content has {min(unsafe)!r}: who can write to the broker can run code in workers",
            "accept json only",
        )
    if not is_accepted(conf.result_serializer, conf.result_accept_content or accepted):
        yield error(
            "celery.result_serializer",
            f"result_serializer={conf.result_serializer!r} is not accepted: no result can be read",
            "name it in result_accept_content",
        )


def is_accepted(serializer: str, accepted: Iterable[str]) -> bool:
    """Whether a list names a serializer, by its name or by its content type."""
    content_type = _serializers.registry.name_to_type.get(serializer)
    return any(each in {serializer, content_type} for each in accepted)


def _submission(conf: Any) -> Iterator[Finding]:
    if conf.task_always_eager:
        yield error(
            "celery.eager",
            "task_always_eager is on: tasks run in whoever submits them, and the fleet gets none",
            "switch it off outside tests",
        )
    if not conf.task_publish_retry:
        yield warning(
            "celery.publish_retry",
            "task_publish_retry is off: a moment's outage of the broker fails the caller",
            "set task_publish_retry = True",
        )
    if conf.broker_connection_retry_on_startup is False:
        yield warning(
            "celery.startup_retry",
            "broker_connection_retry_on_startup is off: a worker that starts before its broker dies",
            "set it to True",
        )


def _results(conf: Any) -> Iterator[Finding]:
    if not conf.task_ignore_result and conf.result_expires in (None, 0):
        yield warning(
            "celery.result_expires",
            "result_expires is unset: results stay for ever and fill Redis",
            "set result_expires, a day or less",
        )


def _prefix(conf: Any) -> Iterator[Finding]:
    prefix = settings().redis_prefix
    for name in ("broker_transport_options", "result_backend_transport_options"):
        own = (getattr(conf, name) or {}).get("global_keyprefix", "")
        if own != prefix:
            yield warning(
                "celery.key_prefix",
                f"{name} has global_keyprefix={own!r} and SEAWALL_REDIS_PREFIX is {prefix!r}: keys of "
                "workers, breakers, limits and memory begin otherwise than those of tasks",
                "set SEAWALL_REDIS_PREFIX for all processes; global_keyprefix follows where it is not set",
            )


def _schedule(
    app: "Celery", schedule: Mapping[str, Any] | None, spec: "FleetSpec | None"
) -> Iterator[Finding]:
    schedule = schedule or {}
    if schedule and spec is not None and spec.beat.enabled is False:
        yield error(
            "celery.beat",
            f"the app has a schedule of {len(schedule)} and fleet.toml switches beat off: nothing runs it",
            'write enabled = "auto" under [beat]',
        )
    for name, entry in schedule.items():
        task = entry.get("task") if isinstance(entry, Mapping) else entry.task
        if task not in app.tasks:
            yield error(
                "celery.schedule",
                f"beat_schedule[{name!r}] names the task {task!r}, which is not there",
                "correct the name, or import its module",
            )


def _queues(app: "Celery", spec: "FleetSpec") -> Iterator[Finding]:
    conf: Any = app.conf
    consumed = {queue for profile in spec.workers.values() for queue in profile.queues}
    if conf.task_default_queue not in consumed:
        yield error(
            "celery.default_queue",
            f"no worker consumes the default queue {conf.task_default_queue!r}: its tasks wait for ever",
            "name it under `queues` of a profile in fleet.toml",
        )
    sent, unread = destinations(app)
    for who, queue in sent:
        if queue not in consumed:
            yield error(
                "celery.route",
                f"{who} sends to {queue!r}, which no worker consumes",
                "name the queue in a profile of fleet.toml",
            )
    for router in unread:
        yield warning(
            "celery.router",
            f"the router {router}: where it sends tasks is unknown here",
            "look yourself whether a worker consumes each of its queues",
        )


def _is_stock_redis(conf: Any) -> bool:
    url = conf.broker_url if isinstance(conf.broker_url, str) else ";".join(conf.broker_url)
    return scheme_of(url) in REDIS_SCHEMES and conf.broker_transport in _STOCK_REDIS
