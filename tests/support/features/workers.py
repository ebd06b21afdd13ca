"""Options of the worker, on a second one, with its beat; and last the signals that all of this has sent.

worker -n two@features -Q second,third -X third --purge --max-tasks-per-child 2 --autoscale 2,1 -B
--max-memory-per-child 500000 --time-limit 2 --soft-time-limit 1 -E --without-gossip --without-mingle
--without-heartbeat
"""

from typing import Any

from support.features.application import SIGNALS, app, store
from support.features.look import Look, feature

TWO = ["two@features"]


def ask(question: str) -> Any:
    inspect = app.control.inspect(destination=TWO, timeout=20, limit=1)
    return (getattr(inspect, question)() or {}).get(TWO[0])


@feature
def queues_chosen_and_excluded(look: Look) -> Any:
    return [each["name"] for each in ask("active_queues")]


@feature
def purged_at_the_start(look: Look) -> Any:
    """The test has submitted a task before the worker's start."""
    look.end(look.task("echo").apply_async((1,), queue="second"))
    return store.llen("notes before")


@feature
def max_tasks_per_child(look: Look) -> Any:
    pids = [look.task("pid").apply_async(queue="second").get(timeout=look.patience) for _ in range(6)]
    return max(map(pids.count, pids)) <= 2


@feature
def time_limits_of_the_command_line(look: Look) -> Any:
    state, value = look.end(look.task("naps").apply_async(queue="second"))
    return [state, value.partition(":")[0]]


@feature
def autoscale(look: Look) -> Any:
    results = [look.task("naps").apply_async((0.8,), queue="second") for _ in range(4)]
    grown = look.until(lambda: len(ask("stats")["pool"]["processes"]) == 2)
    for each in results:
        each.get(timeout=look.patience)
    answer = app.control.autoscale(3, 1, destination=TWO, reply=True, timeout=20, limit=1)
    return [grown, answer]


@feature
def stats_of_the_options(look: Look) -> Any:
    pool = ask("stats")["pool"]
    return [pool["max-tasks-per-child"], pool["timeouts"]]


@feature
def beat(look: Look) -> Any:
    """Intervals, a crontab and a schedule of the application's own; solar ones need a library."""

    def seen() -> set[str]:
        return set(store.lrange("notes beat", 0, -1))

    look.until(lambda: len(seen()) == 4)
    return sorted(seen())


@feature
def shutdown(look: Look) -> Any:
    """A task that runs ends first."""
    result = look.task("waits").apply_async(
        (look.key,), {}, queue="second", time_limit=30, soft_time_limit=30
    )
    look.notes(1)
    app.control.shutdown(destination=TWO)
    look.go()
    ended = look.end(result)
    gone = look.until(lambda: not app.control.inspect(destination=TWO, timeout=0.5).ping())
    return [ended, gone]


def _signal(name: str) -> Any:
    def sent(look: Look) -> Any:
        if name.startswith("worker") and "shutdown" in name:  # the second worker ends now
            look.until(lambda: store.exists(f"signal {name}"), 5.0)
        return sorted(store.smembers(f"signal {name}"))

    sent.__name__ = f"signal_{name}"
    return sent


for _name in SIGNALS:
    feature(_signal(_name))
