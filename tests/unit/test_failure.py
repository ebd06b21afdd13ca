"""Fingerprints, users' rules, the hints of the failed side, and redaction: all pure."""

import io
import logging
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, NamedTuple, Self

import pytest
from billiard.exceptions import SoftTimeLimitExceeded, TimeLimitExceeded
from pydantic import BaseModel

import seawall.classification as rules
from seawall import Category, ConfigError, Failure, Retry, Severity, classify, logs, register_failure
from seawall.records.occurrences import reason
from seawall.redaction import (
    RedactingFilter,
    redact,
    redact_arguments,
    redact_exception,
    redact_text,
    secret_values,
)
from seawall.retries import RetryBudget, retry_after
from seawall.retries.budget import ALWAYS


class GatewayDown(Exception): ...  # noqa: N818


def raised(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except Exception as exc:  # noqa: BLE001 - whatever it is
        return exc
    raise AssertionError


def lookup(key: object, times: int = 0) -> None:
    if times:
        lookup(key, times - 1)
    raise KeyError(f"order {key} of host db{key}.example.org at /var/lib/{key} is 0x7f{key}ab")


@pytest.fixture(autouse=True)
def _own_rules() -> Iterator[None]:
    before = dict(rules._own)
    yield
    rules._own.clear()
    rules._own.update(before)
    rules._known.clear()


def test_a_fingerprint_ignores_lines_numbers_hosts_paths_and_recursion() -> None:
    one = raised(lambda: lookup(12))
    other = raised(
        lambda: lookup(987654, times=3),
    )
    assert classify(one).fingerprint == classify(other).fingerprint


def test_a_fingerprint_tells_types_functions_tasks_and_words_apart() -> None:
    def elsewhere() -> None:
        raise KeyError("order 1")

    found = {
        classify(raised(lambda: lookup(1))).fingerprint,
        classify(raised(elsewhere)).fingerprint,
        classify(raised(lambda: int("x"))).fingerprint,
        classify(ValueError("order")).fingerprint,
        classify(ValueError("customer")).fingerprint,
        classify(ValueError("customer"), task="shop.charge").fingerprint,
    }
    assert len(found) == 6


def test_a_rule_of_the_application_holds_for_subclasses_and_wins() -> None:
    class Closed(GatewayDown): ...

    assert classify(Closed()).category is Category.INTERNAL
    register_failure(GatewayDown, category=Category.DEPENDENCY, retryable=True)
    failure = classify(Closed())
    assert failure == Failure(
        Category.DEPENDENCY, Severity.WARNING, retryable=True, fingerprint=failure.fingerprint
    )
    register_failure(ConnectionError, category=Category.VALIDATION, retryable=False)
    assert not classify(ConnectionResetError()).retryable


def test_a_rule_for_no_exception_is_refused() -> None:
    with pytest.raises(ConfigError, match="kind='GatewayDown' is no exception type"):
        register_failure("GatewayDown", category=Category.NETWORK, retryable=True)  # type: ignore[arg-type]


def test_a_broken_exception_is_classified_all_the_same() -> None:
    class Broken(Exception):  # noqa: N818
        def __str__(self) -> str:
            raise RuntimeError

        @property
        def response(self) -> Any:
            raise RuntimeError

    looped = ValueError("a")
    looped.__cause__ = KeyError("b")
    looped.__cause__.__cause__ = looped
    for exc in (Broken(), looped):
        assert classify(exc).category is Category.INTERNAL


def test_classifying_imports_no_library() -> None:
    code = (
        "import sys, seawall; seawall.classify(OSError(1)); "
        "print({'psycopg', 'redis', 'celery'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


class Answered(Exception):  # noqa: N818
    def __init__(self, **headers: str) -> None:
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


NOW = datetime(2030, 1, 1, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("7", 7.0),
        ("Tue, 01 Jan 2030 00:02:00 GMT", 120.0),
        ("Mon, 31 Dec 2029 00:00:00 GMT", 0.0),
        ("soon", None),
        ("inf", None),
        ("-3", 0.0),
    ],
)
def test_the_header_is_read_in_seconds_and_as_a_date(said: str, seconds: float | None) -> None:
    assert retry_after(Answered(Retry_After=said), now=NOW) == seconds


def test_an_attribute_or_a_cause_may_say_when_to_come_back() -> None:
    outer, inner = ValueError("no"), Answered()
    inner.retry_after = 2.5  # type: ignore[attr-defined]
    outer.__cause__ = inner
    assert retry_after(outer) == 2.5
    assert retry_after(ValueError("no")) is None


def test_without_redis_a_process_keeps_to_the_share_by_itself_and_forgets_after_a_minute() -> None:
    now = 1000.0
    budget = RetryBudget(lambda: None, clock=lambda: now)
    for _ in range(100):
        budget.first_attempt("t")
    assert sum(budget.take("t", 0.2) for _ in range(100)) == ALWAYS + 20
    assert budget.take("another", 0.2)
    now += 70
    assert sum(budget.take("t", 0.2) for _ in range(100)) == ALWAYS


def test_retries_may_differ_by_category() -> None:
    patient = Retry(max_attempts=9)
    retry = Retry(per_category={Category.DATABASE: patient})
    assert (retry.of(Category.DATABASE), retry.of(Category.NETWORK), retry.most_attempts) == (
        patient,
        retry,
        9,
    )
    with pytest.raises(ConfigError, match="per_category"):
        Retry(per_category={"database": patient})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=r"retry\.budget=-1"):
        Retry(budget=-1)


