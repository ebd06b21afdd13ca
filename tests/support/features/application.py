"""The application: queues, routes, annotations, receivers of signals, commands, a schedule; tasks: `app.py`.

`FEATURES_PLAIN` leaves it with Celery alone, `FEATURES_BROKER` is its Redis. Nothing else in it is Seawall's.
"""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import redis
from celery import Celery, Task, signals
from celery.concurrency.asynpool import AsynPool
from celery.concurrency.base import BasePool
from celery.schedules import crontab, schedule
from celery.worker.control import control_command, inspect_command
from celery.worker.heartbeat import Heart
from kombu import Exchange, Queue
from kombu.common import Broadcast

URL = os.environ["FEATURES_BROKER"]

app: Any = Celery("features", broker=URL, backend=URL)
if "FEATURES_PLAIN" not in os.environ:
    import seawall

    app = seawall.install(app)

store: Any = redis.Redis.from_url(URL, decode_responses=True)


def note(key: str, line: Any) -> None:
    """Write what a test reads with `Look.notes`."""
    store.rpush(f"notes {key}", str(line))


class ToTheTeam:
    """A router of the application's own."""

    def route_for_task(self, task: str, *_: Any, **__: Any) -> dict[str, str] | None:
        return {"queue": "routed"} if task.startswith("team.") else None


def to_the_route(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **_: Any) -> Any:
    return {"queue": "routed", "priority": 7} if name == "routed.function" else None


_topic, _direct = Exchange("topical", type="topic"), Exchange("direct")
app.conf.update(
    result_extended=True,
    task_send_sent_event=True,
    worker_pool_restarts=True,
    task_queues=[
        Queue("celery", Exchange("celery"), routing_key="celery"),
        Queue("first", _direct, routing_key="first"),
        Queue("routed", _direct, routing_key="routed"),
        Queue("warnings", _topic, routing_key="log.*.warning"),
        Queue("everything", _topic, routing_key="log.#"),
        Broadcast("shouts"),
        Queue("second", _direct, routing_key="second"),
        Queue("third", _direct, routing_key="third"),
    ],
    task_routes=(
        {"routed.exactly": {"queue": "routed"}, "glob.*": {"queue": "routed"}},
        to_the_route,
        "support.features.application.ToTheTeam",
    ),
    task_annotations={
        "look.annotated": {
            "max_retries": 1,
            "on_failure": lambda self, *_: note(self.request.id, "annotated"),
        },
        "*": {"trail": True},
    },
)


@control_command(args=[("text", str)])
def shout(state: Any, text: str = "") -> dict[str, str]:
    return {"ok": f"{text}!"}


@inspect_command()
def whisper(state: Any) -> dict[str, Any]:
    return {"tasks": "look.echo" in state.app.tasks, "host": bool(state.hostname)}


# Signals: which were sent, with which arguments.

SIGNALS = sorted(name for name, each in vars(signals).items() if type(each).__name__ == "Signal")


def hear(name: str) -> Any:
    def heard(sender: Any = None, **fields: Any) -> None:
        fields.pop("signal", None)
        kinds: list[tuple[Any, str]] = [
            (Celery, "an app"),
            (Task, "a task"),
            (Heart, "a heart"),
            ((BasePool, AsynPool), "a pool"),
            (type(None), "nobody"),
        ]
        who = next((said for kind, said in kinds if isinstance(sender, kind)), type(sender).__name__)
        store.sadd(f"signal {name}", " ".join([who, *sorted(fields)]))

    return heard


for _name in SIGNALS:
    if _name != "setup_logging":  # who hears of it has the worker log nothing
        getattr(signals, _name).connect(hear(_name), weak=False)


# Beat: `worker -B` of the second worker.

_begun = datetime.now(UTC)


def _nearly_a_minute_later() -> datetime:
    """A clock on which a minute begins two seconds after the start."""
    now = datetime.now(UTC)
    return now + (_begun.replace(second=58, microsecond=0) - _begun)


class Soon(schedule):
    """A schedule of the application's own."""

    def is_due(self, last_run_at: Any) -> Any:
        due = (datetime.now(UTC) - last_run_at).total_seconds() > 1.0
        return due, 0.1


app.conf.beat_schedule = {
    "interval": {"task": "look.noted", "schedule": 1.0, "args": ("beat", "interval")},
    "delta": {
        "task": "look.noted",
        "schedule": timedelta(seconds=1.5),
        "kwargs": {"key": "beat", "line": "delta"},
        "options": {"expires": 60},
    },
    "crontab": {
        "task": "look.noted",
        "schedule": crontab(nowfun=_nearly_a_minute_later),
        "args": ("beat", "crontab"),
        "options": {"queue": "first"},
    },
    "own": {"task": "look.noted", "schedule": Soon(1.0), "args": ("beat", "own")},
}
app.conf.beat_max_loop_interval = 0.2
