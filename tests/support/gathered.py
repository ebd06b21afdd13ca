"""Applications whose tasks gather messages, run with `celery -A support.gathered worker`.

`gathered.own` has a small `Strategy` of ours; `gathered.batches` is celery-batches' where that is installed.
Both write a line for each batch they run: "batch" and how many messages it has.
"""

import importlib.util
import logging
import os
import signal
import time
from collections.abc import Callable
from typing import Any

from celery import Celery, Task

from seawall import Seawall
from support.shop import JOURNAL, store

logger = logging.getLogger(__name__)

BATCHES = importlib.util.find_spec("celery_batches") is not None
FLUSH_EVERY = 10
FLUSH_INTERVAL = float(os.environ.get("GATHERED_FOR", "1"))


class Gathering(Task):  # type: ignore[type-arg]
    """Gathers requests as celery-batches does, and runs its body once for all of them."""

    abstract = True
    typing = False
    flush_every = FLUSH_EVERY

    def Strategy(self, task: Any, app: Any, consumer: Any) -> Callable[..., None]:  # type: ignore[override]  # noqa: ARG002, N802
        kept: list[tuple[Any, Any]] = []

        def flush() -> None:
            batch, kept[:] = list(kept), []
            if not batch:
                return

            def acknowledge(*_: Any) -> None:
                for _, ack in batch:
                    ack(logger, consumer.connection_errors)

            when = "callback" if task.acks_late else "accept_callback"
            requests = [message.payload[0] for message, _ in batch]
            consumer.pool.apply_async(run_batch, (task.name, requests), **{when: acknowledge})

        consumer.timer.call_repeatedly(FLUSH_INTERVAL, flush)

        def take_in(message: Any, _body: Any, ack: Any, *_: Any) -> None:
            kept.append((message, ack))
            if len(kept) >= self.flush_every:
                flush()

        return take_in


def run_batch(name: str, requests: list[Any]) -> None:
    """In the process that runs the batch."""
    from celery import current_app

    current_app.tasks[name].run([SimpleArguments(args) for args in requests])


class SimpleArguments:
    """What celery-batches' request has, as far as it is used here."""

    def __init__(self, args: Any) -> None:
        self.args = args


def work(requests: list[Any]) -> None:
    """Note the batch, and do as the first argument of any of them says."""
    client = store(app)
    client.rpush(JOURNAL, f"batch {len(requests)}")
    for request in requests:
        client.rpush(f"{JOURNAL} of {request.args[0]}", os.getpid())
        for word in request.args[1:]:
            if word == "kill" or (word == "kill once" and client.set("killed", 1, nx=True)):
                os.kill(os.getpid(), signal.SIGKILL)
            elif word == "fail":
                raise ValueError("as asked")
            elif word == "hang":
                time.sleep(600)


def free(seconds: float = 0.0) -> None:
    """Another task beside them."""
    store(app).rpush(JOURNAL, "free")
    time.sleep(seconds)


def create(broker_url: str | None = None) -> Celery:
    """The application, of its own."""
    made = Seawall("gathered", set_as_current=False, autofinalize=True)
    made.conf.broker_transport_options = {
        "delivery": {"lease": float(os.environ.get("GATHERED_LEASE", "15"))}
    }
    if broker_url is not None:
        made.conf.update(broker_url=broker_url, result_backend=broker_url)
    late = "GATHERED_EARLY" not in os.environ
    options: dict[str, Any] = {"shared": False, "acks_late": late}
    if limit := os.environ.get("GATHERED_LIMIT"):
        options["time_limit"] = float(limit)
    declare: Any = made.task
    declare(base=Gathering, name="gathered.own", **options)(work)
    if BATCHES:
        from celery_batches import Batches

        timing = {"flush_every": FLUSH_EVERY, "flush_interval": FLUSH_INTERVAL}
        declare(base=Batches, name="gathered.batches", **timing, **options)(work)
    declare(shared=False, name="gathered.free")(free)
    return made


app = create()