SECRET = "hunter2secret"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://shop:{SECRET}@db/x failed",
        f"cannot reach redis://:{SECRET}@cache:6379/0, retrying",
        f"Authorization: Bearer {SECRET}",
        f"{{'password': '{SECRET}', 'user': 'ann'}}",
        f"POST /pay?api_key={SECRET}&order=1",
        f'{{"db_password": "{SECRET}"}}',
        f"token={SECRET}",
    ],
)
def test_secrets_are_hidden_in_text(text: str) -> None:
    shown = redact_text(text)
    assert SECRET not in shown
    assert "***" in shown
    assert redact_text(shown) == shown


@pytest.mark.parametrize(
    "text", ["the tokenizer: failed", "passed 3 of 4", "http://host/path?x=1", "monkey: 5"]
)
def test_text_without_secrets_stays_as_it_is(text: str) -> None:
    assert redact_text(text) == text


def test_arguments_are_hidden_by_name_at_any_depth_and_by_policy() -> None:
    def charge(order: int, api_token: str, card: str) -> None: ...

    shown = redact_arguments(
        (1, SECRET, SECRET),
        {"headers": [{"X-Auth-Token": SECRET}]},
        function=charge,
        names=frozenset({"card"}),
    )
    assert shown == ((1, "***", "***"), {"headers": [{"X-Auth-Token": "***"}]})
    value = {"dbPassword": SECRET}
    assert redact(value) == {"dbPassword": "***"}
    assert value == {"dbPassword": SECRET}


def test_a_line_that_cannot_be_formatted_is_left_to_its_handler() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "%d of %d", ("one",), None)
    assert RedactingFilter().filter(record)
    assert record.args == ("one",)


class ReadsItselfFormatter(logging.Formatter):
    """As those that write JSON: it prints exceptions and fields by itself."""

    def format(self, record: logging.LogRecord) -> str:
        trace = "".join(traceback.format_exception(record.exc_info[1])) if record.exc_info else ""
        return f"{record.getMessage()} {getattr(record, 'headers', '')} {trace}"


class Attempt(NamedTuple):
    """A task's, as far as lines know it."""

    secrets: tuple[str, ...]
    fields: Mapping[str, object] = MappingProxyType({})
    began: float | None = None


