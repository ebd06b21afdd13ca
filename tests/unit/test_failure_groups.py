"""Which failures are the same problem; and exceptions that do anything when they are looked at."""

import gc
import itertools
import json
import os
import random
import sys
import weakref
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seawall import Failure, Seawall, classify
from support import failure_pairs, failure_pairs_held_back
from support.hostile import made

SAME = [
    ("Can't find user 'alice'", "Can't find user 'bob'"),
    ("can't find user 'o'neill' in shop", "can't find user 'bob' in shop"),
    ("user's order \"1\" isn't paid", "user's order \"22\" isn't paid"),
    (f"bad payload '{'a b ' * 90}'", "bad payload 'x'"),
    (f"bad payload '{'word ' * 3000}'", "bad payload 'x'"),
    (f'bad payload {{"a": "{"x y " * 200}"}}', 'bad payload {"a": "x"}'),
    (f"rows {list(range(2000))}", "rows [1]"),
    ("missing ids [1, 2, 3]", "missing ids [4]"),
    ("missing ids ['a', 'b']", "missing ids ['c']"),
    ("rows (1, 2), (3, 4), (5, 6)", "rows (1, 2)"),
    ("got {'a': 1, 'b': [2, 3]}", "got {'c': 4}"),
    ("order 17 of host db1.example.org", "order 4711 of host db2.example.net"),
    ("HTTP 404 for /a/b", "HTTP 404 for /c"),
    ("https://a.example/1 refused", "https://b.example/2?x=1 refused"),
    ("the query returned 500 rows", "the query returned 417 rows"),
    ("promo code 4711 is used up", "promo code 4812 is used up"),
    ("404 rows were left out", "512 rows were left out"),
    ("row 17 is in error", "row 4711 is in error"),
    ('{"id": 404} is unknown', '{"id": 500} is unknown'),
    ("user None not found", "user 17 not found"),
    ("order id=None is unknown", "order id=4711 is unknown"),
    ("user 'None' not found", "user 'bob' not found"),
    ("expected a row for null", "expected a row for 17"),
    ("timeout=None", "timeout=5.0"),
    ("got NaN for price", "got 3.5 for price"),
    ("value: None", "value: 17"),
    ("rm: cannot remove `/tmp/a': No such file", "rm: cannot remove `/tmp/b/c d': No such file"),
    ("cannot stat `name': No such file or directory", "cannot stat `other name': No such file or directory"),
    ("unrecognized option `--foo' in 'a'", "unrecognized option `--bar' in 'b'"),
    (
        "make: *** No rule to make target `foo', needed by `bar'.  Stop.",
        "make: *** No rule to make target `x y', needed by `z'.  Stop.",
    ),
    ("cannot stat \u2018a b\u2019: No such file", "cannot stat \u2018c\u2019: No such file"),
    ("connect to 2001:db8::1 failed", "connect to fe80::1 failed"),
    ("connect to ::1 port 5432 failed", "connect to 10.0.0.1 port 5433 failed"),
    ("connect to [2001:db8::1]:5432 failed", "connect to [fe80::1%eth0]:5433 failed"),
    ("connect to fe80::1ff:fe23:4567:890a%eth2 failed", "connect to 2001:db8:85a3::8a2e:370:7334 failed"),
    (
        'connection to server at "::1", port 5432 failed',
        'connection to server at "10.0.0.1", port 5432 failed',
    ),
    ("peer ::ffff:10.0.0.1 left", "peer ::ffff:10.0.0.2 left"),
    ("peer 2001:0db8:85a3:0000:0000:8a2e:0370:7334 left", "peer 2001:db8::abcd left"),
    ("order (404) is unknown", "order (500) is unknown"),
    ("user (17) not found", "user (4711) not found"),
    ("id=404 is unknown", "id=500 is unknown"),
    ("took: 404 ms", "took: 500 ms"),
    ("retries left: 404", "retries left: 500"),
    ("row: 404", "row: 500"),
    ("count=404", "count=500"),
    ("port=404", "port=500"),
    ("line 404", "line 500"),
    ("offset: 404", "offset: 500"),
    ("timed out (500 ms)", "timed out (404 ms)"),
    ("too many rows (404)", "too many rows (500)"),
    ("too many errors (404)", "too many errors (500)"),
    ("lock for order 17 (pid 404)", "lock for order 17 (pid 500)"),
    ("queue is full (404)", "queue is full (500)"),
    ("product code: 4711", "product code: 4812"),
    ("zip code: 23505", "zip code: 40001"),
    ("zip code=23505", "zip code=40001"),
    ("postal code 10115", "postal code 80331"),
    ("user (None) not found", "user (17) not found"),
    ("error for order (404)", "error for order (500)"),
    ("failed for user (404)", "failed for user (500)"),
    ("Task failed after (404) attempts", "Task failed after (500) attempts"),
    ("user `o'neill' is locked", "user `bob' is locked"),
    ("user `o'neill` is locked", "user `bob` is locked"),
    ("user `a 'b' c` is locked", "user `bob` is locked"),
    ("Benutzer „a b“ fehlt", "Benutzer „c“ fehlt"),
    ("device aa:bb:cc:dd:ee:ff left", "device 11:22:33:44:55:66 left"),
    ("listening on [::]:5432", "listening on [::1]:5433"),
    ("failed: 404 of 500 rows", "failed: 417 of 500 rows"),
    ("request failed (500 ms)", "request failed (404 ms)"),
    ("error: 17 rows left", "error: 18 rows left"),
    ("rejected 404 rows", "rejected 500 rows"),
    ("ids [None, 3]", "ids [1]"),
    ("verification code: 482913", "verification code: 111222"),
    ("code: 482913", "code: 111222"),
]
DIFFERENT = [
    ("HTTP 404", "HTTP 500"),
    ("HTTP/1.1 404 Not Found", "HTTP/1.1 503 Not Found"),
    ("status code 404", "status code 500"),
    ("status=404 for 17", "status=429 for 17"),
    ("[Errno 2] x", "[Errno 13] x"),
    ("HTTP Error 404: ", "HTTP Error 410: "),
    ("404 Client Error:  for url: https://a/", "410 Client Error:  for url: https://a/"),
    ("<Response [404]>", "<Response [500]>"),
    ("the gateway returned 500", "the gateway returned 404"),
    ("the gateway answered with 500 for 17", "the gateway answered with 404 for 17"),
    ("unexpected response: 429", "unexpected response: 503"),
    ("failed with code 404", "failed with code 500"),
    ("statusCode: 404", "statusCode: 500"),
    ('{"status": 404}', '{"status": 500}'),
    ("{'status_code': 404, 'id': 1}", "{'status_code': 500, 'id': 2}"),
    ("MySQL error 1045 (28000)", "MySQL error 2003 (HY000)"),
    ("ORA-00001: x", "ORA-00942: x"),
    ("killed by signal 9", "killed by signal 11"),
    ("rc=1", "rc=127"),
    ("returncode: 1", "returncode: 2"),
    ("exit code 1", "exit code 137"),
    ("Can't find user 'alice'", "Can't find order 'alice'"),
    ("Can't find user 'alice' in a", "Can't find user 'alice' in b"),
    ("it isn't here and it isn't there", "it isn't here and it wasn't there"),
    ("API error (404)", "API error (500)"),
    ("API error (404): order 1", "API error (500): order 1"),
    ("API error: 404", "API error: 500"),
    ("API error 404", "API error 500"),
    ("API error=404", "API error=500"),
    ("api error [404]", "api error [500]"),
    ("status=404", "status=500"),
    ("status = 404", "status = 500"),
    ("status: 404", "status: 500"),
    ("status (404)", "status (500)"),
    ("code: 23505", "code: 40001"),
    ("code: 23505, message: x", "code: 40001, message: x"),
    ("code=23505", "code=40001"),
    ("(code 23505)", "(code 40001)"),
    ("code (23505)", "code (40001)"),
    ("code: 404", "code: 500"),
    ("pgcode: 23505", "pgcode: 40001"),
    ("pgcode=23505", "pgcode=40001"),
    ("sqlstate: 23505", "sqlstate: 40001"),
    ("error code: 1062", "error code: 1213"),
    ("error_code=1062", "error_code=1213"),
    ("error-code: E1062", "error-code: E1213"),
    ("errorCode: 1062", "errorCode: 1213"),
    ("err=1062", "err=1213"),
    ("err: 1062", "err: 1213"),
    ("error (1062)", "error (1213)"),
    ("response code (404)", "response code (500)"),
    ("HTTP (404)", "HTTP (500)"),
    ("HTTP=404", "HTTP=500"),
    ("http_status=404", "http_status=500"),
    ("http_code: 404", "http_code: 500"),
    ("httpStatus: 404", "httpStatus: 500"),
    ("http_status_code=404", "http_status_code=500"),
    ("exit_code=1", "exit_code=2"),
    ("exit status (1)", "exit status (2)"),
    ("exit code: 1", "exit code: 2"),
    ("response (404)", "response (500)"),
    ("response=404", "response=500"),
    ("responseCode=404", "responseCode=500"),
    ("request failed (404)", "request failed (500)"),
    ("request failed: 404", "request failed: 500"),
    ("request failed with 404", "request failed with 500"),
    ("upload rejected (403)", "upload rejected (413)"),
    ("gateway error (code=404)", "gateway error (code=500)"),
    ("returned: 404", "returned: 500"),
    ("returned (404)", "returned (500)"),
    ("returned=404", "returned=500"),
    ("errno=2", "errno=13"),
    ("errno: 2", "errno: 13"),
    ("signal: 9", "signal: 11"),
    ("signal=9", "signal=11"),
    ("signal (9)", "signal (11)"),
    ("returncode=1", "returncode=2"),
    ("code: E1062", "code: E1213"),
    ("code: ECONNRESET", "code: ETIMEDOUT"),
    ("status code=StatusCode.UNAVAILABLE", "status code=StatusCode.NOT_FOUND"),
    ("exited with code 1", "exited with code 2"),
    ("{'code': '23505'}", "{'code': '40001'}"),
    ('null value in column "a" of relation "b"', 'null value in column "c" of relation "b"'),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_problem_is_one_group(one: str, other: str) -> None:
    assert classify(ValueError(one)).fingerprint == classify(ValueError(other)).fingerprint


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_problems_are_two_groups(one: str, other: str) -> None:
    assert classify(ValueError(one)).fingerprint != classify(ValueError(other)).fingerprint


@pytest.mark.parametrize("pairs", [failure_pairs, failure_pairs_held_back], ids=["first", "held back"])
def test_what_libraries_print_neither_explodes_nor_merges(pairs: ModuleType) -> None:
    def group(message: str) -> str:
        return classify(ValueError(message)).fingerprint

    same = [pair for each in pairs.SAME.values() for pair in each]
    different = [pair for each in pairs.DIFFERENT.values() for pair in each]
    exploded = [pair for pair in same if group(pair[0]) != group(pair[1])]
    merged = [pair for pair in different if group(pair[0]) == group(pair[1])]
    right = 1 - len(exploded + merged) / len(same + different)
    told = f"{len(exploded)}/{len(same)} explode, {len(merged)}/{len(different)} merge: {right:.1%}\n"
    sys.stdout.write(told)
    assert right >= 0.98, (exploded, merged)


def test_how_deep_a_recursion_went_makes_no_difference() -> None:
    def down(left: int) -> None:
        if not left:
            raise ValueError("bottom")
        across(left - 1)

    def across(left: int) -> None:
        down(left)

    def endless(_: int) -> None:
        across_endless()

    def across_endless() -> None:
        endless(0)

    def raised(function: Callable[[int], None], depth: int) -> str:
        try:
            function(depth)
        except (ValueError, RecursionError) as exc:
            return classify(exc).fingerprint
        raise AssertionError

    assert len({raised(down, depth) for depth in (1, 2, 3, 20, 200)}) == 1
    limit = sys.getrecursionlimit()
    found = set()
    try:
        for each in (limit, limit + 1, limit + 350):
            sys.setrecursionlimit(each)
            found.add(raised(endless, 0))
    finally:
        sys.setrecursionlimit(limit)
    assert len(found) == 1


HOSTILE = (
    "__str__", "__repr__", "__class__", "__cause__", "__context__", "__suppress_context__", "__traceback__",
    "args", "response", "status", "code", "errno", "reason", "exceptions", "__eq__", "__hash__",
    "__getattribute__", "__dict__", "__reduce__", "__format__", "__bool__",
)  # fmt: skip
WEIRD: list[Any] = [None, 5, "", "\ud800", b"x", object(), [], {}, 10**5000, float("nan"), int, ...]
RAISED: list[type[BaseException]] = [
    RuntimeError, RecursionError, SystemExit, KeyboardInterrupt, GeneratorExit, MemoryError,
]  # fmt: skip
BASES: list[type[BaseException]] = [
    Exception, BaseException, OSError, ConnectionError, KeyError, UnicodeDecodeError, SyntaxError,
]  # fmt: skip


def _raises(error: type[BaseException]) -> property:
    def fail(self: object) -> None:
        raise error

    return property(fail)


def _method_raises(error: type[BaseException]) -> Any:
    def fail(self: object, *_: object) -> None:
        raise error

    return fail


@st.composite
def hostile(draw: st.DrawFn) -> Any:
    """An object that may be anything but helpful."""
    base = draw(st.sampled_from([*BASES, object]))
    chosen = draw(st.dictionaries(st.sampled_from(HOSTILE), st.integers(0, 2), max_size=6))
    body: dict[str, Any] = {}
    for name, how in chosen.items():
        if how == 0:
            body[name] = _raises(draw(st.sampled_from(RAISED)))
        elif how == 1:
            body[name] = _method_raises(draw(st.sampled_from(RAISED)))
        else:
            body[name] = draw(st.sampled_from(WEIRD))
    if "__dict__" in body:
        body.pop("__dict__")
    kind: Any = type(draw(st.sampled_from(["X", "a" * 500])), (base,), body)
    for name in ("__module__", "__qualname__", "__name__"):
        if draw(st.booleans()):
            try:
                setattr(kind, name, draw(st.sampled_from([None, 5, "", "\ud800", b"x"])))
            except (TypeError, UnicodeEncodeError, ValueError):
                continue
    return kind.__new__(kind)


@given(hostile(), st.sampled_from(["", "shop.charge"]))
@settings(max_examples=300, deadline=None)
def test_classifying_never_raises(exc: Any, task: str) -> None:
    _classified(exc, task)


@pytest.mark.parametrize("many", [3_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_hostile_objects_are_classified_whatever_they_do(many: int) -> None:
    seed = int(os.environ.get("HOSTILE_SEED", "21"))
    for number in range(many):
        exc = made(random.Random(f"{seed}-{number}"))  # noqa: S311 - no secret
        try:
            _classified(exc, "")
        except AssertionError as found:
            raise AssertionError(f"HOSTILE_SEED={seed}, object {number}: {found}") from found


def _classified(exc: Any, task: str) -> None:
    try:
        found = classify(exc, task=task)
    except BaseException as escaped:
        raise AssertionError(f"{type(escaped).__name__} came out") from escaped
    assert type(found) is Failure


def test_a_class_without_a_module_is_classified() -> None:
    kind = type("Nowhere", (ConnectionError,), {"__module__": None})
    assert classify(kind("x")).retryable


def test_classes_that_are_made_at_run_time_are_not_kept() -> None:
    made = [type(f"Dynamic{number}", (ValueError,), {}) for number in range(20)]
    for kind in made:
        classify(kind("x"))
    left = [weakref.ref(kind) for kind in made]
    del made, kind
    gc.collect()
    assert [each() for each in left] == [None] * len(left)


@pytest.fixture
def sent() -> Iterator[Callable[[BaseException], BaseException]]:
    """What a caller gets when a task raises, through JSON."""
    app = Seawall("groups", broker="memory://", backend="cache+memory://", set_as_current=False)

    def send(exc: BaseException) -> BaseException:
        stored = json.dumps(app.backend.prepare_exception(exc))  # type: ignore[arg-type] # it takes any
        got = app.backend.exception_to_python(json.loads(stored))
        assert isinstance(got, BaseException)
        return got

    yield send
    app.close()


def test_a_group_reaches_its_caller_as_itself(sent: Callable[[BaseException], BaseException]) -> None:
    secret = "Xk9vQ2mZ7rT4"
    inner = ExceptionGroup("inner", [FileNotFoundError(2, "no such file"), KeyError(f"token={secret}")])
    got = sent(ExceptionGroup(f"password={secret}", [ValueError("a"), inner]))
    expected = ExceptionGroup("inner", [FileNotFoundError(2, "no such file"), KeyError("token=***")])
    assert repr(got) == repr(ExceptionGroup("password=***", [ValueError("a"), expected]))
    assert type(sent(BaseExceptionGroup("x", [KeyboardInterrupt("y")]))) is BaseExceptionGroup


def test_of_a_group_of_any_size_a_bounded_part_reaches_the_caller(
    sent: Callable[[BaseException], BaseException],
) -> None:
    wide = ExceptionGroup(
        "wide", [ExceptionGroup("row", [ValueError(n) for n in range(50)]) for _ in range(50)]
    )
    deep: Exception = ValueError("bottom")
    for _ in range(5_000):
        deep = ExceptionGroup("level", [deep])
    for exc in (wide, deep):
        got = sent(exc)
        assert isinstance(got, ExceptionGroup)
        assert len(json.dumps(repr(got))) < 20_000


def test_a_message_of_megabytes_is_normalised_by_its_beginning() -> None:
    assert {classify(ValueError(a * 1_000_000 + b)).fingerprint for a, b in itertools.product("a", "xy")}
