"""Control groups of the memory controller, made for a test where this machine lets us."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from seawall.memory.budget import ControlGroup
from support.waiting import wait_until

_MOUNT = Path("/sys/fs/cgroup")


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[ControlGroup | None]:
    """A new group that may use `limit` bytes; None where none can be made."""
    group = _make(limit)
    try:
        yield group
    finally:
        if group is not None:
            wait_until(lambda: _removed(group.path), timeout=20, what="the group's processes to be gone")


def inside(group: ControlGroup | None, argv: Sequence[str]) -> list[str]:
    """`argv`, begun in `group`."""
    if group is None:
        return list(argv)
    return ["/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"', str(group.path / "cgroup.procs"), *argv]


def _make(limit: int) -> ControlGroup | None:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers == "memory":
            group, file = ControlGroup(_MOUNT / "memory" / own[1:] / _name(), 1), "memory.limit_in_bytes"
        elif not controllers:  # beside our own: a group with processes divides nothing among groups below it
            group, file = ControlGroup((_MOUNT / own[1:]).parent / _name(), 2), "memory.max"
        else:
            continue
        try:
            group.path.mkdir()
        except OSError:
            continue
        try:
            (group.path / file).write_text(str(limit))
        except OSError:
            group.path.rmdir()
        else:
            return group
    return None


def _name() -> str:
    return f"seawall-{os.getpid()}-{os.urandom(4).hex()}"


def _removed(path: Path) -> bool:
    with contextlib.suppress(OSError):
        path.rmdir()
    return not path.exists()
