"""What became of a request: one value, settled in one place.

    Succeeded   it ran to its end                      Retried    it comes again: a retry, or a lost process
    Parked      put aside until a dependency is back   Cancelled  revoked or expired
    Dead        given up: it failed, killed its processes, or nobody could make anything of it

`settle` writes one row for it (`seawall.records`), with the failure it stands for and the dead letter it
leaves, and tells observers. It is called before the message is settled in the broker, so that no task is done
with and not written down. It never raises: a ledger that cannot be written harms no task.

A dead letter itself stays in the broker (`bury` in request.py): whole, as it was submitted, to be requeued.
What is written here is the account of it, without secrets.
"""

import contextlib
import functools
import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, Final

from seawall import boundary, events, records, recovery
from seawall.classification import classify
from seawall.delivery.envelope import SUBMITTED
from seawall.events import Event
from seawall.failure import Failure
from seawall.policies import secrecy_of
from seawall.priority import Priority
from seawall.records.journal import Journal, line, quoted
from seawall.records.occurrences import LONGEST_NAME, MOST_TEXT, occurrence, reason
from seawall.redaction import MESSAGE, Bound, ends, redact, redact_arguments, shortened
from seawall.worker import memory

logger = logging.getLogger(__name__)

_MOST_INTEGER: Final = 2**31 - 1
_MOST_COUNTED: Final = 1 << 15
_LARGE: Final = 1 << 16
"""Bytes of a message, and characters of an argument, from which only what logs show of it is kept."""

_SHOWN_ELSEWHERE: Final = frozenset(
    {"argsrepr", "kwargsrepr", "args", "kwargs", "errbacks", "delivery_info", "headers"}
)


@dataclass(frozen=True, slots=True)
class Succeeded:
    """It ran to its end in so many seconds; None if nobody knows."""

    state: ClassVar[str] = "success"
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Retried:
    """It ends here and comes again because of `error`."""

    state: ClassVar[str] = "retried"
    error: BaseException
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Parked:
    """It was put aside at no cost, for a reason such as a breaker's name."""

    state: ClassVar[str] = "parked"
    reason: str


@dataclass(frozen=True, slots=True)
class Dead:
    """It is given up. `history` is what delivery knows of it: (seconds since the epoch, consumer, reason)."""

    state: ClassVar[str] = "dead"
    error: BaseException
    traceback: str = ""
    history: Sequence[Any] = ()


@dataclass(frozen=True, slots=True)
class Cancelled:
    """It was revoked, terminated or expired."""

    state: ClassVar[str] = "cancelled"
    reason: str


Outcome = Succeeded | Retried | Parked | Dead | Cancelled


@dataclass(frozen=True, kw_only=True, slots=True)
class OutcomeSettled(Event):
    """A request has ended. Seconds; `waited` from submission to start, `ran` from start to end."""

    task: str
    task_id: str
    attempt: int
    state: str
    queue: str
    priority: int
    waited: float | None
    ran: float | None
    failure: Failure | None


def settle(request: Any, outcome: Outcome) -> None:
    """Write down and tell what became of a request of Celery's."""
    journal = records.current()
    if journal is None and not events.observed():
        return
    if getattr(request, "settled", None) is type(outcome):  # an outage of the results has interrupted its end
        return
    try:
        _settle(journal, request, outcome)
        request.settled = type(outcome)
    except Exception:
        logger.exception("what became of %s could not be written down", request.id)


