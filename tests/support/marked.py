"""A Seawall app with the marking tasks of `support.delivery_app`; configured by the same environment.

MARKED_DIES_OF names tasks: a process that takes one in dies of it before it runs, by a receiver of Celery's
signal `task_received`.
"""

import ctypes
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from celery import signals

from seawall import Seawall, identity
from support.delivery_app import mark

app = Seawall("marked")
app.conf.update(
    broker_url=os.environ.get("DELIVERY_BROKER", "redis://localhost:1"),
    broker_transport_options=json.loads(os.environ.get("DELIVERY_OPTIONS", "{}")),
    **{"task_ignore_result": True, **json.loads(os.environ.get("DELIVERY_CONF", "{}"))},
)


@app.task
def work(name: object, seconds: float = 0.0) -> None:
    """Marks its start and its end."""
    mark("start", name)
    time.sleep(seconds)
    mark("end", name)


@app.task
def contained(name: object, seconds: float) -> None:
    """As `work`, in a process whose pid names nobody: container and tokens stand before it."""
    worker, process, pid = identity.current()
    who = f"{os.environ['CONTAINER']}.{worker}.{process}.{pid}"
    mark("start", name, who)
    time.sleep(seconds)
    mark("end", name, who)


@app.task
def hold(name: object, until: str) -> None:
    """Runs until a file is there."""
    mark("start", name)
    while not Path(until).exists():
        time.sleep(0.01)
    mark("end", name)


@app.task
def kill_worker(name: object, after: float = 0.5) -> None:
    """Kills the process above its own: the supervisor of cells, the main process of a stock pool."""
    mark("start", name)
    time.sleep(after)
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)  # its own process dies with that


@app.task
def kill_own_process(name: object, how: str) -> None:
    """Kills the process it runs in, and nothing else."""
    mark("start", name)
    if how == "abort":
        os.abort()
    if how == "segfault":
        ctypes.string_at(0)
    if how == "import":
        module = Path(os.environ["DELIVERY_MARKS"]).with_name("fatal_on_import.py")
        module.write_text("import os\nos._exit(3)\n")
        sys.path.insert(0, str(module.parent))
        importlib.import_module(module.stem)
    os._exit(0)


@app.task
def run_out_of_memory(name: object, size: int) -> None:
    """Takes more than its control group has, at once; the process above is what the kernel kills first."""
    mark("start", name)
    Path(f"/proc/{os.getppid()}/oom_score_adj").write_text("1000")
    eaten = b"x" * size
    time.sleep(60)
    mark("end", f"{name}-{len(eaten)}")


@app.task
def lethal(name: object) -> None:
    """Never runs, where MARKED_DIES_OF names it."""
    mark("start", name)


lethal_names = os.environ.get("MARKED_DIES_OF", "").split(",")

if lethal_names != [""]:

    @signals.task_received.connect(weak=False)
    def die(request: Any = None, **_: Any) -> None:
        if request.name in lethal_names:
            mark("taken-in", request.name)
            os._exit(9)
