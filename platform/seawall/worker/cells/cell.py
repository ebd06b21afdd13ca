"""A cell: a forked process that claims, runs and settles its own work, one task at a time.

It is a Celery consumer without a Celery node around it: no remote control, no heartbeat, no gossip. What
surrounds it is the supervisor's. `Cell` stands where the consumer expects its worker.
"""

import contextlib
import gc
import logging
import multiprocessing
import multiprocessing.util
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, NoReturn

import billiard.process
from celery import platforms
from celery.concurrency.solo import TaskPool as Solo
from celery.exceptions import InvalidTaskError, SoftTimeLimitExceeded, WorkerShutdown, WorkerTerminate
from celery.utils.time import rate
from celery.worker import state as worker_state
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.consumer.delayed_delivery import DelayedDelivery
from celery.worker.consumer.tasks import Tasks as CeleryTasks
from kombu import Exchange, Queue, pools
from kombu.asynchronous import Hub, set_event_loop
from kombu.asynchronous.timer import Timer
from kombu.exceptions import ContentDisallowed, DecodeError

from seawall import boundary, holdings, identity, silence
from seawall.delivery import Transport
from seawall.delivery.claimant import Claimant
from seawall.memory.meter import Own
from seawall.tether import die_with
from seawall.worker import forks, memory, older, recoveries, results, unbegun
from seawall.worker.cells import diagnosis, hook_points
from seawall.worker.cells.batches import CellStrategies
from seawall.worker.cells.channel import Channel
from seawall.worker.cells.control import bucket, heed
from seawall.worker.cells.events import Events
from seawall.worker.cells.execution import Execution, build_handler
from seawall.worker.cells.pulse import Pulse
from seawall.worker.cells.table import Row, State
from seawall.worker.cells.tracing import give_tracer
from seawall.worker.cells.vitals import RUINED, Vitals
from seawall.worker.gate import Gate
from seawall.worker.rates import Rates
from seawall.worker.strategies import has_own_strategy
from seawall.worker.strays import Strays
from seawall.worker.unbegun import GivingWay

if TYPE_CHECKING:
    from seawall.worker.cells.pool import Pool

logger = logging.getLogger(__name__)
state: Any = worker_state  # celery-types lacks half of it

_multiprocessing: Any = multiprocessing.util
_RESET: Final = (signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGUSR2)
_IGNORED: Final = (
    signal.SIGINT,
    signal.SIGQUIT,
)  # a terminal sends them to every process: the supervisor decides
_TELL_TOTALS_EVERY: Final = 1.0
_LEFT_WITHIN: Final = 1.5  # seconds that all goodbyes together wait for a server that says nothing
_HEED_PRESSURE_EVERY: Final = 0.5
_LOOK_AT_MEMORY_EVERY: Final = 0.25
_TURN_EVERY: Final = 0.5
_TURNS_WITHIN: Final = 5.0  # seconds; an idle loop that takes longer is deaf
_DOOMED_WAIT: Final = 0.01


def run_cell(  # noqa: PLR0913 - all that a cell is given
    pool: "Pool", *, seat: int, row: Row, channel: Channel, supervisor: int, worker: str, token: str
) -> NoReturn:
    """The life of a forked process, from the fork to its exit; `worker` and `token` are its identity."""
    code = 1
    try:
        die_with(supervisor)
        identity.become(worker, token)
        _shed(pool, seat, supervisor)
        cell = forks.alone(Cell, pool, row=row, channel=channel)
        code = hook_points.live_within(cell.live, cell.hostname)
    except BaseException as exc:  # noqa: BLE001 - whatever it was, this is the end of the process
        boundary.caught(exc, "cell")
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
            logging.shutdown()
        os._exit(code)


