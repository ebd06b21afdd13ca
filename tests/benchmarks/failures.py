"""What classifying an error and recording a task cost.

    PYTHONPATH=tests python tests/benchmarks/failures.py

Each figure is the best of rounds: the least disturbed by whatever else the machine does. What a task costs
its worker for the ledger is two of them: settling it, in the process that ran it, and writing its row, in the
main one. The server's own work comes on top, wherever it runs.
"""

import argparse
import io
import logging
import tempfile
import time
import timeit
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from kombu.message import Message
from kombu.utils.json import dumps

from seawall import Seawall, classify, failure, logs, records
from seawall.database.migrations import Migrations, platform_history
from seawall.database.pool import Database
from seawall.delivery.envelope import SUBMITTED
from seawall.embedded import attach
from seawall.records.recorder import Recorder
from seawall.records.spool import Spool
from seawall.redaction import redact_arguments, redact_text
from seawall.sections import RecordsSettings
from seawall.worker import outcomes
from seawall.worker.outcomes import Dead, Succeeded
from seawall.worker.request import Request

_ROWS = 5000


def raised(function: Callable[[], object]) -> BaseException:
    """What `function` raises, with its traceback."""
    try:
        function()
    except Exception as exc:  # noqa: BLE001 - any
        return exc
    raise AssertionError("it raised nothing")


def deep(levels: int) -> None:
    """Raise below `levels` frames."""
    if levels:
        deep(levels - 1)
    raise ConnectionError("db12.example.org:5432 refused order '4711' at 0x7f00aabb, /var/run/x.sock")


def chained() -> None:
    """Raise what is known only by its cause."""
    try:
        deep(5)
    except ConnectionError as exc:
        raise ValueError("cannot import row 17") from exc


def group() -> None:
    """Raise three at once."""
    raise ExceptionGroup("batch", [raised(lambda: deep(2)) for _ in range(3)])  # type: ignore[type-var]


CASES: dict[str, Callable[[], object]] = {
    "known": lambda: deep(0),
    "below 50 frames": lambda: deep(50),
    "unknown": lambda: int("many"),
    "raised from a known one": chained,
    "group of three": group,
}


def _log_to_nowhere() -> Callable[..., object]:
    """A logger whose lines are formatted as a worker's and thrown away."""
    handler = logging.StreamHandler(io.StringIO())
    handler.setFormatter(logs.formatter_for(handler))
    logger = logging.getLogger("benchmark")
    logger.propagate, logger.handlers = False, [handler]
    logger.setLevel(logging.INFO)
    return logger.info


def _request(app: Seawall) -> Request:
    """A request of a task, as a worker gets it."""
    headers, properties, body, _ = app.amqp.as_task_v2("1b0f3b2c-0d9c-4f9e-8d43-b8a0f6a3c111", "add", (1, 2))
    headers[SUBMITTED] = time.time()
    place = {"exchange": "", "routing_key": "celery", "priority": 5}
    message = Message(
        body=dumps(body),
        headers=headers,
        properties=properties,
        delivery_info=place,
        content_type="application/json",
        content_encoding="utf-8",
    )
    made = Request(message, app=app, task=app.tasks["add"], hostname="w@bench")
    made.time_start = time.time()
    return made


def _recording(folder: Path, rounds: int) -> Iterator[tuple[str, float]]:
    """Seconds of CPU a task: in the process that ran it, and in the one that writes for all."""
    app = Seawall("bench", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.task(name="add", shared=False)(deep)
    request, error = _request(app), raised(lambda: deep(5))
    with attach(folder / "home", redis=False, database=True) as attachment:
        url = str(attachment.servers.database_url)
        Migrations(url, [platform_history()]).up()
        opened = Database(url)
        recorder = Recorder(Spool.make(folder / "spool"), lambda: opened, RecordsSettings())
        records.begin(recorder.journal)
        for name, outcome in (("a success", Succeeded(0.001)), ("a dead letter", Dead(error, "Traceback"))):
            settled, written = [], []
            for _ in range(rounds):
                begun = time.process_time()
                for _ in range(_ROWS):
                    request.id = str(uuid.uuid4())
                    outcomes.settle(request, outcome)
                settled.append(time.process_time() - begun)
                begun = time.process_time()
                while recorder._turn():
                    pass
                written.append(time.process_time() - begun)
            yield f"settle {name}", min(settled) / _ROWS
            yield f"write {name}", min(written) / _ROWS
        count = opened.fetch_value("SELECT count(*) FROM seawall.task_runs")
        assert count == 2 * rounds * _ROWS, count
        records.end()
        opened.close()
        del attachment


def main() -> None:
    """Measure, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    chosen = parser.parse_args()
    measured: dict[str, Callable[[], object]] = {}
    for name, function in CASES.items():
        measured[f"classify, {name}"] = partial(classify, raised(function))
    never_seen = raised(group)

    def classify_anew() -> None:
        failure._without_variables.cache_clear()
        classify(never_seen)

    measured["classify, group, message never seen"] = classify_anew
    measured["log a line as JSON"] = partial(_log_to_nowhere(), "charging %s with token=%s", "acme", "abc")
    text = "cannot reach postgresql://shop:word@db/x with token=abc for order 17"
    measured["redact a message"] = lambda: redact_text(text)
    measured["redact arguments"] = lambda: redact_arguments(
        (1, "acme"), {"password": "x", "order": {"id": 1}}
    )
    for name, call in measured.items():
        best = min(timeit.repeat(call, number=chosen.calls, repeat=chosen.rounds)) / chosen.calls
        print(f"{name:40} {best * 1e6:8.1f} us")  # noqa: T201 - it is a report
    with tempfile.TemporaryDirectory(prefix="seawall-") as folder:
        Path(folder).chmod(0o711)
        for name, seconds in _recording(Path(folder), chosen.rounds):
            print(f"{name:40} {seconds * 1e6:8.1f} us of CPU")  # noqa: T201


if __name__ == "__main__":
    main()
