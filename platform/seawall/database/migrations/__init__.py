"""Migrations in plain SQL: `NNNN_name.up.sql` and `NNNN_name.down.sql`, applied once, in order.

    Migrations(url, [platform_history(), History("workers", Path("workers/migrations"))]).up()

Nothing here prints; results are frozen, errors name the file, the line and the fix.
"""

from seawall.database.migrations.execution import Patience, Step
from seawall.database.migrations.files import PLATFORM, History, Migration, new, platform_history
from seawall.database.migrations.problems import Kind, MigrationProblem, Problem
from seawall.database.migrations.runner import Entry, Migrations

__all__ = [
    "PLATFORM",
    "Entry",
    "History",
    "Kind",
    "Migration",
    "MigrationProblem",
    "Migrations",
    "Patience",
    "Problem",
    "Step",
    "new",
    "platform_history",
]
