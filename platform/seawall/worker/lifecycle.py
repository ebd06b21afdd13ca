"""What a worker tells the world about itself, and how its children end.

Readiness follows sd_notify(3): `READY=1` goes to the socket named by NOTIFY_SOCKET, so the fleet and systemd
(`Type=notify`) listen to the same words.
"""

import contextlib
import logging
import os
import socket
import threading
import warnings
from typing import Any, Final

import billiard
import billiard.pool
from celery import concurrency, signals
from celery.exceptions import CPendingDeprecationWarning, SecurityWarning

from seawall import servers
from seawall.breaker import share
from seawall.database import guard_databases, name_process
from seawall.delivery import Transport
from seawall.logs import name_worker
from seawall.tether import die_with
from seawall.worker import (
    accounts,
    ending,
    fork_locks,
    forks,
    late_endings,
    lines,
    memory,
    prefork,
    readiness,
    recording,
)
from seawall.worker.beat import turn
from seawall.worker.defaults import LazyDefaults
from seawall.worker.task import SeawallTask
from seawall.worker.time_limits import NAMES

logger = logging.getLogger(__name__)

_ANNOUNCED: Final = r"\s*In Celery 5\.1 we introduced an optional breaking change which\s+on connection loss"
_REENTRANT: Final = type(threading.RLock())
_LAST_RESULTS: Final = 5.0  # seconds a prefork child that ends waits for its results to be read
_UNHEARD: Final = 5.0  # seconds for one word to whoever supervises us


def connect() -> None:
    """Listen to the worker's signals. Safe to repeat."""
    from seawall.worker.cells import supervisor

    supervisor.connect()
    turn.connect()
    uid = "seawall.lifecycle"
    # In this order: what is frozen is not found any more.
    signals.worker_before_create_process.connect(fork_locks.find, dispatch_uid=f"{uid}.locks")
    signals.worker_before_create_process.connect(memory.freeze, dispatch_uid=uid)
    signals.celeryd_init.connect(forks.begin_worker, dispatch_uid=f"{uid}.forks")
    signals.celeryd_init.connect(_name_process, dispatch_uid=uid)
    signals.celeryd_init.connect(_spare_the_warning_of_root, dispatch_uid=f"{uid}.root")
    signals.celeryd_init.connect(_hear_typed_limits, dispatch_uid=f"{uid}.limits")
    signals.worker_init.connect(_spare_the_search, dispatch_uid=f"{uid}.search")
    signals.worker_init.connect(_bind_tasks_anew, dispatch_uid=f"{uid}.tasks")
    signals.celeryd_after_setup.connect(_spare_the_warning, dispatch_uid=f"{uid}.warning")
    signals.celeryd_after_setup.connect(_warn_of_root, dispatch_uid=f"{uid}.root")
    signals.worker_init.connect(_hear_of_poisoned, dispatch_uid=f"{uid}.poisoned")
    signals.worker_init.connect(_open_accounts, dispatch_uid=f"{uid}.accounts")
    readiness.connect(notify)
    recording.connect()
    accounts.connect()
    ending.connect()
    for end in (memory.close, recording.end, readiness.end, accounts.close_accounts):  # in this order
        ending.ended.connect(end)
    signals.worker_ready.connect(_announce_ready, dispatch_uid=uid)
    _let_signals_interrupt(signals.worker_shutting_down)
    signals.worker_shutting_down.connect(_announce_stopping, dispatch_uid=uid)
    signals.worker_process_init.connect(_die_with_parent, dispatch_uid=uid)
    signals.worker_process_init.connect(leave_in_time, dispatch_uid=f"{uid}.leave")
    prefork.end_what_hooks_fork()
    forks.connect()
    lines.connect()


def notify(state: str) -> bool:
    """Send `state`, such as `READY=1`, to whoever supervises this process; False if nobody does."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):  # an abstract socket, see sd_notify(3)
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(_UNHEARD)  # who does not listen any more must not stop us
        sock.connect(address)
        sock.sendall(state.encode())
        return True
    return False


def _name_process(sender: Any = None, **_: Any) -> None:
    """PostgreSQL shows each connection under its worker; the children inherit the name."""
    name_process(str(sender))
    name_worker(str(sender))


def _spare_the_warning_of_root(**_: Any) -> None:
    """Leave out Celery's eight lines, which follow at once; `_warn_of_root` has one, in the log."""
    warnings.filterwarnings("ignore", r"\s*You're running the worker with superuser", SecurityWarning)


