"""Soft and hard time limit of a call, in the one place that decides them.

Several may speak: the settings, the task (its options or its policy), `task_annotations`, the call, and an
operator by remote control, each of either limit or of both. A later one counts more (`pair`). A message
brings along what its call said and nothing else, so that all of this is decided in the worker that runs it.
"""

from typing import Any, Final

from seawall.policies import DEFAULT, HARD_LIMIT_GRACE

Pair = tuple[float | None, float | None]
"""Soft and hard limit in seconds; None where nothing is said, 0 where there is to be none."""

NOTHING: Final[Pair] = (None, None)
NAMES: Final = ("soft_time_limit", "time_limit")

_ENDLESS: Final = float("inf")


def pair(*layers: Pair) -> Pair:
    """The limits where `layers` speak, the one that counts least first.

    A limit of an earlier layer stays where the other one, given alone, does not contradict it: a soft limit
    has to come before the hard one. What nobody gives follows: a hard limit alone has no soft one, which
    would interrupt what may go on; a soft limit alone has a hard one some seconds later, so that nothing runs
    for ever; without either they are the defaults.
    """
    soft = hard = None
    for soft_said, hard_said in layers:
        if soft_said is None and hard_said is not None:
            soft = soft if soft is not None and soft < (hard_said or _ENDLESS) else None
            hard = hard_said
        elif soft_said is not None:
            kept = hard if hard is not None and soft_said <= (hard or _ENDLESS) else None
            soft, hard = soft_said, kept if hard_said is None else hard_said
    if hard is not None:
        return soft, hard
    if soft is None:
        return DEFAULT.timeout, DEFAULT.hard_timeout
    return soft, soft + HARD_LIMIT_GRACE if soft else DEFAULT.hard_timeout


def attributes(task: Any) -> Pair:
    """What Celery reads of a task."""
    return task.soft_time_limit, task.time_limit


def limits_of(task: Any, call: Pair) -> Pair:
    """The limits of one call of `task`; what was changed since by remote control counts more than the call.

    Without any, `NOTHING`, it is for the pool to say.
    """
    now = attributes(task)
    found = getattr(task, "limits_found", now)  # a class of Celery's own may be registered, too
    if call == NOTHING and now == found:
        return now
    soft, hard = (new if new != old else None for new, old in zip(now, found, strict=True))
    return pair(*getattr(task, "limit_layers", (now,)), call, (soft, hard))
