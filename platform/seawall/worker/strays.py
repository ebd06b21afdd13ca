"""Messages that no task takes: of unknown tasks, not decodable, or no task messages at all.

Celery drops them, with a line in the log. Here they become dead letters first, and are written down like
every other end of a task. What Celery does about them beside that (log, event, failed result, signals) stays.
"""

import logging
import traceback
from collections.abc import Callable
from typing import Any, Final

from celery import bootsteps
from celery.exceptions import InvalidTaskError, NotRegistered

from seawall import delivery
from seawall.worker import outcomes

logger = logging.getLogger(__name__)

_HOLDERS: Final = ("on_unknown_message", "on_unknown_task", "on_invalid_task", "on_decode_error")


class Strays(bootsteps.Step):
    """The consumer's step: it stands in front of what Celery calls for such messages."""

    label = "Strays"

    def __init__(self, c: Any, **kwargs: Any) -> None:
        super().__init__(c, **kwargs)
        for name in _HOLDERS:
            setattr(c, name, _buried_first(getattr(c, name)))


def _buried_first(celerys: Callable[..., Any]) -> Callable[..., Any]:
    def give_up(*arguments: Any) -> Any:
        message = next(each for each in arguments if hasattr(each, "delivery_tag"))
        error = next((each for each in arguments if isinstance(each, BaseException)), None)
        bury(message, _known(error, message))
        return celerys(*arguments)

    return give_up


def _known(error: BaseException | None, message: Any) -> BaseException:
    """What Celery found, as what it means: a name that nobody registered is a KeyError there."""
    if isinstance(error, KeyError):
        return NotRegistered(str(message.headers.get("task")))
    return error or InvalidTaskError("this is no message of a task")


def bury(message: Any, error: BaseException) -> None:
    """Make it a dead letter and write that down; nothing it is told afterwards changes that."""
    try:
        text = "".join(traceback.format_exception(error))
        why = outcomes.stray(message, str(message.delivery_info.get("routing_key") or ""), error, text)
        if delivery.bury(message, why):
            for name in ("ack", "reject", "ack_log_error", "reject_log_error"):
                setattr(message, name, _nothing)
    except Exception:
        logger.exception("a message that no task takes could not be kept")


def _nothing(*_args: Any, **_kwargs: Any) -> None:
    """It is settled."""
