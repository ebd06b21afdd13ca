"""Messages that no task takes: of unknown tasks, not decodable, or no task messages at all.

A task of an unknown name waits first for a worker that knows it (`seawall.worker.unknown`).

Celery drops them, with a line in the log. Here they become dead letters first, and are written down like
every other end of a task. What Celery does about them beside that (log, event, failed result, signals) stays;
an event of its own gets whatever bears an id and has none from Celery.
"""

import logging
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from celery import bootsteps
from celery.exceptions import InvalidTaskError, NotRegistered
from celery.utils.saferepr import saferepr

from seawall import delivery
from seawall.delivery.refusal import is_outage
from seawall.delivery.submission import fits
from seawall.redaction import redact_text
from seawall.worker import entry, outcomes
from seawall.worker.names import waits_for
from seawall.worker.request import hear_of_poisoned
from seawall.worker.task_events import arrives, moment_after
from seawall.worker.unknown import Unknown, put_back_later

logger = logging.getLogger(__name__)

_TELLS: Final = "on_unknown_task"
"""The one of these for which Celery sends an event by itself."""

_HOLDERS: Final = ("on_unknown_message", _TELLS, "on_invalid_task", "on_decode_error")


class Strays(bootsteps.Step):
    """The consumer's step: it stands in front of what Celery calls for such messages.

    What delivery gives up, because it has killed too many processes, is told by the same consumer.
    """

    label = "Strays"

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        for name in _HOLDERS:
            setattr(c, name, _buried_first(c, getattr(c, name), told=name == _TELLS))
        c.on_unknown_task = _parked_first(c, c.on_unknown_task, Unknown())
        c.create_task_handler = entry.guarded(c.create_task_handler, c, bury)
        hear_of_poisoned(c.app, c)


class Broadcasts(bootsteps.Step):
    """The consumer's step, where it talks to neighbours: what strangers say among them ends no worker."""

    label = "Broadcasts"
    requires = ("celery.worker.consumer:Gossip",)

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        c.gossip.on_message = _skipping(c.gossip.on_message, c.connection_errors)


def _skipping(hear: Callable[..., Any], connection_errors: tuple[type[Exception], ...]) -> Callable[..., Any]:
    """A broadcast that anything fails over is skipped, as strangers publish some too."""

    def on_message(*arguments: Any) -> Any:
        try:
            return hear(*arguments)
        except Exception as exc:
            if is_outage(exc, connection_errors):
                raise
            logger.exception("a broadcast cannot be read or obeyed, it is skipped")
            return None

    return on_message


def _buried_first(c: Any, celerys: Callable[..., Any], *, told: bool) -> Callable[..., Any]:
    def give_up(*arguments: Any) -> Any:
        message = next(each for each in arguments if hasattr(each, "delivery_tag"))
        error = next((each for each in arguments if isinstance(each, BaseException)), None)
        known = _known(error, message)
        bury(message, known)
        headers = message.headers if isinstance(message.headers, Mapping) else {}
        task_id, name, eventer = headers.get("id"), headers.get("task"), c.event_dispatcher
        arrives(eventer, task_id, name, message)
        try:
            return celerys(*arguments)
        except Exception as exc:
            if is_outage(exc, c.connection_errors):
                raise
            logger.exception("a message that no task takes could not be reported")
            entry.reject(message)
            return None
        finally:
            if not told:
                _tell_caller(c.app, message, known)
                if task_id is not None and eventer is not None:
                    eventer.send("task-failed", uuid=task_id, exception=_shown(known), traceback="")

    return give_up


def _tell_caller(app: Any, message: Any, error: BaseException) -> None:
    """Whoever waits for the result hears that there will be none; of unknown tasks alone Celery says it."""
    try:
        task_id, _ = _named(message)
        ignored = (message.headers or {}).get("ignore_result")
        if task_id and fits(task_id) and not (app.conf.task_ignore_result if ignored is None else ignored):
            app.backend.mark_as_failure(task_id, InvalidTaskError(_shown(error)), call_errbacks=False)
    except Exception as exc:  # noqa: BLE001 - a stranger wrote it, and the message is settled
        logger.warning("the failure of a message that no task takes is not stored as its result: %s", exc)


def _parked_first(c: Any, otherwise: Callable[..., Any], unknown: Unknown) -> Callable[..., Any]:
    """For monitors one that is parked again has been parked all along, however often it was looked at."""

    def give_up(body: Any, message: Any, exc: BaseException) -> Any:
        task_id, name = _named(message)
        again = delivery.came_back(message)
        seconds = unknown.park(message, name) if name else None
        if seconds is None and name and (kept := put_back_later(c, message)) is not None:
            seconds, again = kept
        if seconds is None:
            return otherwise(body, message, exc)
        eventer = c.event_dispatcher
        if task_id and eventer is not None and not again:
            arrives(eventer, task_id, name, message)
            eventer.send(
                "task-parked",
                uuid=task_id,
                dependency=waits_for(name),
                reason="nobody here knows it",
                until=moment_after(seconds),
            )
        return None

    return give_up


def _named(message: Any) -> tuple[str, str]:
    """The id and the name of a message's task, from its headers or, by the first protocol, from its body."""
    headers = message.headers or {}
    fields = headers if "task" in headers else message.decode()
    task_id, name = fields.get("id"), fields.get("task")
    return task_id if isinstance(task_id, str) else "", name if isinstance(name, str) else ""


def _shown(error: BaseException) -> str:
    return redact_text(saferepr(error))


def _known(error: BaseException | None, message: Any) -> BaseException:
    """What Celery found, as what it means: a name that nobody registered is a KeyError there."""
    if isinstance(error, KeyError):
        return NotRegistered(str(message.headers.get("task")))
    return error or InvalidTaskError("this is no message of a task")


def bury(message: Any, error: BaseException) -> None:
    """Make it a dead letter and write that down; nothing it is told afterwards changes that."""
    try:
        text = "".join(traceback.format_exception(error))
        try:
            why = outcomes.stray(message, str(message.delivery_info.get("routing_key") or ""), error, text)
        except Exception:
            logger.exception("a message that no task takes could not be written down")
            why = f"validation: {type(error).__name__}: {error}"
        if delivery.bury(message, why):
            for name in ("ack", "reject", "ack_log_error", "reject_log_error"):
                setattr(message, name, _nothing)
        else:  # Celery acknowledges what it cannot decode: a queue's dead-letter exchange is to have it
            message.ack = message.ack_log_error = partial(entry.reject, message)
    except Exception:
        logger.exception("a message that no task takes could not be kept")


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """It is settled."""
