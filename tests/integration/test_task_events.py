"""Every ending of a task has its event, one, whatever pool runs it; every event says from which queue."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery.events.state import State

from seawall.delivery import Queues
from support import reef
from support.listening import about, kinds, listening
from support.nodes import StartWorker, producer_of
from support.shop import journal, store
from support.waiting import wait_until

ALWAYS = {
    "type",
    "uuid",
    "name",
    "queue",
    "hostname",
    "pid",
    "clock",
    "timestamp",
    "utcoffset",
    "local_received",
}
FIELDS: dict[str, set[str]] = {
    "task-received": {"args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires"},
    "task-started": set(),
    "task-succeeded": {"result", "runtime"},
    "task-failed": {"exception", "traceback"},
    "task-retried": {"exception", "traceback"},
    "task-rejected": {"requeue"},
    "task-revoked": {"terminated", "signum", "expired"},
    "task-released": set(),
    "task-parked": {"dependency", "reason", "until"},
}
QUEUE = "the-queue"


def act(app: Celery, how: str) -> str:
    return str(app.tasks["reef.act"].apply_async((how,), queue=QUEUE).id)


def nap(app: Celery, **options: Any) -> str:
    return str(app.tasks["reef.nap"].apply_async((30,), queue=QUEUE, **options).id)


def grip(app: Celery) -> str:
    """It keeps the interpreter's lock from its first moment on, so its process says nothing any more."""
    options: dict[str, Any] = {"soft_time_limit": 0.5, "time_limit": 1.5}
    return str(app.tasks["reef.grip"].apply_async((30.0,), queue=QUEUE, **options).id)


def mark(app: Celery, label: str) -> str:
    return str(app.tasks["reef.mark"].apply_async((label,), queue=QUEUE).id)


def terminated(app: Celery) -> str:
    store(app).delete("journal")
    task_id = nap(app)
    wait_until(lambda: any(line.startswith("nap of") for line in journal(app)), what="it to run")
    app.control.revoke(task_id, terminate=True)
    return task_id


def revoked(app: Celery) -> str:
    app.control.revoke("revoked-before")
    app.tasks["reef.act"].apply_async(("well",), queue=QUEUE, task_id="revoked-before")
    return "revoked-before"


def expired(app: Celery) -> str:
    past = datetime.now(UTC) - timedelta(seconds=5)
    return str(app.tasks["reef.act"].apply_async(("well",), queue=QUEUE, expires=past).id)


def refused(app: Celery) -> str:
    return mark(app, "refused")


def invalid(app: Celery) -> str:
    with app.connection_for_write() as connection, connection.Producer() as producer:
        headers = {"id": "no-json", "task": "reef.act", "lang": "py"}
        producer.publish(
            b"{",
            routing_key=QUEUE,
            headers=headers,
            content_type="application/json",
            content_encoding="utf-8",
        )
    return "no-json"


def parked(app: Celery, **options: Any) -> str:
    """Put aside at the gate, until `release`."""
    mark_ = app.tasks["reef.mark"]
    task_id = str(mark_.apply_async(("parked until released",), queue=QUEUE, **options).id)
    with opened(app) as queues:
        wait_until(lambda: queues.counts(QUEUE).parked.get("harbour"), timeout=20, what="it to be parked")
    return task_id


def release(app: Celery) -> None:
    with opened(app) as queues:
        assert queues.release(QUEUE, "harbour") == 1


@contextlib.contextmanager
def opened(app: Celery) -> Iterator[Queues]:
    with app.connection_for_write() as connection, Queues.open(connection) as queues:
        yield queues


def revoked_while_parked(app: Celery) -> str:
    task_id = parked(app)
    app.control.revoke(task_id)
    release(app)
    return task_id


def expired_while_parked(app: Celery) -> str:
    until = datetime.now(UTC) + timedelta(seconds=1)
    task_id = parked(app, expires=until)
    wait_until(lambda: datetime.now(UTC) > until, what="its time to be over")
    release(app)
    return task_id


def postponed(app: Celery) -> str:
    return str(app.tasks["reef.postponed"].apply_async(queue=QUEUE).id)


def unknown(app: Celery) -> str:
    return str(app.send_task("reef.unheard_of", queue=QUEUE).id)


def gorge(app: Celery) -> str:
    return str(app.tasks["reef.gorge"].apply_async(queue=QUEUE).id)


