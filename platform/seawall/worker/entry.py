"""The one door through which messages of strangers enter a worker, in cells and in Celery's own pools.

The rule: whatever a message holds, it ends as one outcome. `check` looks at every field that Celery or we
read, so that requests may rely on their types; what does not pass is a dead letter with its reason. The same
happens to a message over which our code or Celery's raises while it is taken in, whatever the exception is.
Only outages (the broker, Redis or PostgreSQL are away) are let through: they are not the message's doing.
"""

import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from billiard.einfo import ExceptionInfo
from celery.exceptions import InvalidTaskError, WorkerShutdown, WorkerTerminate
from celery.worker import state
from kombu.exceptions import ContentDisallowed, DecodeError, OperationalError
from redis.exceptions import RedisError

from seawall.delivery.refusal import is_outage
from seawall.delivery.submission import LONGEST_ID, fits
from seawall.worker.unbegun import goes_back_until_due

_LARGEST: Final = 1e12
_MOST_URGENT: Final = 255
_NONE: Final = type(None)
_Types = frozenset[type]
_NAME: Final[_Types] = frozenset({str})
_TEXT: Final[_Types] = frozenset({str, _NONE})
_COUNT: Final[_Types] = frozenset({int, _NONE})
_NUMBER: Final[_Types] = frozenset({int, float, _NONE})
_LIST: Final[_Types] = frozenset({list, tuple, _NONE})
_MOMENT: Final[_Types] = frozenset({str, datetime, _NONE})
_MAPPING: Final[_Types] = frozenset({dict, _NONE})
_FLAG: Final[_Types] = frozenset({bool, int, _NONE})
_ABSENT: Final[_Types] = frozenset({_NONE})
_SHAPES: Final[Mapping[str, frozenset[type]]] = {
    **dict.fromkeys(("id", "task"), _NAME),
    **dict.fromkeys(
        (
            *("lang", "root_id", "parent_id", "group", "argsrepr", "kwargsrepr", "origin", "shadow"),
            *("delayed_until", "compression"),
        ),
        _TEXT,
    ),
    **dict.fromkeys(("eta", "expires"), _MOMENT),
    **dict.fromkeys(("retries", "group_index", "replaced_task_nesting", "seawall-strikes"), _COUNT),
    **dict.fromkeys(("unique_for", "seawall-submitted", "seawall-unknown-since"), _NUMBER),
    **dict.fromkeys(("timelimit", "stamped_headers"), _LIST),
    "stamps": _MAPPING,
    "ignore_result": _FLAG,
    **dict.fromkeys(("is_eager", "called_directly"), _ABSENT),  # a retry of such a run submits nothing
}
_BODY_PARTS: Final = 3
_LIMITS: Final = 2
_NUMERIC: Final = (int, float)
_SEQUENCES: Final = (list, tuple)  # a union would be made anew at each look
_NO_LIMITS: Final = [None, None]
_NOTHING_EMBEDDED: Final = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_MOST_KNOWN: Final = 256
_LARGEST_KNOWN: Final = 64

_known: dict[tuple[Any, ...], tuple[str, ...]] = {}
"""Names and types of the fields of messages that passed, and which of these fields are numbers.

A fleet's messages are of a few kinds: the types of each are looked at once.
"""

logger = logging.getLogger(__name__)


def check(message: Any) -> None:
    """Look at what a worker reads of a message, in microseconds.

    Raises:
        InvalidTaskError: it names the field, what it holds and what it should hold.
        DecodeError, ContentDisallowed: the body cannot be read.
    """
    headers = message.headers
    if not isinstance(headers, dict):
        raise _wrong("headers", headers, "a mapping")
    _check_properties(message)
    payload = message.payload
    if isinstance(payload, dict) and ("args" in payload if "task" in headers else "task" in payload):
        _check_fields({**payload, **headers})  # of protocol 1, or both: Celery reads them in this order
        _check_call(payload.get("args") or (), payload.get("kwargs") or {})
        _check_embedded(payload)
        return
    if "task" not in headers:
        return  # no message of a task
    _check_fields(headers)
    if not isinstance(payload, _SEQUENCES) or len(payload) != _BODY_PARTS:
        raise _wrong("body", payload, "a list of arguments, keyword arguments and what is embedded")
    args, kwargs, embedded = payload
    _check_call(args, kwargs)
    if embedded and embedded != _NOTHING_EMBEDDED:
        _check_embedded(embedded)


