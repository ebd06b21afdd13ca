"""Canvas: signatures, chains, groups, chords, chunks, maps, stamps, replacement."""

from typing import Any

import celery.canvas

from support.features.app import add, echo, errback, fail, growing, noted, replacing, tell, told, total
from support.features.look import Look, feature, raised, short

canvas: Any = celery.canvas  # its types say little of what it returns
chain, chord, group, signature = canvas.chain, canvas.chord, canvas.group, canvas.signature


@short
def a_chain(look: Look) -> Any:
    return look.end((add.s(1, 2) | add.s(10) | echo.s()).delay())


@feature
def a_chain_of_immutable_signatures(look: Look) -> Any:
    chain(noted.si(look.key, 1), noted.si(look.key, 2), noted.si(look.key, 3)).delay()
    return look.notes(3)


@feature
def a_chain_within_a_chain(look: Look) -> Any:
    return look.end(chain(add.s(1, 2), chain(add.s(3), add.s(4)), add.s(5)).delay())


@feature
def a_chain_and_its_parents(look: Look) -> Any:
    result = chain(add.s(1, 2), add.s(3), add.s(4)).delay()
    look.end(result)
    return [result.parent.get(), result.parent.parent.get(), result.parent.parent.parent]


@short
def a_chain_that_fails(look: Look) -> Any:
    result = chain(add.s(1, 2), fail.si("second"), noted.si(look.key)).on_error(errback.s(look.key)).delay()
    return [look.end(result.parent), look.notes(1), result.state]


@feature
def a_chain_whose_signature_has_options(look: Look) -> Any:
    result = chain(add.s(1, 2), tell.s().set(queue="first", priority=8)).delay()
    seen = result.get(timeout=look.patience)
    return [seen["args"], seen["place"]["routing_key"], seen["priority"], seen["is root"], seen["parent_id"]]


@feature
def a_chain_with_countdown(look: Look) -> Any:
    return look.end(chain(add.s(1, 2), add.s(3).set(countdown=0.2)).apply_async(countdown=0.2))


@feature
def a_chain_with_link(look: Look) -> Any:
    chain(add.s(1, 2), add.s(3)).apply_async(link=told.s(look.key))
    return look.notes(1)


@short
def a_group(look: Look) -> Any:
    result = group(add.s(number, number) for number in range(5)).delay()
    return [result.get(timeout=look.patience), result.successful(), result.completed_count()]


@feature
def a_group_of_groups(look: Look) -> Any:
    return group(group(add.s(1, 1), add.s(2, 2)), add.s(3, 3)).delay().get(timeout=look.patience)


@feature
def a_group_of_nothing(look: Look) -> Any:
    return group([]).delay().get(timeout=look.patience)


@feature
def a_group_with_partial_arguments(look: Look) -> Any:
    return group(add.s(1), add.s(2)).delay(10).get(timeout=look.patience)


@feature
def a_group_that_fails_in_part(look: Look) -> Any:
    result = group(add.s(1, 1), fail.s("one"), add.s(2, 2)).delay()
    values = result.get(timeout=look.patience, propagate=False)
    return [values, result.failed(), result.successful(), result.completed_count()]


@feature
def a_group_with_link(look: Look) -> Any:
    return raised(lambda: group(add.s(1, 1), add.s(2, 2)).apply_async(link=told.s(look.key)))


@feature
def a_group_with_link_error(look: Look) -> Any:
    return raised(lambda: group(add.s(1, 1), add.s(2, 2)).apply_async(link_error=errback.s(look.key)))


@feature
def a_group_and_its_ids(look: Look) -> Any:
    seen = group(tell.s(1), tell.s(2)).delay().get(timeout=look.patience)
    return [[each["group"], each["group_index"]] for each in seen]


@feature
def a_group_skewed(look: Look) -> Any:
    return (
        group(add.s(1, 1), add.s(2, 2)).skew(start=0.1, stop=0.3, step=0.1).delay().get(timeout=look.patience)
    )


