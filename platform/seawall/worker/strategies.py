"""Tasks with a `Strategy` of their own, such as celery-batches', which gather messages before they run.

A strategy is what takes a message of a task in. Celery's hands it on to the pool; one of an application's own
may keep it until it has enough, and needs a prefetch window for that. Ours is small, so that priorities hold,
and would give it one message at a time. So each message that a strategy keeps has a place beside the window,
up to `wanted_by`, as a request has that waits for its rate: all other tasks keep their order and their small
window.

What is kept stays leased. It goes back when the worker ends, at no charge. Before that nobody can take it
from its strategy, which would run it all the same. So a suspect that is to run alone in the worker does not
wait for what is kept, and a batch that a strategy begins meanwhile waits until that one has ended.
"""

import itertools
import weakref
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from celery import bootsteps
from celery.app.trace import build_tracer
from celery.worker import state as worker_state

from seawall import delivery
from seawall.delivery.channel import Channel as LeasedChannel
from seawall.worker.defaults import LazyDefaults

state: Any = worker_state  # celery-types lacks half of it

CELERYS: Final = "celery.worker.strategy:default"

_CELERYS_MULTIPLIER: Final = 4  # what a strategy's author has counted on where the application says nothing
_LOOK_EVERY: Final = 0.25


def has_own_strategy(task: Any) -> bool:
    """Whether another than Celery's strategy takes its messages in."""
    return bool(task.Strategy != CELERYS)


def wanted_by(task: Any, *, processes: int, multiplier: int) -> float:
    """How many messages at once the strategy of `task` may keep beside the prefetch window.

    That is `flush_every` of celery-batches, for each process and one batch more that is gathered meanwhile;
    of other strategies what the application's own prefetch multiplier gives the worker.
    """
    flush_every = getattr(task, "flush_every", None)
    if isinstance(flush_every, int) and flush_every > 0:
        return flush_every if processes == 1 else flush_every * (processes + 1)
    return multiplier * processes if multiplier else float("inf")


def multiplier_of(worker: Any) -> int:
    """The prefetch multiplier of the application or the command line, or else Celery's; 0 is no bound."""
    conf: Any = worker.app.conf
    lazy = next((layer for layer in conf.maps if isinstance(layer, LazyDefaults)), None)
    said = lazy.said("worker_prefetch_multiplier") if lazy is not None else conf.worker_prefetch_multiplier
    given = int(getattr(worker, "prefetch_multiplier", None) or 0)
    if given != conf.worker_prefetch_multiplier:  # by the command line
        return given
    return _CELERYS_MULTIPLIER if said is None else int(said)


@dataclass(eq=False)
class Kept:
    """A message that a strategy keeps."""

    task: str
    tag: str
    queue: str
    message: "weakref.ref[Any]"  # a strategy that drops one gives it back, when its connection is lost
    widened: bool = False
    begun: bool = False
    gave_way: bool = False
    noted: bool = False  # that it was settled

    @property
    def settled(self) -> bool:
        """Whether somebody has decided about it, or nobody has it any more."""
        message = self.message()
        if message is None or message.acknowledged:
            return True
        return isinstance(message.channel, LeasedChannel) and not _queue_of(message)


