"""Structured lines: JSON, or lines for people on a terminal, through the standard library's logging.

Celery's loggers, the application's and structlog's all end in the same handlers, so one formatter gives every
line its context: which task runs (name, id, attempt, queue), in which worker and process. A task's context
costs it one object; the fields are worked out when a line is written. No line holds a secret that
`seawall.redaction` knows, or the value of a secret argument of the task that runs.

Levels, files and which handlers there are stay Celery's or the application's business. docs/logging.md
"""

import functools
import json
import logging
import math
import os
import sys
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

from seawall.config import settings
from seawall.logs import console
from seawall.logs.endings import ending_of
from seawall.redaction import (
    FIELD,
    HIDDEN,
    LINE,
    RedactingFilter,
    ends,
    is_plain,
    is_secret,
    redact,
    shortened,
)

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {
    "message", "asctime", "taskName", "data", "_logger", "_name", "_from_structlog",
}  # fmt: skip
"""What every record has, and Celery's own context of a line: not what its author added with `extra`."""


_OURS: Final = frozenset(
    {
        "timestamp", "level", "event", "logger", "program", "task", "task_id", "attempt", "queue", "worker",
        "process", "exception",
    }
)  # fmt: skip
"""The fields that every line means the same by (docs/logging.md)."""

_UNSEARCHED: Final = frozenset({"timestamp", "level", "program", "worker"})
"""Fields that a process gives itself: in them only secret values are looked for."""

_ATOMS: Final = (int, float, type(None))

_DEEPEST: Final = 8
"""Levels of a field that are written; one that holds itself has no end."""


class Scope(Protocol):
    """What runs while a line is written."""

    @property
    def fields(self) -> Mapping[str, Any]:
        """What lines say about it."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What they never show."""

    @property
    def began(self) -> float | None:
        """When it began, as `time.monotonic()` has it; None where it does not run."""


scope: Final[ContextVar[Scope | None]] = ContextVar("seawall.logs.scope", default=None)
"""The task that runs here: inherited by asyncio tasks and by `asyncio.to_thread`."""

_worker: str | None = None


def name_worker(name: str) -> None:
    """Every line of this process, and of those it forks, says so from now on."""
    global _worker  # noqa: PLW0603 - one per process
    _worker = shortened(name, LINE)
    _program.cache_clear()


@functools.cache
def _program() -> str:
    """The name that the settings give this program, or its node's, or that of its file."""
    if named := settings().log.program:
        return shortened(named, LINE)
    if _worker is not None:
        return _worker.partition("@")[0]
    file = Path(sys.argv[0])
    name = file.parent.name if file.name == "__main__.py" else file.name
    return shortened("python" if name in {"", "-", "-c"} else name, LINE)


def secrets() -> tuple[str, ...]:
    """Values that nothing may show while the present task runs."""
    current = scope.get()
    return current.secrets if current is not None else ()


RedactingFilter.secrets = staticmethod(secrets)


def setup() -> bool:
    """Give this process's root logger a handler on stderr; False, and nothing, if it has one already."""
    root = logging.getLogger()
    if root.handlers:
        return False
    handler = logging.StreamHandler(sys.stderr)
    take_over(handler)
    root.addHandler(handler)
    root.setLevel(settings().log.level)
    configure_structlog()
    return True


def take_over(handler: logging.Handler) -> None:
    """Give `handler` our formatter; where people read along, it leaves out what says nothing to them."""
    formatter = formatter_for(handler)
    handler.setFormatter(formatter)
    if not formatter.exact:
        handler.addFilter(console.is_worth_reading)


def formatter_for(handler: logging.Handler) -> "Formatter":
    """The formatter for what `handler` writes to: JSON unless that is a terminal, or as the settings say."""
    stream = getattr(handler, "stream", None)
    terminal = bool(stream is not None and hasattr(stream, "isatty") and stream.isatty())
    chosen = settings().log.format
    as_json = chosen == "json" or (chosen == "auto" and not terminal)
    render = _render_json if as_json else _console(stream, colours=_colours(terminal=terminal))
    return Formatter(render, exact=as_json)


def formats(handler: logging.Handler) -> bool:
    """Whether `handler` has our formatter, which redacts by itself."""
    return isinstance(handler.formatter, Formatter)


class Formatter(logging.Formatter):
    """What `structlog.stdlib.ProcessorFormatter` makes of a record with our processors, at a fraction of it.

    tests/unit/test_logs.py holds the two side by side.
    """

    def __init__(self, render: Callable[[dict[str, Any]], str], *, exact: bool) -> None:
        super().__init__()
        self._render = render
        self.exact = exact

    def format(self, record: logging.LogRecord) -> str:
        """One line, or on a terminal several; the record stays as it is, for other handlers."""
        return self._render(_redact(_describe(record, exact=self.exact)))


def configure_structlog() -> None:
    """Send what `structlog.get_logger()` writes the same way, unless the application configured structlog."""
    import structlog

    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.ExceptionRenderer(_traceback),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def forget_bound() -> None:
    """Drop what a task bound with `structlog.contextvars`: the next one runs in the same context."""
    module = sys.modules.get("structlog.contextvars")
    if module is not None:
        module.clear_contextvars()