def _check_properties(message: Any) -> None:
    properties = message.properties or {}
    for name in ("reply_to", "correlation_id"):
        value = properties.get(name)
        if value.__class__ is not str and value is not None:
            raise _wrong(name, value, "text")
    for place in (properties, message.delivery_info or {}):
        priority = place.get("priority")
        if priority is not None and not (isinstance(priority, int) and 0 <= priority <= _MOST_URGENT):
            raise _wrong("priority", priority, "a number from 0 to 255")


def _check_fields(fields: dict[str, Any]) -> None:
    kind = (*fields, *map(type, fields.values()))
    numbers = _known.get(kind)
    if numbers is None:
        numbers = _check_types(fields)
        _learn(kind, numbers)
    for name in numbers:
        if not 0 <= fields[name] <= _LARGEST:
            raise _wrong(name, fields[name], f"a number from 0 to {_LARGEST:.0f}")
    _check_id(fields.get("id"))
    task = fields.get("task")
    if not isinstance(task, str) or not task:
        raise _wrong("task", task, "text")  # whatever it is, a worker of a later release may know it
    if (limits := fields.get("timelimit")) and limits != _NO_LIMITS:
        _check_limits(limits)
    if (stamps := fields.get("stamped_headers")) and not all(isinstance(each, str) for each in stamps):
        raise _wrong("stamped_headers", stamps, "a list of text")
    if moment := fields.get("delayed_until"):
        _check_moment(moment)


def _check_types(fields: dict[str, Any]) -> tuple[str, ...]:
    """Which of the fields are numbers, if each is of a type that it may have."""
    for name, value in fields.items():
        shape = _SHAPES.get(name)
        if shape is None or value is None:  # the two that must not be None are looked at afterwards
            continue
        if not isinstance(value, tuple(shape)):
            raise _wrong(name, value, " or ".join(sorted(each.__name__ for each in shape)))
    return tuple(name for name in fields if name in _SHAPES and type(fields[name]) in _NUMERIC)


def _learn(kind: tuple[Any, ...], numbers: tuple[str, ...]) -> None:
    """Strangers may send any number of kinds, and names of any length: neither fills the memory."""
    if len(kind) > _LARGEST_KNOWN * 2 or any(len(str(each)) > LONGEST_ID for each in kind):
        return
    if len(_known) >= _MOST_KNOWN:
        _known.clear()
    _known[kind] = numbers


def _check_id(value: Any) -> None:
    if not isinstance(value, str) or not value:
        raise _wrong("id", value, "text")
    if not fits(value):
        raise _wrong("id", value, f"text of at most {LONGEST_ID} bytes of UTF-8, without NUL")


def _check_limits(limits: Any) -> None:
    if len(limits) != _LIMITS:
        raise _wrong("timelimit", limits, "the hard and the soft limit")
    for value in limits:
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, _NUMERIC) or not 0 <= value <= _LARGEST:
            raise _wrong("timelimit", limits, "two numbers of seconds, or None")


def _check_moment(text: str) -> None:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise _wrong("delayed_until", text, "a moment as ISO 8601 has it") from None


def _check_call(args: Any, kwargs: Any) -> None:
    if not isinstance(args, _SEQUENCES):
        raise _wrong("args", args, "a list")
    if not isinstance(kwargs, dict):
        raise _wrong("kwargs", kwargs, "a mapping")
    for name in kwargs:
        if not isinstance(name, str):
            raise _wrong("kwargs", name, "a mapping whose keys are text")