def _shed(pool: "Pool", seat: int, supervisor: int) -> None:
    """Give up what belongs to the supervisor: its loop, its connections, its signals, its requests."""
    for signum in _RESET:
        signal.signal(signum, signal.SIG_DFL)
    for signum in _IGNORED:
        signal.signal(signum, signal.SIG_IGN)
    gc.enable()
    process: Any = billiard.process.current_process()
    process._name = f"Cell-{seat + 1}"  # noqa: SLF001 - the name that logs show
    process._parent_pid = supervisor  # noqa: SLF001
    process.index = seat
    multiprocessing.current_process().name = process._name  # noqa: SLF001
    diagnosis.prepare_cell()
    app: Any = pool.app
    set_event_loop(None)
    app._ensure_after_fork()  # noqa: SLF001 - that its own hook is among those
    _multiprocessing._run_after_forkers()  # noqa: SLF001 - Celery's and an application's, as in prefork
    pools.reset()
    state.should_stop = state.should_terminate = None
    for known in older.known_requests():
        known.clear()
    state.total_count.clear()
    state.all_total_count[:] = [0]
    platforms.set_mp_process_title("celeryd", hostname=pool.controller.hostname)


class Cell:
    """What runs in the process."""

    # What Celery's consumer asks of its worker.
    semaphore = None
    use_eventloop = True
    state = worker_state
    max_concurrency = None
    _vitals: Vitals

    def __init__(self, pool: "Pool", *, row: Row, channel: Channel) -> None:
        self.app: Any = pool.app
        self.worker: Any = pool.controller
        self.row = row
        self._thread = threading.get_ident()
        self.channel = channel
        self.hostname = self.worker.hostname
        self.timer = Timer(max_interval=10.0)
        self.hub: Any = set_event_loop(Hub(self.timer))
        for task in self.app.tasks.values():
            give_tracer(task, self.hostname)  # before `worker_process_init`, whose receivers may wrap it
        self.pool: Any = Solo(app=self.app, initargs=(self.app, self.hostname))  # which sends that
        self._table = pool.table
        self._heard = pool.table.epoch
        self.share = pool.wanted  # cells that rate limits are shared by
        self._most_tasks = pool.options.get("maxtasksperchild") or float("inf")
        self._most_memory = (pool.options.get("max_memory_per_child") or 0) * 1024
        self._look_at = 0.0
        self._own = Own()
        self._told = 0
        self._wakeup = os.pipe()
        self._batch_results()
        self.execution = Execution(self)
        self.consumer = Consumer(
            self.execution.run,
            hostname=self.hostname,
            init_callback=self._ready,
            initial_prefetch_count=1,
            pool=self.pool,
            timer=self.timer,
            app=self.app,
            controller=self,
            hub=self.hub,
            worker_options={
                "without_gossip": True,
                "without_heartbeat": True,
                "task_events": self.worker.task_events,
            },
            disable_rate_limits=self.worker.disable_rate_limits,
            prefetch_multiplier=1,
        )

    def live(self) -> int:
        """Work until told to stop; the exit status."""
        self._listen_to_signals()
        self._vitals = Vitals(self.channel.fileno(), wakeup=self._wakeup[1])
        silence.announce = self._about_to_wait
        forks.sockets.append(self._sockets)
        forks.descriptors.append(self._descriptors)
        recoveries.replace = self._leave
        if self.consumer.conninfo.transport.driver_type == "amqp":
            self.execution.pulse = Pulse(self.consumer, self.row)
            self.execution.pulse.start()
        self.pool.start()
        with contextlib.suppress(WorkerShutdown, WorkerTerminate):
            self.consumer.start()
        self.row.state = State.LEAVING
        if self.execution.pulse is not None:
            self.execution.pulse.stop()
        self._tell_totals()
        with silence.within(silence.Allowance(_LEFT_WITHIN)):
            self.consumer.stop()
            self.consumer.shutdown()
        return 0

    def _batch_results(self) -> None:
        results.batch = results.Batch(self.row, stopping=lambda: not self.may_start())
        results.batch.start()
        Claimant.before_settling = results.batch.flush
        Claimant.on_taking_in = self.row.take_in

    def _leave(self) -> None:
        """End when the task has; the supervisor forks another cell."""
        state.should_stop = 0

    def register_with_event_loop(self, hub: Any) -> None:
        """Celery's loop offers itself, anew for each connection."""
        hub.add_reader(self.channel.fileno(), self._listen)
        hub.add_reader(self._wakeup[0], self._woken)
        hub.call_repeatedly(_TELL_TOTALS_EVERY, self._tell_totals)
        hub.call_repeatedly(_HEED_PRESSURE_EVERY, memory.idle)
        hub.call_repeatedly(_TURN_EVERY, self.row.turn, _TURNS_WITHIN)

    def _about_to_wait(self, seconds: float) -> None:
        if threading.get_ident() == self._thread:
            self.row.turn(_TURNS_WITHIN + seconds)

    def _ready(self, _consumer: Any) -> None:
        self.row.state = State.IDLE

    # Signals

    def _listen_to_signals(self) -> None:
        for end in self._wakeup:
            os.set_blocking(end, False)
        # A handler alone does not end a poll: Python goes on waiting after it.
        signal.set_wakeup_fd(self._wakeup[1], warn_on_full_buffer=False)
        signal.signal(signal.SIGUSR1, self._interrupt)
        signal.signal(signal.SIGTERM, self._on_term)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wakeup[0], 64)

    def _interrupt(self, _signum: int, frame: FrameType | None) -> None:
        """The soft limit: of the task it is meant for, in its own code, once."""
        row = self.row
        if row.inside and row.soft_asked == row.generation != row.interrupted:
            if holdings.in_shelter(frame):
                holdings.again(signal.SIGUSR1)
                return
            row.interrupted = row.generation
            task = row.task()
            raise SoftTimeLimitExceeded(task.soft if task else None)

    def _on_term(self, *_: Any) -> None:
        """From the supervisor: die with the task. From anybody else: end when the task has."""
        row = self.row
        if row.doomed == row.generation and row.state == State.RUNNING:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        silence.leaving()
        state.should_stop = 0

    # In a child that a task forks

    def _sockets(self) -> Iterator[socket.socket]:
        """The connections on which this cell claims, settles and tells."""
        consumer: Any = self.consumer
        dispatcher = consumer.event_dispatcher
        for source in (consumer.connection, dispatcher.connection if dispatcher else None):
            established = source._connection if source is not None else None  # noqa: SLF001 - kombu's
            if isinstance(established, Transport):
                yield from established.sockets()
            elif established is not None:
                yield established.sock

    def _descriptors(self) -> tuple[int, ...]:
        return self.channel.fileno(), *self._wakeup, self.hub.poller._epoll.fileno()  # noqa: SLF001 - kombu's

    # Between tasks

    def catch_up(self) -> None:
        """Hear what the supervisor may have said while the loop stood still."""
        if self._heard != self._table.epoch:
            self._heard = self._table.epoch
            self._listen()

    def may_start(self) -> bool:
        """Whether another task may start, after what the supervisor may have said."""
        self.catch_up()
        return state.should_stop is None

    def ended(self, request: Any) -> None:
        """A task has ended: heed what was decided about this cell meanwhile."""
        row = self.row
        damage = self._vitals.damage()
        for undone in self._vitals.undone:
            logger.warning("%s[%s] has %s: that is undone", request.name, request.id, undone)
        if damage is not None:
            row.describe(f"{request.name}[{request.id}] has {damage}".encode(errors="replace"))
            os._exit(RUINED)
        if not row.sound:
            overwritten = "%s[%s] has overwritten its row of the table: its cell is replaced"
            logger.error(overwritten, request.name, request.id)
            row.clear()
            row.state = State.IDLE
            self._leave()
        memory.ended()
        while row.doomed == row.generation:  # we are being killed for it: nothing else may start
            time.sleep(_DOOMED_WAIT)
        if row.recalled == row.generation:
            request.message.channel.give_back()
            unbegun.give_back(self.consumer)
        if row.done >= self._most_tasks or self._too_large():
            state.should_stop = 0

    def _too_large(self) -> bool:
        now = time.monotonic()
        if not self._most_memory or now < self._look_at:
            return False
        self._look_at = now + _LOOK_AT_MEMORY_EVERY
        held = self._own.held()
        if held > self._most_memory:
            logger.info("a cell of %d bytes is replaced: the limit is %d", held, self._most_memory)
        return held > self._most_memory

    # The supervisor

    def _tell_totals(self) -> None:
        if self._told != self.row.done:
            self._told = self.row.done
            self.channel.say("totals", counts=dict(state.total_count))

    def _listen(self) -> None:
        for message in self.channel.heard():
            try:
                self.hear(message)
            except Exception:  # the task that may be about to settle has no part in it
                logger.exception("a cell could not do as told: %s", message["say"])

    def hear(self, message: dict[str, Any]) -> None:
        """Do as told: stop, add_queue (queue: definition), cancel_queue (queue: name), `heed`."""
        said = message["say"]
        if said == "stop":
            state.should_stop = 0
        elif said == "add_queue":
            self._add_queue(message["queue"])
        elif said == "cancel_queue":
            self.consumer.cancel_task_queue(message["queue"])
        else:
            heed(self, message)

    def _add_queue(self, fields: dict[str, Any]) -> None:
        queue = self.app.amqp.queues.get(fields["name"])
        if queue is None:
            queue = Queue(exchange=Exchange(**fields.pop("exchange")), **fields)
        self.app.amqp.queues.select_add(queue)
        consumer = self.consumer.task_consumer
        if not consumer.consuming_from(queue.name):
            consumer.add_queue(queue)
            consumer.consume()


