"""A client that asks, waits for results, listens and keeps a queue of its own, until somebody kills it.

`python -m support.passerby URL TRANSPORT`: each line on its output is one thing done.
"""

import sys
import threading
from collections.abc import Callable
from typing import Any

from celery import Celery
from kombu import Queue

from support.listening import listening


def main(url: str, transport: str) -> None:
    app = Celery("passerby", broker=url, backend="rpc://", set_as_current=False)
    app.conf.broker_transport = transport
    name = f"fleeting-{transport}".replace(":", ".")
    queue: Any = Queue(name, routing_key=name, expires=5.0)

    def ask() -> None:
        assert app.control.ping(timeout=2, limit=1)
        app.control.inspect(timeout=2, limit=1).stats()

    def await_result() -> None:
        result = app.send_task("support.delivery_app.add", (1, 2))
        assert result.get(timeout=20) == 3

    def keep_queue() -> None:
        with app.connection_for_write() as connection:
            simple: Any = connection.SimpleQueue(queue)
            for number in range(3):
                simple.put(number)
            simple.get(timeout=20).ack()
            simple.get(timeout=20)
            say("keep_queue")
            threading.Event().wait()  # it is killed with one in its hands and one in line

    def listen() -> None:
        with listening(app) as seen:
            while not seen:
                threading.Event().wait(0.05)
            say("listen")
            threading.Event().wait()

    for what in (ask, await_result, keep_queue):
        threading.Thread(target=again_and_again, args=(what,), name=what.__name__).start()
    again_and_again(listen)  # the main thread has to stay: the others start threads of their own


def say(done: str) -> None:
    sys.stdout.write(f"{done}\n")
    sys.stdout.flush()


def again_and_again(what: Callable[[], None]) -> None:
    while True:
        try:
            what()
        except Exception as exc:  # noqa: BLE001 - a busy machine answers late
            say(f"late: {exc!r}")
        else:
            say(what.__name__)


if __name__ == "__main__":
    main(*sys.argv[1:])
