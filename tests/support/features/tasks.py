"""Tasks: retries, acknowledgements, states, hooks, options, what they raise."""

from typing import Any

from support.features.application import app
from support.features.look import Look, feature, short


def runs(look: Look, name: str, *args: Any, times: int = 1, **kwargs: Any) -> Any:
    """How a task of the key ends, and what it noted."""
    ended = look.end(look.task(name).delay(look.key, *args, **kwargs))
    return [ended, look.notes(times)]


@short
def bind(look: Look) -> Any:
    return look.end(look.task("about").delay())


@short
def retry(look: Look) -> Any:
    return runs(look, "again", 2, times=3)


@feature
def retry_with_countdown(look: Look) -> Any:
    return runs(look, "again", 1, times=2, countdown=0.1)


@feature
def retry_with_eta(look: Look) -> Any:
    return runs(look, "again", 1, times=2, eta=0.1)


@feature
def retry_without_throw(look: Look) -> Any:
    return runs(look, "again", 1, times=2, swallow=True)


@short
def retry_with_an_exception_too_often(look: Look) -> Any:
    return runs(look, "again", 9, times=2, error="mine", max_retries=1)


@feature
def retry_too_often(look: Look) -> Any:
    (state, value), notes = runs(look, "again", 9, times=2, max_retries=1)
    return [state, value.partition("[")[0], notes]


@feature
def retry_as_often_as_the_task_allows(look: Look) -> Any:
    return runs(look, "again", 9, times=4, error="mine")


@feature
def retry_with_other_arguments(look: Look) -> Any:
    return runs(look, "again", 1, times=2, args=(look.key, 1), kwargs={"note": "other"})


@feature
def retry_with_time_limits(look: Look) -> Any:
    return runs(look, "again", 1, times=2, time_limit=20, soft_time_limit=10)


@feature
def retry_to_another_queue(look: Look) -> Any:
    return runs(look, "again", 1, times=2, queue="first")


@feature
def retry_keeps_what_it_was_called_with(look: Look) -> Any:
    options = {"queue": "first", "priority": 8, "time_limit": 30, "soft_time_limit": 20}
    result = look.task("again").apply_async((look.key, 1), **options)
    return look.end(result)


@short
def autoretry_for(look: Look) -> Any:
    return runs(look, "auto", times=3)


@feature
def autoretry_for_nothing_else(look: Look) -> Any:
    return runs(look, "auto", "ValueError")


@feature
def dont_autoretry_for(look: Look) -> Any:
    return runs(look, "auto_but", "KeyError")


@feature
def retry_kwargs(look: Look) -> Any:
    return runs(look, "auto_but", "ValueError", times=2)


@feature
def retry_backoff_and_its_maximum(look: Look) -> Any:
    return runs(look, "backing_off", times=3)


@feature
def a_retry_and_its_state(look: Look) -> Any:
    result = look.task("again").delay(look.key, 1, countdown=2, error="later")
    look.until(lambda: result.state == "RETRY")
    found = [result.state, result.result, bool(result.traceback)]
    result.revoke()
    return found


@short
def acks_late_and_a_process_that_dies(look: Look) -> Any:
    return runs(look, "dying_late", times=2)


@feature
def acks_late_without_repetition(look: Look) -> Any:
    (state, value), notes = runs(look, "dying_unrepeated")
    return [state, value.partition(":")[0], notes]


@feature
def acks_early_and_a_process_that_dies(look: Look) -> Any:
    (state, value), notes = runs(look, "dying_early")
    return [state, value.partition(":")[0], notes]


@feature
def a_process_that_dies(look: Look) -> Any:
    (state, value), notes = runs(look, "dying")
    return [state, str(value).partition(":")[0], notes]


@short
def ignore(look: Look) -> Any:
    result = look.task("hooked").delay("ignore")
    look.settled()
    return [result.state, look.notes(1, result.id)]


@feature
def reject(look: Look) -> Any:
    result = look.task("rejecting").delay(look.key)
    notes = look.notes(1)
    look.settled()
    return [notes, look.store.llen(f"notes {look.key}"), result.state]


@feature
def reject_and_requeue(look: Look) -> Any:
    return runs(look, "rejecting", requeue=True, times=2)


