"""Results: waiting, states, children, groups that are saved, revocation."""

import time
from typing import Any

import celery.canvas
from celery.result import AsyncResult, GroupResult, ResultSet, result_from_tuple

from support.features.app import add, echo, fail, parental, tell, waits
from support.features.look import Look, feature, raised, short

group: Any = celery.canvas.group  # its types say little of what it returns


@short
def get(look: Look) -> Any:
    result = fail.delay("raised")
    return [add.delay(1, 2).get(timeout=look.patience), raised(lambda: result.get(timeout=look.patience))]


@feature
def get_with_a_callback(look: Look) -> Any:
    heard: list[Any] = []
    result = add.delay(1, 2)
    result.get(
        timeout=look.patience, callback=lambda task_id, value: heard.append([task_id == result.id, value])
    )
    return heard


@feature
def get_that_takes_too_long(look: Look) -> Any:
    result = waits.delay(look.key)
    found = raised(lambda: result.get(timeout=0.2))
    look.go()
    return [found, look.end(result)]


@feature
def then(look: Look) -> Any:
    heard: list[Any] = []
    result = add.delay(1, 2)
    result.then(lambda done: heard.append(done.result))
    result.get(timeout=look.patience)
    look.until(lambda: heard)
    return heard


@short
def states(look: Look) -> Any:
    result = waits.delay(look.key)
    look.notes(1)
    before = [result.state, result.ready(), result.successful(), result.failed(), result.result]
    look.go()
    look.end(result)
    return [before, result.state, result.ready(), result.successful(), result.failed(), result.result]


@feature
def a_failure(look: Look) -> Any:
    result = fail.delay("told")
    look.end(result)
    return [
        result.failed(),
        result.result,
        "ValueError: told" in result.traceback,
        raised(result.maybe_throw),
        result.date_done is not None,
    ]


@feature
def tracebacks_from_afar(look: Look) -> Any:
    result = fail.delay("afar")
    look.end(result)
    return result.traceback.splitlines()[-1]


@short
def extended(look: Look) -> Any:
    result = add.apply_async((1,), {"right": 2}, queue="first")
    look.end(result)
    return [result.name, result.args, result.kwargs, result.queue, result.retries, bool(result.worker)]


@feature
def stored_fields(look: Look) -> Any:
    result = add.delay(1, 2)
    look.end(result)
    meta = result.backend.get_task_meta(result.id)
    return sorted(meta)


@short
def children(look: Look) -> Any:
    result = parental.delay()
    look.end(result)
    return [
        len(result.children),
        sorted(each.get(timeout=look.patience) for each in result.children),
        next([said.id == result.id, value] for said, value in result.collect(timeout=look.patience)),
    ]


@feature
def children_that_are_not_added(look: Look) -> Any:
    result = parental.delay(1, False)  # noqa: FBT003 - a task's argument
    look.end(result)
    return result.children


@feature
def forget(look: Look) -> Any:
    result = add.delay(1, 2)
    look.end(result)
    result.forget()
    return [AsyncResult(result.id, app=look.app).state, AsyncResult(result.id, app=look.app).result]


@feature
def as_tuples(look: Look) -> Any:
    result = (add.s(1, 2) | add.s(3)).delay()
    again = result_from_tuple(result.as_tuple(), app=look.app)
    return [look.end(again), look.end(again.parent)]


@feature
def groups_saved_and_restored(look: Look) -> Any:
    result = group(add.s(1, 1), add.s(2, 2)).delay()
    result.save()
    again: Any = GroupResult.restore(result.id, app=look.app)
    found = [again.get(timeout=look.patience), again == result, len(again)]
    again.delete()
    return [found, GroupResult.restore(result.id, app=look.app)]


@feature
def groups_joined(look: Look) -> Any:
    result = group(add.s(1, 1), add.s(2, 2)).delay()
    return [
        result.join(timeout=look.patience),
        result.join_native(timeout=look.patience),
        sorted(meta["result"] for _, meta in result.iter_native(timeout=look.patience)),
    ]


@feature
def groups_that_fail(look: Look) -> Any:
    result = group(add.s(1, 1), fail.s("in a group")).delay()
    found = raised(lambda: result.get(timeout=look.patience))
    look.until(result.ready)
    return [found, result.ready(), result.failed(), result.waiting()]


@feature
def groups_forgotten(look: Look) -> Any:
    result = group(add.s(1, 1), add.s(2, 2)).delay()
    result.get(timeout=look.patience)
    result.forget()
    return [each.state for each in result.results]


@feature
def sets_of_results(look: Look) -> Any:
    found = ResultSet([add.delay(1, 1)], app=look.app)
    found.add(add.delay(2, 2))
    return [found.get(timeout=look.patience), found.completed_count(), found.successful()]


@feature
def roots(look: Look) -> Any:
    seen = (echo.s(1) | tell.s()).delay()
    value = seen.get(timeout=look.patience)
    return [value["root_id"], value["is root"], seen.parent.get()]


@short
def revoked_before_it_runs(look: Look) -> Any:
    result = look.task("noted").apply_async((look.key,), countdown=1)
    result.revoke()
    time.sleep(0)
    return [look.end(result), look.store.llen(f"notes {look.key}")]


@short
def revoked_and_terminated(look: Look) -> Any:
    result = waits.delay(look.key)
    look.notes(1)
    result.revoke(terminate=True)
    return look.end(result)[1].partition(":")[0]  # "terminated" or "revoked", as it comes


@feature
def terminated_by_a_signal(look: Look) -> Any:
    result = waits.delay(look.key)
    look.notes(1)
    result.revoke(terminate=True, signal="SIGKILL")
    return look.end(result)[1].partition(":")[0]


@feature
def revoked_without_being_terminated(look: Look) -> Any:
    result = waits.delay(look.key)
    look.notes(1)
    result.revoke(wait=True, timeout=1)
    look.go()
    return look.end(result)


@feature
def revoked_by_a_stamp(look: Look) -> Any:
    made = look.task("noted").s(look.key)
    made.stamp(customer="theirs", append_stamps=True)
    look.app.control.revoke_by_stamped_headers({"customer": ["theirs"]}, reply=True, timeout=1)
    return look.end(made.apply_async(countdown=0.2))


@feature
def terminated_by_a_stamp(look: Look) -> Any:
    made = waits.s(look.key)
    made.stamp(customer="another", append_stamps=True)
    result = made.delay()
    look.notes(1)
    look.app.control.revoke_by_stamped_headers({"customer": ["another"]}, terminate=True)
    return look.end(result)[1].partition(":")[0]


@feature
def groups_revoked(look: Look) -> Any:
    result = group(echo.s(1).set(countdown=1), echo.s(2).set(countdown=1)).delay()
    result.revoke()
    return [look.end(each) for each in result.results]
