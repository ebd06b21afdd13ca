"""The command line as a whole: every command has what all have, and none costs more than it needs."""

import json
import os
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import settings as configured
from hypothesis import strategies as st

from seawall import ConfigError, settings
from seawall.cli import _COMMANDS, _mentioned, complain, expect, group, health, tables
from seawall.cli.pages import said
from seawall.cli.tables import Column, fields, moment, number, state, table, text, wide_of
from support.commands import LEAVES, LONG_LIVED, commands
from support.nodes import ROOT

NO_PAGE = {*LONG_LIVED, ("completion",), ("init",)}
"""What runs until it is stopped, what prints for a shell, and what writes a file."""

CLIENTS = ("celery", "kombu", "psycopg", "redis", "pydantic", "structlog", "flower")


@pytest.mark.parametrize("path", [*commands()], ids=" ".join)
def test_help_is_whole_in_80_columns(path: tuple[str, ...]) -> None:
    told = CliRunner().invoke(group, [*path, "--help"], terminal_width=80)
    assert told.exit_code == 0
    assert max(map(len, told.output.splitlines())) <= 80
    listed = told.output.partition("\nCommands:\n")[2]
    assert "..." not in listed
    assert all(line.startswith("  ") and not line.startswith("   ") for line in listed.splitlines())


def test_the_list_of_commands_says_what_each_says_of_itself() -> None:
    for name, entry in _COMMANDS.items():
        module, _, attribute = entry.path.partition(":")
        assert Path(ROOT / "platform", *module.split(".")).with_suffix(".py").is_file(), name
        assert attribute in {name, attribute}
        assert entry.purpose.endswith("."), name


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in NO_PAGE], ids=" ".join)
def test_what_prints_prints_json_too(path: tuple[str, ...]) -> None:
    assert "--json" in {option for each in LEAVES[path].params for option in each.opts}


@pytest.mark.parametrize("path", [path for path in LEAVES if path[-1] in {"list", "status"}], ids=" ".join)
def test_lists_and_status_can_be_watched(path: tuple[str, ...]) -> None:
    assert "--watch" in {option for each in LEAVES[path].params for option in each.opts}


OF_ALL = {"--json", "--watch", "--help"}


@pytest.mark.parametrize("path", [path for path in LEAVES if path != ("completion",)], ids=" ".join)
def test_what_takes_arguments_shows_an_example_that_it_takes(path: tuple[str, ...]) -> None:
    command = LEAVES[path]
    takes = {option for each in command.params for option in each.opts} - OF_ALL
    label, _, example = (command.epilog or "").partition(": ")
    assert bool(takes) == (label == "Example")
    if takes:
        words = shlex.split(example)
        before, arguments = words[: len(path) + 1], words[len(path) + 1 :]
        assert before == ["seawall", *path]
        assert arguments
        command.make_context(path[-1], arguments)  # which refuses what a shell would see refused
        told = CliRunner().invoke(group, [*path, "--help"], terminal_width=80)
        assert f"\n  {command.epilog}\n" in told.output


SAID = [
    (page.relative_to(ROOT), line)
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
    for block in re.findall(r"^```(?:sh|console|bash)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
    if re.match(r"(\$ )?seawall ", line)
]


@pytest.mark.parametrize(("page", "line"), SAID, ids=lambda value: str(value)[:50])
def test_a_command_of_the_documents_is_one_that_there_is(page: Path, line: str) -> None:
    words = shlex.split(line.removeprefix("$ "), comments=True)[1:]
    path = next((tuple(words[:most]) for most in (2, 1) if tuple(words[:most]) in LEAVES), None)
    if path is not None:
        end = next((n for n, word in enumerate(words) if word in {">", "|", "&&", ";", "&"}), len(words))
        LEAVES[path].make_context(path[-1], words[len(path) : end])
    else:
        assert words[0].startswith("-") or words[0] == "demo", page  # of a fleet


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("stauts",), "No such command 'stauts': did you mean 'status'?"),
        (("queues", "lst"), "Did you mean 'list'?"),
        (("queues", "list", "--jsn"), "Did you mean '--json'?"),
        (("errors", "list", "--status", "opne"), "'ignored', 'all': did you mean 'open'?"),
    ],
)
def test_a_typo_is_refused_with_what_was_meant(arguments: tuple[str, ...], meant: str) -> None:
    told = CliRunner().invoke(group, arguments)
    assert told.exit_code == 2
    assert meant in told.output


