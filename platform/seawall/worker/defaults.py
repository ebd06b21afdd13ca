"""The Celery settings Seawall starts from. Whatever the application sets itself wins.

docs/decisions/0001-celery-defaults.md gives the reason for each. Server URLs are resolved on first use,
because asking for an embedded server starts it: see `LazyDefaults`.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from seawall import servers
from seawall.config import settings
from seawall.delivery import transport_for
from seawall.priority import HIGHEST, Priority
from seawall.silence import SILENCE
from seawall.urls import REDIS_SCHEMES, SENTINEL, as_celery_reads, scheme_of
from seawall.worker.time_limits import Pair, pair

if TYPE_CHECKING:
    from celery import Celery

CELLS: Final = "cells"
CELLS_POOL: Final = "seawall.worker.cells.pool:Pool"
DEFAULT_POOL: Final = CELLS if sys.platform.startswith("linux") else "prefork"
"""Cells need Linux; elsewhere tasks run in Celery's own pool."""

PLAIN: Final[Mapping[str, Any]] = {
    # Only JSON crosses the broker: unpickling a message is running its sender's code.
    "accept_content": ["json"],
    "result_accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "event_serializer": "json",
    # A task is done when it has run, not when it was fetched. A lost process is handled by
    # seawall.worker.request, which counts; Celery's own switch would repeat a killer for ever.
    "task_acks_late": True,
    "task_reject_on_worker_lost": False,
    "worker_deduplicate_successful_tasks": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Fetch what can start soon: a fetched task is out of reach of the priority order.
    "worker_prefetch_multiplier": 1,
    "task_default_priority": int(Priority.NORMAL),
    "task_queue_max_priority": HIGHEST,
    # Submitting survives a short outage and gives up with an error after about ten seconds.
    "task_publish_retry": True,
    "task_publish_retry_policy": {
        "max_retries": 12,
        "interval_start": 0.1,
        "interval_step": 0.3,
        "interval_max": 1.0,
    },
    "broker_connection_timeout": 4.0,
    # A worker waits for its broker as long as it takes; the fleet reports that it is not ready.
    "broker_connection_retry": True,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "redis_socket_connect_timeout": 4.0,
    "redis_socket_timeout": SILENCE,
    "redis_socket_keepalive": True,
    "redis_retry_on_timeout": True,
    # Eager mode runs in the caller: at least it must not swallow what fails there.
    "task_eager_propagates": True,
    # A fork that imports a large application may take longer than Celery's 4 s.
    "worker_proc_alive_timeout": 60.0,
    "worker_send_task_events": False,
    # Processes that claim their own work, instead of one that hands it out.
    "worker_pool": DEFAULT_POOL,
}


_NOT_IN_CELERY_5_6: Final = frozenset({"task_acks_on_failure", "task_acks_on_timeout"})
"""There `task_acks_on_failure_or_timeout` alone decides, which is on by default."""


class LazyDefaults(Mapping[str, Any]):
    """Defaults that depend on which servers there are; each is worked out when Celery asks for it."""

    def __init__(self, app: "Celery") -> None:
        self._resolve: dict[str, Callable[[], Any]] = {
            "broker_url": lambda: as_celery_reads(servers.broker_url())[0],
            "result_backend": lambda: as_celery_reads(_result_url(app))[0],
            "broker_transport": lambda: transport_for(_broker(app)),
            "broker_transport_options": lambda: _transport_options(app),
            "result_backend_transport_options": lambda: {**_master(_result_url(app)), **_key_prefix()},
            # Nothing runs for ever. Where the application sets one of the two, the other follows from it.
            "task_soft_time_limit": lambda: self._limits()[0],
            "task_time_limit": lambda: self._limits()[1],
            # Celery's older setting speaks for both newer ones where they are not set.
            "task_acks_on_failure": self._acks_when_it_fails,
            "task_acks_on_timeout": self._acks_when_it_fails,
        }
        from celery.app.defaults import SETTING_KEYS  # an app is made, so Celery is imported

        for name in _NOT_IN_CELERY_5_6 - set(SETTING_KEYS):
            del self._resolve[name]
        self._app = app

    def __getitem__(self, key: str) -> Any:
        return self._resolve[key]()

    def _limits(self) -> Pair:
        return pair((self.said("task_soft_time_limit"), self.said("task_time_limit")))

    def _acks_when_it_fails(self) -> bool:
        said = self.said("task_acks_on_failure_or_timeout")
        return True if said is None else bool(said)

    def said(self, key: str) -> Any:
        """What the application itself set, however it did; None if it set nothing."""
        conf: Any = self._app.conf
        for layer in conf.maps:
            if isinstance(layer, LazyDefaults):
                break
            for name in conf._to_keys(key):  # noqa: SLF001 - prefixes and old names are resolved there
                if layer.get(name) is not None:
                    return layer[name]
        return None

    def __iter__(self) -> Iterator[str]:
        return iter(self._resolve)

    def __len__(self) -> int:
        return len(self._resolve)


def _result_url(app: "Celery") -> str:
    """Beside the broker where that is Redis; otherwise the Redis of the settings."""
    broker = _broker(app)
    if scheme_of(broker) == SENTINEL:
        return broker
    broker = broker.partition(";")[0]
    return broker if scheme_of(broker) in REDIS_SCHEMES else servers.redis_url()


def _transport_options(app: "Celery") -> dict[str, Any]:
    broker = _broker(app)
    if scheme_of(broker) in REDIS_SCHEMES | {SENTINEL}:
        return {"socket_keepalive": True, **_master(broker), **_key_prefix()}
    return {"confirm_publish": True}


def _master(url: str) -> dict[str, Any]:
    """The master's name, which Celery reads among a transport's options, for a URL of the settings."""
    if scheme_of(url) != SENTINEL or not servers.redis_is_known():
        return {}
    known = [as_celery_reads(each) for each in (servers.broker_url(), servers.redis_url())]
    return next((options for plain, options in known if plain == as_celery_reads(url)[0]), {})


def _key_prefix() -> dict[str, Any]:
    prefix = settings().redis_prefix
    return {"global_keyprefix": prefix} if prefix else {}


def _broker(app: "Celery") -> str:
    """The broker's URL; several servers are separated by `;`."""
    url = app.conf.broker_url
    return url if isinstance(url, str) else ";".join(url)
