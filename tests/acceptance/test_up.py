"""`seawall up`, as its user meets it: ready, working, hard to kill, and gone without a trace."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from seawall import embedded
from support.processes import Proc, alive, started
from support.waiting import wait_until

REPOSITORY = Path(__file__).parents[2]
SEAWALL = (sys.executable, "-m", "seawall.cli")

FLEET = """
app = "workers.app"
drain_timeout = "20s"
[commands]
demo = "workers.demo:group"
[migrations]
workers = "workers/migrations"
[workers.default]
concurrency = 1
options = ["--without-mingle", "--without-gossip"]
[flower]
enabled = false
"""


class Up:
    """A running fleet of this repository's workers, with servers of its own."""

    def __init__(self, proc: Proc, home: Path, environment: dict[str, str]) -> None:
        self.proc = proc
        self.home = home
        self._environment = environment

    def seawall(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command beside the fleet."""
        return subprocess.run(
            [*SEAWALL, *arguments],
            cwd=REPOSITORY,
            env={**os.environ, **self._environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def works(self) -> bool:
        """Whether the import demo runs through."""
        return self.seawall("demo", "import", "--dataset", "airports").returncode == 0

    def processes(self) -> list[psutil.Process]:
        """All there is: the fleet, its programs, their children, and the embedded servers."""
        tree = self.proc.tree()
        for pid in embedded.status(self.home).pids.values():
            tree += [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
        return tree

    def worker(self) -> psutil.Process:
        """The main process of the worker."""
        return next(p for p in self.proc.tree() if "worker" in p.cmdline() and "celery" in p.cmdline())


@pytest.fixture
def up(home: Path, tmp_path: Path) -> Iterator[Up]:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(FLEET)
    environment = {"SEAWALL_HOME": str(home), "SEAWALL_FLEET": str(fleet)}
    with started([*SEAWALL, "up"], log=tmp_path / "up.log", env=environment, cwd=REPOSITORY) as proc:
        proc.wait_for("fleet ready", timeout=60)
        yield Up(proc, home, environment)


def recorded_runs(url: str) -> int:
    """What the fleet has written into the run ledger."""
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM seawall.task_runs WHERE state = 'success'").fetchone()
    return row[0] if row else 0


def test_the_import_demo_counts_what_the_files_hold_and_ctrl_c_leaves_no_process(up: Up) -> None:
    done = up.seawall("demo", "import")
    assert done.returncode == 0, done.stderr
    assert "airports: 3376 rows in the file = 3376 loaded + 0 rejected" in done.stdout
    with embedded.attach(up.home) as attachment:
        wait_until(lambda: recorded_runs(str(attachment.servers.database_url)) > 10, what="the ledger")
    everything = up.processes()
    assert len(everything) > 5
    up.proc.signal(signal.SIGINT)
    assert up.proc.wait(40) == 0
    wait_until(lambda: not alive(everything), timeout=5, what="the embedded servers to follow")


def test_a_killed_fleet_leaves_nothing_behind(up: Up) -> None:
    everything = up.processes()
    up.proc.signal(signal.SIGKILL)
    wait_until(lambda: not alive(everything), timeout=5, what="every process to be gone")


def test_a_killed_worker_is_restarted_and_works(up: Up) -> None:
    killed = up.worker()
    killed.kill()
    wait_until(lambda: up.proc.output.count("ready.") >= 2, timeout=30, what="the next worker")
    assert not killed.is_running()
    assert up.works()


@pytest.mark.parametrize("server", ["redis", pytest.param("postgres", marks=pytest.mark.slow)])
def test_a_killed_server_is_restarted_and_the_fleet_works_on(up: Up, server: str) -> None:
    pid = embedded.status(up.home).pids[server]
    os.kill(pid, signal.SIGKILL)
    wait_until(
        lambda: embedded.status(up.home).pids.get(server, pid) != pid, timeout=20, what=f"another {server}"
    )
    wait_until(up.works, timeout=60, what="the fleet to work again")
