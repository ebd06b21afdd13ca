"""How many bytes the workers of a machine may use, and who says so.

The smallest of: the setting, the limit of the control group (a container's limit is one), and a fraction of
the machine's memory where neither says anything. Files are read below `root`, so that a tree of files can
stand in for a machine.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

NO_LIMIT: Final = 1 << 62
"""Version 1 reports "none" as the largest multiple of the page size, 9223372036854771712."""

Source = Literal["setting", "control group", "machine"]


@dataclass(frozen=True, slots=True)
class Budget:
    """Bytes, and where the figure comes from."""

    bytes: int
    source: Source


@dataclass(frozen=True, slots=True)
class ControlGroup:
    """One directory of the memory controller."""

    path: Path
    version: Literal[1, 2]

    @property
    def limit(self) -> int | None:
        """Bytes this group may use, None for no limit of its own."""
        names = ("memory.max", "memory.high") if self.version == 2 else ("memory.limit_in_bytes",)  # noqa: PLR2004
        limits = [value for name in names if (value := _number(self.path / name)) is not None]
        return min((value for value in limits if value < NO_LIMIT), default=None)

    @property
    def used(self) -> int | None:
        """Bytes in use that the kernel cannot simply drop: what is charged, less idle page cache."""
        if self.version == 2:  # noqa: PLR2004
            charged, idle = _number(self.path / "memory.current"), "inactive_file"
        else:
            charged, idle = _number(self.path / "memory.usage_in_bytes"), "total_inactive_file"
        if charged is None:
            return None
        return max(0, charged - self._fields("memory.stat").get(idle, 0))

    @property
    def kills(self) -> int:
        """Processes of this group that the kernel has killed for memory."""
        name = "memory.events" if self.version == 2 else "memory.oom_control"  # noqa: PLR2004
        return self._fields(name).get("oom_kill", 0)

    @property
    def stalled(self) -> float:
        """The share of the last ten seconds in which all tasks of the group waited for memory (PSI)."""
        for line in _lines(self.path / "memory.pressure"):
            if line.startswith("full "):
                fields = dict(part.split("=", 1) for part in line.split()[1:])
                return float(fields.get("avg10", 0)) / 100
        return 0.0

    def _fields(self, name: str) -> dict[str, int]:
        pairs = (line.split() for line in _lines(self.path / name))
        return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdecimal()}  # noqa: PLR2004


def find(
    *, setting: int | None = None, fraction: float = 0.8, machine: int, root: Path = Path("/")
) -> tuple[Budget, ControlGroup | None]:
    """The budget in force, and the control group whose limit it is, if it is one.

    `machine` is the memory of the machine in bytes; `fraction` of it is the budget where nothing else says.
    """
    group = tightest_group(root)
    limit = group.limit if group else None
    if limit is not None and limit <= min(machine, setting or machine):
        return Budget(limit, "control group"), group
    if setting is not None:
        return Budget(min(setting, machine), "setting"), None
    return Budget(int(machine * fraction), "machine"), None


def tightest_group(root: Path = Path("/")) -> ControlGroup | None:
    """The group, among this process's own and those above it, with the lowest limit; None without limits."""
    limited = [(limit, group) for group in _groups(root) if (limit := group.limit) is not None]
    return min(limited, key=lambda pair: pair[0])[1] if limited else None


def _groups(root: Path) -> list[ControlGroup]:
    found: list[ControlGroup] = []
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            found += _upwards(root / "sys/fs/cgroup", path, 2)
        elif "memory" in controllers.split(","):
            found += _upwards(root / "sys/fs/cgroup/memory", path, 1)
    return found


def _upwards(mount: Path, path: str, version: Literal[1, 2]) -> list[ControlGroup]:
    """The group at `path` and those above. In a container the mount shows the group itself as its root."""
    here = mount / path.lstrip("/")
    if ".." in here.parts or not here.is_dir():
        here = mount
    chain = [here, *here.parents]
    return [ControlGroup(each, version) for each in chain[: chain.index(mount) + 1]]


def _number(path: Path) -> int | None:
    text = "".join(_lines(path))
    return int(text) if text.isdecimal() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
