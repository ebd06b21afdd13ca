"""What changes for tasks: when they are acknowledged, how long they may run, when they are tried again."""

import inspect
from collections.abc import Callable, Iterator
from typing import Any, Final

from seawall.doctor.adoption.application import Application, TaskView
from seawall.doctor.adoption.notice import Notice, changes, fits, look, lost, refused
from seawall.doctor.shapes import number as seconds
from seawall.policies import DEFAULT
from seawall.worker.time_limits import NOTHING, Pair

_STRATEGY: Final = "celery.worker.strategy:default"
_REQUEST: Final = "celery.worker.request:Request"
_SAID_TWICE: Final = {
    "priority": "priority",
    "soft_time_limit": "timeout",
    "time_limit": "timeout",
    "max_retries": "retry",
}
"""Options of Celery's, and the field of `@policy` that says the same."""


def _those(application: Application, wanted: Callable[[TaskView], Any]) -> list[str]:
    return [task.place for task in application.tasks if wanted(task)]


def _names(application: Application) -> Iterator[Notice]:
    for name, codes in sorted(application.definitions.items()):
        if len(codes) > 1:
            yield refused(
                "tasks.same_name",
                sorted(f"{name} ({application.sources.line_of(code)})" for code in codes),
                f"{len(codes)} functions are the task {name}: Celery keeps the first one that is imported "
                "and never runs the others, today and under Seawall",
                'give each a name of its own: @app.task(name="...")',
            )


def _coroutines(application: Application) -> Iterator[Notice]:
    def is_one(task: TaskView) -> bool:
        return inspect.iscoroutinefunction(task.function) or inspect.isasyncgenfunction(task.function)

    if where := _those(application, is_one):
        yield refused(
            "tasks.coroutine",
            where,
            "a worker of Celery calls a coroutine function and awaits nothing, so its body never runs; "
            "Seawall refuses it where it is defined (ConfigError)",
            "write a plain function that calls asyncio.run(...)",
        )


def _said_twice(application: Application) -> Iterator[Notice]:
    def twice(task: TaskView) -> list[str]:
        return [
            option
            for option, field in _SAID_TWICE.items()
            if field in task.policy.explicit
            and task.own(option) is not None
            and not hasattr(task.task, "policy")
        ]

    if where := _those(application, twice):
        yield refused(
            "tasks.said_twice",
            where,
            "an option of @app.task and a field of @policy say the same thing; Seawall refuses that "
            "(ConfigError)",
            "keep one of the two: @policy(timeout=...) for time limits, retry=... for max_retries, "
            "priority=...",
        )


def _acknowledgement(application: Application) -> Iterator[Notice]:
    conf_said = application.said("task_acks_late") is not None
    if not conf_said and (where := _those(application, lambda task: task.said("acks_late") is None)):
        yield changes(
            "tasks.acks_late",
            where,
            "they ran at most once and run at least once: a message is acknowledged when the task has "
            "ended, so one whose worker is killed runs again",
            "make a second run harmless, or write @app.task(acks_late=False) (task_acks_late = False for "
            "all)",
        )

    def late(task: TaskView) -> bool:
        said = task.said("acks_late")
        return bool(application.after("task_acks_late") if said is None else said)

    def ignores(task: TaskView) -> bool:
        said = task.said("ignore_result")
        return bool(application.after("task_ignore_result") if said is None else said)

    if where := _those(application, lambda task: late(task) and ignores(task)):
        yield look(
            "tasks.ignore_result",
            where,
            "they are acknowledged late and store no result: when one is delivered again after it has "
            "succeeded, nothing tells so, and it runs again. Tasks with a stored result are not run again",
            "make a second run harmless, or store the result (ignore_result=False)",
        )
    if where := _those(application, lambda task: task.said("reject_on_worker_lost")):
        yield lost("tasks.reject_on_worker_lost", where, *REJECT_ON_WORKER_LOST)


REJECT_ON_WORKER_LOST: Final = (
    (
        "Seawall itself delivers again what its process did not survive, and counts: the third death is "
        "Poisoned and leaves a dead letter. Celery's switch would repeat such a task for ever"
    ),
    "remove it; broker_transport_options['delivery']['delivery_limit'] says how many deaths there may be",
)


def _time_limits(application: Application) -> Iterator[Notice]:
    settings: Pair = (
        seconds(application.said("task_soft_time_limit")),
        seconds(application.said("task_time_limit")),
    )
    soft, hard = settings
    if _contradict(settings) and (
        where := [application.place(each) for each in ("task_soft_time_limit", "task_time_limit")]
    ):
        yield refused("tasks.limits_contradict", where, *_CONTRADICTION)
    if where := _those(application, lambda task: _contradict(task.limits())):
        yield refused("tasks.limits_contradict", where, *_CONTRADICTION)
    if settings == NOTHING:
        if where := _those(application, lambda task: task.limits() == NOTHING):
            yield changes(
                "tasks.no_time_limit",
                where,
                f"they had no time limit and get one: SoftTimeLimitExceeded after {DEFAULT.timeout:g} s, "
                f"and their process is killed after {DEFAULT.hard_timeout:g} s",
                'give long ones a limit of their own, @app.task(time_limit=3600) or @policy(timeout="1h"); '
                "task_time_limit = 0 is no limit",
            )
    elif soft and hard is None:
        yield changes("tasks.hard_limit_follows", [application.place("task_soft_time_limit")], *_HARD_FOLLOWS)
    if hard is None and (
        where := _those(application, lambda task: task.limits()[0] and task.limits()[1] is None)
    ):
        yield changes("tasks.hard_limit_follows", where, *_HARD_FOLLOWS)


