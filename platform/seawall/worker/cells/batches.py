"""Batches in a cell: what a task's own `Strategy` has gathered, run at once by the cell's pool.

The strategy calls `consumer.pool.apply_async` with a function of its own, from the handler of a message or
from a timer. To the supervisor that is one run, whose process answers for every message that the strategy
keeps of that task: all are written down in the table, none is recalled as if it had not begun, and if the
process dies each of them is settled as the one message of any other task would be.
"""

import json
import time
import uuid
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from seawall import delivery
from seawall.delivery.channel import Channel as LeasedChannel
from seawall.worker import forks
from seawall.worker.cells.deaths import describe_all
from seawall.worker.strategies import Kept, Seen, Strategies, has_own_strategy
from seawall.worker.time_limits import NOTHING, limits_of

if TYPE_CHECKING:
    from seawall.worker.cells.cell import Cell


class CellStrategies(Strategies):
    """The step in a cell, which runs one batch at a time, and writes down what is kept."""

    processes = 1
    _cell: "Cell"

    def _attach(self, c: Any) -> None:
        self._cell = c.controller

    @property
    def worker(self) -> Any:
        """The worker of the supervisor."""
        return self._cell.worker

    def added(self, kept: Kept) -> None:
        """Write it down."""
        self.fits = self._cell.row.add_gathered(_line(kept))

    def changed(self) -> None:
        """Write down what is left."""
        row = self._cell.row
        row.clear_gathered()
        self.fits = True
        for kept in self.kept:
            self.fits = row.add_gathered(_line(kept))

    def start_strategy(self, task: Any) -> Callable[..., Any]:
        """What takes a message of `task` in."""
        if not has_own_strategy(task):
            handle: Callable[..., Any] = task.start_strategy(self._cell.app, self._consumer)
            return handle
        take_in = task.start_strategy(self._cell.app, Seen(self._consumer, BatchPool(self._cell, self, task)))

        def settled_here(message: Any, body: Any, _ack: Any, _reject: Any, *rest: Any, **options: Any) -> Any:
            # Celery's would settle a turn of the loop later, when the batch is long over.
            return take_in(message, body, message.ack_log_error, message.reject_log_error, *rest, **options)

        return self.counted(task, settled_here)


class BatchPool:
    """The cell's pool as a strategy sees it: what it applies runs as a batch of what is kept of its task."""

    def __init__(self, cell: "Cell", strategies: CellStrategies, task: Any) -> None:
        self._cell = cell
        self._strategies = strategies
        self._task = task

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cell.pool, name)

    def apply_async(self, target: Any, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        """As Celery's pool in the same thread; it returns when the batch has ended, or has to wait.

        Nothing runs once the cell was told to end: what is kept goes back when it does.
        """
        cell, row = self._cell, self._cell.row
        if not cell.may_start():
            return None
        again = partial(self.apply_async, target, args, kwargs, **options)
        if not self._strategies.begins(self._task.name, again):
            return None
        batch = self._strategies.of(self._task.name)
        messages = [message for kept in batch if (message := kept.message()) is not None]
        accept = options.pop("accept_callback", None)

        def accepted(*arguments: Any) -> None:
            if accept is not None:
                accept(*arguments)
            self._put_on_record(batch, messages)

        try:
            self._begin(batch, messages)
            inside = forks.confined(self._marked(target))
            return cell.pool.apply_async(inside, args, kwargs, accept_callback=accepted, **options)
        finally:
            self._put_on_record(batch, messages)
            row.end()
            self._strategies.look()
            name = f"{self._task.name} (a batch of {len(batch)})"
            cell.ended(SimpleNamespace(name=name, id="", message=messages[0] if messages else None))

    def _marked(self, target: Callable[..., Any]) -> Callable[..., Any]:
        """`target` as a task's own code, which its soft limit may interrupt."""
        row = self._cell.row

        def run(*args: Any, **kwargs: Any) -> Any:
            row.mark(1)
            try:
                return target(*args, **kwargs)
            finally:
                row.mark(0)

        return run

    def _begin(self, batch: list[Kept], messages: list[Any]) -> None:
        task, row, cell = self._task, self._cell.row, self._cell
        leased = _are_leased(messages)
        soft, hard = limits_of(task, NOTHING)
        if hard is None and soft is None:
            hard, soft = cell.execution.limits
        row.ahead = messages[0].channel.unstarted if messages and leased else 0
        row.describe(b"" if leased and task.acks_late else describe_all(messages))
        tag, queue = (batch[0].tag, batch[0].queue) if batch else ("", "")
        soft = float(soft or 0) if not hard or (soft or 0) < hard else 0.0
        row.begin(str(uuid.uuid4()), task.name, tag, queue, time.monotonic(), soft, float(hard or 0))
        for message in messages:
            delivery.started(message)

    def _put_on_record(self, batch: list[Kept], messages: list[Any]) -> None:
        """The broker hears what began, and what is acknowledged, before anything else happens."""
        for kept in batch:
            if kept.settled and not kept.noted:
                kept.noted = True
                self._cell.row.acknowledged(kept.tag, kept.queue)
        if messages and _are_leased(messages):
            messages[0].channel.flush()


def _are_leased(messages: list[Any]) -> bool:
    return all(isinstance(message.channel, LeasedChannel) for message in messages)


def _line(kept: Kept) -> bytes:
    return json.dumps([kept.tag, kept.queue, kept.task]).encode()