def charge(card: str) -> None:
    raise ValueError(f"no card {card}") from KeyError(f"token={SECRET}")


@pytest.mark.parametrize("formatter", [ReadsItselfFormatter(), logging.Formatter("%(message)s %(headers)s")])
def test_a_line_of_a_handler_without_our_formatter_shows_no_secret(formatter: logging.Formatter) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(formatter)
    handler.addFilter(RedactingFilter())
    logger = logging.getLogger("seawall.tests.filtered")
    logger.handlers, logger.propagate = [handler], False
    token = logs.scope.set(Attempt(("winterjoy",)))
    try:
        fields = {"headers": {"Authorization": f"Bearer {SECRET}"}}
        logger.warning("used winterjoy", extra=fields)
        logger.warning("%(password)s of %(user)s", {"password": SECRET, "user": "ann"}, extra=fields)
        try:
            charge("winterjoy")
        except ValueError:
            logger.exception("failed", extra=fields)
    finally:
        logs.scope.reset(token)
    said = written.getvalue()
    assert SECRET not in said
    assert "winterjoy" not in said.replace('charge("winterjoy")', "")  # a line of code is shown as it is
    assert "of ann" in said
    assert "ValueError: no card ***" in said
    assert "KeyError: 'token=***'" in said


def test_a_large_group_is_recognised_by_its_first_exceptions_and_judged_by_all() -> None:
    def group(last: Exception) -> ExceptionGroup[Exception]:
        return ExceptionGroup("batch", [last, *(ConnectionError(f"host {n} refused") for n in range(2000))])

    passing, lasting = classify(group(ConnectionError("no 1 refused"))), classify(group(KeyError("id")))
    assert passing.retryable
    assert not lasting.retryable
    assert passing.fingerprint == classify(group(ConnectionError("no 2 refused"))).fingerprint


def raised_again(group: ExceptionGroup[Exception], *, cause: bool) -> None:
    """As by who handles each exception of a group, and gives up."""
    try:
        raise group
    except ExceptionGroup as caught:
        for each in caught.exceptions:
            with suppress(Exception):
                if cause:
                    raise each from caught
                raise each  # noqa: B904 - as people write it


@pytest.mark.parametrize("cause", [False, True])
def test_a_group_whose_exceptions_were_raised_from_it_is_judged_by_each_once(cause: bool) -> None:
    """Each leads to all others."""
    passing = ExceptionGroup("all", [ConnectionError(str(number)) for number in range(300)])
    mixed = ExceptionGroup("all", [RuntimeError("what it is"), *(ConnectionError("no") for _ in range(300))])
    raised_again(passing, cause=cause)
    raised_again(mixed, cause=cause)
    assert classify(passing).retryable
    assert classify(mixed).category is Category.INTERNAL
    assert not classify(mixed).retryable


def test_what_several_of_a_group_were_raised_from_counts_for_each() -> None:
    def of(cause: Exception) -> ExceptionGroup[Exception]:
        each = [RuntimeError("one"), RuntimeError("other")]
        for one in each:
            one.__cause__ = cause
        return ExceptionGroup("all", each)

    assert classify(of(ConnectionError("away"))).retryable
    assert not classify(of(KeyError("id"))).retryable


class Endless(ExceptionGroup[Exception]):
    """Holds groups of its own kind, however often one looks."""

    @property
    def exceptions(self) -> Any:
        return (Endless("more", [ValueError()]), Endless("more", [ValueError()]))


def test_a_group_without_end_is_judged() -> None:
    assert classify(Endless("more", [ValueError()])).category is Category.INTERNAL


