"""What can be known before anything is made: whether all servers' programs are there, and fit the data.

Otherwise one server's directory would be made although the other cannot be had, and by the program that
happens to be on the PATH, whose data the next one refuses.
"""

import os
import pwd
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from seawall.embedded.home import Home
from seawall.embedded.process import ENVIRONMENT
from seawall.embedded.programs import DEBIAN, INSTALL, Program, find
from seawall.errors import StartupError

_TIMEOUT = 10.0


def check(home: Home, need: Sequence[str]) -> None:
    """Make sure that the servers called `need` can be started for `home`; makes nothing.

    Raises:
        StartupError: a program is missing, or cannot use the data that is there.
    """
    programs = {name: find(name) for name in need}
    if (postgres := programs.get("postgres")) is None:
        return
    _check_user()
    directory = (home.recall().elsewhere or home.path / "data") / "postgres"
    if (directory / "PG_VERSION").is_file():
        check_major(directory, postgres, _said_version(postgres))
    elif not postgres.executable.with_name("initdb").is_file():
        raise StartupError(
            f"postgres: there is no initdb beside {postgres.executable}: install the embedded servers with "
            f"`{INSTALL}`, or name a server in SEAWALL_DATABASE_URL"
        )


def _check_user() -> None:
    """PostgreSQL starts for nobody whose name it cannot find; as root it runs as an account that has one."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        raise StartupError(
            f"postgres: the user id {os.geteuid()} has no name on this machine, and PostgreSQL wants one: "
            "add it to /etc/passwd, run as a user who is there, or name a server in SEAWALL_DATABASE_URL"
        ) from None


def check_major(directory: Path, program: Program, version: str) -> None:
    """Make sure that `program`, whose `--version` says `version`, can use what lies in `directory`.

    Raises:
        StartupError: another major version wrote it.
    """
    wrote = (directory / "PG_VERSION").read_text().strip()
    found = re.search(r"\d+", version.partition("PostgreSQL")[2])
    if found is not None and found[0] == wrote:
        return
    here = f"PostgreSQL {found[0]}" if found else repr(version)
    there = DEBIAN / wrote / "bin"
    keep = (
        f"set SEAWALL_EMBEDDED__PATH={there}"
        if (there / "postgres").is_file()
        else f"install PostgreSQL {wrote} and name its directory in SEAWALL_EMBEDDED__PATH"
    )
    raise StartupError(
        f"{directory} was written by PostgreSQL {wrote}, and {program.executable} is {here}, which cannot "
        f"read it: {keep} to go on with that data, or move the directory away to start empty"
    )


def _said_version(program: Program) -> str:
    """The answer to `--version`; where there is none, the reason."""
    try:
        done = subprocess.run(
            [program.executable, "--version"],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as exc:
        return str(exc)
    return done.stdout.strip() or done.stderr.strip()
