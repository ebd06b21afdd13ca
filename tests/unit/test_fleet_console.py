import contextlib
import fcntl
import os
import pty
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from seawall.fleet import Console


@dataclass
class Pipe:
    reader: int
    writer: int

    def read(self) -> str:
        return os.read(self.reader, 1 << 20).decode()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe(*os.pipe())
    yield pipe
    for fd in (pipe.reader, pipe.writer):
        with contextlib.suppress(OSError):  # the test closed it
            os.close(fd)


def test_lines_stand_in_columns_behind_their_programs_name(pipe: Pipe) -> None:
    console = Console(pipe.writer)
    console.introduce(["default1", "beat"])
    console.line("beat", "tick")
    console.say("fleet ready")
    console.close()

    assert pipe.read() == "beat     | tick\nfleet    | fleet ready\n"


def test_colours_are_for_terminals_and_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    seen = []
    for setting in ("", "1"):
        monkeypatch.setenv("NO_COLOR", setting)
        master, slave = pty.openpty()
        console = Console(slave)
        console.line("beat", "tick")
        console.close()
        seen.append(os.read(master, 4096).decode())
        os.close(slave)
        os.close(master)

    assert seen == ["\x1b[36mbeat  |\x1b[0m tick\r\n", "beat  | tick\r\n"]


def test_the_callers_descriptor_stays_blocking_and_open(pipe: Pipe) -> None:
    Console(pipe.writer).close()

    assert not fcntl.fcntl(pipe.writer, fcntl.F_GETFL) & os.O_NONBLOCK


def test_a_reader_that_does_not_read_blocks_nobody_and_the_dropped_lines_are_counted(pipe: Pipe) -> None:
    console = Console(pipe.writer)
    for _ in range(6000):
        console.line("loud", "x" * 1000)  # 6 MB: more than pipe and backlog hold

    seen = ""
    while console.behind:
        seen += pipe.read()
        console.flush()
    console.line("loud", "after")
    console.close()
    seen += pipe.read()

    lines = seen.splitlines()
    assert len(lines) < 6000
    written = sum(line.endswith("x" * 1000) for line in lines)
    assert f"{6000 - written} lines were dropped" in lines[-2]
    assert lines[-1] == "loud  | after"


def test_a_reader_that_went_away_closes_the_console(pipe: Pipe) -> None:
    console = Console(pipe.writer)
    os.close(pipe.reader)
    console.say("anybody?")

    assert console.closed
    console.close()


def test_a_file_gets_every_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("ab") as file:
        console = Console(file.fileno())
        for number in range(1000):
            console.line("beat", str(number))
        console.close()

    assert path.read_text().splitlines()[-1] == "beat  | 999"
    assert len(path.read_text().splitlines()) == 1000
