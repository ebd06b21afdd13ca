"""Which branches of the platform's code a worker's processes reach.

An arc is a pair of lines of one file that ran one after the other; a branch is an arc out of a line that has
more than one way on. coverage.py's tracer finds them at the speed of C; what writes them down is ours, as a
process that is forked from another's threads, or killed, has to leave its share all the same.
"""

import ast
import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from coverage.parser import PythonParser
from coverage.tracer import CFileDisposition, CTracer  # type: ignore[import-not-found, unused-ignore]

import seawall

PLATFORM: Final = str(Path(seawall.__file__).parent)
_EVERY: Final = 0.5

PATH: Final = (
    *("worker/", "delivery/", "admission", "limits/", "breaker/", "memory/", "retries/", "policy"),
    *("priority", "quantity", "config", "text", "events", "redaction/", "classification", "failure"),
    *("recovery", "boundary", "identity"),
)
"""What takes a message in, checks it, admits it, runs it and settles it; names begin so."""

Arc = tuple[str, int, int]
"""A file below the platform's root, and two of its lines; a negative one is a function's entry or exit."""


def _disposition(filename: str, _frame: Any) -> Any:
    """What coverage.py's tracer asks about a file."""
    answer = CFileDisposition()
    answer.original_filename = answer.canonical_filename = answer.source_filename = filename
    answer.trace = filename.startswith(PLATFORM)
    answer.reason, answer.file_tracer, answer.has_dynamic_filename = "", None, False
    return answer


class Collector:
    """Traces every thread of this process and of those that it forks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._data: Any = {}  # file: arcs, as the tracer packs them
        self._known: dict[str, Any] = {}
        self._written = 0

    def start(self) -> None:
        """From here on, in this process and those that it forks."""
        threading.settrace(self._new_thread)
        self.trace()
        self._write_often()
        os.register_at_fork(after_in_child=self._after_fork)

    def trace(self) -> tuple[Any, Any]:
        """Trace this thread: the tracer, and what it sets for `sys.settrace`."""
        tracer = CTracer()
        tracer.data = self._data
        tracer.trace_arcs = True
        tracer.should_trace = _disposition
        tracer.should_trace_cache = self._known
        tracer.lock_data = tracer.unlock_data = lambda: None
        tracer.warn = lambda *_args, **_kwargs: None
        tracer.concur_id_func = tracer.check_include = tracer.should_start_context = None
        tracer.switch_context = tracer.disable_plugin = None
        tracer.file_tracers = {}
        return tracer, tracer.start()

    def _new_thread(self, frame: Any, event: str, argument: Any) -> Any:
        sys.settrace(None)
        _, traced = self.trace()
        return traced(frame, event, argument)

    def _after_fork(self) -> None:
        self._written = 0
        self._write_often()

    def _write_often(self) -> None:
        thread = threading.Thread(target=self._write_for_ever, name="fuzz-arcs", daemon=True)
        thread.start()

    def _write_for_ever(self) -> None:
        sys.settrace(None)
        while True:
            time.sleep(_EVERY)
            self.write()

    def write(self) -> None:
        """Replace what this process has written."""
        found = {name: list(packed) for name, packed in list(self._data.items())}
        many = sum(map(len, found.values()))
        if many == self._written:
            return
        self._written = many
        path = self._directory / f"{os.getpid()}.arcs"
        path.with_suffix(".new").write_text(json.dumps(found))
        path.with_suffix(".new").rename(path)


def collect(directory: Path) -> None:
    """Count the arcs of this process, and of all that it forks, from now on."""
    Collector(directory).start()


@contextlib.contextmanager
def collected(directory: Path) -> Iterator[None]:
    """Count the arcs of this thread in the meantime: those of a producer."""
    collector = Collector(directory)
    tracer, _ = collector.trace()
    try:
        yield
    finally:
        tracer.stop()
        collector.write()


def read(directory: Path) -> set[Arc]:
    """All arcs that were written there."""
    found: set[Arc] = set()
    for path in directory.glob("*.arcs"):
        for name, packed in json.loads(path.read_text()).items():
            found.update((name.removeprefix(PLATFORM + "/"), *_unpacked(each)) for each in packed)
    return found


def _unpacked(packed: int) -> tuple[int, int]:
    """The two lines that coverage.py's tracer packs into a number, each 28 bits and a sign."""
    first, second = packed & 0xFFFFFFF, (packed >> 28) & 0xFFFFFFF
    return (-first if packed & (1 << 56) else first), (-second if packed & (1 << 57) else second)


def in_functions(arcs: Iterable[Arc]) -> set[Arc]:
    """Those that do not come from importing a module."""
    lines: dict[str, set[int]] = {}
    found = set()
    for arc in arcs:
        name, first, _ = arc
        if name not in lines:
            lines[name] = _lines_in_functions(Path(PLATFORM, name).read_text())
        if abs(first) in lines[name]:
            found.add(arc)
    return found


def branches(arcs: Iterable[Arc]) -> set[Arc]:
    """Those out of a line with several ways on."""
    ways: dict[str, set[int]] = {}
    found = set()
    for arc in arcs:
        name, first, _ = arc
        if name not in ways:
            parser = PythonParser(text=Path(PLATFORM, name).read_text())
            parser.parse_source()
            ways[name] = {line for line, exits in parser.exit_counts().items() if exits > 1}
        if first in ways[name]:
            found.add(arc)
    return found


def branches_there() -> int:
    """How many branches the functions of `PATH` have."""
    many = 0
    for path in Path(PLATFORM).rglob("*.py"):
        if not str(path.relative_to(PLATFORM)).startswith(PATH):
            continue
        source = path.read_text()
        within, parser = _lines_in_functions(source), PythonParser(text=source)
        parser.parse_source()
        many += sum(exits for line, exits in parser.exit_counts().items() if exits > 1 and line in within)
    return many


def _lines_in_functions(source: str) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            lines.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return lines
