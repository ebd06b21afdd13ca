"""An application as its authors wrote it: what they set, which tasks they defined, and where.

Celery fills in what nobody said, in its settings and on its tasks; here the two are told apart.
"""

import inspect
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from traceback import extract_tb
from types import CodeType
from typing import Any, Final

from celery import Celery, Task
from celery.app import defaults
from celery.app.annotations import resolve_all

from seawall.doctor.adoption.sources import Sources
from seawall.doctor.shapes import number as seconds
from seawall.doctor.shapes import readable
from seawall.errors import ConfigError, SeawallError
from seawall.policies import Policy, policy_of
from seawall.quantity import shown
from seawall.worker.defaults import PLAIN, LazyDefaults
from seawall.worker.task import SeawallTask
from seawall.worker.time_limits import Pair

_celery_defaults: Any = defaults
_KNOWN: Final[Mapping[str, Any]] = _celery_defaults.DEFAULTS
_OLD: Final[Mapping[str, str]] = _celery_defaults._TO_NEW_KEY  # noqa: SLF001 - the only list of old names
_LIKE: Final = {
    "serializer": "task_serializer",
    "time_limit": "task_time_limit",
    "soft_time_limit": "task_soft_time_limit",
}
"""Options of tasks that are read as a setting is."""
_BOUND: Final = "__bound__"
"""Celery's mark on the class of a task; what stands there before was said by the task's author."""


