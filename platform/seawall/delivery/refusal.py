"""When a producer hears that a submission failed: who refuses is asked once, who is silent for ten seconds.

Kombu repeats whatever is a connection's or a channel's error, for as many attempts as its policy says and
however long each takes. Within `submitting` two errors leave its loop as one that it does not know: a
refusal, of credentials or rights, which asking again does not change, or by a server that is full; and any
other once the time is over within which a producer hears (`seawall.silence`). Workers go on asking: they wait
for their broker as long as it takes, also for somebody who corrects the password.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from kombu.exceptions import OperationalError
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    NoPermissionError,
    OutOfMemoryError,
    RedisError,
)

from seawall import silence
from seawall.cluster import away
from seawall.quantity import DAY

PERMANENT: Final = (
    AuthenticationError,  # WRONGPASS, NOAUTH: the password was revoked, or none is given
    AuthenticationWrongNumberOfArgsError,  # a user name for a server that knows none
    AuthorizationError,
    NoPermissionError,  # NOPERM: a command, a key or a channel that the user may not use
)
"""What asking again does not change; everything else may pass."""

LONGEST_PAUSE: Final = 1.0
"""Seconds between two attempts."""

RETRY_POLICY: Final[Mapping[str, Any]] = {
    "max_retries": 12,
    "interval_start": 0.1,
    "interval_step": 0.3,
    "interval_max": LONGEST_PAUSE,
}
"""`task_publish_retry_policy` where the application says nothing."""

_KOMBUS: Final = 1.0  # seconds: its interval_start, interval_step and interval_max where a policy has none
_MOST_COUNTED: Final = 1000  # attempts whose pauses are summed up

_ACCEPTED: Final = (
    "The task may have been accepted: to submit it again and never twice, give both submissions the same "
    "header unique_key"
)
_NOT_ACCEPTED: Final = "Nothing was submitted"
_REFUSES: Final = "the broker refuses this user"
_FULL: Final = (
    "the broker has reached its maxmemory. Nothing was submitted: submit later, or give it more memory"
)


class _Refused(Exception):  # noqa: N818 - no error that anybody but `submitting` sees
    """Neither kombu's nor redis-py's, so nobody repeats what raised it; the cause says why."""


class _Silent(_Refused):
    """The same, for a server that did not answer in time."""


class _Call(silence.Deadline):
    """One call that submits."""

    sent = False
    """Whether the server may have got anything of it."""


def patience(policy: Mapping[str, Any] | None) -> float:
    """Seconds within which the producer hears: those of `silence`, unless his own policy asks for longer."""
    if policy is None or policy == RETRY_POLICY:
        return silence.HEARD_WITHIN
    start, step, most = (policy.get(f"interval_{part}", _KOMBUS) for part in ("start", "step", "max"))
    retries = policy.get("max_retries")
    if retries is None or retries > _MOST_COUNTED:
        return DAY
    pauses = (float(min(start + step * each, most)) for each in range(int(retries)))
    return max(silence.HEARD_WITHIN, sum(pauses))


@contextlib.contextmanager
def submitting(seconds: float | None = None) -> Iterator[None]:
    """Around one call that submits, and waits so many seconds for an answer (`silence.HEARD_WITHIN`).

    Raises:
        OperationalError: kombu's; after one attempt if the server refuses, and within the time
            if it does not answer in time. It says whether something may have been submitted all the same.
    """
    with silence.within(_Call(silence.HEARD_WITHIN if seconds is None else seconds)) as call:
        try:
            yield
        except _Silent as exc:
            why = f"the broker did not answer within {call.seconds:g} s: {exc.__cause__}"
            raise _failed(why, call) from exc.__cause__
        except (_Refused, OutOfMemoryError) as exc:
            cause = exc.__cause__ if isinstance(exc, _Refused) else exc
            full = isinstance(cause, OutOfMemoryError)
            raise OperationalError(_FULL if full else f"{_REFUSES}: {cause}") from cause
        except (OperationalError, RedisError, OSError) as exc:
            raise _failed(exc, call) from exc.__cause__ or exc
        except RuntimeError as exc:  # Celery cannot subscribe to the result
            if not isinstance(exc.__cause__, RedisError | OSError):
                raise
            raise _failed(f"the result backend did not answer: {exc.__cause__}", call) from exc.__cause__


def _failed(why: object, call: silence.Deadline) -> OperationalError:
    sent = not isinstance(call, _Call) or call.sent
    return OperationalError(f"{why}. {_ACCEPTED if sent else _NOT_ACCEPTED}")


def perhaps_accepted(why: str) -> OperationalError:
    """An error that nobody repeats a submission for, and that says so; `submitting` adds the same words."""
    return OperationalError(why if _call() is not None else f"{why}. {_ACCEPTED}")


def _call() -> _Call | None:
    return call if isinstance(call := silence.current(), _Call) else None


def sending() -> Callable[[], None]:
    """The server may get what is submitted, from now on; what to call when it has answered."""
    if (call := _call()) is None:
        return _nothing
    call.sent = True
    return call.extend


def _nothing() -> None:
    """Nobody waits for a submission."""


def time_is_over() -> bool:
    """Whether one more attempt may end too late for whoever submits."""
    return (call := _call()) is not None and call.left <= LONGEST_PAUSE


@contextlib.contextmanager
def refusals(client: Any) -> Iterator[None]:
    """Around what asks the server of `client`, kombu's Connection: within `submitting`, an error may end it.

    Of several servers the next one is asked, which may know us.
    """
    try:
        yield
    except (*PERMANENT, OutOfMemoryError) as exc:
        if client.alt or _call() is None:
            raise
        raise _Refused from exc
    except (RedisError, OSError) as exc:
        if time_is_over():
            raise _Silent from exc
        raise


def is_outage(error: Exception, connection_errors: tuple[type[Exception], ...] = ()) -> bool:
    """Whether a server is away: that is not the doing of the message that was in hand.

    Kombu counts KeyError among the errors of a connection; a message's data raises it as well.
    """
    if isinstance(error, RedisError):
        return away(error)
    return isinstance(error, (OperationalError, OSError, *connection_errors)) and not isinstance(
        error, KeyError
    )
