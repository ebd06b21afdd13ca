"""`Seawall`, the Celery app with production defaults, and `install`, which makes any Celery app one."""

import copy
import inspect
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

from celery import Celery, concurrency, signals
from celery.local import Proxy

from seawall.delivery import rabbitmq, submission, transport_for
from seawall.delivery.envelope import SUBMITTED
from seawall.delivery.refusal import patience, submitting
from seawall.errors import ConfigError
from seawall.runtime import Declaration, declaration_of
from seawall.urls import scheme_of
from seawall.worker import forks, memory, task_events
from seawall.worker.defaults import (
    CELLS,
    CELLS_POOL,
    PLAIN,
    LazyDefaults,
    by_new_names,
    complete_result_options,
    transport_options,
)
from seawall.worker.discretion import discreet
from seawall.worker.names import submissions
from seawall.worker.results import stored
from seawall.worker.task import SeawallTask, refuse_coroutines, shown_arguments

_CONSUMER_STEPS: Final = (
    "seawall.worker.readiness:LoopBeat",
    "seawall.worker.reconnection:Reconnection",
    "seawall.worker.gate:Gate",
    "seawall.worker.rates:Rates",
    "seawall.worker.strategies:Strategies",
    "seawall.worker.unbegun:GivingWay",
    "seawall.worker.strays:Strays",
    "seawall.worker.strays:Broadcasts",
)
_DJANGOS_TASK: Final = "celery.contrib.django.task:DjangoTask"
_WORKER_STEPS: Final = ("seawall.worker.overruns:Step",)

_concurrency: Any = concurrency  # celery-types lacks half of it
_NAMED: Final = 5
"""Tasks that a refusal names."""

_BY_PLACE = tuple(inspect.signature(Celery.send_task).parameters)[4:]
"""Options of `Celery.send_task` in their order, for calls that give them without a name."""


class Seawall(Celery):
    """A `celery.Celery` whose tasks have policies and whose defaults survive production.

    Creating one reads no environment, opens no connection and starts no server; the first task submitted or
    the first setting read does. Servers come from `SEAWALL_*` or, without any, are the embedded ones.
    Workers start `services` before they consume; so does `bootstrap(app)`.
    """

    task_cls = SeawallTask  # type: ignore[assignment]
    services: tuple[Declaration, ...] = ()

    def __init__(self, main: str | None = None, *, services: Iterable[object] = (), **kwargs: Any) -> None:
        super().__init__(main, **kwargs)
        if self.task_cls is SeawallTask and _is_djangos(self):
            self.task_cls = _with_policy(self, _DJANGOS_TASK)
        self.services = _declared(services)
        _prepare(self)

    def on_init(self) -> None:
        """Prepare the app anew where `Celery.__init__` is called once more, as flask-celery-helper does."""
        super().on_init()
        if "services" in vars(self):
            _prepare(self)

    def _load_config(self) -> Any:
        """As Celery's, which goes on when a receiver of its signals fails; not so without our defaults."""
        conf: Any = super()._load_config()  # type: ignore[misc]
        if not any(isinstance(layer, LazyDefaults) for layer in conf.maps):
            try:
                _add_defaults(self)
            except (
                LookupError,
                AttributeError,
            ) as exc:  # which reading a setting has meanings of its own for
                raise ConfigError(f"Seawall's defaults do not fit this Celery ({exc!r})") from exc
        return conf

    def send_task(self, name: str, args: Any = None, kwargs: Any = None, *more: Any, **options: Any) -> Any:
        """As `Celery.send_task`; every submission passes here.

        Raises:
            ConfigError: no worker could ever run it; see `submission.check`. Nothing was sent.
        """
        options = {**dict(zip(_BY_PLACE, more, strict=False)), **options}
        options |= submission.check(name, args, kwargs, options)
        options["router"] = _Router(self, name, options.get("router") or self.amqp.router)
        self.note_submission(name)
        with submitting(self._patience(options)):
            return super().send_task(name, args, kwargs, **options)

    def priority_where_none_is_said(self) -> int | None:
        """The default, or that of the task that runs here, where the application wants it inherited."""
        conf, ours = self.conf, LazyDefaults.of(self)
        if (priority := conf.task_default_priority) is not None:  # of a task that only its name is known of
            return int(priority)
        if not conf.task_inherit_parent_priority or ours is None:
            return None
        return ours.priority_of_a_child(self.current_worker_task)

    def _patience(self, options: Mapping[str, Any]) -> float:
        said: Mapping[str, Any] = self.conf.task_publish_retry_policy or {}
        own = options.get("retry_policy")
        return patience({**said, **own} if own else said)

    def _connection(self, url: Any, *args: Any, **options: Any) -> Any:
        """As Celery's, with our transport and its options for this URL, which may not be the broker's."""
        ours = LazyDefaults.of(self)
        if not url or ours is None:
            return super()._connection(url, *args, **options)  # type: ignore[misc]
        if not (options.get("transport") or ours.said("broker_transport")):
            scheme = scheme_of(url if isinstance(url, str) else url[0])
            options["transport"] = transport_for(url) or (scheme if scheme.isalnum() else None)
        made = super()._connection(url, *args, **options)  # type: ignore[misc]
        made.transport_options = {
            **transport_options(url if isinstance(url, str) else ";".join(url)),
            **ours.options_said("broker_transport_options"),
            **(options.get("transport_options") or {}),
        }
        return made

    def note_submission(self, name: str) -> None:
        """A task of this name is submitted: it is warned of once if no worker that runs knows it."""
        submissions.note(name)

    if not TYPE_CHECKING:  # the stubs' overloads say what kind of task a decorator makes

        def task(self, *args: Any, **options: Any) -> Any:
            """As `Celery.task`.

            Raises:
                ConfigError: the function is a coroutine function; Celery would not say so.
            """
            for function in args:
                refuse_coroutines(function, options.get("name"))
            made: Any = super().task(*args, **options)
            if args:
                return made

            def decorate(function: Any) -> Any:
                refuse_coroutines(function, options.get("name"))
                return made(function)

            return decorate

    def register_task(self, task: Any, **options: Any) -> Any:
        """As `Celery.register_task`.

        Raises:
            ConfigError: its `run` is a coroutine function.
        """
        refuse_coroutines(task.run, task.name)
        if not isinstance(task, SeawallTask):
            task.run = forks.confined(task.run)
        return super().register_task(task, **options)

    def _get_backend(self) -> Any:
        complete_result_options(self)
        return discreet(stored(super()._get_backend()))  # type: ignore[misc]

    def _task_from_fun(  # type: ignore[override]
        self, fun: Any, name: str | None = None, base: Any = None, **options: Any
    ) -> Any:
        """Give tasks with a base class of their own (`@app.task(base=...)`) a policy too."""
        refuse_coroutines(fun, name)
        if base is not None and not issubclass(base, SeawallTask):
            base = type(base.__name__, (SeawallTask, base), {"abstract": True, "__module__": base.__module__})
        return super()._task_from_fun(fun, name=name, base=base, **options)