RAN = ["task-received", "task-started"]
PARKED = ["task-parked", "task-released"]
ENDINGS: dict[str, tuple[Callable[[Celery], str], list[str]]] = {
    "well": (lambda app: act(app, "well"), [*RAN, "task-succeeded"]),
    "fail": (lambda app: act(app, "fail"), [*RAN, "task-failed"]),
    "retry": (lambda app: act(app, "retry"), [*RAN, "task-retried", *RAN, "task-succeeded"]),
    "ignore": (lambda app: act(app, "ignore"), RAN),
    "postponed": (postponed, [*RAN, *PARKED, *RAN, "task-succeeded"]),
    "revoked while parked": (revoked_while_parked, ["task-received", *PARKED, "task-revoked"]),
    "expired while parked": (expired_while_parked, ["task-received", *PARKED, "task-revoked"]),
    "unknown name": (unknown, ["task-parked"]),
    "reject": (lambda app: act(app, "reject"), [*RAN, "task-failed"]),
    "requeue": (lambda app: act(app, "requeue"), [*RAN, "task-rejected", *RAN, "task-succeeded"]),
    "revoked": (revoked, ["task-revoked"]),
    "expired": (expired, ["task-revoked"]),
    "refused": (refused, ["task-received", "task-failed"]),
    "invalid": (invalid, ["task-failed"]),
}
IN_PROCESSES: dict[str, tuple[Callable[[Celery], str], list[str]]] = {
    "exit": (lambda app: act(app, "exit"), [*RAN, "task-failed"]),
    "soft limit": (lambda app: nap(app, soft_time_limit=1, time_limit=60), [*RAN, "task-failed"]),
    "hard limit": (grip, [*RAN, "task-failed"]),
    "terminated": (terminated, [*RAN, "task-revoked"]),
    "memory": (gorge, [*RAN, "task-failed"]),
    "poisoned": (
        lambda app: act(app, "kill"),
        [*RAN, "task-retried", *RAN, "task-retried", *RAN, "task-failed"],
    ),
}
SLOW_IN_PREFORK = ("poisoned", "memory")  # Celery notices each lost child after up to 10 s


def cases(pool: str, endings: dict[str, Any], *, without: tuple[str, ...] = (), slow: bool = False) -> Any:
    chosen = {name: ending for name, ending in endings.items() if name not in without}
    return pytest.param(pool, chosen, marks=pytest.mark.slow if slow else (), id=f"{pool}{slow * '-slow'}")


CASES = [
    cases("cells", {**ENDINGS, **IN_PROCESSES}),
    cases("prefork", {**ENDINGS, **IN_PROCESSES}, without=SLOW_IN_PREFORK),
    cases("prefork", {**ENDINGS, **IN_PROCESSES}, slow=True),
    cases("threads", ENDINGS, slow=True),
    cases("solo", ENDINGS, slow=True),
]

app = producer_of(reef.create)


def wait_for_events(seen: list[dict[str, Any]], task_id: str, expected: list[str], ending: str) -> None:
    def all_came() -> bool:
        return len(kinds(seen, task_id)) >= len(expected)

    wait_until(all_came, timeout=40, what=f"the events of {ending}")


@pytest.mark.parametrize(("pool", "endings"), CASES)
def test_every_ending_has_its_event(
    app: Celery, start_worker: StartWorker, pool: str, endings: dict[str, Any]
) -> None:
    options = [] if pool == "cells" else ["-P", pool]
    start_worker("support.reef", "-c1", "-E", *options, queue=QUEUE, env={"REEF_ACCOUNTS": "1"})
    wait_until(lambda: app.control.ping(timeout=1), timeout=60, what="the worker to answer")
    ids: dict[str, str] = {}
    with listening(app) as seen:
        for ending, (begin, expected) in endings.items():
            ids[ending] = begin(app)
            wait_for_events(seen, ids[ending], expected, ending)
        last = act(app, "well")
        wait_until(lambda: "task-succeeded" in kinds(seen, last), timeout=20, what="the last event")
    found = {ending: kinds(seen, ids[ending]) for ending in ids}
    due = {ending: expected for ending, (_, expected) in endings.items()}
    # As in Celery: who takes it next may be quicker than who tells that it was given back.
    for each in (found, due):
        each.update({"requeue": sorted(each["requeue"])} if "requeue" in each else {})
    assert found == due
    for ending, task_id in ids.items():
        for event in about(seen, task_id):
            wanted = ALWAYS | FIELDS[event["type"]]
            assert set(event) == wanted, (ending, event["type"])
            assert event["queue"] == QUEUE, (ending, event)
            assert "ExceptionWithTraceback" not in event.get("exception", ""), (ending, event)
    state: Any = State()
    for event in sorted(seen, key=lambda event: event["timestamp"]):
        state.event(event)
    assert state.tasks[ids["well"]].queue == QUEUE


