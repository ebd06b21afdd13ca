"""Text of strangers, however it is made up, costs no more than in proportion to its size.

What patterns look at is counted, by a matcher of our own that takes the same steps as `re`, so no test
measures time (`tests/benchmarks/texts.py` does). A text that holds a part twice as often may cost twice as
much.
"""

import io
import itertools
import logging
import math
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import pytest
from celery.signals import before_task_publish
from celery.utils.log import LoggingProxy

from seawall import Seawall, failure, logs, redaction
from seawall.redaction import (
    LONGEST,
    commands,
    forms,
    messages,
    names,
    protocols,
    redact_text,
    sentences,
    texts,
    urls,
    values,
)
from seawall.redaction.rules import Rule
from support.adversarial import PIECES
from support.adversarial import texts as adversarial
from support.patterns import patterns
from support.regex_steps import Steps, near_misses

STEEPEST: Final = 1.1
"""Slope of the logarithms of cost and size: 1 is linear, 2 is quadratic."""
TIMES: Final = (8, 16, 32)
"""How often a part is repeated: more than `regex_steps.SMALL`, from where on a bounded repetition is full."""


FEW: Final = (4, 6, 8)
"""Two steps of one length, for a first look."""


def bends(count: Callable[[int], int]) -> bool:
    """Whether the second of two equal steps costs more: what does not bend has no slope above 1."""
    first, second, third = map(count, FEW)
    return third - second > second - first


def slope(count: Callable[[int], int], factor: int = 1) -> float:
    """How fast what `count` counts grows with the times that a part is repeated."""
    costs = [count(times * factor) for times in TIMES]
    first, second = (max(1, after - before) for before, after in itertools.pairwise(costs))
    return math.log2(second / first)


PATTERNS = {name: (pattern, way) for name, pattern, way in patterns()}


def steepest(pattern: re.Pattern[Any], way: str, *, all_of_them: bool = False) -> tuple[float, str]:
    """The slope of the text that costs most, of those that bend or of all of them."""
    steps = Steps(pattern)

    def cost(make: Callable[[int], str], times: int) -> int:
        return steps.of(make(times), way)

    costs = ((partial(cost, make), make(8)) for make in near_misses(pattern))
    found = ((slope(each), text) for each, text in costs if all_of_them or bends(each))
    return max(found, default=(1.0, ""))


