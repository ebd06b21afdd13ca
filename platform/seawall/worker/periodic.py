"""What a worker's main process does again and again beside its work, in a thread that ends with it."""

import logging
import threading
from abc import ABC, abstractmethod
from typing import Any, ClassVar

logger = logging.getLogger(__name__)

_AFTER_AN_ERROR = 1.0


class Periodic(ABC):
    """A service that takes turns in a thread of its own until it is stopped; an error ends only its turn."""

    thread: ClassVar[str]
    """The thread's name."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._running: threading.Thread | None = None

    def start(self, **_: Any) -> None:
        """Take the first turn now."""
        self._running = threading.Thread(target=self._run, name=self.thread, daemon=True)
        self._running.start()

    def stop(self, **_: Any) -> None:
        """Take no more, and wait for the end of the present one. Safe to repeat."""
        self._ended.set()
        running, self._running = self._running, None
        if running is not None:
            running.join()

    @abstractmethod
    def turn(self) -> float:
        """Do it once; returns the seconds until the next turn."""

    def _run(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            try:
                pause = self.turn()
            except Exception:
                logger.exception("%s goes on after an error", self.thread)
                pause = _AFTER_AN_ERROR
