"""How a feature is looked at: the table of all, and what each finds at hand."""

import time
from collections.abc import Callable
from typing import Any

from support.features.application import app, store

PATIENCE = 30.0  # seconds; longer on a busy machine, as run.py says

Feature = Callable[["Look"], Any]
FEATURES: dict[str, Feature] = {}
SHORT: set[str] = set()
"""Those that the plain run tries."""


def feature(function: Feature) -> Feature:
    """Add it to the table, under the name of its module and its own."""
    FEATURES[_name(function)] = function
    return function


def short(function: Feature) -> Feature:
    """As `feature`, also for the plain run."""
    SHORT.add(_name(function))
    return feature(function)


def _name(function: Any) -> str:
    part = function.__module__.rpartition(".")[2]
    return f"{part}: {function.__name__.replace('_', ' ')}"


class Look:
    """One feature under test: its key, its tasks, and what comes of them."""

    app = app
    store = store
    patience = PATIENCE

    def __init__(self, name: str) -> None:
        self.key = name

    def task(self, name: str) -> Any:
        return app.tasks[f"look.{name}"]

    def end(self, result: Any) -> list[Any]:
        """State and value, or exception, of what has ended."""
        value = result.get(timeout=self.patience, propagate=False)
        return [result.state, said(value)]

    def go(self) -> None:
        """Let those tasks go on that wait for it."""
        store.set(f"go {self.key}", 1)

    def notes(self, count: int, key: str | None = None) -> list[str]:
        """Lines that tasks noted, once there are so many."""
        name = f"notes {key or self.key}"
        self.until(lambda: store.llen(name) >= count)
        return list(store.lrange(name, 0, -1))

    def until(self, condition: Callable[[], Any], patience: float | None = None) -> Any:
        """What it returns, once that is true; what it returned last after a while."""
        ends = time.monotonic() + (patience or self.patience)
        while not (found := condition()) and time.monotonic() < ends:
            time.sleep(0.02)
        return found

    def settled(self, ticks: int = 3) -> None:
        """Wait until the worker has taken what was sent before: by tasks that pass it, one after another."""
        for _ in range(ticks):
            self.task("echo").delay().get(timeout=self.patience)


def said(value: Any) -> Any:
    """A value as JSON has it, an exception as its type and text."""
    if isinstance(value, BaseException):
        return f"{type(value).__name__}: {value}"
    if isinstance(value, dict):
        return {str(name): said(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [said(each) for each in value]
    return value if isinstance(value, str | int | float | bool) or value is None else repr(value)


def raised(call: Callable[[], Any]) -> str:
    """What a call raises, or that it returns."""
    try:
        return f"returned {said(call())}"
    except Exception as exc:  # noqa: BLE001 - whatever it is
        return str(said(exc))