def _warn_of_root(**_: Any) -> None:
    if os.geteuid() == 0:
        logger.warning(
            "this worker runs as root, and so do its tasks: start it as another user, or with --uid"
        )


def _hear_typed_limits(instance: Any = None, options: Any = None, **_: Any) -> None:
    """`--time-limit` and `--soft-time-limit` count where nobody nearer to the task says something else."""
    if (ours := LazyDefaults.of(instance.app)) is not None:
        soft, hard = ((options or {}).get(name) for name in NAMES)
        ours.typed_limits = (soft, hard)


def _bind_tasks_anew(sender: Any = None, **_: Any) -> None:
    """What receivers of `celeryd_init` and the command line say comes after Celery has bound all tasks."""
    for task in sender.app.tasks.values():
        if isinstance(task, SeawallTask):
            task.bind(task.app)


def _spare_the_search(sender: Any = None, **_: Any) -> None:
    """Leave out Celery's search for neighbours, "mingle", where our transport keeps what it is for.

    It takes a second of every start to learn of revocations, which are in the server.
    """
    if issubclass(sender.app.connection_for_read().get_transport_cls(), Transport):
        sender.options["without_mingle"] = True


def _spare_the_warning(**_: Any) -> None:
    """Leave out nine lines at each lost connection: they announce a new default of what Seawall sets itself.

    Celery shows its warnings from the moment at which logging is set up, so this comes after that.
    """
    warnings.filterwarnings("ignore", _ANNOUNCED, CPendingDeprecationWarning)


def _hear_of_poisoned(sender: Any = None, **_: Any) -> None:
    """A task that delivery gives up fails, whichever worker noticed."""
    from seawall.worker.request import hear_of_poisoned

    hear_of_poisoned(sender.app)


def _announce_ready(sender: Any = None, **_: Any) -> None:
    """A worker also says what its broker may lose: who only submits to it can change nothing about that."""
    notify("READY=1")
    for warning in getattr(sender.connection.default_channel, "warnings", ()):
        logger.warning(warning)
    late_endings.come_at_the_end_of(sender.pool)
    processes = getattr(sender.pool, "_pool", None)
    if hasattr(processes, "_active_writers"):  # of Celery's prefork pool
        prefork.end_in_time(sender.pool)


def _let_signals_interrupt(told: Any) -> None:
    """Make the lock of a Celery signal one that its holder may take again.

    Celery sends this one from the handlers of SIGTERM, SIGINT and SIGQUIT. The second Ctrl-C may come while
    the first one's handler holds the lock, and would wait for itself for ever.
    """
    if not isinstance(told.lock, _REENTRANT):
        told.lock = threading.RLock()


def _announce_stopping(**_: Any) -> None:
    notify("STOPPING=1")


def _open_accounts(sender: Any = None, **_: Any) -> None:
    """What tasks require is asked for at the gate; breakers have one subscriber for the whole worker."""
    from celery.concurrency.prefork import TaskPool

    pool = concurrency.get_implementation(sender.pool_cls)
    if servers.redis_is_known():
        guard_databases()  # before a task that requires "postgres" makes a breaker of that name
    accounts.open_accounts(sender.app, elsewhere=issubclass(pool, TaskPool))
    if servers.redis_is_known():
        share()


def _die_with_parent(**_: Any) -> None:
    """A prefork child of a SIGKILLed worker would wait for work for ever: let the kernel end it (Linux)."""
    process: Any = billiard.current_process()
    if process.name != "MainProcess":
        die_with(process._parent_pid)  # noqa: SLF001


def leave_in_time(**_: Any) -> None:
    """Bound what a prefork child that ends waits for its results to be read.

    Where the pool reads none of them any more, the child would wait for 30 s: as long as Kubernetes waits for
    the worker.
    """
    pool: Any = billiard.pool
    pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_LIMIT = round(
        _LAST_RESULTS / pool.GUARANTEE_MESSAGE_CONSUMPTION_RETRY_INTERVAL
    )