def _settle(journal: Journal | None, request: Any, outcome: Outcome) -> None:
    now = time.time()
    fields, started = request.request_dict, request.time_start
    submitted = fields.get(SUBMITTED)
    waited = None if started is None else _waited(fields, submitted, started)
    failure = None
    if type(outcome) is Succeeded:
        ran = outcome.seconds
        if ran is not None and waited is not None and journal is not None and not events.observed():
            journal.write(_success(request, now, waited, ran), expendable=True)
            return
    else:
        ran = None if started is None else max(now - started, 0.0)
        if isinstance(outcome, Retried | Dead):
            failure = boundary.note(outcome.error, request.type)
            recovery.consider(
                failure, outcome.error, task=request.type, policy=getattr(request.task, "policy", None)
            )
    place = request.delivery_info
    priority = place.get("priority")
    run = [
        now,
        request.id[:LONGEST_NAME],
        _attempt(fields),
        outcome.state,
        int(Priority.NORMAL) if priority is None else priority,
        request.type[:LONGEST_NAME],
        str(place.get("routing_key") or "")[:LONGEST_NAME],
        (request.hostname or "")[:LONGEST_NAME],
        submitted,
        started,
        None if waited is None else min(round(waited * 1e3), _MOST_INTEGER),
        None if ran is None else min(round(ran * 1e3), _MOST_INTEGER),
        memory.peak_kib() if started is not None else None,
        None if failure is None else failure.fingerprint,
        {"reason": shortened(outcome.reason, MOST_TEXT, request.scope.secrets)}
        if isinstance(outcome, Parked | Cancelled)
        else None,
    ]
    if journal is not None:
        if failure is not None and isinstance(outcome, Retried | Dead):
            journal.write(_rows(run, outcome, failure, request))
        else:
            journal.write(line("r", run), expendable=True)
    if events.observed():
        _tell(run, waited, ran, failure)


def _success(request: Any, now: float, waited: float, ran: float) -> str:
    """The row of a plain success, put together by hand: most rows are one, and it is a third of the work."""
    fields, place = request.request_dict, request.delivery_info
    priority = place.get("priority")
    where = _where(request.type, place.get("routing_key") or "", request.hostname or "")
    waited_ms, ran_ms = (min(round(each * 1e3), _MOST_INTEGER) for each in (waited, ran))
    return (
        f'r[{now:.6f},{quoted(request.id)},{_attempt(fields)},"{Succeeded.state}",'
        f"{int(Priority.NORMAL) if priority is None else priority},{where},{fields[SUBMITTED]:.6f},"
        f"{request.time_start:.6f},{waited_ms},{ran_ms},{memory.peak_kib() or 'null'},null,null]\n"
    )


@functools.lru_cache(maxsize=1024)
def _where(task: str, queue: str, worker: str) -> str:
    return ",".join(quoted(str(each)[:LONGEST_NAME]) for each in (task, queue, worker))


def _attempt(fields: Mapping[str, Any]) -> int:
    return min((fields.get("retries") or 0) + 1, _MOST_INTEGER)


def _waited(fields: Mapping[str, Any], submitted: Any, started: float) -> float | None:
    """Seconds in line: a delay that was asked for is not waiting."""
    if not isinstance(submitted, int | float):
        return None
    if until := fields.get("delayed_until"):
        with contextlib.suppress(ValueError, OverflowError):  # at the ends of the calendar some are none
            submitted = max(submitted, datetime.fromisoformat(until).timestamp())
    return max(started - float(submitted), 0.0)


def _tell(run: list[Any], waited: float | None, ran: float | None, failure: Failure | None) -> None:
    _, task_id, attempt, state, priority, task, queue, *_ = run
    events.emit(
        OutcomeSettled(
            task=task,
            task_id=task_id,
            attempt=attempt,
            state=state,
            queue=queue,
            priority=priority,
            waited=waited,
            ran=ran,
            failure=failure,
        )
    )


def _rows(run: list[Any], outcome: Retried | Dead, failure: Failure, request: Any) -> str:
    """A failed run: the failure first, as the run and the dead letter refer to it."""
    secrets = request.scope.secrets
    text = ends(outcome.traceback, MOST_TEXT, secrets)
    rows = line("r", run)
    if not boundary.was_caught(outcome.error):  # else a boundary in its code has counted it
        rows = line("e", occurrence(outcome.error, failure, run[5], text)) + rows
    if isinstance(outcome, Dead):
        letter = {
            **_letter(run, outcome, failure, secrets),
            **_arguments(request),
            "headers": _headers(request.request_dict, outcome.history, secrets),
            "size": _size(request.body),
            "traceback": text,
        }
        rows += line("d", letter)
    return rows


