"""Which soft and hard limit a call has, after all who speak of them."""

import itertools
from typing import Any

import pytest

from seawall import Seawall
from seawall.worker.time_limits import NOTHING, Pair, attributes, limits_of, pair

DEFAULTS = (300.0, 310.0)


@pytest.mark.parametrize(
    ("layers", "limits"),
    [
        ([], DEFAULTS),
        ([NOTHING, NOTHING], DEFAULTS),
        ([(20, 60)], (20, 60)),
        ([(20, None)], (20, 30)),
        ([(None, 20)], (None, 20)),
        ([(None, 900)], (None, 900)),
        ([(20, None), (None, 60)], (20, 60)),
        ([(20, None), (None, 25)], (20, 25)),
        ([(20, None), (None, 20)], (None, 20)),
        ([(20, None), (None, 5)], (None, 5)),
        ([(None, 60), (20, None)], (20, 60)),
        ([(None, 20), (20, None)], (20, 20)),
        ([(None, 20), (60, None)], (60, 70)),
        ([(20, None), (60, None)], (60, 70)),
        ([(20, 60), NOTHING], (20, 60)),
        ([NOTHING, (20, 60)], (20, 60)),
        ([(20, 60), (10, 12)], (10, 12)),
        ([(20, None), (None, 5), (90, None)], (90, 100)),
        ([(20, None), (None, 60), (30, None)], (30, 60)),
        ([(0, None)], (0, 310)),
        ([(None, 0)], (None, 0)),
        ([(20, None), (None, 0)], (20, 0)),
        ([(None, 0), (20, None)], (20, 0)),
        ([(0, 0)], (0, 0)),
    ],
)
def test_the_last_word_counts_and_the_other_limit_never_contradicts_it(
    layers: list[Pair], limits: Pair
) -> None:
    assert pair(*layers) == limits


def test_what_is_said_last_holds_and_soft_never_comes_after_hard_unless_one_layer_says_so() -> None:
    values = (None, 0.0, 5.0, 20.0)
    pairs = [(soft, hard) for soft in values for hard in values]
    for layers in itertools.product(pairs, repeat=3):
        soft, hard = pair(*layers)
        said = [each for each in layers if each != NOTHING]
        if not said:
            continue
        assert said[-1][0] in (None, soft)
        assert said[-1][1] in (None, hard)
        assert hard is not None
        assert not (soft and hard) or soft <= hard or (soft, hard) in said


@pytest.mark.parametrize("finalized_first", [False, True])
def test_a_task_with_one_limit_keeps_it_when_its_application_is_finalized(finalized_first: bool) -> None:
    """Celery binds what was declared before once more, and fills what is unset from the defaults."""
    app = Seawall("limits", set_as_current=False)
    if finalized_first:
        app.finalize()

    @app.task(name="limits.hard", time_limit=1.0, shared=False)  # type: ignore[untyped-decorator, call-overload]
    def hard() -> None: ...

    app.finalize()
    assert attributes(app.tasks["limits.hard"]) == (None, 1.0)
    assert limits_of(app.tasks["limits.hard"], NOTHING) == (None, 1.0)


@pytest.mark.parametrize(
    ("call", "changed", "limits"),
    [
        (None, None, (45.0, 60.0)),
        ([None, None], None, (45.0, 60.0)),
        ([10, 5], None, (5, 10)),
        ([None, 5], None, (5, 60.0)),
        ([10, 5], (1.0, 2.0), (1.0, 2.0)),
    ],
)
def test_a_task_reads_the_limits_it_runs_under_and_its_retries_carry_those_of_the_call(
    call: list[float | None] | None, changed: Pair | None, limits: Pair
) -> None:
    app = Seawall("limits", set_as_current=False)

    @app.task(name="limits.read", bind=True, soft_time_limit=45.0, time_limit=60.0, shared=False)  # type: ignore[untyped-decorator, call-overload]
    def read(self: Any) -> Pair:
        return attributes(self.request)

    task: Any = app.tasks["limits.read"]
    if changed is not None:
        task.soft_time_limit, task.time_limit = changed
    task.push_request(timelimit=call, called_directly=False, delivery_info={}, id="1")
    try:
        assert task() == limits
        options = task.signature_from_request(task.request).options
        assert (options.get("time_limit"), options.get("soft_time_limit")) == tuple(call or NOTHING)
    finally:
        task.pop_request()
