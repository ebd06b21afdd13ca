"""The Celery settings Seawall starts from. Whatever the application sets itself wins.

A default also gives way where the application says something else about the same thing: then it is derived
from what was said, or there is none and Celery's own rule holds.

docs/decisions/0001-celery-defaults.md gives the reason for each. Server URLs are resolved on first use,
because asking for an embedded server starts it: see `LazyDefaults`.
"""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from seawall import servers
from seawall.config import settings
from seawall.delivery import transport_for
from seawall.delivery.refusal import RETRY_POLICY
from seawall.priority import HIGHEST, Priority
from seawall.silence import SILENCE
from seawall.urls import REDIS_SCHEMES, SENTINEL, as_celery_reads, scheme_of
from seawall.worker.time_limits import NAMES, NOTHING, Pair, pair

if TYPE_CHECKING:
    from celery import Celery

CELLS: Final = "cells"
CELLS_POOL: Final = "seawall.worker.cells.pool:Pool"
DEFAULT_POOL: Final = CELLS if sys.platform.startswith("linux") else "prefork"
"""Cells need Linux; elsewhere tasks run in Celery's own pool."""

_UNSAID: Final = object()

PLAIN: Final[Mapping[str, Any]] = {
    # Only JSON crosses the broker: unpickling a message is running its sender's code. Results follow.
    "accept_content": ["json"],
    "task_serializer": "json",
    "result_serializer": "json",
    "event_serializer": "json",
    # A task is done when it has run, not when it was fetched.
    "task_acks_late": True,
    "worker_deduplicate_successful_tasks": True,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    # Fetch what can start soon: a fetched task is out of reach of the priority order.
    "worker_prefetch_multiplier": 1,
    "task_queue_max_priority": HIGHEST,
    # Submitting survives a short outage and gives up with an error after about ten seconds.
    "task_publish_retry": True,
    "task_publish_retry_policy": dict(RETRY_POLICY),
    "broker_connection_timeout": 4.0,
    # A worker waits for its broker as long as it takes; the fleet reports that it is not ready.
    "broker_connection_retry": True,
    "broker_connection_max_retries": None,
    "redis_socket_timeout": SILENCE,
    "redis_socket_keepalive": True,
    "redis_retry_on_timeout": True,
    # A fork that imports a large application may take longer than Celery's 4 s.
    "worker_proc_alive_timeout": 60.0,
    "worker_send_task_events": False,
    # Processes that claim their own work, instead of one that hands it out.
    "worker_pool": DEFAULT_POOL,
}