def _check_embedded(embedded: Any) -> None:
    if not isinstance(embedded, dict):
        raise _wrong("body", embedded, "a mapping in the third place")
    for name in ("callbacks", "errbacks", "chain"):
        value = embedded.get(name)
        if value is None:
            continue
        if not isinstance(value, _SEQUENCES) or not all(map(_is_signature, value)):
            raise _wrong(name, value, "a list of signatures")
    if (chord := embedded.get("chord")) is not None and not _is_signature(chord):
        raise _wrong("chord", chord, "a signature")


def _is_signature(value: Any) -> bool:
    """Whether Celery can make a signature of it and submit that."""
    if not isinstance(value, dict) or not isinstance(value.get("task"), str):
        return False
    args, kwargs, options = (value.get(name) for name in ("args", "kwargs", "options"))
    return (
        isinstance(args, list | tuple | None)
        and isinstance(kwargs, dict | None)
        and isinstance(options, dict | None)
    )


def _wrong(field: str, value: Any, wanted: str) -> InvalidTaskError:
    try:
        shown = repr(value)
    except Exception:  # noqa: BLE001 - nested too deep to be shown
        shown = f"a {type(value).__name__}"
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
    return InvalidTaskError(f"{field} of the message is {shown}: it has to be {wanted}")


_SHOWN: Final = 100


def guarded(create: Callable[..., Any], consumer: Any, bury: Callable[[Any, BaseException], None]) -> Any:
    """`Consumer.create_task_handler`, whose handler no message can end; `bury` makes it a dead letter."""

    def create_task_handler(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        take_in = create(*args, **kwargs)

        def on_task_received(message: Any) -> Any:
            try:
                check(message)
                return None if goes_back_until_due(message) else take_in(message)
            except Exception as exc:
                if is_outage(exc, consumer.connection_errors):
                    raise
                _refuse(consumer, message, exc, bury)  # it is this message's end and no other's

        return on_task_received

    return create_task_handler


def _refuse(
    consumer: Any, message: Any, error: Exception, bury: Callable[[Any, BaseException], None]
) -> None:
    """The message is a dead letter; Celery's own handling of such a message comes after that."""
    try:
        if isinstance(error, DecodeError) and not isinstance(error, ContentDisallowed):
            consumer.on_decode_error(message, error)
        else:
            consumer.on_invalid_task(None, message, error)
    except Exception as exc:
        if is_outage(exc):
            raise
        logger.exception("a message that no task takes could not be reported")
        _end(message, error, bury)


def reported(on_apply: Callable[..., Any]) -> Callable[..., Any]:
    """`on_apply` of a pool that forgets what its target raises: the request fails with it instead.

    The target is Celery's tracer, which raises where it cannot handle an error: a callback that cannot be
    submitted, an id that is no key. A thread or a greenlet ends with that, and its request never would.
    """

    def apply(target: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            try:
                return target(*args, **kwargs)
            except (WorkerShutdown, WorkerTerminate):
                raise
            except Exception:  # noqa: BLE001 - whatever it is, it is this request's end
                return True, ExceptionInfo(), 0.0

        return on_apply(run, *arguments, **options)

    return apply


def give_up(request: Any, error: Exception, bury: Callable[[Any, BaseException], None]) -> None:
    """A request that our code or Celery's fails over, before or after it runs, ends here."""
    logger.error("%s[%s] cannot be let in or settled", request.name, request.id, exc_info=error)
    if not request.acknowledged:
        _end(request.message, error, bury)
        request.acknowledged = True
    state.task_ready(request)


def _end(message: Any, error: Exception, bury: Callable[[Any, BaseException], None]) -> None:
    """A dead letter; a broker that keeps none is told that the message is done with."""
    bury(message, error)
    reject(message)


def reject(message: Any, *_args: Any) -> None:
    """A message that nobody has settled is done with; a broadcast is when it is delivered.

    RabbitMQ closes the channel over a rejection that it does not wait for, and the worker ends.
    """
    settled_by_delivery = getattr(message.channel, "no_ack_consumers", None) or ()
    if not message.acknowledged and message.delivery_info.get("consumer_tag") not in settled_by_delivery:
        message.reject_log_error(logger, (RedisError, OperationalError, OSError))
