"""The application of the soak: tasks that need little, a database, a gateway, time or memory.

Configured by the environment: SOAK_GATEWAY (host:port), SOAK_LEAK (a file; while it exists, `leak` leaks),
and DELIVERY_MARKS (where tasks leave their marks, by their id).
"""

import os
import socket
import time
from pathlib import Path
from typing import Any

from celery import signals

from seawall import Retry, Seawall, breaker, database, policy
from support.delivery_app import mark

MB = 1 << 20
TABLE = "CREATE TABLE soak (id text, number int)"
PATIENT = Retry(max_attempts=20, base=0.5, cap=5.0)

gateway = breaker("gateway", open_for=2.0, max_open_for=5.0, ramp_for=1.0, call_timeout=2.0)
app = Seawall("soaked", autofinalize=True)
app.conf.task_ignore_result = True
_kept: list[bytearray] = []


@app.task(name="soak.quick")
def quick() -> None:
    """Five milliseconds."""
    time.sleep(0.005)


@app.task(name="soak.slow")
def slow(seconds: float) -> None:
    """As long as told."""
    time.sleep(seconds)


@app.task(name="soak.row", bind=True)
@policy(requires=["postgres"], retry=PATIENT)
def row(self: Any, number: int) -> None:
    """One row."""
    database().execute("INSERT INTO soak (id, number) VALUES (%s, %s)", (self.request.id, number))


@app.task(name="soak.call")
@policy(requires=["gateway"], retry=PATIENT)
def call() -> None:
    """One call of the gateway, under its breaker."""
    host, _, port = os.environ["SOAK_GATEWAY"].rpartition(":")
    with gateway, socket.create_connection((host, int(port)), 1.0) as connection:
        if connection.recv(2) != b"ok":
            raise ConnectionError("the gateway hung up")


@app.task(name="soak.leak")
def leak() -> None:
    """Keeps two MiB for ever while there is a leak."""
    if Path(os.environ["SOAK_LEAK"]).exists():
        block = bytearray(2 * MB)
        block[::4096] = b"x" * len(block[::4096])
        _kept.append(block)


@app.task(name="soak.greedy")
@policy(memory="30MiB", retry=Retry(max_attempts=1))
def greedy() -> None:
    """Takes ten times what it declares."""
    blocks = []
    for _ in range(300):
        blocks.append(bytearray(b"x" * MB))
        time.sleep(0.01)


def begun(task_id: str, **_: Any) -> None:
    """A task starts."""
    mark("start", task_id)


def ended(sender: Any, **_: Any) -> None:
    """It has done its work."""
    mark("end", sender.request.id)


def failed(task_id: str, exception: BaseException, **_: Any) -> None:
    """It has failed for good, whoever says so."""
    mark("failed", f"{task_id}={type(exception).__name__}")


if "DELIVERY_MARKS" in os.environ:  # the fleet: who submits hears of no task that another test runs beside it
    signals.task_prerun.connect(begun, weak=False)
    signals.task_success.connect(ended, weak=False)
    signals.task_failure.connect(failed, weak=False)
