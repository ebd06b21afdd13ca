"""The Celery node that the cluster sees: it answers, beats and watches, and consumes no task itself."""

import functools
import logging
from typing import Any, Final

import click
from celery import concurrency as celery_concurrency
from celery import signals
from celery.fixups.django import DjangoFixup
from celery.worker.autoscale import Autoscaler as CeleryAutoscaler
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.consumer.tasks import Tasks as CeleryTasks
from kombu.common import QoS

from seawall.worker.cells import control, diagnosis
from seawall.worker.cells.pool import Pool
from seawall.worker.defaults import CELLS, CELLS_POOL

logger = logging.getLogger(__name__)
_SAID: Final = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.ENVIRONMENT)

concurrency: Any = celery_concurrency  # celery-types lacks half of it


def connect() -> None:
    """Give workers that use the pool our consumer."""
    signals.worker_init.connect(_prepare, dispatch_uid="seawall.cells.supervisor")


def _prepare(sender: Any = None, **_: Any) -> None:
    pool = concurrency.get_implementation(sender.pool_cls)
    if not (isinstance(pool, type) and issubclass(pool, Pool)):
        return
    if _prefork_was_typed():
        sender.pool_cls = concurrency.get_implementation("prefork")
    else:
        sender.pool_cls = pool
        _close_pools_of_django(sender.app)
        sender.consumer_cls = Consumer
        sender.use_eventloop = True
        signals.worker_ready.connect(_ready, dispatch_uid="seawall.cells.ready")
        sender.wait_for_soft_shutdown = functools.partial(_soft_shutdown, sender)
        if sender.autoscaler_cls == "celery.worker.autoscale:Autoscaler":
            sender.autoscaler_cls = Autoscaler


def _close_pools_of_django(app: Any) -> None:
    """Have Celery's fixup for Django treat cells as the processes of prefork, which they are for it.

    It closes Django's pools of connections where a process was forked, and looks for "prefork" in the pool's
    name to know that. A pool that is inherited has no threads, and its connections are the supervisor's.
    """
    for fixup in app._fixups:  # noqa: SLF001 - tests/unit/test_contracts.py
        if isinstance(fixup, DjangoFixup):
            worker: Any = fixup.worker_fixup
            worker._is_prefork = lambda: True  # noqa: SLF001
            worker._close_database()  # noqa: SLF001 - with its pools: it may have been called before


def _ready(sender: Any = None, **_: Any) -> None:
    diagnosis.prepare_supervisor(sender.pool)


def _soft_shutdown(worker: Any) -> None:
    """Before a cold shutdown: what runs gets `worker_soft_shutdown_timeout` seconds to end by itself."""
    seconds = worker.app.conf.worker_soft_shutdown_timeout
    if seconds > 0 and (worker.pool.running() or worker.app.conf.worker_enable_soft_shutdown_on_idle):
        logger.warning("Initiating Soft Shutdown, terminating in %s seconds", seconds)
        worker.pool.drain(seconds)


class Autoscaler(CeleryAutoscaler):
    """Celery's, which looks at busy cells instead of the requests of this process."""

    pool: Pool

    @property
    def qty(self) -> int:
        """Cells that are wanted: one more than there are while all of them are busy."""
        busy = len(self.pool.running())
        return busy + 1 if busy >= self.processes else busy


def _prefork_was_typed() -> bool:
    """Whether `-P` or CELERY_WORKER_POOL says prefork: Celery's command takes the configured pool instead."""
    command = click.get_current_context(silent=True)
    if command is None or command.params.get("pool") is None:
        return False
    said = command.get_parameter_source("pool") in _SAID
    return said and concurrency.ALIASES.get("custom") not in (CELLS, CELLS_POOL)


class Queues:
    """Stands where Celery's consumer of the task queues would: it passes changes on to the cells."""

    on_message: Any = None

    def __init__(self, consumer: "Consumer") -> None:
        self._consumer = consumer
        self.channel = consumer.connection.default_channel

    @property
    def queues(self) -> list[Any]:
        """What the cells consume."""
        return list(self._consumer.app.amqp.queues.consume_from.values())

    def consuming_from(self, queue: Any) -> bool:  # noqa: ARG002 - kombu's signature
        """Whether the cells consume it; the supervisor tells them each time, which changes nothing twice."""
        return False

    def add_queue(self, queue: Any) -> Any:
        """Have the cells consume it too."""
        fields = queue.as_dict(recurse=True)
        del fields["bindings"]  # a queue that has some is one of the application's, which a cell knows
        self._consumer.pool.tell("add_queue", queue=fields)
        return queue

    def cancel_by_queue(self, queue: str) -> None:
        """Have the cells leave it."""
        self._consumer.pool.tell("cancel_queue", queue=queue)

    def consume(self, no_ack: bool | None = None) -> None:  # noqa: FBT001 - kombu's signature
        """The cells do."""

    def cancel(self) -> None:
        """The cells are stopped by the pool."""

    def close(self) -> None:
        """Nothing is open."""


class Tasks(CeleryTasks):
    """The step that would start consuming."""

    def start(self, c: Any) -> None:
        """Have all that other steps and commands ask for, and no consumer."""
        c.update_strategies()
        c.qos_global = False
        c.task_consumer = Queues(c)
        c.qos = QoS(lambda **_: None, 0)


class Control(control.Control):
    """Remote control, after our step instead of Celery's."""

    requires = (Tasks,)


class Consumer(CeleryConsumer):
    """Celery's consumer without task queues."""

    connection: Any

    runs_tasks = False  # so the gate stays out

    def __init__(self, *args: Any, pool: Any = None, controller: Any = None, **kwargs: Any) -> None:
        pool.controller = controller
        options = {**kwargs, "pool": pool, "controller": controller}
        super().__init__(*args, **options)

    class Blueprint(CeleryConsumer.Blueprint):  # type: ignore[misc, valid-type]
        """Its steps."""

        default_steps = [  # noqa: RUF012 - Celery's
            "celery.worker.consumer.connection:Connection",
            "celery.worker.consumer.mingle:Mingle",
            "celery.worker.consumer.events:Events",
            "celery.worker.consumer.gossip:Gossip",
            control.Heart,
            Control,
            Tasks,
            "celery.worker.consumer.consumer:Evloop",
            "celery.worker.consumer.agent:Agent",
        ]
