"""What a worker does about failures: hooks, recoveries, records. From before it forks until it drained."""

import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celery import signals

from seawall import boundary, delivery, events, records, servers
from seawall.breaker.events import BreakerChanged
from seawall.config import settings
from seawall.errors import ConfigError
from seawall.records.journal import line
from seawall.records.transitions import transition
from seawall.worker import outcomes, recoveries

if TYPE_CHECKING:
    from seawall.records.recorder import Recorder

logger = logging.getLogger(__name__)

_current: "list[Recorder]" = []
_silence: list[Callable[[], None]] = []


def connect() -> None:
    """Listen to the worker's signals. Safe to repeat."""
    uid = "seawall.recording"
    signals.worker_init.connect(_begin, dispatch_uid=uid)
    delivery.unreadable.connect(_no_message, dispatch_uid=uid)


def _begin(sender: Any = None, **_: Any) -> None:
    boundary.install()
    recoveries.connect()
    chosen = settings().records
    sender.app.conf.broker_url  # noqa: B018 - where servers are embedded, this worker joins them now
    if not chosen.enabled or not servers.database_is_known():
        return
    # All that its thread needs is imported here: a cell that is forked in the middle of an import inherits
    # the module's lock and waits for it for ever.
    from seawall.database import database, governor, guarding, pool  # noqa: F401
    from seawall.records.alerts import Alerts
    from seawall.records.recorder import Recorder
    from seawall.records.spool import Spool

    above = (chosen.spool or settings().home / "spool").absolute()
    try:
        spool = Spool.make(above)
    except OSError as exc:
        logger.error("what becomes of tasks is not recorded: %s cannot be written to (%s)", above, exc)  # noqa: TRY400 - said
        return
    if not spool.path.is_relative_to(above):
        logger.warning("rows wait in %s, as nothing can be written in %s", spool.path.parent, above)
    recorder = Recorder(
        spool,
        database,
        chosen,
        alerts=Alerts(settings().alerts, worker=str(sender.hostname)),
        upkeep=lambda: _prune(sender.app),
    )
    _current[:] = [recorder]
    records.begin(recorder.journal)
    _silence[:] = [events.subscribe(BreakerChanged, _changed)]
    recorder.start()


def end(**_: Any) -> None:
    """The worker has ended: write what there is. Safe to repeat."""
    if _current:
        _silence.pop()()
        _current.pop().stop()
        records.end()
    boundary.remove()


def _changed(event: BreakerChanged) -> None:
    """What cells do not hear, the main process does: of breakers that the fleet shares."""
    if (journal := records.current()) is not None:
        journal.write(line("b", transition(event)))


def _no_message(queue: str = "", tag: str = "", body: bytes = b"", error: Any = None, **_: Any) -> None:
    """Delivery has given up what was no message at all."""
    outcomes.stray(outcomes.Unreadable(tag, body), queue, error, "")


def _prune(app: Any) -> None:
    """Let the broker forget what is too old, or more than it is to keep."""
    chosen = settings().records
    with (
        contextlib.suppress(ConfigError),  # another transport
        app.connection_for_write() as connection,
        delivery.Queues.open(connection) as queues,
    ):
        for queue in queues.names():
            pruned = queues.prune(queue, older_than=chosen.keep_dead_letters, most=chosen.most_dead_letters)
            if pruned:
                logger.warning("queue %s: %d dead letters are deleted, too old or too many", queue, pruned)
