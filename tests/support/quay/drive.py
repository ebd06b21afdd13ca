"""What a web process of the project does: `prepare` makes tables, `use` submits and says what came of it.

`schedule`, `scheduled` and `stop` are about the tables of django-celery-beat.
"""

import importlib.util
import json
import sys
from typing import Any

from support.quay.celery import app


def prepare() -> None:
    """Make the tables."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", run_syncdb=True, verbosity=0)


def empty() -> None:
    """Take all rows away."""
    import django
    from django.core.management import call_command

    django.setup()
    call_command("flush", interactive=False, verbosity=0)


def schedule() -> None:
    """Have rows written each second, one row once, and one never; as in Django's administration."""
    import django

    django.setup()
    from django_celery_beat.models import IntervalSchedule, PeriodicTask

    each_second, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
    for name, number, options in (
        ("often", 1, {}),
        ("once", 2, {"one_off": True}),
        ("never", 3, {"enabled": False}),
    ):
        task = "support.quay.orders.tasks.record"
        PeriodicTask.objects.create(
            name=name, task=task, args=json.dumps([number]), interval=each_second, **options
        )


def scheduled() -> dict[str, int]:
    """How often each has run, as the tables say."""
    import django

    django.setup()
    from django_celery_beat.models import PeriodicTask

    return dict(PeriodicTask.objects.values_list("name", "total_run_count"))


def stop() -> None:
    """Disable what runs often."""
    import django

    django.setup()
    from django_celery_beat.models import PeriodicTask

    often = PeriodicTask.objects.get(name="often")
    often.enabled = False
    often.save()


def use(patience: float, *, all_of_it: bool) -> dict[str, Any]:
    """What the tasks returned or raised, by what was asked."""
    import django

    django.setup()
    from support.quay.orders import tasks

    def outcome(result: Any) -> Any:
        value = result.get(timeout=patience, propagate=False)
        return f"{type(value).__name__}: {value}" if isinstance(value, Exception) else value

    def of(task: Any, *args: Any) -> Any:
        return outcome(task.delay(*args))

    def rows(number: int) -> int:
        return int(of(tasks.count, number))

    found: dict[str, Any] = {"recorded": of(tasks.record, 1), "its rows": rows(1)}
    found["placed"] = of(tasks.place, 10)
    found["followed"] = until(lambda: rows(11) == rows(12) == 1, patience)
    places = [outcome(each) for each in [tasks.where.delay() for _ in range(8)]]
    print("backends:", json.dumps(sorted({backend for _, backend in places})))
    if not all_of_it:
        return found
    found["not placed"] = of(tasks.place, 20, "fail")
    found["rolled back"] = [rows(number) for number in (20, 21, 22)]
    found["severed"] = of(tasks.sever).partition(":")[0]
    found["after that"] = [of(tasks.record, 30) for _ in range(4)]
    if app.conf.result_backend != "django-db":  # what a task leaves open there takes its result along
        of(tasks.leave_a_transaction_open)
        found["not committed"] = [rows(99) for _ in range(4)]
    found["retried"] = of(tasks.retried)
    found["hangs"] = of(tasks.hangs).partition(":")[0]
    if importlib.util.find_spec("django_structlog") is not None:
        found["bound"] = of(tasks.context)
    if app.conf.result_backend == "django-db":
        from django_celery_results.models import TaskResult

        fields = ("task_name", "status", "result")
        done = TaskResult.objects.exclude(task_name__endswith=".where").values_list(*fields)
        found["stored"] = sorted(
            {(name, status, value) for name, status, value in done if status != "FAILURE"}
        )
        found["stored failures"] = sorted({name for name, status, _ in done if status == "FAILURE"})
    return found


def until(condition: Any, patience: float) -> bool:
    """Whether it became true."""
    import time

    ends = time.monotonic() + patience
    while not condition():
        if time.monotonic() > ends:
            return False
    return True


def main(what: str, patience: str = "0") -> None:
    alone = {"prepare": prepare, "empty": empty, "schedule": schedule, "stop": stop}
    if what in alone:
        alone[what]()
    else:
        found = scheduled() if what == "scheduled" else use(float(patience), all_of_it=what == "use")
        print("found:", json.dumps(found, default=str, sort_keys=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
