"""Where the servers' binaries come from, and what is said when one does not run."""

import os
import shutil
from pathlib import Path

import pytest

from seawall.embedded.home import Home
from seawall.embedded.preflight import check
from seawall.embedded.process import Account, last_words, servers_account
from seawall.embedded.programs import FINDERS, Program, find, from_setting, from_wheel, usable
from seawall.errors import StartupError


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("name", "programs", "url"),
    [
        ("redis", "valkey-server or redis-server", "SEAWALL_REDIS_URL"),
        ("postgres", "postgres", "SEAWALL_DATABASE_URL"),
    ],
)
def test_a_missing_binary_names_the_one_command_and_the_way_without(
    name: str, programs: str, url: str
) -> None:
    with pytest.raises(StartupError) as caught:
        find(name, finders=[])
    assert str(caught.value) == (
        f"{name}: no {programs} on this machine: install the embedded servers with"
        f" `pip install 'seawall[embedded]'`, or name a server in {url}"
    )


def test_the_first_finder_that_has_one_wins(tmp_path: Path) -> None:
    one, other = Program(tmp_path / "one", tmp_path), Program(tmp_path / "other", tmp_path)
    assert find("redis", [lambda _: None, lambda _: one, lambda _: other]) == one


def test_a_directory_of_the_setting_comes_before_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = script(tmp_path / "bin/redis-server", "")
    monkeypatch.setenv("SEAWALL_EMBEDDED__PATH", f"/nonexistent{os.pathsep}{tmp_path / 'bin'}")
    assert FINDERS[0] is from_setting
    assert find("redis").executable == mine


@pytest.mark.parametrize("name", ["redis", "postgres"])
def test_the_wheels_have_all_that_is_copied(name: str) -> None:
    program = from_wheel(name)
    assert program is not None
    assert [part for part in program.parts if not (program.root / part).exists()] == []


def test_a_binary_that_is_no_program_of_this_machine(tmp_path: Path) -> None:
    foreign = script(tmp_path / "valkey-server", "")
    foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
    with pytest.raises(StartupError, match=r"server cannot run on this machine \(.*Exec format error\)"):
        usable(Program(foreign, tmp_path), account=None, copies=tmp_path)


def test_a_binary_that_lacks_a_library(tmp_path: Path) -> None:
    broken = script(tmp_path / "postgres", "echo 'error while loading libz.so.1' >&2; exit 127")
    with pytest.raises(StartupError, match=r"does not run here \(error while loading libz"):
        usable(Program(broken, tmp_path), account=None, copies=tmp_path)


def test_a_binary_that_may_not_be_run(tmp_path: Path) -> None:
    script(tmp_path / "postgres", "").chmod(0o644)
    with pytest.raises(StartupError, match=r"may not be run by this user: make it .* accessible"):
        usable(Program(tmp_path / "postgres", tmp_path), account=None, copies=tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as another user")
def test_what_the_servers_user_cannot_reach_is_copied_once(home: Path) -> None:
    """A virtualenv below a directory of root's own, made under a private umask."""
    root, copies = home.parent / "private", home.parent / "copies"
    executable = script(root / "bin/server", 'cat "$(dirname "$0")/../share/version"')
    (root / "share").mkdir()
    (root / "share/version").write_text("1.0\n")
    (root / "share/version").chmod(0o600)
    root.chmod(0o700)
    account = servers_account()
    assert isinstance(account, Account)

    program = Program(executable, root, ("bin", "share"))
    copy, version = usable(program, account=account, copies=copies)
    assert version == "1.0"
    assert copy.executable.is_relative_to(copies)
    inode = copy.executable.stat().st_ino
    again, _ = usable(program, account=account, copies=copies)
    assert again == copy
    assert again.executable.stat().st_ino == inode
    shutil.rmtree(copies)


def test_the_last_complaint_is_what_is_told() -> None:
    assert last_words("LOG: up\nFATAL: no space\nHINT: make some\n") == "FATAL: no space"
    assert last_words("one\ntwo\n\n") == "two"
    assert last_words("") == "it said nothing"


def test_a_user_without_a_name_is_told_before_anything_is_made(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 2_000_000_011)  # of which no system has a name
    with pytest.raises(StartupError, match="user id 2000000011 has no name on this machine"):
        check(Home(home), ["redis", "postgres"])
    check(Home(home), ["redis"])