class LazyDefaults(Mapping[str, Any]):
    """Defaults that depend on which servers there are; each is worked out when Celery asks for it."""

    def __init__(self, app: "Celery") -> None:
        self._resolve: dict[str, Callable[[], Any]] = {
            "broker_url": lambda: as_celery_reads(servers.broker_url())[0],
            "result_backend": lambda: as_celery_reads(_result_url(app))[0],
            "broker_transport": lambda: transport_for(_broker(app)),
            "broker_transport_options": lambda: transport_options(_broker(app)),
            "result_backend_transport_options": lambda: _result_options(app),
            # Nothing runs for ever. Where the application sets one of the two, the other follows from it.
            "task_soft_time_limit": lambda: self._limits()[0],
            "task_time_limit": lambda: self._limits()[1],
            "task_default_priority": lambda: None if self._priorities_are_said() else int(Priority.NORMAL),
            # A worker that starts before its broker waits as one whose broker goes away.
            "broker_connection_retry_on_startup": lambda: bool(
                self.said("broker_connection_retry", otherwise=True)
            ),
            # As in redis-py, a timeout that is set holds for connecting too.
            "redis_socket_connect_timeout": lambda: self.said("redis_socket_timeout", 4.0),
        }
        self._app = app
        self.typed_limits: Pair = NOTHING
        """Time limits that the command line of this worker gives."""

        self._handed_out: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        """Options by their setting: the dictionary that the application sees, and what of it is ours."""

    def __getitem__(self, key: str) -> Any:
        value = self._resolve[key]()
        if not isinstance(value, dict):
            return value
        changed = self._changed_in_place(key)
        shown, _ = self._handed_out.get(key, ({}, {}))
        shown.clear()
        shown.update(value | changed)
        self._handed_out[key] = shown, value
        return shown

    def _changed_in_place(self, key: str) -> dict[str, Any]:
        """What the application wrote into options that it did not set, as `conf.options["name"] = 1`."""
        shown, ours = self._handed_out.get(key, ({}, {}))
        return {name: value for name, value in shown.items() if name not in ours or ours[name] != value}

    def options_said(self, key: str) -> Mapping[str, Any]:
        """The options among those of a setting that the application gives."""
        return self.said(key) or self._changed_in_place(key)

    @classmethod
    def of(cls, app: Any) -> "LazyDefaults | None":
        """Those of an application; None if it is none of ours."""
        if not getattr(app, "configured", True):
            app.conf.finalize()  # it is read on first use, and these are added then
        return next((layer for layer in getattr(app.conf, "maps", ()) if isinstance(layer, cls)), None)

    def decides(self, key: str) -> bool:
        """Whether there is a default of ours for a setting that the application says nothing about."""
        return (key in PLAIN or key in self._resolve) and self.said(key, _UNSAID) is _UNSAID

    def limit_layers(self) -> tuple[Pair, Pair]:
        """Time limits as the command line and the application's settings give them, without our defaults."""
        said = (self.said(f"task_{name}", _UNSAID) for name in NAMES)
        # An application that sets None wants no limit; to `pair`, None is nothing said.
        soft, hard = (None if each is _UNSAID else each or 0 for each in said)
        return self.typed_limits, (soft, hard)

    def _limits(self) -> Pair:
        return pair(*self.limit_layers())

    def priority_of_a_child(self, parent: Any) -> int | None:
        """The priority of what `parent`, a task that runs or None, submits without one."""
        if self.said("task_default_priority", _UNSAID) is not _UNSAID or self._counts_priorities():
            return None
        place = (parent.request.delivery_info if parent is not None else None) or {}
        return int(Priority.NORMAL) if (inherited := place.get("priority")) is None else int(inherited)

    def _priorities_are_said(self) -> bool:
        return bool(self.said("task_inherit_parent_priority")) or self._counts_priorities()

    def _counts_priorities(self) -> bool:
        """Whether the application says how many priorities there are: what has none is then the last."""
        queues = self.said("task_queues") or ()
        each = queues.values() if isinstance(queues, Mapping) else queues
        return self.said("task_queue_max_priority") is not None or any(map(_has_priorities, each))

    def said(self, key: str, otherwise: Any = None) -> Any:
        """What the application itself set, however it did, None included; `otherwise` if it set nothing."""
        conf: Any = self._app.conf
        for layer in conf.maps:
            if layer is self:
                break
            for name in conf._to_keys(key):  # noqa: SLF001 - prefixes and old names are resolved there
                if name in layer:
                    return layer[name]
        return otherwise

    def __iter__(self) -> Iterator[str]:
        return iter(self._resolve)

    def __len__(self) -> int:
        return len(self._resolve)


def by_new_names(conf: Any) -> dict[str, Any]:
    """What the application sets by names from before Celery 4, under the newer ones.

    Celery 5.6 looks for a setting by its newer name first, in all layers, and would find our default.
    """
    if conf.prefix or not conf._keys:  # noqa: SLF001 - Celery's functions from old names to new ones, and back
        return {}
    renamed, _ = conf._keys  # noqa: SLF001
    layers = reversed(conf.maps[:-1])
    return {renamed(name): value for layer in layers for name, value in layer.items() if name.isupper()}


def _result_url(app: "Celery") -> str:
    """Beside the broker where that is Redis; otherwise the Redis of the settings."""
    broker = _broker(app)
    if scheme_of(broker) == SENTINEL:
        return broker
    broker = broker.partition(";")[0]
    return broker if scheme_of(broker) in REDIS_SCHEMES else servers.redis_url()


def transport_options(url: str) -> dict[str, Any]:
    """Options of a connection to the broker at `url`, for those that the application does not set."""
    if scheme_of(url) in REDIS_SCHEMES | {SENTINEL}:
        return {"socket_keepalive": True, **_master(url), **_key_prefix()}
    return {"confirm_publish": True}


def complete_result_options(app: "Celery") -> None:
    """Add to the options of the result backend those of ours that the application does not set."""
    ours = LazyDefaults.of(app)
    if ours is not None and (said := ours.said("result_backend_transport_options")):
        added = {name: value for name, value in _result_options(app).items() if name not in said}
        if added:
            app.conf.result_backend_transport_options = {**said, **added}


def _result_options(app: "Celery") -> dict[str, Any]:
    return {**_master(app.conf.result_backend or ""), **_key_prefix()}


def _has_priorities(queue: Any) -> bool:
    if isinstance(queue, Mapping):
        return "x-max-priority" in (queue.get("queue_arguments") or {}) or bool(queue.get("max_priority"))
    return "x-max-priority" in (queue.queue_arguments or {}) or bool(queue.max_priority)


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
