"""What becomes of the settings: some change, some are read by nothing, some Celery never knew."""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Final

from celery.app import defaults

from seawall.doctor.adoption.application import Application
from seawall.doctor.adoption.notice import Notice, changes, fits, look, lost, refused
from seawall.doctor.adoption.tasks import REJECT_ON_WORKER_LOST
from seawall.doctor.celery import is_accepted
from seawall.worker.defaults import CELLS
from seawall.worker.unkept import EVERYTHING, kept_by, pool_name

_celery_defaults: Any = defaults
_UNSAFE: Final = frozenset({"pickle", "application/x-python-serialize", "yaml", "application/x-yaml"})
_ALIKE: Final = 0.8
_PREFORK: Final = "remove it, or keep Celery's pool: worker_pool = 'prefork'"
_IN_CELLS: Final[Mapping[str, tuple[str, str]]] = {
    "worker_prefetch_multiplier": (
        (
            "a cell takes one task, and ahead of it about 20 ms of work; what waits stays in the broker, "
            "in order of priority"
        ),
        _PREFORK,
    ),
    "worker_disable_prefetch": ("a cell takes a task when it is free to run it", _PREFORK),
    "worker_enable_prefetch_count_reduction": (
        "after a reconnect a cell goes on with its own window",
        _PREFORK,
    ),
    "worker_pool_putlocks": ("nothing is handed to children: each cell claims its own tasks", _PREFORK),
    "worker_pool_start_method": ("cells are forked from the supervisor", _PREFORK),
    "worker_lost_wait": ("the supervisor sees the death of a cell at once (pidfd)", _PREFORK),
    "worker_proc_alive_timeout": ("a new cell has 30 s before it is taken for deaf and replaced", _PREFORK),
    "worker_consumer": ("each cell has Seawall's own consumer, and so has the supervisor", _PREFORK),
    "worker_pool_restarts": (
        (
            "pool_restart replaces each cell when its task has ended; new cells are forked from the "
            "supervisor, which has the old code"
        ),
        "`seawall restart` replaces the workers of a fleet one after another",
    ),
}
"""Settings of prefork that mean nothing to cells: what happens instead, and how it stays."""


def _unknown(application: Application) -> Iterator[Notice]:
    known = _celery_defaults.SETTING_KEYS
    for key, bare in sorted(set(application.unknown())):
        nearest = difflib.get_close_matches(bare, known, n=1, cutoff=_ALIKE)
        yield look(
            "settings.unknown",
            [application.sources.name(key, {key})],
            f"Celery knows no setting {key}" + (f": {nearest[0]} is meant?" if nearest else ""),
            "correct the name; nothing to do if an extension reads it",
        )


def _pool(application: Application) -> Iterator[Notice]:
    if runs_in_cells(application):
        for setting, (reason, fix) in _IN_CELLS.items():
            if application.said(setting) not in (None, False):
                yield lost(f"settings.{setting}", [application.place(setting)], reason, fix)
        return
    pool = application.said("worker_pool")
    try:
        name = pool_name(pool)
    except (ImportError, AttributeError, KeyError) as exc:
        yield refused(
            "settings.pool",
            [application.place("worker_pool")],
            f"the pool cannot be imported: {exc}",
            "correct it",
        )
        return
    missing = [limit for limit in EVERYTHING if limit not in kept_by(name)]
    if missing:
        yield look(
            "settings.pool",
            [application.place("worker_pool")],
            f"the pool {name} stays and does not keep the {', '.join(missing)}, Seawall's 300 and 310 s "
            "among them; a worker with a task that outlasts its hard limit ends, to be started again",
            "remove worker_pool for cells, or give long tasks their time_limit",
        )


def runs_in_cells(application: Application) -> bool:
    """Whether the settings leave workers the pool that is Seawall's default."""
    return bool(application.after("worker_pool") == CELLS)


def _lost_workers(application: Application) -> Iterator[Notice]:
    if application.said("task_reject_on_worker_lost"):
        where = [application.place("task_reject_on_worker_lost")]
        yield lost("settings.reject_on_worker_lost", where, *REJECT_ON_WORKER_LOST)


