"""What workers write down: the run ledger, dead letters, error groups and what breakers did, in PostgreSQL.

    a process that settles tasks        the worker's main process               PostgreSQL
    Journal.write ──► its own file ───► Recorder, a thread: every 200 ms ─────► task_runs, error_groups,
      never waits                         up to 1,000 rows a transaction          dead_letters, ...

Every process appends to a file of its own; that file is all that is handed over. So no process holds a
connection for it, nothing waits for PostgreSQL, and the way out is the spool as well: while the server is
away the files grow, and afterwards they are read on. A row is in the file, and safe from SIGKILL, before its
task is acknowledged; what a kill can cost is the one row that is being written in that moment, which is
noticed. What a killed worker left behind, another one on the machine writes (`Spool.orphans`).

Exactly once: each transaction also writes down how far into each file it has come
(`seawall.record_journals`). After an error, or in another worker, that is where reading goes on.

Files are bounded (`records.spool_size`). Beyond, successes are left out, then everything; what is left out is
counted, and told in the log and by `RecordsLost`.

`current()` is this process's, once a worker has begun to record (`begin`).
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seawall.records.journal import Journal

__all__ = ["begin", "current", "end"]

_journals: "list[Journal]" = []


def current() -> "Journal | None":
    """Where this process writes down what became of its work; None if nobody records it."""
    return _journals[0] if _journals else None


def begin(journal: "Journal") -> None:
    """This process, and those it forks, write into `journal` from now on."""
    _journals[:] = [journal]


def end() -> None:
    """Nobody records any more."""
    _journals.clear()
