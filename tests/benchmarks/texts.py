# ruff: noqa: T201 - it is a report
"""What work on text costs by its size, and what submitting a large argument costs beside plain Celery.

    PYTHONPATH=tests python tests/benchmarks/texts.py

Times are of CPU, in this thread. The slope is that of the dearest text between two sizes, on logarithms: 1 is
linear. Submitting takes turns with plain Celery, to a broker in memory.
"""

import argparse
import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice

from celery import Celery

from seawall import Failure, Seawall, classify
from seawall.records.occurrences import reason
from seawall.redaction import (
    ARGUMENTS,
    LINE,
    RedactingFilter,
    ends,
    hide_passwords,
    is_secret,
    redact_arguments,
    redact_exception,
    redact_text,
    secret_values,
    shortened,
)
from seawall.text import carried, one_line, storable
from support.adversarial import texts


def line(text: str) -> logging.LogRecord:
    """As an application writes it."""
    return logging.LogRecord("shop", logging.INFO, __file__, 1, "said %s", (text,), None)


FUNCTIONS: dict[str, Callable[[str], object]] = {
    "redact_text": redact_text,
    "hide_passwords": hide_passwords,
    "shortened": lambda text: shortened(text, LINE),
    "ends": lambda text: ends(text, LINE),
    "redact_arguments": lambda text: redact_arguments((text,), {"a": text}, bound=ARGUMENTS),
    "redact_exception": lambda text: redact_exception(ValueError(text)),
    "classify": lambda text: classify(ValueError(text)),
    "reason": lambda text: reason(ValueError(text), WHATEVER),
    "secret_values": lambda text: secret_values((text,), {"password": text, "note": text}),
    "is_secret": is_secret,
    "a line of a log": lambda text: RedactingFilter().filter(line(text)),
    "carried": carried,
    "storable": storable,
    "one_line": one_line,
}
WHATEVER: Failure = classify(ValueError())
NOISE = 1e-4
"""Seconds below which a time says nothing about a slope."""
SIZES = (1_000, 10_000, 100_000, 1_000_000, 10_000_000)


def cpu(function: Callable[[], object]) -> float:
    """Seconds of CPU that a call takes."""
    begun = time.thread_time()
    function()
    return time.thread_time() - begun


def grow(names: Iterable[str], sizes: tuple[int, ...]) -> None:
    """Print the dearest text of each size, function by function."""
    print(f"{'function':18}" + "".join(f"{size:>14,}" for size in sizes) + "   steepest")
    for name in names:
        function = FUNCTIONS[name]
        step = 1 if name == "redact_text" else 8  # the others redact, or look at no pattern
        worst = [
            max(cpu(partial(function, text)) for text in islice(texts(size), 0, None, step)) for size in sizes
        ]
        slopes = [
            math.log(max(after, NOISE) / max(before, NOISE)) / math.log(size / smaller)
            for before, after, smaller, size in zip(worst, worst[1:], sizes, sizes[1:], strict=False)
        ]
        print(
            f"{name:18}" + "".join(f"{each * 1e3:11.2f} ms" for each in worst) + f"{max(slopes):11.2f}",
            flush=True,
        )


def keep(text: str) -> None:
    """A task that nobody runs."""


def submit(size: int, rounds: int) -> None:
    """Print what `delay()` of a text costs, ours and Celery's in turn."""
    plain = Celery("plain", broker="memory://", set_as_current=False)
    ours = Seawall("ours", broker="memory://", backend="cache+memory://", set_as_current=False)
    spent: dict[str, list[float]] = {"Celery": [], "Seawall": []}
    tasks = {
        name: app.task(name="shop.keep", shared=False)(keep)
        for name, app in (("Celery", plain), ("Seawall", ours))
    }
    text = "y" * size
    for _ in range(rounds):
        for name, task in tasks.items():
            spent[name].append(cpu(lambda: task.delay(text)))  # noqa: B023
    medians = {name: statistics.median(each[1:]) for name, each in spent.items()}
    for name, seconds in medians.items():
        print(f"delay() of {size:,} characters, {name:8} {seconds * 1e3:8.1f} ms")
    print(f"ratio {medians['Seawall'] / medians['Celery']:.2f}")


def main() -> None:
    """Measure, and print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=SIZES[-1], help="characters")
    parser.add_argument("--functions", nargs="*", default=[*FUNCTIONS], choices=[*FUNCTIONS])
    parser.add_argument("--rounds", type=int, default=15)
    chosen = parser.parse_args()
    submit(5_000_000, chosen.rounds)
    grow(chosen.functions, tuple(size for size in SIZES if size <= chosen.largest))


if __name__ == "__main__":
    main()
