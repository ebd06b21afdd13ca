"""Tasks that show what a pool keeps of their policies: `celery -A support.kept worker`."""

import os
import signal
import time
from typing import Any

from celery import Celery, Task

from seawall import Retry, Seawall, policy
from support.shop import note, store

SWITCH = "end"
BREAKER = "kept"


def wait(self: "Task[..., str]", label: str) -> str:
    """Run until the test sets the switch; a hundred signals a second may arrive between two looks."""
    note(self, f"began {label}")
    while not store(self.app).exists(SWITCH):
        time.sleep(0.01)
    return "waited"


@policy(memory="24MiB", memory_limit="32MiB")
def hunger(self: "Task[..., str]") -> str:
    """Far beyond its limit, for longer than anybody needs to see it."""
    held = [bytearray(1 << 20) for _ in range(128)]
    for block in held:
        block[::4096] = b"x" * len(block[::4096])
    time.sleep(2)
    return "fed"


@policy(retry=Retry(max_attempts=1))
def fail(self: "Task[..., None]") -> None:
    raise ValueError("as it was told")


@policy(requires=[BREAKER])
def dependent(self: "Task[..., str]") -> str:
    return "ran"


def kill(self: "Task[..., None]") -> None:
    note(self, "killing")
    os.kill(os.getpid(), signal.SIGKILL)


def rated(self: "Task[..., None]") -> None:
    note(self, "rated")


def echo(self: "Task[..., str]", text: str) -> str:
    return text


def create(broker_url: str | None = None) -> Celery:
    """The application, of its own."""
    app = Seawall("kept", set_as_current=False, autofinalize=True)
    app.conf.broker_transport_options = {"delivery": {"lease": 2.0}}
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=broker_url)
    for function in (wait, hunger, fail, dependent, kill, rated, echo):
        options: dict[str, Any] = {"rate_limit": "1/h"} if function is rated else {}
        declare: Any = app.task  # celery-types wants to know whether it binds
        declare(bind=True, shared=False, name=f"kept.{function.__name__}", **options)(function)
    return app


app = create()