@short
def a_chord(look: Look) -> Any:
    return look.end(chord((add.s(number, number) for number in range(5)), total.s()).delay())


@feature
def a_chord_by_pipe(look: Look) -> Any:
    return look.end((group(add.s(1, 1), add.s(2, 2)) | total.s() | add.s(100)).delay())


@feature
def a_chord_of_one(look: Look) -> Any:
    return look.end(chord([add.s(1, 1)])(total.s()))


@feature
def a_chord_of_nothing(look: Look) -> Any:
    return look.end(chord([], total.s()).delay())


@feature
def a_chord_with_an_immutable_body(look: Look) -> Any:
    return look.end(chord([add.s(1, 1), add.s(2, 2)], echo.si("body")).delay())


@short
def a_chord_whose_header_fails(look: Look) -> Any:
    body = total.s().on_error(errback.s(look.key))
    result = chord([add.s(1, 1), fail.s("header")], body).delay()
    state, value = look.end(result)
    return [state, value.partition("raised")[2], str(look.notes(1)).partition("raised")[2]]


@feature
def a_chord_whose_body_fails(look: Look) -> Any:
    result = chord([add.s(1, 1)], fail.si("body").on_error(errback.s(look.key))).delay()
    return [look.end(result), look.notes(1)]


@feature
def a_chord_within_a_chain(look: Look) -> Any:
    return look.end(chain(add.s(1, 1), group(add.s(1), add.s(2)), total.s(), add.s(1000)).delay())


@short
def chords_within_chords(look: Look) -> Any:
    inner = chord([add.s(1, 1), add.s(2, 2)], total.s())
    return look.end(chord([inner, add.s(3, 3), chord([add.s(4, 4)], total.s())], total.s()).delay())


@feature
def chords_within_chords_that_fail(look: Look) -> Any:
    """The outer one has no end in Celery; error callbacks of the inner one's body are called."""
    inner = chord([add.s(1, 1), fail.s("deep")], total.s().on_error(errback.s(look.key)))
    result = chord([inner, add.s(3, 3)], total.s()).delay()
    return [str(look.notes(1)).partition("(")[0], result.state]


@feature
def a_chain_in_the_header_of_a_chord(look: Look) -> Any:
    return look.end(chord([add.s(1, 1) | add.s(10), add.s(2, 2)], total.s()).delay())


@feature
def a_chain_as_the_body_of_a_chord(look: Look) -> Any:
    return look.end(chord([add.s(1, 1), add.s(2, 2)], total.s() | add.s(7)).delay())


@feature
def a_group_as_the_body_of_a_chord(look: Look) -> Any:
    result = chord([add.s(1, 1), add.s(2, 2)], group(total.s(), echo.s())).delay()
    return result.get(timeout=look.patience)


@feature
def a_chord_that_grows(look: Look) -> Any:
    return look.end(chord([growing.s(1), add.s(1, 1)], total.s()).delay())


@feature
def a_chord_with_link(look: Look) -> Any:
    chord([add.s(1, 1)], total.s()).apply_async(link=told.s(look.key))
    return look.notes(1)


@feature
def chunks(look: Look) -> Any:
    return add.chunks(zip(range(6), range(6), strict=True), 2).group().delay().get(timeout=look.patience)


@feature
def chunks_by_apply_async(look: Look) -> Any:
    return add.chunks([(1, 1), (2, 2), (3, 3)], 2).apply_async().get(timeout=look.patience)


@feature
def a_map(look: Look) -> Any:
    return look.end(total.map([[1, 2], [3, 4]]).delay())


@feature
def a_starmap(look: Look) -> Any:
    return look.end(add.starmap([(1, 2), (3, 4)]).delay())


