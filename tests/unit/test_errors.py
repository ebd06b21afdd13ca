"""Every error of ours is what it was when it has been stored and read again."""

import copy
import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery

from seawall import Seawall, errors
from seawall.errors import AlreadySubmitted, BreakerOpen, LimitReached, Refused, SeawallError

REFUSALS = [each("x is open", name="x", retry_after=1.5) for each in (Refused, BreakerOpen, LimitReached)]
TAKEN = [AlreadySubmitted("order-7", "id-7"), AlreadySubmitted("order-7", None)]
EVERY: list[SeawallError] = [
    *REFUSALS,
    *TAKEN,
    *(
        kind("something is wrong: mend it")
        for kind in vars(errors).values()
        if isinstance(kind, type)
        and issubclass(kind, SeawallError)
        and kind not in {Refused, BreakerOpen, LimitReached, AlreadySubmitted}
    ),
]


@pytest.fixture(params=["ours", "celery"])
def app(request: pytest.FixtureRequest) -> Iterator[Celery]:
    kind = {"ours": Seawall, "celery": Celery}[request.param]
    made = kind("errors", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield made
    made.close()


@pytest.mark.parametrize("error", EVERY, ids=lambda each: type(each).__name__)
def test_an_error_of_a_task_reaches_its_caller_as_what_it_was(error: Any, app: Celery) -> None:
    """Also a caller whose application is plain Celery."""
    backend: Any = app.backend
    stored = json.loads(json.dumps(backend.prepare_exception(error, "json")))
    for got in (
        backend.exception_to_python(stored),
        backend.exception_to_python(backend.prepare_exception(error, "pickle")),
        pickle.loads(pickle.dumps(error)),  # noqa: S301 - our own bytes
        copy.copy(error),
    ):
        assert type(got).__module__ == "seawall.errors"
        assert type(got).__name__ == type(error).__name__
        assert str(got) == str(error)
        for name in ("name", "retry_after", "key", "task_id"):
            assert getattr(got, name, None) == getattr(error, name, None)


@pytest.mark.parametrize("error", EVERY, ids=lambda each: type(each).__name__)
def test_an_error_can_be_made_of_nothing(error: SeawallError) -> None:
    assert isinstance(str(type(error)()), str)


@pytest.mark.parametrize("error", REFUSALS, ids=lambda each: type(each).__name__)
def test_a_refusal_says_its_message_and_no_more(error: Refused) -> None:
    assert str(error) == "x is open"
    assert (error.name, error.retry_after) == ("x", 1.5)