def install(app: Celery, *, services: Iterable[object] = ()) -> Celery:
    """Give an existing Celery app Seawall's defaults, transport, policies and failure handling; return it.

    What the application configured itself stays as it is. Call it before the app's tasks are first used.

    Raises:
        ConfigError: `app` is no Celery app, or its tasks are already bound.
    """
    if isinstance(app, Proxy):  # such as `celery.current_app`
        app = app._get_current_object()  # noqa: SLF001 - it has no other name
    declared = _declared(services)
    if isinstance(app, Seawall):
        app.services = (*app.services, *declared)
        return app
    if not isinstance(app, Celery):
        raise ConfigError(f"install(app={app!r}) is no celery.Celery: pass the application object")
    _refuse_bound_tasks(app)
    own_task_cls = _task_class_of(app)
    # The object stays the same, because the application's modules hold references to it.
    app.__class__ = type("Seawall", (Seawall, type(app)), {}) if type(app) is not Celery else Seawall
    app.task_cls = _with_policy(app, own_task_cls)
    app.__dict__.pop("Task", None)
    vars(app)["services"] = declared
    _prepare(app)
    return app


def _refuse_bound_tasks(app: Any) -> None:
    """Those would stay tasks of Celery's own, as a task that is a class was registered on purpose."""
    late = f"install(app={app.main!r}) came too late: call it right after Celery(...)"
    if app.finalized:
        raise ConfigError(late)
    bound = [
        name
        for name, task in app._tasks.items()  # noqa: SLF001 - `tasks` would bind the others
        if getattr(task, "_decorated", False) and not isinstance(task, SeawallTask)
    ]
    if bound:
        more = f" and {len(bound) - _NAMED} more" if len(bound) > _NAMED else ""
        names = ", ".join(bound[:_NAMED]) + more
        raise ConfigError(f"{late}, before anything uses a task (its name, .s()): {names} used already")