def ran(*argv: str, module: str = "seawall.cli") -> tuple[str, set[str]]:
    """What a command prints, and the packages that its process has imported when it has ended."""
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['seawall', *{argv!r}]\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__', alter_sys=True)\n"
        "except SystemExit as exc:\n"
        "    assert not exc.code, exc.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT / "tests"
    )
    return done.stdout, set(done.stderr.split())


@pytest.mark.parametrize(
    "arguments", [("--help",), ("queues", "--help"), ("completion", "zsh")], ids=" ".join
)
def test_help_imports_no_client_of_a_server(arguments: tuple[str, ...]) -> None:
    _, found = ran(*arguments)
    assert not found & {*CLIENTS}
    assert "click" in found


def test_a_worker_of_ours_takes_every_option_of_celerys_and_starts_without_what_people_need() -> None:
    argv = ("-A", "support.shop", "worker", "--help")
    left_out = {"prompt_toolkit", "click_repl", "flower", "tornado"}
    ours, imported = ran(*argv, module="seawall.worker")
    celerys, more = ran(*argv, module="celery")
    assert not imported & left_out
    assert left_out <= more
    assert ours == celerys
    assert "--concurrency" in ours


@pytest.mark.parametrize(
    "there", [["fleet.toml"], ["workers/fleet.toml"], ["fleet.toml", "workers/fleet.toml"], []]
)
def test_help_and_settings_take_the_same_file(
    there: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SEAWALL_FLEET", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "workers").mkdir()
    for path in there:
        (tmp_path / path).write_text(f'[commands]\n"{path}" = "x:y"\n')
    assert list(_mentioned()) == ([str(settings().fleet_file)] if there else [])


@pytest.mark.parametrize("fleet", ["", "commands = 3", "[commands]\nx = 1", "no toml", "\xff"])
def test_help_is_given_whatever_stands_in_the_fleets_file(
    fleet: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fleet.toml").write_bytes(fleet.encode("latin-1"))
    monkeypatch.setenv("SEAWALL_FLEET", str(tmp_path / "fleet.toml"))
    told = CliRunner().invoke(group, ["--help"])
    assert told.exit_code == 0
    assert "queues" in told.output


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How wide the terminal is."""
    wide = [80]
    monkeypatch.setattr(tables, "width", lambda: wide[0])
    return wide


COLUMNS = (
    text("queue", "queue", gives=1, least=8),
    state("state", "state", gives=3),
    number("ready", "ready", gives=2, least=5),
    text("reason", "reason", gives=4),
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "queue": st.text(max_size=60),
            "state": st.sampled_from(["open", "closed", "", "half_open"]),
            "ready": st.integers(0, 10**12),
            "reason": st.text(max_size=300),
        }
    ),
    max_size=5,
)


@configured(max_examples=40, deadline=None)
@given(rows=ROWS, wide=st.integers(10, 220))
def test_no_row_is_wider_than_the_terminal_nor_more_than_a_line(rows: list[Any], wide: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "width", lambda: wide)
        lines = [click.unstyle(line) for line in table(COLUMNS, rows)]
    assert len(lines) == len(rows) + 1
    assert all(wide_of(line) <= wide and line.isprintable() for line in lines)


def test_the_least_important_column_gives_way_first(terminal: list[int]) -> None:
    row = {"queue": "q" * 30, "state": "open", "ready": 7, "reason": "because " * 20}
    terminal[0] = 80
    head, line = (click.unstyle(each) for each in table(COLUMNS, [row]))
    assert line.startswith("q" * 30 + "  open   ")
    assert line.endswith("…")
    assert head.index("ready") + len("ready") == line.index("7") + 1
    terminal[0] = 30
    assert "because" not in click.unstyle([*table(COLUMNS, [row])][1])


def test_a_pipe_gets_whole_cells_and_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "width", lambda: None)
    columns: list[Column] = [moment("at", "at"), text("why", "why", gives=1)]
    at = datetime(2026, 3, 1, 12, tzinfo=UTC)
    line = [*table(columns, [{"at": at, "why": "w" * 500}])][1]
    assert click.unstyle(line) == f"2026-03-01T12:00:00Z  {'w' * 500}"


def test_a_terminal_gets_how_long_ago(terminal: list[int]) -> None:
    at = datetime.now(UTC).timestamp() - 200
    assert click.unstyle([*table([moment("at", "at")], [{"at": at}])][1]).strip() == "3 m ago"


def test_a_long_field_is_wrapped_below_itself(terminal: list[int]) -> None:
    terminal[0] = 40
    lines = [click.unstyle(line) for line in fields({"reason": "because " * 12, "empty": None})]
    assert len(lines) > 2
    assert all(len(line) <= 40 for line in lines)
    assert all(line.startswith("        because") for line in lines[1:])


def test_what_servers_say_of_themselves_is_wrapped(terminal: list[int]) -> None:
    terminal[0] = 40
    said = {"name": "redis", "ok": False, "detail": "refused " * 12}
    lines = [
        click.unstyle(line) for line in health.lines({"ok": False, "question": "ready", "checks": [said]})
    ]
    assert all(len(line) <= 40 for line in lines)
    assert lines[1].startswith("  NO  redis: refused")
    assert all(line.startswith("      refused") for line in lines[2:])


@pytest.mark.parametrize("command", [["doctor"], ["memory", "profile", "shop.add"]])
def test_without_a_fleet_the_application_has_to_be_named(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEAWALL_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("SEAWALL_DATABASE_URL", "postgresql://127.0.0.1:1/none")
    told = CliRunner().invoke(group, command)
    assert told.exit_code == 2
    assert "celery -A" in told.output
    assert "seawall init -A" in told.output


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", "redis://127.0.0.1:1/0")
    for value, coloured in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", value)
        told = CliRunner().invoke(group, ["config"], color=True)
        assert ("\x1b[" in told.output) is coloured


def test_json_has_moments_in_one_format() -> None:
    from seawall.cli.pages import dumped

    at = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=UTC)
    assert json.loads(dumped({"at": at, "n": 1.5})) == {"at": "2026-03-01T12:00:00Z", "n": 1.5}


@pytest.mark.parametrize("command", ["config", "--help"])
def test_an_output_that_takes_nothing_is_named(command: str, tmp_path: Path) -> None:
    told = shell(f"{{}} {command} >/dev/full", tmp_path)
    assert told.returncode == 1
    assert told.stderr == (
        "seawall: the output cannot be written (No space left on device): make room, or send it elsewhere\n"
    )


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize(("command", "status"), [("config", 0), ("up -A nosuch", 2)])
def test_streams_that_are_closed_are_no_fault(command: str, status: int, closed: str, tmp_path: Path) -> None:
    told = shell(f"{{}} {command} {closed}", tmp_path)
    assert told.returncode == status, told.stderr
    assert "fault" not in told.stderr
    assert "Traceback" not in told.stderr


def test_names_of_strangers_are_one_line_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        expect("queue", "x", ["a\n\x1b[31mb"])
    complain(str(caught.value))
    complain("two\nlines\x1b[31m")
    assert capsys.readouterr().err.splitlines() == [
        r"seawall: no queue 'x': known are a\n\x1b[31mb",
        "seawall: two",
        r"lines\x1b[31m",
    ]
    page = said("paused a\n\x1b[31mb", paused="a\n\x1b[31mb")
    assert [*page.lines()] == [r"paused a\n\x1b[31mb"]


def shell(line: str, place: Path) -> subprocess.CompletedProcess[str]:
    """A line of the shell, with the command in place of `{}`."""
    ours = f"{shlex.quote(sys.executable)} -m seawall.cli"
    return subprocess.run(
        ["/bin/sh", "-c", line.format(ours)],
        capture_output=True,
        text=True,
        check=False,
        cwd=place,
        env={**os.environ, "SEAWALL_REDIS_URL": "redis://127.0.0.1:1/0"},
    )