def _letter(run: list[Any], outcome: Dead, failure: Failure, secrets: Sequence[str]) -> dict[str, Any]:
    return {
        "task_id": run[1],
        "name": run[5],
        "queue": run[6],
        "fingerprint": failure.fingerprint,
        "at": run[0],
        "reason": reason(outcome.error, failure, secrets),
        "attempts": max(run[2], len(outcome.history)),
    }


def _arguments(request: Any) -> dict[str, Any]:
    """The arguments as logs may show them: whole, if they are small."""
    fields = request.request_dict
    whole = _size(request.body) <= _LARGE
    args, kwargs = request.args, request.kwargs
    if whole and isinstance(args or (), list | tuple) and isinstance(kwargs or {}, Mapping):
        shown = redact_arguments(
            args or (), kwargs or {}, bound=Bound(_LARGE, _LARGE, _LARGE), **secrecy_of(request.task)
        )
        if (plain := _plain(shown)) is not None:
            return dict(zip(("args", "kwargs"), plain, strict=True))
    return {name: {"shown": str(fields.get(f"{name}repr") or "")} for name in ("args", "kwargs")}


def _headers(fields: Mapping[str, Any], history: Sequence[Any], secrets: Sequence[str]) -> dict[str, Any]:
    shown = {
        name: value
        for name, value in fields.items()
        if name not in _SHOWN_ELSEWHERE and value not in (None, [])
    }
    if history:
        shown["history"] = [list(event) for event in history]
    found: dict[str, Any] | None = _plain(redact(shown, values=secrets, bound=MESSAGE))
    return {"cut": "too large to be kept, or nested too deep"} if found is None else found


def _plain(value: Any) -> Any:
    """`value` as JSON has it; None if it is too large for a row, or nested too deep."""
    try:
        text = json.dumps(value, default=repr)
        return json.loads(text) if len(text) <= _LARGE else None
    except (ValueError, RecursionError):
        return None


def _whole(fields: Any, name: str) -> int | None:
    """A small whole number that a stranger's message may hold."""
    value = fields.get(name) if isinstance(fields, Mapping) else None
    return value if isinstance(value, int) and 0 <= value < _MOST_COUNTED else None


def _size(body: Any) -> int:
    return len(body) if isinstance(body, str | bytes | memoryview) else 0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What stands for a message where there was none."""

    delivery_tag: str
    body: bytes
    headers: Mapping[str, Any] = field(default_factory=dict)
    properties: Mapping[str, Any] = field(default_factory=dict)


def stray(message: Any, queue: str, error: BaseException, traceback: str) -> str:
    """A message that no task takes is given up: write that down, and return the reason."""
    failure, now = classify(error), time.time()
    headers = message.headers if isinstance(message.headers, Mapping) else {}
    task_id = str(headers.get("id") or message.delivery_tag)[:LONGEST_NAME]
    name = str(headers.get("task") or "unknown")[:LONGEST_NAME]
    why = reason(error, failure)
    priority = _whole(getattr(message, "properties", None), "priority")
    submitted = headers.get(SUBMITTED)
    if not isinstance(submitted, int | float) or not 0 <= submitted <= now:
        submitted = None
    run = [
        *(now, task_id, (_whole(headers, "retries") or 0) + 1, Dead.state),
        int(Priority.NORMAL) if priority is None else priority,
        *(name, queue, "", submitted, None, None, None, None, failure.fingerprint, None),
    ]
    if (journal := records.current()) is not None:
        letter = {
            **_letter(run, Dead(error), failure, ()),
            "args": {"shown": str(headers.get("argsrepr") or "")},
            "kwargs": {"shown": str(headers.get("kwargsrepr") or "")},
            "headers": _headers(headers, (), ()),
            "size": _size(message.body),
            "traceback": ends(traceback, MOST_TEXT),
        }
        seen = occurrence(error, failure, name, letter["traceback"])
        journal.write(line("e", seen) + line("r", run) + line("d", letter))
    if events.observed():
        _tell(run, None, None, failure)
    return why