@short
def hooks_of_a_success(look: Look) -> Any:
    result = look.task("hooked").delay("go", more=3)
    return [look.end(result), look.notes(3, result.id)]


@feature
def hooks_of_a_failure(look: Look) -> Any:
    result = look.task("hooked").delay("fail")
    return [look.end(result), look.notes(3, result.id)]


@feature
def hooks_of_a_retry(look: Look) -> Any:
    result = look.task("hooked").delay("retry")
    return [look.end(result), look.notes(5, result.id)]


@feature
def hooks_of_a_rejection(look: Look) -> Any:
    result = look.task("hooked").delay("reject")
    look.settled()
    return [result.state, look.notes(1, result.id)]


@feature
def track_started(look: Look) -> Any:
    result = look.task("tracked").delay(look.key)
    look.until(lambda: result.state == "STARTED")
    found = [result.state, sorted(result.info)]
    look.go()
    return [found, look.end(result)]


@short
def update_state(look: Look) -> Any:
    result = look.task("stating").delay(look.key)
    look.until(lambda: result.state == "HALFWAY")
    found = [result.state, result.info]
    look.go()
    return [found, look.end(result)]


@feature
def a_state_that_stays(look: Look) -> Any:
    result = look.task("stating_for_good").delay()
    look.until(lambda: result.state == "KEPT")
    look.settled()
    return [result.state, result.info]


@feature
def throws(look: Look) -> Any:
    return look.end(look.task("throwing").delay())


@feature
def ignore_result_of_a_task(look: Look) -> Any:
    result = look.task("ignored").delay(look.key)
    return [look.notes(1), result.state, result.result]


@feature
def store_errors_even_if_ignored(look: Look) -> Any:
    return look.end(look.task("ignored_but_errors").delay())


@short
def task_annotations(look: Look) -> Any:
    result = look.task("annotated").delay()
    return [look.end(result), look.notes(2, result.id)]


@feature
def a_task_of_a_class(look: Look) -> Any:
    return look.end(look.task("classy").delay(5))


@feature
def names_by_module(look: Look) -> Any:
    return look.end(app.send_task("support.features.app.named_by_its_module"))


@feature
def soft_limit_that_is_caught(look: Look) -> Any:
    return runs(look, "soft", caught=True)


@feature
def soft_limit(look: Look) -> Any:
    (state, value), notes = runs(look, "soft")
    return [state, value.partition(":")[0], notes]


@feature
def what_a_soft_limit_says(look: Look) -> Any:
    return look.end(look.task("soft").delay(look.key))


@feature
def hard_limit(look: Look) -> Any:
    return look.end(look.task("hard").delay())


@feature
def exceptions_with_arguments(look: Look) -> Any:
    result = look.task("raising").delay("own")
    error = result.get(timeout=look.patience, propagate=False)
    return [type(error).__name__, list(error.args), "OwnError" in result.traceback]


@feature
def exceptions_with_causes(look: Look) -> Any:
    result = look.task("raising").delay("cause")
    return [look.end(result), "KeyError" in result.traceback, "direct cause" in result.traceback]


@feature
def exception_groups(look: Look) -> Any:
    return look.end(look.task("raising").delay("group"))


@feature
def exits(look: Look) -> Any:
    state, value = look.end(look.task("raising").delay("exit"))
    return [state, value.partition("(")[0]]


@feature
def results_that_cannot_be_serialized(look: Look) -> Any:
    state, value = look.end(look.task("raising").delay("unserializable"))
    return [state, value.partition(":")[0]]


@feature
def results_of_bytes(look: Look) -> Any:
    return look.end(look.task("raising").delay("bytes"))


@feature
def results_with_keys_that_are_no_text(look: Look) -> Any:
    return look.end(look.task("raising").delay("moments"))


@feature
def trail_switched_off(look: Look) -> Any:
    result = look.task("trackless").delay()
    return [look.end(result), len(result.children or ())]


@feature
def results_within_tasks(look: Look) -> Any:
    state, value = look.end(look.task("asking").delay())
    return [state, value.partition(":")[0], look.end(look.task("asking").delay(allowed=True))]


@feature
def rate_limit(look: Look) -> Any:
    results = [look.task("rated").delay() for _ in range(4)]
    moments = sorted(each.get(timeout=look.patience) for each in results)
    return moments[-1] - moments[0] > 0.5
