"""Users of embedded servers that a test can kill."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from seawall.embedded import status
from support.processes import Proc, started

_USER = """
import signal, sys
from pathlib import Path
from seawall.embedded import attach
attachment = attach(Path(sys.argv[1]))
print("attached", flush=True)
signal.pause()
"""


@contextmanager
def user(home: Path, log: Path) -> Iterator[Proc]:
    """A process that uses the servers of `home` and does nothing else."""
    with started([sys.executable, "-c", _USER, str(home)], log=log) as proc:
        proc.wait_for("attached")
        yield proc


def family(home: Path) -> list[psutil.Process]:
    """The keeper of `home` and all processes of its servers."""
    keeper = psutil.Process(status(home).pids["keeper"])
    return [keeper, *keeper.children(recursive=True)]