class Tasks(CeleryTasks):
    """Celery's step, without the search for neighbours before it."""

    requires = (Events,)


class Delays(DelayedDelivery):
    """Celery's step, after ours."""

    requires = (Tasks,)


class Consumer(CeleryConsumer):
    """Celery's consumer with what a cell needs of it."""

    controller: Cell
    events: Events
    conninfo: Any
    task_consumer: Any
    strategies: Any
    gate: Gate
    rates: Rates
    own_strategies: CellStrategies

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[misc, valid-type]
        """Its steps; those of applications run in the supervisor."""

        default_steps = [  # noqa: RUF012 - Celery's
            "celery.worker.consumer.connection:Connection",
            Events,
            Tasks,
            Delays,
            Gate,
            Rates,
            CellStrategies,
            GivingWay,
            Strays,
            memory.Flow,
            "celery.worker.consumer.consumer:Evloop",
        ]

        def __init__(self, steps: Any = None, **options: Any) -> None:  # noqa: ARG002
            super().__init__(steps=None, **options)

    def update_strategies(self) -> None:
        """As Celery's, and a shorter way for tasks that take Celery's own strategy."""
        for name, task in self.app.tasks.items():
            self.strategies[name] = self.own_strategies.start_strategy(task)
            give_tracer(task, self.hostname)
        self._handlers = {
            name: build_handler(task, self.controller, self, self.strategies[name])
            for name, task in self.app.tasks.items()
            if not has_own_strategy(task)
        }

    def bucket_for_task(self, type: Any) -> Any:  # noqa: A002 - Celery's signature
        """This cell's share of the task's rate limit."""
        return bucket(rate(type.rate_limit), self.controller.share)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's, the shorter way first."""
        otherwise = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> None:
            try:
                handle = self._handlers[message.headers["task"]]
            except (KeyError, TypeError):
                otherwise(message)
                return
            try:
                handle(message)
            except (InvalidTaskError, ContentDisallowed) as exc:
                self.on_invalid_task(None, message, exc)
            except DecodeError as exc:
                self.on_decode_error(message, exc)

        return on_task_received
