"""Migrations as they lie on disk: finding, reading and starting them.

One directory is one history: its versions are counted by themselves, so a fleet's own tables and the
platform's can grow independently in one database.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from seawall.database.migrations import script
from seawall.database.migrations.problems import Kind, Problem, problem
from seawall.database.migrations.script import Script, ScriptError
from seawall.errors import ConfigError, MigrationError

PLATFORM: Final = "seawall"

_FILE: Final = re.compile(
    r"(?P<version>[0-9]{4})_(?P<name>[a-z0-9]+(?:_[a-z0-9]+)*)\.(?P<direction>up|down)\.sql"
)
_NAME: Final = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")
_UP: Final = "-- Why this change is needed, and what it does.\n"
_DOWN: Final = "-- Undoes {stem}.up.sql. Delete this file if nothing can.\n"


@dataclass(frozen=True, slots=True)
class History:
    """A named directory of `NNNN_name.up.sql` / `.down.sql`; the name is what the database remembers."""

    name: str
    directory: Path


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered change. Without `down` it cannot be undone."""

    history: str
    version: int
    name: str
    path: Path
    up: Script
    down: Script | None

    @property
    def label(self) -> str:
        """`0001_name`, as in the file's name."""
        return f"{self.version:04}_{self.name}"

    @property
    def down_path(self) -> Path:
        """The file that undoes it, if there is one."""
        return self.path.with_name(f"{self.label}.down.sql")


def platform_history() -> History:
    """Seawall's own migrations: those of the installed wheel, else those of the repository."""
    package = Path(__file__).parents[2]
    for directory in (package / "_migrations", package.parents[1] / "migrations"):
        if directory.is_dir():
            return History(PLATFORM, directory)
    raise MigrationError(f"{package}: this installation has no _migrations directory: install seawall again")


def discover(
    history: History, applied: Mapping[int, str] | None = None
) -> tuple[Sequence[Migration], Sequence[Problem]]:
    """The migrations of a directory in order, and what is wrong with its files.

    `applied` has the checksum of what was applied, by version: such files are compared and not parsed, so
    what a check costs does not grow with all that was ever migrated.
    """
    if not history.directory.is_dir():
        raise ConfigError(f"migrations directory {str(history.directory)!r} does not exist: correct the path")
    problems: list[Problem] = []
    scripts: dict[str, dict[str, Script | None]] = {}
    for path in sorted(history.directory.rglob("*")):
        if path.suffix.lower() != ".sql":
            continue
        match = _FILE.fullmatch(path.name)
        if path.parent != history.directory:
            problems.append(Problem(Kind.INVALID, f"{path} is in a folder below: move it, or it is not run"))
        elif match is None:
            problems.append(Problem(Kind.INVALID, f"{path}: name it NNNN_name.up.sql or NNNN_name.down.sql"))
        else:
            stem = f"{match['version']}_{match['name']}"
            scripts.setdefault(stem, {})[match["direction"]] = _read(path, problems)
    found = [_migration(history, stem, pair, problems) for stem, pair in scripts.items()]
    migrations = [each for each in found if each is not None and _is_sound(each, applied or {}, problems)]
    for one, other in itertools.pairwise(migrations):
        if one.version == other.version:
            problems.append(
                Problem(Kind.DUPLICATE, f"{other.path} has the number of {one.path.name}: renumber it")
            )
    return migrations, problems


def new(history: History, name: str) -> tuple[Path, Path]:
    """Create the next pair of files, empty but for a comment; the SQL is yours.

    Raises:
        ConfigError: `name` cannot be part of a file's name.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"migration name {name!r} is not usable: use lower case, digits and _, as in add_index"
        )
    taken = [
        int(match["version"])
        for path in history.directory.glob("*.sql")
        if (match := _FILE.fullmatch(path.name))
    ]
    stem = f"{max(taken, default=0) + 1:04}_{name}"
    up, down = (history.directory / f"{stem}.{direction}.sql" for direction in ("up", "down"))
    for path, text in ((up, _UP), (down, _DOWN.format(stem=stem))):
        with path.open("x") as file:
            file.write(text)
    return up, down


def place(path: Path, line: int) -> str:
    """`file:line`, as terminals and editors understand it."""
    return f"{path}:{line}"


def _read(path: Path, problems: list[Problem]) -> Script | None:
    try:
        return Script(script.normalise(path.read_bytes()))
    except UnicodeDecodeError as exc:
        problems.append(
            Problem(Kind.INVALID, f"{path}: byte {exc.start} is not UTF-8: save the file as UTF-8")
        )
    except OSError as exc:
        raise problem(
            Kind.INVALID, f"{path} cannot be read ({exc.strerror}): correct its permissions"
        ) from exc
    return None


def _migration(
    history: History, stem: str, pair: dict[str, Script | None], problems: list[Problem]
) -> Migration | None:
    path = history.directory / f"{stem}.up.sql"
    if "up" not in pair:
        problems.append(
            Problem(Kind.INVALID, f"{stem}.down.sql has no {path}: add it, or delete the down file")
        )
    if (up := pair.get("up")) is None:
        return None
    version, _, name = stem.partition("_")
    return Migration(history.name, int(version), name, path, up, pair.get("down"))


def _is_sound(migration: Migration, applied: Mapping[int, str], problems: list[Problem]) -> bool:
    """Whether its statements can be run, or were; the rest is told."""
    if applied.get(migration.version) == migration.up.checksum:
        return True
    before = len(problems)
    for path, text in ((migration.path, migration.up), (migration.down_path, migration.down)):
        try:
            if text is not None:
                text.statements  # noqa: B018 - asking for them checks them
        except ScriptError as exc:
            problems.append(Problem(Kind.INVALID, f"{place(path, exc.line)}: {exc}"))
    return len(problems) == before
