"""The other end of sd_notify(3): a real datagram socket, as systemd's."""

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def notified(path: Path) -> Iterator[set[bytes]]:
    """The other end of sd_notify: what was said there so far."""
    said: set[bytes] = set()
    ended = threading.Event()

    def hear() -> None:
        while not ended.is_set():
            with contextlib.suppress(TimeoutError):
                said.add(systemd.recv(100))

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(os.path.relpath(path))
        systemd.settimeout(0.05)
        thread = threading.Thread(target=hear)
        thread.start()
        try:
            yield said
        finally:
            ended.set()
            thread.join()
