"""Where a budget comes from: planted trees stand in for machines, containers and their control groups."""

from pathlib import Path

import pytest

from seawall.memory.budget import find, tightest_group

MACHINE = 16 << 30


def plant(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return root


V2 = {
    "proc/self/cgroup": "0::/user.slice/worker.service",
    "sys/fs/cgroup/user.slice/memory.max": "2147483648",
    "sys/fs/cgroup/user.slice/worker.service/memory.max": "max",
    "sys/fs/cgroup/user.slice/memory.current": "1000000",
    "sys/fs/cgroup/user.slice/memory.stat": "anon 500000\nfile 400000\ninactive_file 300000",
    "sys/fs/cgroup/user.slice/memory.events": "low 0\nhigh 3\nmax 9\noom 2\noom_kill 1",
    "sys/fs/cgroup/user.slice/memory.pressure": (
        "some avg10=9.00 avg60=1.00 avg300=0.00 total=1\nfull avg10=25.50 avg60=0.10 avg300=0.00 total=1"
    ),
}
V1 = {
    "proc/self/cgroup": "5:devices:/\n4:memory:/docker/abc\n0::/",
    "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "1073741824",
    "sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes": "700000",
    "sys/fs/cgroup/memory/docker/abc/memory.stat": "rss 1\ntotal_inactive_file 200000",
    "sys/fs/cgroup/memory/docker/abc/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4",
    "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
}


def test_version_2_takes_the_lowest_limit_on_the_way_up(tmp_path: Path) -> None:
    budget, group = find(machine=MACHINE, root=plant(tmp_path, V2))
    assert (budget.bytes, budget.source) == (2 << 30, "control group")
    assert group is not None
    assert (group.used, group.kills, group.stalled) == (700_000, 1, 0.255)


def test_version_1_is_read_as_well(tmp_path: Path) -> None:
    budget, group = find(machine=MACHINE, root=plant(tmp_path, V1))
    assert (budget.bytes, budget.source) == (1 << 30, "control group")
    assert group is not None
    assert (group.used, group.kills, group.stalled) == (500_000, 4, 0.0)


def test_in_a_container_the_mount_shows_its_own_group_as_the_root(tmp_path: Path) -> None:
    tree = {"proc/self/cgroup": "0::/../../kubepods/pod1", "sys/fs/cgroup/memory.max": "536870912"}
    budget, group = find(machine=MACHINE, root=plant(tmp_path, tree))
    assert (budget.bytes, budget.source) == (512 << 20, "control group")
    assert group is not None
    assert group.path == tmp_path / "sys/fs/cgroup"


def test_memory_high_below_the_limit_counts_because_the_kernel_stalls_there(tmp_path: Path) -> None:
    tree = {**V2, "sys/fs/cgroup/user.slice/worker.service/memory.high": "1000000000"}
    assert find(machine=MACHINE, root=plant(tmp_path, tree))[0].bytes == 1_000_000_000


def test_the_largest_number_of_version_1_is_no_limit(tmp_path: Path) -> None:
    tree = {**V1, "sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes": "9223372036854771712"}
    budget, group = find(machine=MACHINE, fraction=0.5, root=plant(tmp_path, tree))
    assert (budget.bytes, budget.source) == (8 << 30, "machine")
    assert group is None


@pytest.mark.parametrize(
    ("setting", "expected"),
    [(1 << 30, (1 << 30, "setting")), (64 << 30, (2 << 30, "control group"))],
)
def test_a_setting_wins_unless_the_group_is_smaller(
    tmp_path: Path, setting: int, expected: tuple[int, str]
) -> None:
    budget, _ = find(setting=setting, machine=MACHINE, root=plant(tmp_path, V2))
    assert (budget.bytes, budget.source) == expected


@pytest.mark.parametrize(("setting", "expected"), [(None, 8 << 30), (1 << 40, MACHINE), (1 << 30, 1 << 30)])
def test_without_groups_a_setting_is_bounded_by_the_machine(
    tmp_path: Path, setting: int | None, expected: int
) -> None:
    assert find(setting=setting, fraction=0.5, machine=MACHINE, root=tmp_path)[0].bytes == expected


def test_a_machine_without_control_groups_has_none(tmp_path: Path) -> None:
    assert tightest_group(tmp_path) is None
    assert tightest_group(plant(tmp_path, {"proc/self/cgroup": "0::/gone"})) is None
