"""What classifying one error costs: `PYTHONPATH=tests python tests/benchmarks/failures.py`.

Each figure is the best of rounds: the least disturbed by whatever else the machine does.
"""

import argparse
import io
import logging
import timeit
from collections.abc import Callable
from functools import partial

from seawall import classify, failure, logs
from seawall.redaction import redact_arguments, redact_text


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


if __name__ == "__main__":
    main()