def _describe(record: logging.LogRecord, *, exact: bool) -> dict[str, Any]:
    """The line's own fields first, then its context, then what its author added."""
    from structlog.contextvars import get_contextvars

    line: dict[str, Any] = {
        "timestamp": _stamp(record.created)
        if exact
        else f"{datetime.fromtimestamp(record.created):%H:%M:%S}",  # noqa: DTZ006 - people's
        "level": record.levelname.lower(),
        "event": "",
        "logger": record.name,
    }
    current = scope.get()
    if ending := ending_of(record, current.began if current is not None else None):
        line |= _context(record, current)
        line |= ending
        if current is not None:
            line |= (
                current.fields
            )  # which know the task's name better than a line that shows it under another
        _add(line, get_contextvars())
        if record.exc_info:
            line["exception"] = _traceback(record.exc_info)
        return line
    own = hasattr(record, "_logger") and hasattr(record, "_name")
    added: dict[str, Any]
    if own:  # structlog's, which `wrap_for_formatter` has put there
        added = dict(record.msg)  # type: ignore[arg-type]
        raised = added.pop("exc_info", None)
    else:
        added = {"event": record.getMessage()}
        raised = record.exc_info
        if record.stack_info:
            added["stack_info"] = record.stack_info
    line["event"] = added.pop("event", "")
    line |= _context(record, current)
    _add(line, get_contextvars())
    if not own:
        _add(line, {key: value for key, value in vars(record).items() if key not in _STANDARD})
    if own and "exception" in added:  # rendered by structlog
        line["exception"] = added.pop("exception")
    _add(line, added)
    if raised:
        line["exception"] = _traceback(raised)
    return line


def _stamp(created: float) -> str:
    moment = datetime.fromtimestamp(created, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def _add(line: dict[str, Any], added: Mapping[Any, Any]) -> None:
    """What an author added never replaces what a line says of itself: then it is called `extra_...`."""
    for key, value in added.items():
        name = str(key)
        line[f"extra_{name}" if name in _OURS else name] = value


def _context(record: logging.LogRecord, current: Scope | None) -> dict[str, Any]:
    """Which program, which task, in which worker and process."""
    context: dict[str, Any] = {"program": _program()}
    if current is not None:
        context.update(current.fields)
    elif isinstance(data := getattr(record, "data", None), dict) and "id" in data:
        context |= {"task": data.get("name"), "task_id": data["id"]}  # Celery's, outside of a task
    if _worker is not None:
        context["worker"] = _worker
    context["process"] = record.processName
    return context


def _traceback(exc_info: Any) -> str:
    return logging.Formatter().formatException(exc_info)


def _redact(line: dict[str, Any]) -> dict[str, Any]:
    hidden = secrets()
    if _is_plain(line, hidden):
        return line
    return {key: HIDDEN if is_secret(key) else _field(key, value, hidden) for key, value in line.items()}


def _is_plain(line: Mapping[str, Any], hidden: tuple[str, ...]) -> bool:
    """Whether there is nothing to be hidden or cut: one look at all texts together, as most lines are so."""
    searched: list[str] = []
    ours: list[str] = []
    for key, value in line.items():
        if type(value) is str:
            (ours if key in _UNSEARCHED else searched).append(value)
        elif not isinstance(value, _ATOMS):
            return False
        if is_secret(key):
            return False
    text = "\n".join(searched)
    if len(text) > LINE or not is_plain(text, hidden):
        return False
    return not any(value in each for value in hidden for each in ours)


def _field(key: str, value: Any, hidden: tuple[str, ...]) -> Any:
    try:
        if key == "exception" and isinstance(value, str):
            return ends(value, LINE, hidden)
        return redact(value, values=hidden, bound=FIELD)
    except Exception as exc:  # noqa: BLE001 - a foreign mapping may do anything
        return f"unprintable: {type(exc).__name__}"


def _render_json(line: dict[str, Any]) -> str:
    """One object of JSON as its standard has it: no NaN, and no half of a surrogate pair but escaped."""
    try:
        text = _JSON.encode(line)
    except (ValueError, TypeError, RecursionError):
        text = json.dumps(_encodable(line, _DEEPEST), ensure_ascii=False, allow_nan=False)
    return _writable(text)


def _writable(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _encodable(value: Any, depth: int) -> Any:
    """What JSON can say of `value`: keys are text, and what it has no word for is text as well."""
    if isinstance(value, Mapping) and depth:
        return {_word(key): _encodable(each, depth - 1) for key, each in value.items()}
    if isinstance(value, list | tuple) and depth:
        return [_encodable(each, depth - 1) for each in value]
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    return value if isinstance(value, int) and abs(value) < 1 << 64 else _shown(value)


def _word(key: object) -> str:
    return key if isinstance(key, str) else _shown(key)


def _shown(value: object) -> str:
    """What JSON does not know; nothing that is logged may break a line."""
    try:
        return shortened(repr(value), LINE, secrets())
    except Exception as exc:  # noqa: BLE001 - a foreign __repr__ may do anything
        return f"unprintable: {type(exc).__name__}"


_JSON: Final = json.JSONEncoder(default=_shown, ensure_ascii=False, allow_nan=False)


def _console(stream: Any, *, colours: bool) -> Callable[[dict[str, Any]], str]:
    named_elsewhere = bool(settings().log.program)
    render = console.renderer(colours=colours, stream=stream, program=not named_elsewhere, ready=_legible)
    return lambda line: _writable(render(line))


def _legible(value: Any) -> str:
    return value if isinstance(value, str) else _shown(value)


def _colours(*, terminal: bool) -> bool:
    return not os.environ.get("NO_COLOR") and (terminal or bool(os.environ.get("FORCE_COLOR")))
