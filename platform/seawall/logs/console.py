"""Lines for people: one for each ending of a task, in columns, coloured where a terminal is.

    20:15:02  default1  succeeded  shop.charge      0.41 s  3d4a27b1  {'charged': 5}
    20:15:02  default1  failed     shop.charge      0.01 s  5859eafe  ValueError('cannot parse order 17')
    20:15:03  default1  warning    the connection budget is spent

An ending fits the terminal's width, its reason is cut; other lines are whole. The program is left out where
somebody else writes it in front of each line, as the fleet does.
"""

import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from seawall.logs.endings import RECEIVED
from seawall.text import one_line

_COLOURS: Final[Mapping[str, str]] = {
    "succeeded": "32", "retried": "33", "failed": "1;31", "overran": "1;31", "rejected": "35",
    "revoked": "35", "ignored": "2", RECEIVED: "2", "debug": "2", "info": "2", "warning": "33",
    "error": "31", "critical": "1;31",
}  # fmt: skip
_TELLERS: Final = frozenset(
    {"celery.app.trace", "celery.worker.strategy", "celery.worker.request"}
    | {"seawall.worker.older", "seawall.worker.request"}
)
"""The loggers that tell of endings: to others, a word such as "failed" is a message like any other."""

_DIM: Final = "2"
_WORD: Final = 9  # characters of the longest of these words
_SHORT_ID: Final = 8
_MILLISECONDS: Final = 0.1  # seconds, below which they say more
_NAME: Final = 16
_LONGEST_NAME: Final = 40
_LEAST_WIDTH: Final = 60
_NO_TERMINAL: Final = 160  # characters of a line, where nobody knows the width
_LONGEST_FIELD: Final = 300
_SHOWN: Final = frozenset(
    {"timestamp", "level", "event", "logger", "program", "task", "task_id", "attempt", "queue", "worker",
     "process", "exception", "seconds", "again_in", "reason", "result"}
)  # fmt: skip
"""Fields that have a place of their own in a line, or none: they are the same in every line of a program."""

_OURS: Final = (str(Path(__file__).parents[1]), f"{os.sep}celery{os.sep}app{os.sep}")

_NOISE: Final[Mapping[str, str]] = {
    "celery.worker.strategy": "Task %(name)s[%(id)s] received",
    "celery.worker.consumer.connection": "Connected to %s",
    "celery.worker.control": "Events of group {task} enabled by remote.",
    "celery.worker.consumer.consumer": "Skipping prefetch count reduction",
}
"""What others write as information and nobody at a terminal misses, by the name of its logger."""


def is_worth_reading(record: logging.LogRecord) -> bool:
    """A filter of a terminal's handler: tasks are told of when they have ended, greetings are left out."""
    if record.levelno > logging.INFO:
        return True
    noise = _NOISE.get(record.name)
    return noise is None or not str(record.msg).startswith(noise) or logging.root.level <= logging.DEBUG


def renderer(
    *, colours: bool, stream: Any, program: bool, ready: Callable[[Any], str]
) -> Callable[[dict[str, Any]], str]:
    """Makes text of a line's fields for `stream`; `ready` makes text of a value that may be anything."""
    name_width = _NAME

    def paint(text: str, colour: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if colours and text else text

    def render(line: dict[str, Any]) -> str:
        nonlocal name_width
        event = ready(line["event"])
        ending = event in _COLOURS and line["logger"] in _TELLERS and "task" in line
        word = event if ending else line["level"]
        head = [paint(str(line["timestamp"]), _DIM)]
        used = len(str(line["timestamp"])) + 2
        if program:
            head.append(f"{line.get('program', ''):<8}")
            used += len(head[-1]) + 2
        head.append(paint(f"{word:<{_WORD}}", _COLOURS.get(word, "0")))
        used += _WORD + 2
        if ending:
            name_width = min(max(name_width, len(str(line["task"]))), _LONGEST_NAME)
            text = _ending(line, name_width)
            reason = ready(_why(line))
            room = max(_width(stream), _LEAST_WIDTH) - used - len(text) - 2
            text = f"{text}  {_cut(reason, room)}".rstrip()
        else:
            text = _indented(event) + paint(_context(line), _DIM)
        extras = "".join(f" {key}={ready(value)[:_LONGEST_FIELD]}" for key, value in _extras(line))
        below = _without_ours(line["exception"]).split("\n") if "exception" in line else ()
        return "\n    ".join(
            ["  ".join([*head, text]) + paint(extras, "36"), *(paint(each, _DIM) for each in below)]
        )

    return render


def _ending(line: Mapping[str, Any], width: int) -> str:
    seconds = line.get("seconds")
    took = _in_words(seconds) if isinstance(seconds, float | int) else ""
    return f"{line['task']!s:<{width}} {took:>8}  {str(line['task_id'])[:_SHORT_ID]}"


def _why(line: Mapping[str, Any]) -> Any:
    """Why it ended so, or what it returned."""
    if (again := line.get("again_in")) is not None:
        return f"again in {_in_words(again)}: {line.get('reason', '')}"
    result = line.get("result")
    return line.get("reason") or ("" if result == "None" else result or "")


def _in_words(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= _MILLISECONDS else f"{seconds * 1000:.0f} ms"


def _context(line: Mapping[str, Any]) -> str:
    """Which task wrote the line, if one did."""
    task = line.get("task")
    return f"  {task} {str(line.get('task_id', ''))[:_SHORT_ID]}" if task else ""


def _extras(line: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(key, value) for key, value in line.items() if key not in _SHOWN]


def _cut(text: str, room: int) -> str:
    text = one_line(" ".join(text.split()))
    return text if len(text) <= room else text[: max(room - 1, 0)] + "…"


def _indented(text: str) -> str:
    return text.replace("\n", "\n    ") if "\n" in text else text


def _without_ours(traceback: str) -> str:
    """Without the frames of Celery and of ours that lead to the task's code, unless nothing else is there."""
    kept: list[str] = []
    led_here, skipping = True, False
    for each in traceback.split("\n"):
        if each.startswith("Traceback "):
            led_here, skipping = True, False
        elif each.startswith('  File "'):
            skipping = led_here and any(part in each for part in _OURS)
            led_here = skipping
        elif not each.startswith("    "):
            skipping = False
        if not skipping:
            kept.append(each)
    return "\n".join(kept) if any(each.startswith('  File "') for each in kept) else traceback


def _width(stream: Any) -> int:
    try:
        return os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return shutil.get_terminal_size((_NO_TERMINAL, 0)).columns
