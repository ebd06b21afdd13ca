"""`seawall demo tour`: what Seawall does when things go wrong, done for real and shown as it happens.

A process of its own (`python -m workers.demo.tour`, started by the command) makes embedded servers in a
temporary home, migrates them and runs one worker with two cells. Then each chapter breaks something, and says
what it reads in the ledger, in Redis and of processes: a line stands there because it was seen, and what is
not seen in time fails the tour. A fleet of the user's has other servers and hears nothing of it.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from seawall import database, settings
from seawall.database.migrations import Migrations
from seawall.delivery import Queues
from seawall.errors import SeawallError
from seawall.servers import join_embedded, migration_url
from seawall.startup import histories
from seawall.tether import die_with
from workers.app import app
from workers.demo import tour_tasks

T = TypeVar("T")

QUEUE: Final = "tour"
_WIDTH: Final = 80
_INDENT: Final = 11
_POLL: Final = 0.05
_ORDERS: Final = 12
_STAYS: Final = "STAYS"


class UnseenError(Exception):
    """What should have happened was not seen in time."""


@dataclass
class Tour:
    """What the chapters share: the clock of the screen, and what they submit and look at."""

    began: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        """One line about what was seen just now."""
        passed = click.style(f"{time.monotonic() - self.began:6.1f} s", dim=True)
        first, *more = textwrap.wrap(
            " ".join(text.split()), _WIDTH - _INDENT, max_lines=3, placeholder=" ..."
        )
        click.echo(f" {passed}  {first}")
        for each in more:
            click.echo(f"{'':{_INDENT}}{each}")

    def look(self, *commands: str) -> None:
        """How to look closer."""
        for command in commands:
            click.echo(f"{'':{_INDENT}}{click.style(f'$ {command}', fg='cyan')}")

    def submit(self, task: Any, *args: Any) -> str:
        """Submit it to the tour's own queue; its id."""
        return str(task.apply_async(args, queue=QUEUE).id)

    def wait(self, seen: Callable[[], T | None], what: str, *, seconds: float = 20.0) -> T:
        """What `seen` returns, once that is true.

        Raises:
            UnseenError: it was not in time.
        """
        deadline = time.monotonic() + seconds
        while not (found := seen()):
            if time.monotonic() > deadline:
                raise UnseenError(f"{what} was not seen within {seconds:g} s")
            time.sleep(_POLL)
        return found

    def runs(self, task_id: str) -> list[dict[str, Any]]:
        """The ledger's rows of one task, oldest first, each with the error it ended with."""
        return database().fetch(
            "SELECT r.attempt, r.state, r.run_ms, r.started_at, r.finished_at, g.exception, g.sample"
            " FROM seawall.task_runs r LEFT JOIN seawall.error_groups g ON g.id = r.error_group_id"
            " WHERE r.task_id = %s ORDER BY r.finished_at",
            (task_id,),
        )

    def follow(self, task_id: str) -> list[dict[str, Any]]:
        """Say each run as the ledger has it, until the last; all of them."""
        rows: list[dict[str, Any]] = []
        while not rows or rows[-1]["state"] in {"retried", "parked"}:
            known = partial(self._known, task_id, len(rows))
            told, rows = len(rows), self.wait(known, "the next run in the ledger")
            for row in rows[told:]:
                self.say(_run_in_words(row))
        return rows

    def _known(self, task_id: str, told: int) -> list[dict[str, Any]]:
        """The runs, if there are more than `told` and none is missing, as another cell writes it later."""
        rows = self.runs(task_id)
        whole = all(row["attempt"] <= number for number, row in enumerate(rows, 1))
        return rows if whole and len(rows) > told else []


def migrate(tour: Tour) -> None:
    """An empty database becomes one that workers accept."""
    migrations = Migrations(migration_url(), histories())
    for history, steps in groupby(migrations.up(), lambda step: step.history):
        applied = list(steps)
        took = sum(each.seconds for each in applied)
        tour.say(f"{history}: {len(applied)} applied in {took:.2f} s, up to {applied[-1].label}")
    _require(not migrations.check(), "a database as the code expects it")
    tour.look("seawall migrate status")


def retry(tour: Tour) -> None:
    """A dependency is away for a moment."""
    rows = tour.follow(tour.submit(tour_tasks.flaky))
    _require(
        [each["state"] for each in rows] == ["retried", "retried", "success"], "two retries and a success"
    )
    tour.look("seawall errors list")


