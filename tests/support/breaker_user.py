"""A process that calls a dependency through a breaker, again and again, and writes down what became of it.

Started by `support.breakers.Fleet` with one JSON argument. The dependency is a byte in a shared file: the
share of calls that fail, in percent. Lines: the moment (monotonic), then `succeeded`, `failed`, `refused`, or
a transition as `scope old new cause`.
"""

import json
import mmap
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

from seawall import cluster
from seawall.breaker import Breaker, BreakerChanged, Place, breaker, share
from seawall.breaker import place as places
from seawall.errors import BreakerOpen
from seawall.events import subscribe


class Down(Exception):  # noqa: N818
    """The dependency failed."""


class User:
    """The loop, and its log."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.folder = Path(settings["folder"])
        with (self.folder / "world").open("r+b") as world:
            self.world = mmap.mmap(world.fileno(), 0)
        self.open_log()
        subscribe(
            BreakerChanged, lambda event: self.write(f"{event.scope} {event.old} {event.new} {event.cause}")
        )

    def open_log(self) -> None:
        path = self.folder / f"{self.settings['label']}-{os.getpid()}.log"
        self.log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, what: str) -> None:
        os.write(self.log, f"{time.monotonic():.6f} {what}\n".encode())

    def dependency(self) -> None:
        """Fails for its share of the calls, or of this host's: byte 0, or byte 2 for the bad host."""
        percent = self.world[2] if self.settings.get("bad") else self.world[0]
        if takes := self.settings.get("takes"):
            time.sleep(takes)
        if percent and random.random() * 100 < percent:  # noqa: S311
            raise Down

    def run(self, one: Breaker) -> None:
        guarded = one(self.dependency)
        pause = 1 / self.settings["rate"]
        time.sleep(pause * random.random())  # noqa: S311
        while not self.world[1]:
            try:
                guarded()
                self.write("succeeded")
            except Down:
                self.write("failed")
            except BreakerOpen:
                self.write("refused")
            time.sleep(pause)


def main() -> None:
    """Call until the world says stop."""
    settings = json.loads(sys.argv[1])
    user = User(settings)
    places.use(Place(lambda: cluster.connect(settings["url"]), host=settings.get("host")))
    one = breaker("dependency", **settings["options"])
    children = []
    if many := settings.get("children"):
        share()
        places.current().table.slot(one.name, one.circuit.rules)
        for _ in range(many):
            if not (child := os.fork()):
                user.open_log()
                user.run(one)
                os._exit(0)
            children.append(child)
        for child in children:
            os.waitpid(child, 0)
    else:
        user.run(one)


if __name__ == "__main__":
    main()