def test_the_secret_arguments_of_a_call_are_hidden_wherever_they_turn_up() -> None:
    def charge(card: str, order: dict[str, str], note: str) -> None: ...

    values = secret_values(
        ("4711-0815", {"password": "abcd", "id": "17"}, "card 4711"),
        {"token": "4711-0815-long", "pin": "1"},
        function=charge,
        names=frozenset({"card", "pin"}),
    )
    assert values == ("4711-0815-long", "4711-0815", "abcd")
    assert (
        redact_text("refused 4711-0815-long for abcd, 17, card 4711", values)
        == "refused *** for ***, 17, card 4711"
    )


def test_a_redacted_exception_keeps_its_class_and_the_original_its_words() -> None:
    exc = ThrottledError("redis://:word@cache", {"token": "abc"})
    shown = redact_exception(exc)
    assert type(shown) is ThrottledError
    assert shown.args == ("redis://:***@cache", {"token": "***"})
    assert exc.args[0] == "redis://:word@cache"


@dataclass
class LoginError(Exception):
    user: str
    password: str


class NamedError(Exception):
    """Keeps what it is given under names."""

    def __init__(self, user: str, password: str) -> None:
        super().__init__(user, password)
        self.password = password


class SlottedError(Exception):
    __slots__ = ("msg",)

    def __init__(self, msg: str) -> None:
        super().__init__(msg)
        self.msg = msg

    def __str__(self) -> str:
        return self.msg


class CopiesItselfError(Exception):
    def __copy__(self) -> "CopiesItselfError":
        return self


class ManyArguments(ExceptionGroup[Exception]):
    def __new__(cls, message: str, exceptions: list[Exception], more: int) -> Self:
        made = super().__new__(cls, message, exceptions)
        made.more = more  # type: ignore[attr-defined]
        return made


def not_of(password: str) -> BaseException:
    """Whose words are not in what can be set."""

    class Model(BaseModel):
        password: int

    return raised(lambda: Model(password=password))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: LoginError("ann", SECRET), LoginError),
        (lambda: NamedError("ann", SECRET), NamedError),
        (lambda: SlottedError(f"password={SECRET}"), SlottedError),
        (lambda: CopiesItselfError(f"password={SECRET}"), CopiesItselfError),
        (lambda: ValueError(LoginError("ann", SECRET)), ValueError),
        (lambda: ManyArguments(f"password={SECRET}", [KeyError(f"token={SECRET}")], 1), ExceptionGroup),
        (lambda: not_of(SECRET), Exception),
    ],
)
def test_nothing_that_a_redacted_exception_prints_is_a_secret(
    make: Callable[[], BaseException], kind: type[BaseException]
) -> None:
    exc = make()
    before = f"{exc} {exc!r}"
    shown = redact_exception(exc)
    assert type(shown) is kind
    assert SECRET not in f"{shown} {shown!r} {vars(shown)}"
    assert f"{exc} {exc!r}" == before
    assert "***" in f"{shown} {shown!r}"


def test_an_exception_that_holds_itself_is_shown() -> None:
    exc = ValueError(f"password={SECRET}")
    exc.one = exc.other = exc  # type: ignore[attr-defined]
    assert repr(redact_exception(exc)) == "ValueError('password=***')"


def test_an_exception_that_ends_its_reader_is_shown_by_its_name() -> None:
    class ExitsError(Exception):
        def __reduce_ex__(self, _: object) -> Any:
            raise SystemExit

        def __str__(self) -> str:
            raise SystemExit

    assert repr(redact_exception(ExitsError())) == "Exception('ExitsError')"


class ThrottledError(Exception):
    """Any class of an application."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SoftTimeLimitExceeded(300.0), "timeout: soft time limit of 300 s exceeded"),
        (SoftTimeLimitExceeded(), "timeout: soft time limit exceeded"),
        (TimeLimitExceeded(310.5), "timeout: hard time limit of 310.5 s exceeded"),
        (ValueError("no"), "internal: ValueError: no"),
    ],
)
def test_a_limit_of_time_is_said_in_words(error: Exception, said: str) -> None:
    assert reason(error, classify(error)) == said
