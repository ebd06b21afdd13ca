"""A thousand tasks of 1 ms, ten of 5 s among them, four cells: how long a short one waits for a long one.

    PYTHONPATH=tests .venv/bin/python tests/benchmarks/mixed.py

Tasks stand in line in the order of their numbers. So where a later one starts, a cell was free, and an
earlier short one that has not started yet waits for something else. What is printed is for how long, and how
long a cell was idle at most while a short task had not started. On a server of its own.
"""

import tempfile
from pathlib import Path

from support import mixture
from support.delivery import own_server, site

SHORT, LONG, CELLS = 1000, 10, 4


def main() -> None:
    """Measure once, and print one line."""
    with (
        tempfile.TemporaryDirectory() as folder,
        own_server(Path(folder) / "server", fsync="everysec") as server,
        site(server.url, Path(folder) / "site") as place,
    ):
        mixture.submit(place, short=SHORT, long=LONG, takes=5.0)
        mixture.run(place, Path(folder), cells=CELLS, total=SHORT + LONG)
        passed = mixture.passed_by(place.marks, SHORT, cells=CELLS)
        beside = mixture.waited_beside_a_free_cell(place.marks)
    print(  # noqa: T201 - it is a report
        f"{SHORT} short tasks among {LONG} of 5 s on {CELLS} cells: "
        f"passed by later ones for {passed * 1e3:.0f} ms at most, "
        f"waiting beside a free cell for {beside * 1e3:.0f} ms at most"
    )


if __name__ == "__main__":
    main()