class Strategies(bootsteps.StartStopStep):
    """The consumer's step: it knows what strategies keep. All of it runs in the consumer's thread."""

    label = "Strategies"

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        self._consumer = c
        self._kept: dict[int, Kept] = {}
        self._numbers = itertools.count()
        self._wanted: dict[str, float] = {}
        self._widened: Counter[str] = Counter()  # places beside the window, by task
        self._waiting: deque[Callable[[], Any]] = deque()  # batches that may not begin now
        self._timer: Any = None
        c.own_strategies = self
        if self.include_if(c):
            self._attach(c)

    def include_if(self, c: Any) -> bool:
        """Where messages are taken in; a supervisor takes none."""
        return bool(getattr(c, "runs_tasks", True))

    def _attach(self, c: Any) -> None:
        def update_strategies() -> None:
            for name, task in c.app.tasks.items():
                c.strategies[name] = self.start_strategy(task)
                task.__trace__ = build_tracer(name, task, c.app.loader, c.hostname, app=c.app)

        c.update_strategies = update_strategies

    def start_strategy(self, task: Any) -> Callable[..., Any]:
        """What takes a message of `task` in."""
        c = self._consumer
        if not has_own_strategy(task):
            handle: Callable[..., Any] = task.start_strategy(c.app, c)
            return handle
        return self.counted(task, task.start_strategy(c.app, Seen(c, SeenPool(self, task.name, c.pool))))

    def start(self, c: Any) -> None:
        """A connection is there."""
        self._timer = c.timer.call_repeatedly(_LOOK_EVERY, self.look)

    def stop(self, c: Any) -> None:
        """It is gone, and its window with it; what is kept stays leased for as long as it is kept."""
        for kept in self._kept.values():
            kept.widened = False
        self._widened.clear()
        self._waiting.clear()  # whose messages go back
        if self._timer is not None:
            c.timer.cancel(self._timer)
            self._timer = None

    @property
    def processes(self) -> int:
        """How many batches may run at once."""
        return max(int(self._consumer.pool.num_processes or 1), 1)

    @property
    def worker(self) -> Any:
        """What knows the prefetch multiplier."""
        return self._consumer.controller

    @property
    def kept(self) -> list[Kept]:
        """All that is kept, the oldest first."""
        return list(self._kept.values())

    def of(self, name: str) -> list[Kept]:
        """What is kept of one task, the oldest first."""
        return [kept for kept in self._kept.values() if kept.task == name]

    def counted(self, task: Any, take_in: Callable[..., Any]) -> Callable[..., Any]:
        """A strategy's handler, whose messages are known here for as long as they are kept."""
        name = task.name
        self._wanted[name] = wanted_by(task, processes=self.processes, multiplier=multiplier_of(self.worker))

        def handle(message: Any, *arguments: Any, **options: Any) -> Any:
            number = self._add(name, message)
            try:
                return take_in(message, *arguments, **options)
            finally:
                self._taken_in(number)

        return handle

    def begins(self, name: str, begin: Callable[[], Any]) -> bool:
        """Whether a batch of all that is kept of a task begins; otherwise `begin` is called when it may."""
        batch = self.of(name)
        messages = [message for kept in batch if (message := kept.message()) is not None]
        if not delivery.may_begin(messages):
            self._waiting.append(begin)
            return False
        for kept in batch:
            kept.begun = True
            if kept.gave_way and (message := kept.message()) is not None:
                delivery.started(message)
        return True

    def give_way(self) -> None:
        """A suspect is to run alone here, and does not wait for what has not begun."""
        for kept in self._kept.values():
            if not kept.begun and (message := kept.message()) is not None:
                kept.gave_way = True
                delivery.gathered(message)

    def _add(self, name: str, message: Any) -> int:
        number, tag = next(self._numbers), str(message.delivery_tag)
        queue = _queue_of(message) or str((message.delivery_info or {}).get("routing_key") or "")
        self._kept[number] = kept = Kept(name, tag, queue, weakref.ref(message))
        self.added(kept)
        return number

    def _taken_in(self, number: int) -> None:
        """Its strategy has returned: what it keeps gets a place beside the window."""
        kept = self._kept.get(number)
        if kept is None or kept.settled or _is_celerys(kept.message()):
            self.look()
            if self._kept.pop(number, None):
                self.changed()
            return
        if self._widened[kept.task] >= self._wanted[kept.task]:
            self.look()
        if self._widened[kept.task] < self._wanted[kept.task] and self.fits:
            kept.widened = True
            self._widened[kept.task] += 1
            self._consumer.qos.increment_eventually()

    def look(self) -> None:
        """Forget what was settled, and begin what had to wait."""
        for _ in range(len(self._waiting)):
            self._waiting.popleft()()
        gone = [number for number, kept in self._kept.items() if kept.settled]
        for number in gone:
            kept = self._kept.pop(number)
            if kept.widened:
                self._widened[kept.task] -= 1
                self._consumer.qos.decrement_eventually()
        if gone:
            self.changed()

    fits = True
    """Whether there is room to write one more down."""

    def added(self, kept: Kept) -> None:
        """One more may be kept."""

    def changed(self) -> None:
        """Some are kept no longer."""


class Seen:
    """The consumer as a strategy sees it: with a pool of its own."""

    def __init__(self, consumer: Any, pool: Any) -> None:
        self.pool = pool
        self._consumer = consumer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


class SeenPool:
    """The pool as a strategy sees it."""

    def __init__(self, strategies: Strategies, name: str, pool: Any) -> None:
        self._strategies = strategies
        self._name = name
        self._pool = pool

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def apply_async(self, *args: Any, **options: Any) -> Any:
        """As the pool's; None if the batch has to wait."""
        if not self._strategies.begins(self._name, partial(self.apply_async, *args, **options)):
            return None
        return self._pool.apply_async(*args, **options)


def _is_celerys(message: Any) -> bool:
    """Whether Celery's own code has the request: it waits for its moment, its rate, or the gate."""
    return any(
        request.message is message
        for known in (state.reserved_requests, state.scheduled_requests)
        for request in known
    )


def _queue_of(message: Any) -> str:
    claimant = message.channel.claimant if isinstance(message.channel, LeasedChannel) else None
    return claimant.queue_of(message.delivery_tag) if claimant is not None else ""