def fail(tour: Tour) -> None:
    """A bug: the same task fails three times, for good."""
    ids = [tour.submit(tour_tasks.broken, order) for order in (1, 2, 3)]
    group = tour.wait(
        lambda: _row("SELECT * FROM seawall.error_groups WHERE task = 'tour.broken' AND count = 3"),
        "one group of three errors",
    )
    tour.say(f"one error group for all three: {_short(group['exception'])}, {group['count']} times")
    letters = tour.wait(
        lambda: _all_of(ids, "SELECT * FROM seawall.dead_letters WHERE state = 'open' AND task_id = ANY(%s)"),
        "three dead letters",
    )
    tour.say(f"{len(letters)} dead letters, to be requeued one day: {letters[0]['reason']}")
    tour.look(f"seawall errors show {group['fingerprint'][:8]}", f"seawall dead show {letters[0]['task_id']}")


def trip(tour: Tour) -> None:
    """A dependency is down: nobody listens at its port."""
    with socket.socket() as gateway:
        gateway.bind(("127.0.0.1", 0))  # without listen: calls are refused
        port = gateway.getsockname()[1]
        ids = [tour.submit(tour_tasks.charge, port, order) for order in range(_ORDERS)]
        opened = tour.wait(lambda: _transition("closed", "open"), "the breaker to open")
        tour.say(f"the breaker opens: {opened['failed']} of {opened['calls']} calls failed")
        parked = tour.wait(_parked, "parked tasks")
        tour.say(f"{parked} tasks wait parked in the broker: no slot, no retry, no failure")
        gateway.listen(_ORDERS)
        tour.say("the gateway listens again")
        tour.wait(lambda: _transition("half_open", "closed"), "the breaker to close")
        tour.say("one probe got through, the breaker closes")
        done = tour.wait(lambda: _all_of(ids, _SUCCEEDED), "every order to be charged", seconds=30)
        _require(_parked() == 0, "nothing parked any more")
        tour.say(f"what was parked is released: {len(done)} of {_ORDERS} orders are charged")
    tour.look(f"seawall breakers history {tour_tasks.GATEWAY}")


def starve(tour: Tour) -> None:
    """A task takes ever more memory, beside one that does its work."""
    neighbour = tour.submit(tour_tasks.steady, 3.0)
    hog = tour.submit(tour_tasks.hog)
    stopped = tour.wait(lambda: tour.runs(hog), "the hog to be stopped")[-1]
    _require(stopped["state"] == "dead", "the hog given up")
    reason = _row("SELECT reason FROM seawall.dead_letters WHERE task_id = %s", hog)
    tour.say(f"stopped, alone: {reason['reason'] if reason else stopped['exception']}")
    beside = tour.wait(lambda: tour.runs(neighbour), "its neighbour's end")
    _require([each["state"] for each in beside] == ["success"], "a neighbour that ran once")
    _require(beside[0]["started_at"] < stopped["finished_at"] < beside[0]["finished_at"], "both at once")
    tour.say(f"its neighbour ran on: {_run_in_words(beside[0])}")
    tour.look("seawall memory list")


def kill(tour: Tour) -> None:
    """SIGKILL to the cell that runs a task."""
    task_id = tour.submit(tour_tasks.long, 1.5)
    first = tour.wait(lambda: tour_tasks.pids(app, task_id), "the task to begin")[0]
    os.kill(first, signal.SIGKILL)
    tour.say(f"cell {first} is killed while it runs the task")
    second = tour.wait(lambda: tour_tasks.pids(app, task_id)[1:], "the task to come back")[0]
    tour.say(f"the task is back, in cell {second}")
    rows = tour.follow(task_id)
    _require(first != second, "another cell")
    _require([each["state"] for each in rows] == ["retried", "success"], "one more run, and its success")
    tour.look("seawall status")


CHAPTERS: Final[Sequence[tuple[str, Callable[[Tour], None]]]] = (
    ("a task retries", retry),
    ("an error group and dead letters", fail),
    ("a breaker opens, parks and releases", trip),
    ("a memory hog is stopped alone", starve),
    ("a cell is killed and its task comes back", kill),
)

