"""How long records are kept: partitions of runs are made ahead and dropped by age, the rest is deleted."""

from typing import TYPE_CHECKING, Final

from seawall.sections import RecordsSettings

if TYPE_CHECKING:
    from seawall.database.pool import Database

_AT_ONCE: Final = 10_000
_KEEP_JOURNALS: Final = 30 * 86_400.0


def maintain(database: "Database", chosen: RecordsSettings) -> None:
    """Make the partitions of the next days, and let go of what is too old. Safe to run side by side."""
    database.execute(
        "SELECT seawall.maintain_task_runs(make_interval(secs => %s), make_interval(secs => %s))",
        [chosen.keep_runs, chosen.keep_failures],
    )
    _delete(database, "dead_letters", "id", "dead_at", chosen.keep_dead_letters)
    _delete(database, "error_groups", "id", "last_seen", chosen.keep_dead_letters)
    _delete(database, "breaker_transitions", "id", "at", chosen.keep_failures)
    _delete(database, "record_journals", "journal", "at", _KEEP_JOURNALS)


def _delete(database: "Database", table: str, key: str, moment: str, age: float) -> None:
    query = (
        f"DELETE FROM seawall.{table} WHERE {key} IN (SELECT {key} FROM seawall.{table}"  # noqa: S608 - our names
        f" WHERE {moment} < now() - make_interval(secs => %s) ORDER BY {moment} LIMIT {_AT_ONCE})"
    )
    while database.execute(query.encode(), [age]) == _AT_ONCE:
        pass
