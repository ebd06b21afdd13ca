"""A cell: a forked process that claims, runs and settles its own work, one task at a time.

It is a Celery consumer without a Celery node around it: no remote control, no heartbeat, no gossip. What
surrounds it is the supervisor's. `Cell` stands where the consumer expects its worker.
"""

import gc
import logging
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final, NoReturn

import billiard.process
from celery import _state, signals
from celery.app import trace
from celery.concurrency.solo import TaskPool as Solo
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from kombu import Queue, pools
from kombu.asynchronous import Hub, set_event_loop
from kombu.asynchronous.timer import Timer

from seawall.tether import die_with
from seawall.worker.cells.channel import Channel
from seawall.worker.cells.table import Row, State

if TYPE_CHECKING:
    from seawall.worker.cells.pool import Pool

logger = logging.getLogger(__name__)

_DEFAULT: Final = ("SIGTERM", "SIGHUP", "SIGTTIN", "SIGTTOU", "SIGUSR1", "SIGQUIT", "SIGUSR2")
_IGNORED: Final = ("SIGINT",)


def run_cell(pool: "Pool", *, seat: int, row: Row, channel: Channel, supervisor: int) -> NoReturn:
    """The life of a forked process, from the fork to its exit."""
    code = 1
    try:
        die_with(supervisor)
        _shed(pool, seat, supervisor)
        code = Cell(pool, row=row, channel=channel).live()
    except BaseException:  # noqa: BLE001 - nothing of the supervisor's stack may run here
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        logging.shutdown()
        os._exit(code)


def _shed(pool: "Pool", seat: int, supervisor: int) -> None:
    """Give up what belongs to the supervisor: its loop, its connections, its signals, its requests."""
    for name in _DEFAULT:
        signal.signal(signal.Signals[name], signal.SIG_DFL)
    for name in _IGNORED:
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    gc.enable()
    process = billiard.process.current_process()
    process._name = f"Cell-{seat + 1}"  # noqa: SLF001 - the name that logs show
    process._parent_pid = supervisor  # noqa: SLF001
    process.index = seat
    app = pool.app
    set_event_loop(None)
    pools.reset()
    app._pool = None  # noqa: SLF001 - as Celery's own hook after a fork
    app.amqp._producer_pool = None  # noqa: SLF001
    app._after_fork()  # noqa: SLF001
    state.should_stop = state.should_terminate = None
    for known in (state.requests, state.reserved_requests, state.active_requests, state.scheduled_requests):
        known.clear()


class Cell:
    """What runs in the process."""

    semaphore = None
    use_eventloop = True
    state = state
    max_concurrency = None

    def __init__(self, pool: "Pool", *, row: Row, channel: Channel) -> None:
        self.app: Any = pool.app
        self.worker: Any = pool.controller
        self.row = row
        self.channel = channel
        self._heard_epoch = 0
        self._table = pool.table
        self.hostname = self.worker.hostname
        self.timer = Timer(max_interval=10.0)
        self.hub = set_event_loop(Hub(self.timer))
        self.pool: Any = Solo(app=self.app, initargs=(self.app, self.hostname))
        self.consumer = Consumer(
            self.process_task,
            hostname=self.hostname,
            init_callback=self._ready,
            initial_prefetch_count=1,
            pool=self.pool,
            timer=self.timer,
            app=self.app,
            controller=self,
            hub=self.hub,
            worker_options={"without_gossip": True, "without_heartbeat": True, "task_events": self.worker.task_events},
            disable_rate_limits=self.worker.disable_rate_limits,
            prefetch_multiplier=1,
        )

    def live(self) -> int:
        """Work until told to stop; the exit status."""
        self.hub.poller  # noqa: B018 - made on first use, and needed before the consumer starts
        self.pool.start()
        self.hub.add_reader(self.channel.fileno(), self._listen)
        try:
            self.consumer.start()
        except (WorkerShutdown, WorkerTerminate):
            pass
        self.row.state = State.LEAVING
        self.consumer.close() if hasattr(self.consumer, "close") else None
        self.consumer.stop()
        self.consumer.shutdown()
        signals.worker_process_shutdown.send(sender=None, pid=os.getpid(), exitcode=0)
        return 0

    def _ready(self, _consumer: Any) -> None:
        self.row.state = State.IDLE
        self.channel.say("ready")

    def register_with_event_loop(self, hub: Any) -> None:
        """Celery's loop offers itself."""
        hub.add_reader(self.channel.fileno(), self._listen)

    def process_task(self, request: Any) -> None:
        """Run one request."""
        request.execute_using_pool(self.pool)

    def _listen(self) -> None:
        for message in self.channel.heard():
            self.hear(message)

    def hear(self, message: dict[str, Any]) -> None:
        """What the supervisor says: stop; add_queue and cancel_queue (queue)."""
        said = message["say"]
        if said == "stop":
            state.should_stop = 0
        elif said == "add_queue":
            self._add_queue(Queue.from_dict(message["queue"].pop("name"), **message["queue"]))
        elif said == "cancel_queue":
            self.consumer.cancel_task_queue(message["queue"])


    def _add_queue(self, queue: Any) -> None:
        consumer = self.consumer.task_consumer
        self.app.amqp.queues.select_add(queue)
        if not consumer.consuming_from(queue.name):
            consumer.add_queue(queue)
            consumer.consume()


class Consumer(CeleryConsumer):
    """Celery's consumer with what a cell needs of it."""

    class Blueprint(CeleryConsumer.Blueprint):
        """Its steps; those of applications run in the supervisor."""

        default_steps = [  # noqa: RUF012 - Celery's
            "celery.worker.consumer.connection:Connection",
            "celery.worker.consumer.events:Events",
            "celery.worker.consumer.tasks:Tasks",
            "celery.worker.consumer.delayed_delivery:DelayedDelivery",
            "celery.worker.consumer.consumer:Evloop",
        ]

        def __init__(self, steps: Any = None, **options: Any) -> None:
            super().__init__(steps=None, **options)
