"""`seawall doctor -A` speaks of each default of ours that is another than Celery's, or it needs no word."""

from typing import Any

from celery import Celery
from celery.app import defaults

from seawall.worker.defaults import PLAIN, LazyDefaults
from support.nodes import ROOT

SPOKEN_OF = {
    "broker_transport": "broker.redis",
    "broker_transport_options": "broker.confirm_publish",
    "broker_url": "broker.unset",
    "result_backend": "results.unset",
    "task_acks_late": "tasks.acks_late",
    "task_default_priority": "broker.priorities",
    "task_queue_max_priority": "queues.max_priority",
    "task_soft_time_limit": "tasks.no_time_limit",
    "task_time_limit": "tasks.no_time_limit",
    "worker_deduplicate_successful_tasks": "tasks.ignore_result",
    "worker_pool": "settings.pool",
    "worker_prefetch_multiplier": "settings.worker_prefetch_multiplier",
}

NEEDS_NO_WORD = {
    "broker_connection_max_retries": "a worker waits longer for its broker",
    "broker_connection_retry_on_startup": "what Celery does too, with a warning",
    "redis_retry_on_timeout": "fewer failures",
    "redis_socket_connect_timeout": "a server that vanished is noticed",
    "redis_socket_keepalive": "the same",
    "redis_socket_timeout": "the same",
    "result_backend_transport_options": "follows from the settings of Seawall",
    "task_publish_retry_policy": "a submission survives a longer outage",
    "worker_proc_alive_timeout": "a process may take longer to start",
}


def test_the_doctor_speaks_of_each_default_that_changes_what_an_application_does() -> None:
    known: Any = defaults
    celerys = known.DEFAULTS
    ours = {name for name, value in PLAIN.items() if list_of(value) != list_of(celerys[name])}
    ours |= set(LazyDefaults(Celery(set_as_current=False)))
    assert ours == celerys.keys() & (SPOKEN_OF.keys() | NEEDS_NO_WORD.keys())  # older Celerys have fewer


def test_what_it_is_said_to_speak_of_it_knows() -> None:
    directory = ROOT / "platform" / "seawall" / "doctor" / "adoption"
    source = "".join(path.read_text() for path in directory.glob("*.py"))
    for setting, check in SPOKEN_OF.items():
        assert f'"{check}"' in source or (check == f"settings.{setting}" and f'"{setting}"' in source), check


def list_of(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