_CONTRADICTION: Final = (
    "the soft limit is not below the hard one, so the task never sees SoftTimeLimitExceeded",
    "leave some seconds between them",
)
_HARD_FOLLOWS: Final = (
    "a soft limit alone gets a hard one 10 s later: what goes on after SoftTimeLimitExceeded is killed then",
    "give the hard limit too: time_limit=... on the task or task_time_limit in the settings, 0 for none",
)


def _contradict(limits: Pair) -> bool:
    soft, hard = limits
    return bool(soft and hard and soft >= hard)


def _retries(application: Application) -> Iterator[Notice]:
    def silent(task: TaskView) -> bool:
        return "retry" not in task.policy.explicit and not task.foreign

    def automatic(task: TaskView) -> bool:
        return bool(task.said("autoretry_for")) or task.said("max_retries") is not None

    attempts = DEFAULT.retry.max_attempts
    if where := _those(application, lambda task: silent(task) and not automatic(task)):
        yield changes(
            "tasks.retries",
            where,
            "failures that may pass (ConnectionError, TimeoutError, HTTP 503, ...) failed the task at once "
            f"and are tried again, up to {attempts} attempts in all",
            "@policy(retry=Retry(max_attempts=1)) where a second attempt does harm",
        )
    if where := _those(application, lambda task: silent(task) and automatic(task)):
        yield changes(
            "tasks.autoretry",
            where,
            "autoretry_for, max_retries and self.retry keep their meaning and come first; any other "
            f"failure that may pass is tried again too, until there were {attempts} attempts",
            "@policy(retry=Retry(max_attempts=1)), without max_retries in @app.task, leaves retries to the "
            "task (self.retry(max_retries=...), retry_kwargs)",
        )


def _classes(application: Application) -> Iterator[Notice]:
    if where := _those(application, lambda task: task.task.Strategy != _STRATEGY):
        yield changes(
            "tasks.strategy",
            where,
            "a Strategy of its own (celery-batches) gathers in each cell for itself: with -c 4 a batch is "
            "full when one of four cells has flush_every messages",
            "for full batches at a low rate a queue and a worker of their own with -c 1",
        )
    if where := _those(application, _has_request):
        yield lost(
            "tasks.request",
            where,
            "Seawall's own Request takes the place of one that a task class names: its hooks (on_failure, "
            "on_timeout, ...) are not called",
            "use signals (task_failure, task_revoked) or the task's own on_failure",
        )
    if where := _those(application, lambda task: _call(task) is not None and not task.foreign):
        yield fits(
            "tasks.call", where, "the __call__ of their class surrounds them as before, in each attempt"
        )
    if where := _those(application, lambda task: task.foreign):
        yield look(
            "tasks.registered",
            where,
            "their class derives from celery.Task and is registered (register_task): Seawall's retries, "
            "breakers and memory budgets do not hold for it, its time limits do",
            "derive it from app.Task, after install(app)",
        )
    if where := _those(
        application, lambda task: task.own_classes and _call(task) is None and not task.foreign
    ):
        yield fits(
            "tasks.class", where, "task classes of their own keep their hooks; Seawall's stands before them"
        )


def _call(task: TaskView) -> type | None:
    """The class of the application whose __call__ the task has, or None."""
    return next((each for each in task.own_classes if "__call__" in vars(each)), None)


def _has_request(task: TaskView) -> bool:
    """Whether a class of the application names a Request; one in @app.task(Request=...) stays."""
    return any(vars(each).get("Request", _REQUEST) != _REQUEST for each in task.own_classes)


def _rates(application: Application) -> Iterator[Notice]:
    where = _those(application, lambda task: task.said("rate_limit"))
    if application.said("task_default_rate_limit"):
        where.append(application.place("task_default_rate_limit"))
    if where:
        yield look(
            "tasks.rate_limit",
            where,
            "a rate limit holds for each worker with all its cells, as with prefork. A task that waits for "
            "its turn keeps no other one waiting, and beyond a second rated tasks do not keep their order",
            "for one limit of the whole cluster: @policy(limit=Limit(...)); where order matters, one queue "
            "with one worker of concurrency 1",
        )


TASKS: Final = (
    *(_names, _coroutines, _said_twice, _acknowledgement, _time_limits, _retries, _classes, _rates),
)
"""Everything that the definitions of tasks say, and what they leave out."""