@dataclass(kw_only=True)
class Application:
    """The application, its definitions of tasks by name, and what could not be imported."""

    app: Any
    definitions: Mapping[str, list[CodeType]]
    failures: list[str]
    sources: Sources
    faults: dict[str, str] = field(default_factory=dict, init=False)
    """What could not be read and is left out, in words, each with the setting that it stands in."""
    _settings: dict[str, Any] | None = field(default=None, init=False)
    _tasks: "list[TaskView] | None" = field(default=None, init=False)

    def said(self, setting: str) -> Any:
        """What the application itself set; None if it set nothing."""
        return self.settings.get(setting)

    def mentions(self, setting: str) -> bool:
        """Whether the application gives it at all, also as None."""
        return any(self._setting(key) == setting for layer in self._layers() for key in layer)

    def after(self, setting: str) -> Any:
        """What holds under Seawall, of settings that do not depend on its servers."""
        said = self.said(setting)
        return said if said is not None else PLAIN.get(setting, _KNOWN.get(setting))

    @property
    def settings(self) -> dict[str, Any]:
        """All that the application set itself, under Celery's present names."""
        if self._settings is None:
            self._settings = self._read_settings()
        return self._settings

    def _read_settings(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for layer in self._layers():
            for key in layer:
                name = self._setting(key)
                if name is not None and name not in found and layer[key] is not None:
                    found[name] = layer[key]
                elif not isinstance(key, str):
                    self.faults[f"the settings have the key {shown(key)}, no text"] = ""
        for name, value in list(found.items()):
            found[name], faults = readable(name, value)
            self.faults |= dict.fromkeys(faults, name)
        found = {name: value for name, value in found.items() if value is not None}
        for name, variable in (
            ("broker_url", "CELERY_BROKER_URL"),
            ("result_backend", "CELERY_RESULT_BACKEND"),
        ):
            if os.environ.get(variable):
                found[name] = os.environ[variable]
        return found

    def unknown(self) -> Iterator[tuple[str, str]]:
        """Names among the settings that Celery does not know, each with the name without its namespace.

        A module and the configuration of a framework (`app.conf.update(flask_app.config)`) hold names of
        their own, which are left out. So is a name whose value the application gives under Celery's name too.
        """
        prefix = self.app.conf.prefix or ""
        for layer in self._layers():
            plain = isinstance(layer, dict)
            for key in layer:
                if (
                    not isinstance(key, str)
                    or key.startswith("_")
                    or self._setting(key) is not None
                    or key == "deprecated_settings"
                ):
                    continue
                bare = key.removeprefix(prefix or "CELERY_").lower()
                named = (
                    key.startswith(prefix) if prefix else _looks_like_one(key) or (plain and key.islower())
                )
                if named and not (bare in _KNOWN and self.said(bare) == layer[key]):
                    yield key, bare

    def place(self, setting: str) -> str:
        """A setting with its file and line, if the application gives it."""
        if setting not in self.settings and setting not in self.faults.values():
            return setting
        conf = self.app.conf
        names = {setting, *conf._to_keys(setting), *(old for old, new in _OLD.items() if new == setting)}  # noqa: SLF001
        if conf.prefix:
            names.add(conf.prefix + setting.upper())
        return self.sources.name(setting, names)

    @property
    def tasks(self) -> list["TaskView"]:
        """The application's own tasks, by name."""
        if self._tasks is None:
            named = sorted(self.app.tasks.items())
            self._tasks = [TaskView(self, task) for name, task in named if not name.startswith("celery.")]
        return self._tasks

    def apps(self) -> dict[str, Any]:
        """Every Celery app that one of the application's modules makes, by its place."""
        found: dict[str, Any] = {}
        for module in list(sys.modules.values()):
            path = Path(getattr(module, "__file__", None) or "")
            for name, value in list(vars(module).items()) if path in self.sources.loaded else ():
                # A proxy such as current_app only claims to be an app; an import is no assignment.
                if issubclass(type(value), Celery) and (line := self.sources.assignment(path, name)):
                    found[f"{name} ({self.sources.at(path, line)})"] = value
        return found

    def _layers(self) -> Iterator[Any]:
        for layer in self.app.conf.maps[:-1]:
            if isinstance(layer, LazyDefaults):
                return
            yield from getattr(layer, "maps", (layer,))

    def _setting(self, key: Any) -> str | None:
        """The setting that a key of a configuration means, or None."""
        if not isinstance(key, str):
            return None
        prefix = self.app.conf.prefix
        if prefix and key.startswith(prefix):
            bare = key.removeprefix(prefix).lower()
            if bare in _KNOWN:
                return bare
        if key in _KNOWN:
            return key
        return _OLD.get(key)


class TaskView:
    """A task, and what its author said about it."""

    def __init__(self, application: Application, task: Any) -> None:
        self.task = task
        self.name: str = task.name
        self.policy: Policy = policy_of(task.run)
        self._application = application

    @property
    def place(self) -> str:
        """The task with its file and line."""
        code = code_of(self.function)
        return self.name if code is None else f"{self.name} ({self._application.sources.line_of(code)})"

    @property
    def function(self) -> Any:
        """Its body, without what Celery wrapped around it."""
        return inspect.unwrap(getattr(self.task, "_orig_run", self.task.run))

    def said(self, attribute: str) -> Any:
        """What the task's annotations, its options or a class of its own give; None if they do not."""
        annotated = self.annotated(attribute)
        value = annotated if annotated is not None else self.own(attribute)
        if value is None or attribute not in _LIKE:
            return value
        value, faults = readable(_LIKE[attribute], value, name=f"{attribute} of the task {self.name}")
        self._application.faults |= dict.fromkeys(faults, "")
        return value

    def annotated(self, attribute: str) -> Any:
        """What `task_annotations` say."""
        try:
            annotations: Iterable[Any] = resolve_all(self._application.app.annotations, self.task)
            return next((each[attribute] for each in annotations if each.get(attribute) is not None), None)
        except Exception as exc:  # noqa: BLE001 - it is code of the application
            if "task_annotations" not in self._application.faults.values():
                fault = f"task_annotations cannot be read for {self.name} ({_in_words(exc)})"
                self._application.faults[fault] = "task_annotations"
            return None

    def own(self, attribute: str) -> Any:
        """What `@app.task(...)` or a class of the application gives."""
        for each in self.classes:
            if attribute in _written(each) and vars(each)[attribute] is not None:
                return vars(each)[attribute]
        return None

    @property
    def classes(self) -> list[type]:
        """Its class and those between that and Celery's or ours, the nearest first."""
        return [
            each
            for each in type(self.task).__mro__
            if each not in {Task, SeawallTask, object} and not each.__module__.startswith("celery.")
        ]

    @property
    def own_classes(self) -> list[type]:
        """Task classes that the application wrote, without the one that a decorator makes."""
        return [
            each
            for each in self.classes[self.decorated :]
            if not each.__module__.startswith("seawall.") and any(map(_says_something, vars(each)))
        ]

    @property
    def decorated(self) -> bool:
        """Whether it is made of a function, and not registered as a class."""
        return "_decorated" in vars(type(self.task))

    @property
    def foreign(self) -> bool:
        """Whether it is registered as a class of Celery's own, before which Seawall's is not put."""
        return not self.decorated and not is_of_app(type(self.task))

    def limits(self) -> Pair:
        """Soft and hard time limit that the task and its annotations give."""
        if "timeout" in self.policy.explicit:
            return self.policy.timeout, self.policy.hard_timeout
        return seconds(self.said("soft_time_limit")), seconds(self.said("time_limit"))


def read(load: Callable[[], Celery]) -> Application:
    """The application that `load` returns, with its task modules imported as a worker imports them.

    Raises:
        ConfigError: it cannot be loaded.
    """
    definitions: dict[str, list[CodeType]] = {}
    failures: list[str] = []
    with _definitions_into(definitions):
        try:
            app: Any = load()
            app.conf.finalize()  # reads the configuration, which Celery does when it first needs it
        except SeawallError:
            raise
        except (Exception, SystemExit) as exc:
            raise ConfigError(f"the application cannot be imported: {_in_words(exc)}") from exc
        for step in (app.loader.import_default_modules, app.finalize):
            try:
                step()
            except (Exception, SystemExit) as exc:  # noqa: BLE001 - whatever modules raise is what is to be said
                failures.append(_in_words(exc))
                failures += _import_each(app)
    failures = list(dict.fromkeys(failures))
    return Application(app=app, definitions=definitions, failures=failures, sources=Sources())


def _import_each(app: Any) -> Iterator[str]:
    """Import the modules of tasks that one before them kept back; yields what they raise."""
    for setting in ("imports", "include"):
        modules, _ = readable(setting, app.conf.get(setting))
        for module in [modules] if isinstance(modules, str) else modules or ():
            try:
                app.loader.import_task_module(module)
            except (Exception, SystemExit) as exc:  # noqa: BLE001 - as above
                yield _in_words(exc)


@contextmanager
def _definitions_into(found: dict[str, list[CodeType]]) -> Iterator[None]:
    """Note each definition of a task: Celery keeps the first of a name and says nothing of others."""
    celery: Any = Celery
    original = celery._task_from_fun  # noqa: SLF001 - decorators of all kinds end there

    def noted(app: Any, fun: Any, name: str | None = None, *args: Any, **options: Any) -> Any:
        code = code_of(inspect.unwrap(fun))
        codes = found.setdefault(name or app.gen_task_name(fun.__name__, fun.__module__), [])
        if code is not None and code not in codes:
            codes.append(code)
        return original(app, fun, name, *args, **options)

    celery._task_from_fun = noted  # noqa: SLF001
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Task name .* is already registered")
            yield
    finally:
        celery._task_from_fun = original  # noqa: SLF001


def code_of(function: Any) -> CodeType | None:
    """The code of a function or method, if it is written in Python."""
    code = getattr(function, "__code__", None)
    return code if isinstance(code, CodeType) else None


def is_of_app(each: type) -> bool:
    """Whether a task class derives from `app.Task`, which is Seawall's after `install(app)`."""
    return any("_app" in vars(base) for base in each.__mro__[1:] if base is not Task)


def _written(each: type) -> list[str]:
    """The attributes of a class that its author wrote: Celery adds its own when it binds the class."""
    names = list(vars(each))
    return names[: names.index(_BOUND)] if _BOUND in names else names


def _says_something(attribute: str) -> bool:
    """Whether an attribute of a class does more than tie it to an application, or put ours before it."""
    return attribute == "__call__" or not (
        attribute.startswith("__") or attribute in {"_app", "name", "abstract"}
    )


def _looks_like_one(key: str) -> bool:
    """Whether a name of a module or of another framework's configuration is meant as a setting."""
    starts = ("CELERY_", "CELERYD_", "CELERYBEAT_", "BROKER_", "task_", "worker_", "result_", "broker_")
    return key.startswith(starts)


def _in_words(exc: BaseException) -> str:
    """An exception in one line, with the place that raised it: one of the application, if it came there."""
    last = extract_tb(exc.__traceback__)[-1:]
    place = Sources().raised_at(exc) or "".join(f"{each.filename}:{each.lineno}" for each in last)
    return f"{type(exc).__name__}: {' '.join(str(exc).split())} ({place})"
