"""Tasks that outlast their limits, each in a way of its own.

A worker is started with `celery -A support.overrun worker`; a test submits through `create()`. Each body
notes when it began, then never ends by itself.
"""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import Any, NoReturn

import psycopg
from celery import Celery, Task
from celery.exceptions import SoftTimeLimitExceeded

from seawall import Seawall
from support.shop import note, store

FOREVER = 600.0


def sleep() -> None:
    time.sleep(FOREVER)


def spin() -> None:
    while True:
        pass


def wait_for_a_process() -> None:
    """What a task has started outlives its worker; this one ends when its input does."""
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE) as process:
        try:
            process.wait()
        finally:
            process.kill()


def catch_and_loop() -> None:
    while True:
        with contextlib.suppress(SoftTimeLimitExceeded):
            time.sleep(FOREVER)


def catch_and_clean_up() -> None:
    try:
        spin()
    except SoftTimeLimitExceeded:
        time.sleep(FOREVER)


def finally_more() -> None:
    try:
        time.sleep(FOREVER)
    finally:
        time.sleep(FOREVER)


def swallow_everything() -> NoReturn:
    while True:
        with contextlib.suppress(BaseException):
            time.sleep(0.01)


def search() -> None:
    """C code that looks for signals now and then."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def hold_the_interpreter() -> None:
    """C code that does not."""
    sum(range(10**12))


def block_signals() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1, signal.SIGTERM})
    time.sleep(FOREVER)


def join_a_thread() -> None:
    thread = threading.Thread(target=time.sleep, args=(FOREVER,), daemon=True)
    thread.start()
    while True:
        with contextlib.suppress(SoftTimeLimitExceeded):
            thread.join()


def read_a_socket() -> None:
    ends = socket.socketpair()
    ends[0].recv(1)


def wait_for_a_lock() -> None:
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def query() -> None:
    with psycopg.connect(os.environ["OVERRUN_DATABASE"]) as connection:
        connection.execute("SELECT pg_sleep(600)")


def after_a_nested_task() -> None:
    """Another task of this application ran within this one, and has ended."""
    with contextlib.suppress(SoftTimeLimitExceeded):
        app.tasks["overrun.nothing"].apply()
    catch_and_loop()


ENDS_AT_SOFT = (sleep, spin, wait_for_a_process, search, read_a_socket, wait_for_a_lock)
ENDS_AT_HARD = (
    catch_and_loop,
    catch_and_clean_up,
    finally_more,
    swallow_everything,
    hold_the_interpreter,
    block_signals,
    join_a_thread,
    after_a_nested_task,
)
BODIES = {body.__name__: body for body in (*ENDS_AT_SOFT, *ENDS_AT_HARD, query)}


def overrun(self: "Task[Any, Any]", body: str) -> None:
    note(self, f"{self.request.id} {time.time()}")
    BODIES[body]()


def nothing(_self: "Task[Any, Any]") -> None:
    """Return at once."""


def wait_for(self: "Task[Any, Any]", switch: str) -> str:
    """Run until the test sets the key `switch`."""
    note(self, self.request.id or "")
    while not store(self.app).exists(switch):
        time.sleep(0.02)
    return "waited"


def create(broker_url: str | None = None) -> Celery:
    """The application, of its own."""
    app = Seawall("overrun", set_as_current=False, autofinalize=True)
    if broker_url is not None:
        app.conf.update(broker_url=broker_url, result_backend=broker_url)
    for function in (overrun, nothing, wait_for):
        app.task(bind=True, shared=False, name=f"overrun.{function.__name__}")(function)
    return app


app = create()