@feature
def signatures_as_dictionaries(look: Look) -> Any:
    made = signature(dict(add.s(1, 2)), app=look.app)
    again = signature("look.add", args=(1,), kwargs={"right": 5}, app=look.app)
    return [made == add.s(1, 2), look.end(made.delay()), look.end(again.delay()), repr(add.s(1, 2))]


@feature
def partial_arguments(look: Look) -> Any:
    partial = tell.s(2, three=3)
    seen = partial.delay(1, four=4).get(timeout=look.patience)
    return [seen["args"], seen["kwargs"], look.end(tell.si(9).delay(1))[1]["args"]]


@feature
def clones_of_signatures(look: Look) -> Any:
    first = add.s(1)
    clone = first.clone(args=(5,), kwargs={}, priority=2)
    return [tuple(first.args), tuple(clone.args), clone.options.get("priority"), look.end(clone.delay())]


@feature
def links_of_a_signature(look: Look) -> Any:
    made = add.s(1, 1)
    made.link(told.s(look.key))
    made.link_error(errback.s(look.key))
    made.delay()
    return [look.notes(1), [each["task"] for each in made.flatten_links()]]


@feature
def a_signature_called_here(look: Look) -> Any:
    return [add.s(1, 2)(), look.end((add.s(1, 2) | add.s(3))()), chain(add.s(1, 2), add.s(3)).apply().get()]


@feature
def unchained_tasks(look: Look) -> Any:
    made = chain(add.s(1, 1), add.s(2))
    return [isinstance(made, canvas._chain), [each.task for each in made.unchain_tasks()]]


@short
def stamps(look: Look) -> Any:
    class Stamped(canvas.StampingVisitor):  # type: ignore[misc]
        def on_signature(self, _sig: Any, **_headers: Any) -> dict[str, Any]:
            return {"tenant": "acme", "stamped_headers": ["tenant"]}

    made = group(tell.s(1), tell.s(2)) | tell.s()
    made.stamp(Stamped())
    seen = made.delay().get(timeout=look.patience)
    return [[each["stamped_headers"], each["stamps"]] for each in (seen, *seen["args"][0])]


@feature
def stamps_by_name(look: Look) -> Any:
    made = tell.s(1)
    made.stamp(tenant="acme", append_stamps=True)
    seen = made.delay().get(timeout=look.patience)
    return [seen["stamped_headers"], seen["stamps"], seen["tenant"]]


@feature
def stamps_on_callbacks(look: Look) -> Any:
    made = add.s(1, 1)
    made.link(tell.s())
    made.stamp(tenant="acme")
    result = made.delay()
    look.end(result)
    child = look.until(lambda: result.children and result.children[0])
    return child.get(timeout=look.patience)["stamps"]


@short
def replacement_by_a_task(look: Look) -> Any:
    return look.end(replacing.delay("task", 5))


@feature
def replacement_by_a_chain(look: Look) -> Any:
    return look.end(replacing.delay("chord", 5))


@feature
def replacement_by_a_group(look: Look) -> Any:
    return replacing.delay("group", 5).get(timeout=look.patience)


@feature
def replacement_within_a_chain(look: Look) -> Any:
    return look.end((replacing.s("task", 1) | add.s(1000)).delay())


@feature
def replacement_within_a_chord(look: Look) -> Any:
    return look.end(chord([replacing.s("task", 1), replacing.s("group", 2)], echo.s()).delay())


@feature
def groups_upgrade_to_chords(look: Look) -> Any:
    return look.end((add.s(1, 1) | group(add.s(1), add.s(2)) | group(total.s(), echo.s()) | echo.s()).delay())


@feature
def results_of_a_frozen_canvas(look: Look) -> Any:
    made = add.s(1, 2)
    frozen = made.freeze()
    made.apply_async()
    return look.end(frozen)


@feature
def argument_of_a_callback_that_is_missing(look: Look) -> Any:
    return raised(lambda: chain(add.s(1, 2), add.s()).delay().get(timeout=look.patience))
