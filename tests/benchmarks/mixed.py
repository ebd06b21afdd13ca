"""A thousand tasks of 1 ms, ten of 5 s among them, four cells: how long a short one waits for a long one.

    .venv/bin/python tests/benchmarks/mixed.py

A short task waits for a long one when a cell that has claimed both runs the long one first. Tasks stand in
line in the order of their numbers. So where a later one starts, a cell was free, and an earlier short one
that has not started yet waits for something else: what is printed is for how long. On a server of its own.
"""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from celery import Celery

from seawall import delivery
from support.delivery import ROOT, Site, own_server, site
from support.processes import Proc
from support.waiting import wait_until

SHORT, LONG, CELLS, LIMIT = 1000, 10, 4, 0.2


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        own_server(Path(folder) / "server", fsync="everysec") as server,
        site(server.url, Path(folder) / "site") as place,
    ):
        submit(place)
        run(place, Path(folder))
        report(place)


def submit(place: Site) -> None:
    with Celery("client", broker=place.url) as app:
        app.conf.update(broker_transport=delivery.transport_for(place.url))
        work = app.signature("support.marked.work")
        every = SHORT // LONG
        names = [(f"s{number}", 0.001) for number in range(SHORT)]
        for number in range(LONG):
            names.insert(number * (every + 1) + every // 2, (f"l{number}", 5.0))
        delivery.submit_many((work.clone(arguments) for arguments in names), app=app)


def run(place: Site, folder: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "celery",
        "-A",
        "support.marked",
        "worker",
        "-c",
        str(CELLS),
        "-l",
        "WARNING",
    ]
    worker = Proc(argv, log=folder / "worker.log", env=place.environment, cwd=ROOT)
    place.workers.append(worker)
    total = SHORT + LONG
    wait_until(lambda: len(place.marks.counts("end")) == total, timeout=120, what="the end")
    place.stop(worker)


def report(place: Site) -> None:
    """For every short task: seconds between the first start of a later one and its own."""
    begun = {name: min(times) for name, times in place.marks.times("start").items()}
    starts = [begun[f"s{number}"] for number in range(SHORT)]
    waits, first_later = [], float("inf")
    for start in reversed(starts):
        waits.append(max(start - first_later, 0.0))
        first_later = min(first_later, start)
    repeated = sum(len(times) - 1 for times in place.marks.times("start").values())
    print(  # noqa: T201
        f"{SHORT} short tasks among {LONG} long ones: passed by later ones for "
        f"{max(waits) * 1000:.0f} ms at most, {sum(wait > LIMIT for wait in waits)} of them for more than "
        f"{LIMIT * 1000:.0f} ms; {repeated} repeated"
    )


if __name__ == "__main__":
    main()