@pytest.mark.parametrize(
    "pool",
    ["cells", *(pytest.param(each, marks=pytest.mark.slow) for each in ("prefork", "threads", "solo"))],
)
def test_a_parked_task_is_told_to_be_parked_and_released(
    app: Celery, start_worker: StartWorker, pool: str
) -> None:
    options = [] if pool == "cells" else ["-P", pool]
    start_worker("support.reef", "-c1", "-E", *options, queue=QUEUE, env={"REEF_ACCOUNTS": "1"})
    wait_until(lambda: app.control.ping(timeout=1), timeout=60, what="the worker to answer")
    state: Any = State()
    with listening(app) as seen:
        task_id = mark(app, "parked")
        wait_until(lambda: "task-parked" in kinds(seen, task_id), timeout=20, what="it to be parked")
        store(app).set("open", 1)
        wait_until(lambda: "task-succeeded" in kinds(seen, task_id), timeout=20, what="its end")
    told = kinds(seen, task_id)
    cycle = ["task-parked", "task-released", "task-received"]
    assert told == ["task-received", *cycle * told.count("task-parked"), "task-started", "task-succeeded"]
    states = []
    for event in about(seen, task_id):
        assert set(event) == ALWAYS | FIELDS[event["type"]], event["type"]
        state.event(event)
        states.append(state.tasks[task_id].state)
    assert states[:3] == ["RECEIVED", "PARKED", "RELEASED"]
    assert states[-1] == "SUCCESS"
    first = next(event for event in about(seen, task_id) if event["type"] == "task-parked")
    assert (first["dependency"], first["reason"]) == ("harbour", "it is closed")
    assert 0 < first["until"] - first["timestamp"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("pool", ["cells", "prefork", "threads"])  # solo tells of a start after its end
def test_a_killer_of_its_worker_ends_with_one_event(
    app: Celery, start_worker: StartWorker, pool: str
) -> None:
    """A killed worker says nothing; the next one begins anew, and whoever gives the task up says so."""
    options = [] if pool == "cells" else ["-P", pool]
    env = {"REEF_LEASE": "1"}
    worker = start_worker("support.reef", "-c1", "-E", *options, queue=QUEUE, env=env)
    wait_until(lambda: app.control.ping(timeout=1), timeout=60, what="the worker to answer")
    with listening(app) as seen:
        task_id, starts = nap(app), 0

        def goes_on() -> bool:
            told = kinds(seen, task_id)
            return told.count("task-started") > starts or "task-failed" in told

        while "task-failed" not in kinds(seen, task_id):
            wait_until(goes_on, timeout=60, what="the next start, or the end")
            if kinds(seen, task_id).count("task-started") > starts:
                starts += 1
                worker.container.kill("SIGKILL")
                worker.container.restart()
    assert kinds(seen, task_id) == [*RAN * starts, "task-failed"]
    assert all(event["queue"] == QUEUE for event in about(seen, task_id))


@pytest.mark.parametrize(("skew", "left", "ending"), [(3600, 60, "succeeded"), (-3600, -1, "revoked")])
def test_the_servers_clock_says_when_a_task_has_expired(
    app: Celery, start_worker: StartWorker, skew: int, left: float, ending: str
) -> None:
    env = {"SKEW": str(skew)}
    start_worker("support.skewed", "-c1", "-E", "-P", "threads", queue=QUEUE, env=env)
    wait_until(lambda: app.control.ping(timeout=1), timeout=60, what="the worker to answer")
    until = datetime.now(UTC) + timedelta(seconds=left)
    with listening(app) as seen:
        task_id = str(app.tasks["reef.act"].apply_async(("well",), queue=QUEUE, expires=until).id)
        wait_until(lambda: kinds(seen, task_id), timeout=40, what="its first event")
        wait_until(
            lambda: kinds(seen, task_id)[-1] in ("task-succeeded", "task-revoked"), timeout=40, what="its end"
        )
        assert kinds(seen, task_id)[-1] == f"task-{ending}"


def test_what_a_dead_cell_had_not_said_is_said_for_it(app: Celery, start_worker: StartWorker) -> None:
    start_worker("support.reef", "-c1", "-E", queue=QUEUE)
    wait_until(lambda: app.control.ping(timeout=1), timeout=60, what="the worker to answer")
    with listening(app) as seen:
        app.control.cancel_consumer(QUEUE, reply=True, timeout=20, limit=1)
        before = [act(app, "well") for _ in range(10)]
        killer = act(app, "kill")
        app.control.add_consumer(QUEUE, reply=True, timeout=20, limit=1)
        wait_until(lambda: "task-failed" in kinds(seen, killer), timeout=40, what="the killer's last event")
        last = act(app, "well")
        wait_until(lambda: "task-succeeded" in kinds(seen, last), timeout=20, what="the last event")
    for task_id in before:
        # Twice if it had been sent when the cell died, and was not off the table yet.
        assert kinds(seen, task_id).count("task-succeeded") in {1, 2}
    assert kinds(seen, killer).count("task-started") == 3