def _children(application: Application) -> Iterator[Notice]:
    if application.said("worker_max_memory_per_child"):
        yield changes(
            "settings.max_memory_per_child",
            [application.place("worker_max_memory_per_child")],
            "a cell is replaced for what it holds when its task has ended, not for the most it ever held",
            "@policy(memory=..., memory_limit=...) bounds a task while it runs",
        )
    if application.said("worker_max_tasks_per_child"):
        yield fits(
            "settings.max_tasks_per_child",
            [application.place("worker_max_tasks_per_child")],
            "a cell is replaced after so many tasks, as a child of prefork is",
        )


def _serializers(application: Application) -> Iterator[Notice]:
    for setting in ("accept_content", "result_accept_content"):
        said = application.said(setting)
        if unsafe := sorted({said} & _UNSAFE if isinstance(said, str) else set(said or ()) & _UNSAFE):
            yield look(
                f"settings.{setting}",
                [application.place(setting)],
                f"it stays, with {', '.join(unsafe)}: who can write to the broker can run code in workers",
                "accept json only, once nothing is submitted otherwise any more",
            )
    for setting in ("task_serializer", "result_serializer"):
        if application.said(setting) in _UNSAFE:
            yield look(
                f"settings.{setting}",
                [application.place(setting)],
                f"it stays {application.said(setting)}; Seawall redacts and shows less of what is no JSON",
                "write json where arguments and results can be",
            )
    accepted = application.after("result_accept_content") or application.after("accept_content")
    serializer = application.after("result_serializer")
    if not is_accepted(serializer, accepted):
        yield refused(
            "settings.result_accept_content",
            [application.place("result_serializer")],
            f"results are written as {serializer} and {', '.join(accepted)} is accepted: no result can be "
            "read",
            f"result_accept_content = ['json', {serializer!r}]",
        )
    if where := [
        f"{task.place}: {serializer}"
        for task in application.tasks
        if (serializer := task.said("serializer")) in _UNSAFE
    ]:
        yield look(
            "tasks.serializer",
            where,
            "they stay so, and workers refuse them where accept_content does not name it (as today)",
            "serializer='json' where the arguments can be",
        )


def _eager(application: Application) -> Iterator[Notice]:
    if not application.said("task_always_eager"):
        return
    where = [application.place("task_always_eager")]
    yield look(
        "settings.always_eager",
        where,
        "tasks run in whoever submits them, today and under Seawall: workers get none",
        "switch it off outside tests",
    )


def _bootsteps(application: Application) -> Iterator[Notice]:
    for blueprint in ("worker", "consumer"):
        steps = [
            name
            for each in application.app.steps[blueprint]
            if not (name := each if isinstance(each, str) else str(each.__qualname__)).startswith("seawall.")
        ]
        if steps and runs_in_cells(application):
            yield look(
                "settings.bootsteps",
                sorted(steps),
                f"bootsteps of the {blueprint} run in the supervisor, which receives and runs no task",
                "do in worker_process_init what has to happen where tasks run",
            )


def _schedule(application: Application) -> Iterator[Notice]:
    schedule = application.said("beat_schedule") or {}
    where = [
        application.place(each) for each in ("beat_schedule", "beat_scheduler") if application.said(each)
    ]
    if where:
        yield look(
            "settings.beat",
            where,
            "beats under Seawall take turns, and know nothing of a beat of the old deployment: while both "
            "run, each entry is submitted twice",
            "stop the old beat before the new one starts. Last sends are kept in Redis; "
            "beat_schedule_filename is not needed to be moved",
        )
    for name, entry in schedule.items():
        task = entry.get("task") if isinstance(entry, Mapping) else None
        if task is not None and task not in application.app.tasks:
            yield look(
                "settings.schedule",
                [f"{application.place('beat_schedule')}: {name}"],
                f"it names the task {task}, which no imported module defines",
                "correct the name, or add the module to `include` or to autodiscover_tasks",
            )


SETTINGS: Final = (
    *(_unknown, _pool, _lost_workers, _children, _serializers, _eager, _bootsteps, _schedule),
)  # fmt: skip
"""Everything that the configuration says."""