def _is_djangos(app: Any) -> bool:
    """Whether Celery has found a Django project, and would give the tasks `delay_on_commit` and the like."""
    return any(type(fixup).__module__ == "celery.fixups.django" for fixup in app._fixups)  # noqa: SLF001


def _task_class_of(app: Celery) -> Any:
    """The class of its tasks: the one put in place of `app.Task`, as Flask applications do, or `task_cls`.

    Celery itself puts one there, with `_app` in it, once somebody has looked.
    """
    placed = vars(app).get("Task")
    if placed is None or "_app" in vars(placed):
        return vars(app).get("task_cls", type(app).task_cls)
    return placed


def _declared(services: Iterable[object]) -> tuple[Declaration, ...]:
    return tuple(declaration_of(each) for each in services)


def _with_policy(app: Celery, task_cls: Any) -> Any:
    """`task_cls` (a class or its path) with `SeawallTask` in front."""
    if isinstance(task_cls, str):
        from celery.utils.imports import symbol_by_name

        task_cls = symbol_by_name(task_cls)
    if issubclass(SeawallTask, task_cls):
        return SeawallTask
    return type("Task", (SeawallTask, task_cls), {"abstract": True, "__module__": app.__module__})


def _prepare(app: Celery) -> None:
    rabbitmq.close_copies_after_forks()
    if app.configured:  # type: ignore[attr-defined]
        _add_defaults(app)
    else:
        app.on_after_configure.connect(_add_defaults, weak=False)
        receivers: Any = app.on_after_configure.receivers
        receivers.insert(0, receivers.pop())  # those of the application may read settings and bind tasks
    app.steps["consumer"].update(_CONSUMER_STEPS)
    app.steps["worker"].update(_WORKER_STEPS)
    memory.install(app)
    task_events.install(app)
    _concurrency.ALIASES.setdefault(CELLS, CELLS_POOL)
    signals.import_modules.connect(_prepare_node, dispatch_uid="seawall.node")


def _prepare_node(sender: Any = None, **_: Any) -> None:
    """A worker or beat begins. Who only submits imports nothing of theirs, and is quick for it."""
    if isinstance(sender, Seawall):
        from seawall.worker import lifecycle

        lifecycle.connect()


def _add_defaults(sender: Celery, **_: Any) -> None:
    """Just above Celery's own: `Celery.add_defaults` would put ours above what `config_from_object` says."""
    conf: Any = sender.conf
    ours = [
        by_new_names(conf),
        LazyDefaults(sender),
        copy.deepcopy(dict(PLAIN)),
    ]  # of this application: it may change one in place
    for layers in (conf.maps, conf.defaults):
        layers[-1:-1] = ours
    amqp: Any = sender.amqp
    amqp.queues_cls = type("Queues", (_Queues, amqp.queues_cls), {})


class _Router:
    """Celery's router, and after it what is ours to add where neither the call nor a route says it.

    Among the options of the call it would count more than what a route says.
    """

    def __init__(self, app: Seawall, task: str, celerys: Any) -> None:
        self._app, self._celerys = app, celerys
        self._task = app._tasks.get(task)  # type: ignore[attr-defined]  # noqa: SLF001 - as `send_task` does

    def route(
        self, options: dict[str, Any], name: str, args: Any = (), kwargs: Any = None, task_type: Any = None
    ) -> dict[str, Any]:
        """Raises ConfigError where a route says what `submission.check` refuses of a call."""
        routed = dict(self._celerys.route(options, name, args, kwargs, task_type))
        said = {option: value for option, value in routed.items() if options.get(option) is None}
        routed |= submission.check_options(name, said)
        if routed.get("priority") is None and (priority := self._priority()) is not None:
            routed["priority"] = priority
        routed["headers"] = {**(routed.get("headers") or {}), SUBMITTED: time.time()}
        for option, shown in shown_arguments(self._task, args, kwargs).items():
            if routed.get(option) is None:
                routed[option] = shown
        return routed

    def _priority(self) -> int | None:
        """As the task has it, where that is known: settings are slow to read."""
        filled = self._task.filled_defaults if isinstance(self._task, SeawallTask) else {}
        found = filled.get("priority")
        return self._app.priority_where_none_is_said() if found is None else found


class _Queues:
    """Mixed into Celery's: RabbitMQ refuses (406) quorum queues and streams that are to have priorities."""

    def _set_max_priority(self, arguments: dict[str, Any]) -> None:
        if arguments.get("x-queue-type", "classic") == "classic":
            super()._set_max_priority(arguments)  # type: ignore[misc]
