"""Where a task's memory grows: its runs under tracemalloc, compared once it has warmed up."""

import gc
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from seawall.memory import leaks
from seawall.memory.cleanup import release
from seawall.memory.meter import Own

_OURS: Final = (tracemalloc.__file__, __file__)


@dataclass(frozen=True, slots=True)
class Growth:
    """One line of code that holds more with every run: bytes and blocks per run."""

    file: str
    line: int
    bytes: int
    blocks: float

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Profile:
    """What runs kept. `held` also sees what C code holds, which tracemalloc does not."""

    runs: int
    traced: int
    held: int
    growing: tuple[Growth, ...]


def profile(
    run: Callable[[], object], *, runs: int = 20, warm_up: int = leaks.FIRST_RUNS, top: int = 10
) -> Profile:
    """Call `run` and find the lines whose allocations stay, most bytes first. Bytes are per run."""
    own = Own()
    already = tracemalloc.is_tracing()
    tracemalloc.start(1) if not already else None
    try:
        for _ in range(warm_up):
            run()
        release()
        before, held = tracemalloc.take_snapshot(), own.held()
        for _ in range(runs):
            run()
        release()
        held = own.held() - held
        after = tracemalloc.take_snapshot()
    finally:
        if not already:
            tracemalloc.stop()
        own.close()
        gc.collect()
    differences = _without_us(after).compare_to(_without_us(before), "lineno")
    growing = [
        Growth(
            found.traceback[0].filename,
            found.traceback[0].lineno,
            found.size_diff // runs,
            found.count_diff / runs,
        )
        for found in differences
        if found.size_diff >= runs  # a byte a run: less is no growth
    ]
    total = sum(found.size_diff for found in differences)
    return Profile(runs, total // runs, held // runs, tuple(_largest(growing, top)))


def _without_us(snapshot: tracemalloc.Snapshot) -> tracemalloc.Snapshot:
    return snapshot.filter_traces(
        [tracemalloc.Filter(inclusive=False, filename_pattern=name) for name in _OURS]
    )


def _largest(growing: Sequence[Growth], top: int) -> list[Growth]:
    return sorted(growing, key=lambda each: -each.bytes)[:top]
