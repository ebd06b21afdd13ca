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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seawall import cluster
from seawall.breaker import BreakerChanged, Place, breaker, share
from seawall.breaker import place as places
from seawall.errors import BreakerOpen
from seawall.events import subscribe

Guard = tuple[Callable[[Callable[[], None]], Callable[[], None]], type[BaseException]]
"""What decorates the call, and what it raises instead of calling."""


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

    def call(self, guard: Guard) -> None:
        """Call until the world says stop."""
        decorate, refused = guard
        guarded = decorate(self.dependency)
        pause = 1 / self.settings["rate"]
        time.sleep(pause * random.random())  # noqa: S311
        while not self.world[1]:
            try:
                guarded()
                self.write("succeeded")
            except Down:
                self.write("failed")
            except refused:
                self.write("refused")
            time.sleep(pause)


def run(user: User, guard: Callable[[], Guard]) -> None:
    """Let `user` call, or forked children that share its table; `guard` makes what they call through."""
    many = user.settings.get("children", 0)
    made = guard()
    if many:
        share()
    children = []
    for _ in range(many):
        if not (child := os.fork()):
            user.open_log()
            user.call(made)
            os._exit(0)
        children.append(child)
    if not many:
        user.call(made)
    for child in children:
        os.waitpid(child, 0)


def main() -> None:
    """A user of ours, on the server and under the host's name that it is told."""
    settings = json.loads(sys.argv[1])
    places.use(Place(lambda: cluster.connect(settings["url"]), host=settings.get("host")))
    run(User(settings), lambda: (breaker("dependency", **settings["options"]), BreakerOpen))


if __name__ == "__main__":
    main()
