"""What can be wrong with migrations, each kind with its own exit code."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from seawall.errors import MigrationError


class Kind(IntEnum):
    """Kinds of problem; the value is the exit code of the command that meets it first."""

    PENDING = 3  # only `check` calls this one, the next and invalid indexes a problem
    INCOMPLETE = 4  # a no-transaction file was started and not finished
    INVALID_INDEX = 5
    INVALID = 6  # a file that cannot be a migration: its name, its encoding, its statements
    DUPLICATE = 7
    EDITED = 8
    MISSING = 9
    OUT_OF_ORDER = 10
    FAILED = 11  # PostgreSQL refused a statement
    LOCKED = 12  # gave up waiting: for another runner, or for locks that other sessions hold
    IRREVERSIBLE = 13
    SCHEMA = 14  # the database is not what the code expects


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: one line that names the file and says what to do."""

    kind: Kind
    message: str


class MigrationProblem(MigrationError):  # noqa: N818 - the public names say what happened
    """Nothing, or nothing more, was applied. `problems` says why; `exit_code` is the first one's kind."""

    def __init__(self, *problems: Problem) -> None:
        self.problems: Sequence[Problem] = problems
        more = f" (and {len(problems) - 1} more, see `seawall migrate check`)" if len(problems) > 1 else ""
        super().__init__(problems[0].message + more)

    @property
    def exit_code(self) -> int:
        """What a command should end with."""
        return self.problems[0].kind


def problem(kind: Kind, message: str) -> MigrationProblem:
    """The error for a single problem."""
    return MigrationProblem(Problem(kind, message))