@pytest.mark.parametrize("all_of_them", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", PATTERNS)
def test_no_pattern_takes_more_than_linear_time(name: str, all_of_them: bool) -> None:
    found, text = steepest(*PATTERNS[name], all_of_them=all_of_them)
    assert found <= STEEPEST, f"slope {found:.2f} for {text!r}"


@pytest.mark.parametrize(
    "quadratic",
    [
        r"\w+://", r"\s+$", r"(?:a|b)*c", r"a{3,}b", r"password=(\S*);",
        r"(?=.*b)a", r"(?:[a-z]{1,64}\.)+com", r"(\w+) \1!", r"(?i:TOKEN\s*)+=",
    ],
)  # fmt: skip
def test_a_quadratic_pattern_would_be_found(quadratic: str) -> None:
    assert steepest(re.compile(quadratic), "finditer")[0] > 1.5


def test_the_matcher_that_counts_finds_what_re_finds() -> None:
    for name, (pattern, _) in PATTERNS.items():
        steps = Steps(pattern, small=None)
        for make in itertools.islice(near_misses(pattern), 0, 40, 3):
            text: Any = make(2)
            if isinstance(pattern.pattern, bytes):
                text = text.encode("latin-1", "replace")
            assert steps.spans(make(2)) == [found.span() for found in pattern.finditer(text)], (name, text)


class Counting:
    """Stands for a pattern: gives its answers, and counts what it looks at for them."""

    def __init__(self, pattern: re.Pattern[str]) -> None:
        self._pattern, self._steps = pattern, Steps(pattern, small=NAME)

    def search(self, text: str, start: int = 0, end: int | None = None) -> re.Match[str] | None:
        text = text[:end]
        found = self._pattern.search(text, start)
        self._look(text, start, found)
        return found

    def finditer(self, text: str, start: int = 0) -> Iterator[re.Match[str]]:
        for found in self._pattern.finditer(text, start):
            self._look(text, start, found)
            yield found
            start = found.end()
        self._look(text, start, None)

    def _look(self, text: str, start: int, found: re.Match[str] | None) -> None:
        COUNTED[0] -= self._steps.count
        for place in range(start, (found.start() if found else len(text)) + 1):
            self._steps.match(text, place)
        COUNTED[0] += self._steps.count

    def __getattr__(self, way: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            text = args[1] if way == "sub" else args[0]
            COUNTED[0] -= self._steps.count
            if way in {"match", "fullmatch"}:
                self._steps.match(text, *args[1:], whole=way == "fullmatch")
            else:
                self._steps.spans(text)
            COUNTED[0] += self._steps.count
            return getattr(self._pattern, way)(*args)

        return call


NAME: Final = 16
"""Characters of the longest name among the pieces."""

COUNTED = [0]
"""Steps of all patterns of the functions below."""


def counting(value: Any) -> Any:
    """`value`, with a counter for each pattern in it."""
    if isinstance(value, re.Pattern):
        return Counting(value)
    if isinstance(value, Rule):
        return value._replace(
            **{name: counting(getattr(value, name)) for name in ("pattern", "sign", "beside")}
        )
    if isinstance(value, tuple | list):
        return type(value)(map(counting, value))
    return {key: Counting(each) for key, each in value.items()} if isinstance(value, dict) else value


def has_rules(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Rule)


FUNCTIONS: Final[dict[str, Callable[[str], object]]] = {
    "redact_text": lambda text: redact_text(text, ("4711-0815",)),
    "hide_passwords": redaction.hide_passwords,
    "redact": lambda text: redaction.redact({"a": [text, text.encode(errors="replace")]}),
    "redact_arguments": lambda text: redaction.redact_arguments(
        (text,), {"a": text}, bound=redaction.ARGUMENTS
    ),
    "redact_exception": lambda text: redaction.redact_exception(OSError(2, text, text)),
    "normalised": lambda text: failure.normalised(ValueError(text)),
}


@pytest.mark.parametrize(
    ("name", "every"),
    [("redact_text", 5), *(pytest.param(each, 1, marks=pytest.mark.slow) for each in FUNCTIONS)],
)
def test_a_function_of_texts_takes_linear_time(
    name: str, every: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (commands, forms, messages, names, protocols, sentences, texts, urls, values, failure):
        for each, value in list(vars(module).items()):
            if isinstance(value, re.Pattern) or each in {"_QUOTES", "_LINE", "_SIGNS"} or has_rules(value):
                monkeypatch.setattr(module, each, counting(value))
    monkeypatch.setattr(
        texts, "_deeper", lambda *args, really=texts._deeper, **kw: Counting(really(*args, **kw))
    )

    def cost(first: str, piece: str, last: str, times: int) -> int:
        failure._without_variables.cache_clear()
        names._judge.cache_clear()
        COUNTED[0] = 0
        FUNCTIONS[name](first + piece * times + last)
        return COUNTED[0]

    for piece in PIECES[::every]:
        long = piece * max(1, 8 // len(piece))
        for first, last in (("", ""), ("token='", " http://x")):
            found = slope(partial(cost, first, long, last), factor=2)
            assert found <= STEEPEST, f"slope {found:.2f} for {first + piece!r}"


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many characters were searched, each time."""
    found: list[int] = []
    really = forms.without_forms

    def looked_at(text: str, seen: str) -> str:
        found.append(len(text))
        return really(text, seen)

    monkeypatch.setattr(texts, "without_forms", looked_at)
    return found


def test_no_more_of_a_text_is_searched_than_its_ends(searched: list[int]) -> None:
    secret = "Xk9vQ2mZ7rT4"
    text = f"password={secret}\n{'://' * 3_500_000}\ntoken={secret}"
    shown = redact_text(text)
    assert shown.startswith("password=***\n")
    assert shown.endswith("\ntoken=***")
    assert f"({len(text)} characters)" in shown
    assert sum(searched) <= LONGEST + 2 * texts.MARGIN


@pytest.fixture
def app() -> Iterator[Seawall]:
    made = Seawall("texts", broker="memory://", backend="cache+memory://", set_as_current=False)
    yield made
    made.close()


LONG: Final = "password=" + "y" * 5_000_000 + " http://x"


def test_of_an_argument_of_megabytes_a_kilobyte_is_shown(app: Seawall, searched: list[int]) -> None:
    def takes(text: str) -> None:
        """Never run."""

    sent: list[dict[str, Any]] = []

    def heard(headers: dict[str, Any], **_: object) -> None:
        sent.append(headers)

    task = app.task(name="shop.takes", shared=False)(takes)
    before_task_publish.connect(heard, weak=False)
    try:
        task.delay(LONG)
    finally:
        before_task_publish.disconnect(heard)
    assert (
        len(sent[0]["argsrepr"]) <= 1100
    )  # 1 KiB, as docs/failures.md has it, and what says that more follows
    assert 0 < sum(searched) <= 2 * redaction.ARGUMENTS.characters


def test_of_a_failure_of_megabytes_a_bounded_part_is_stored(app: Seawall, searched: list[int]) -> None:
    exc = ValueError(LONG * 6)
    backend: Any = app.backend
    backend.mark_as_failure("id", exc, traceback=f"Traceback\n{exc!r}")
    stored = backend.get(backend.get_key_for_task("id"))
    assert 0 < len(stored) < 200_000
    assert 0 < sum(searched) <= 4 * LONGEST


def test_of_lines_of_megabytes_that_a_task_prints_a_bounded_part_is_written(searched: list[int]) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.formatter_for(handler))
    logger = logging.getLogger("tests.prints")
    logger.propagate, logger.handlers = False, [handler]
    LoggingProxy(logger).write("\n".join([LONG] * 20))
    assert 0 < len(stream.getvalue()) < 20 * 2 * redaction.LINE
    assert 0 < sum(searched) <= 20 * 2 * redaction.LINE


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_redacting_ten_megabytes_ends() -> None:
    for text in adversarial(10_000_000):
        redact_text(text, ("4711-0815",))