_SUCCEEDED: Final = "SELECT * FROM seawall.task_runs WHERE state = 'success' AND task_id = ANY(%s)"


def main(*, stays: bool) -> int:
    """Show all of it; the exit status: 0 if all was seen."""
    die_with(os.getppid())
    tour, missed = Tour(), []
    click.echo("The tour: one worker with two cells, on servers of its own. To look closer, in")
    click.echo("another terminal, after")
    click.secho(f"{'':{_INDENT}}$ export SEAWALL_HOME={settings().home}", fg="cyan")
    try:
        _head("servers and a migrated database")
        join_embedded()
        tour.say("Redis and PostgreSQL answer, with nothing installed but wheels")
        migrate(tour)
        with _worker(tour):
            missed = [title for title, chapter in CHAPTERS if not _shown(tour, title, chapter)]
            seen, passed = len(CHAPTERS) + 1 - len(missed), time.monotonic() - tour.began
            colour = "red" if missed else "green"
            click.secho(f"\n{seen} of {len(CHAPTERS) + 1} seen in {passed:.0f} s", fg=colour)
            if stays:
                click.echo("All of it stays up until you press Enter.", nl=False)
                with contextlib.suppress(EOFError):
                    input()
    except (SeawallError, UnseenError) as exc:
        click.secho(f"the tour ends here: {exc}", fg="red")
        return 1
    except KeyboardInterrupt:
        return 130
    return 1 if missed else 0


def _shown(tour: Tour, title: str, chapter: Callable[[Tour], None]) -> bool:
    _head(title)
    try:
        chapter(tour)
    except UnseenError as exc:
        click.secho(f"{'':{_INDENT}}{exc}", fg="red")
        return False
    return True


@contextlib.contextmanager
def _worker(tour: Tour) -> Iterator[None]:
    """One worker, in a session of its own, until the block ends."""
    log = settings().home / "worker.log"
    options = f"-A workers.app worker -n tour@%h -Q {QUEUE} -c 2 -l INFO"
    us = os.getpid()
    with log.open("w") as out:
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", *options.split()],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            preexec_fn=lambda: die_with(us),  # noqa: PLW1509 - one prctl call, and we have one thread that forks
        )
    try:
        tour.wait(lambda: _is_ready(worker, log), "a worker that is ready", seconds=60)
        tour.say("a worker is ready")
        yield
    finally:
        worker.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(15)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()


def _is_ready(worker: "subprocess.Popen[bytes]", log: Path) -> bool:
    if worker.poll() is not None:
        raise UnseenError(f"a worker that is ready: it ended, and said in {log} why")
    return any('"event": "tour@' in line and "ready." in line for line in log.read_text().splitlines())


def _head(title: str) -> None:
    click.echo()
    click.secho(title, bold=True)


def _run_in_words(row: dict[str, Any]) -> str:
    took = "" if row["run_ms"] is None else f" after {row['run_ms'] / 1000:.2f} s"
    if row["state"] == "success":
        return f"attempt {row['attempt']} succeeded{took}"
    then = "it is retried" if row["state"] == "retried" else f"it is {row['state']}"
    return f"attempt {row['attempt']} ends with {_short(row['exception'])}{took}: {then}"


def _short(exception: object) -> str:
    return str(exception).rpartition(".")[2]


def _row(statement: str, *values: object) -> dict[str, Any] | None:
    return next(iter(database().fetch(statement, values)), None)


def _all_of(ids: list[str], statement: str) -> list[dict[str, Any]] | None:
    """The rows, once there is one of each of these tasks."""
    rows = database().fetch(statement, (ids,))
    return rows if {each["task_id"] for each in rows} == set(ids) else None


def _transition(before: str, after: str) -> dict[str, Any] | None:
    """What is recorded of such a change of the gateway's breaker."""
    return _row(
        "SELECT * FROM seawall.breaker_transitions WHERE name = %s AND before = %s AND after = %s",
        tour_tasks.GATEWAY,
        before,
        after,
    )


def _parked() -> int:
    with app.connection_for_read() as connection, Queues.open(connection) as queues:
        return sum(queues.counts(QUEUE).parked.values())


def _require(holds: object, what: str) -> None:
    if not holds:
        raise UnseenError(f"{what}: not seen")


if __name__ == "__main__":
    sys.exit(main(stays=_STAYS in sys.argv))
