"""Policies: what is accepted, what is refused and how the refusal reads."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seawall import ConfigError, Limit, Priority, Retry, breaker, limit, policy
from seawall.policies import Policy, policy_of
from seawall.quantity import format_age, format_bytes, parse_bytes, parse_duration


def test_a_function_without_policy_has_the_defaults() -> None:
    def task() -> None: ...

    assert policy_of(task) == Policy()
    assert Policy().priority == Priority.NORMAL
    assert Policy().retry.max_attempts == 3
    assert (Policy().timeout, Policy().hard_timeout) == (300.0, 310.0)


def test_a_policy_is_parsed_into_seconds_and_bytes() -> None:
    @policy(
        priority=Priority.HIGH,
        memory="256MiB",
        timeout="5m",
        requires=["payments"],
        retry=Retry(max_attempts=5, base=1.0, cap=300),
        limit=Limit("tenant:{tenant}", 5),
    )
    def charge(tenant: str, order: int) -> None: ...

    parsed = policy_of(charge)
    assert parsed.priority == 7
    assert parsed.memory == 256 * 1024**2
    assert parsed.memory_limit == 384 * 1024**2
    assert parsed.timeout == 300.0
    assert parsed.requires == ("payments",)
    assert parsed.limit == Limit("tenant:{tenant}", 5)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"priority": 11}, "priority=11 is out of range"),
    ({"priority": "URGENT"}, "priority='URGENT' is unknown"),
    ({"priority": True}, "priority=True is out of range"),
    ({"memory": "12 parsecs"}, "memory='12 parsecs' is not a size"),
    ({"memory": "100MB", "memory_limit": "1MB"}, "memory_limit='1MB' is below memory='100MB'"),
    ({"timeout": 0}, "timeout=0 is out of range: use 1ms to 36525d"),
    ({"timeout": "soon"}, "timeout='soon' is not a duration"),
    ({"requires": "payments"}, "requires='payments' is no list of breaker names"),
    ({"requires": [1]}, r"requires=\[1\] is no list of breaker names"),
    ({"retry": 3}, "retry=3 is not a Retry"),
    ({"limit": 3}, "limit=3 is not a Limit"),
]


@pytest.mark.parametrize(("fields", "message"), WRONG)
def test_a_wrong_field_is_one_line_with_name_value_and_fix(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        policy(**fields)
    assert "\n" not in str(caught.value)
    assert ":" in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_attempts": 0}, "retry.max_attempts=0"),
        ({"base": -1}, "retry.base=-1"),
        ({"factor": 0.5}, "retry.factor=0.5"),
        ({"jitter": "some"}, "retry.jitter='some'"),
        ({"on": "OSError"}, "retry.on='OSError'"),
        ({"on": (int,)}, "retry.on="),
    ],
)
def test_a_wrong_retry_names_its_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Retry(**fields)


def test_a_limit_key_may_only_use_the_arguments_of_its_task() -> None:
    with pytest.raises(ConfigError, match=r"uses 'tenant', which charge\(\) does not take"):

        @policy(limit=Limit("tenant:{tenant}", 5))
        def charge(order: int) -> None: ...

    with pytest.raises(ConfigError, match="is no template"):
        policy(limit=Limit("tenant:{", 5))(lambda tenant: tenant)
    with pytest.raises(ConfigError, match=r"limit\.n=0"):
        Limit("x", 0)


@given(retry=st.integers(1, 10_000), base=st.floats(0, 1e6), cap=st.floats(0, 1e6), rand=st.floats(0, 1))
def test_a_delay_never_exceeds_the_cap(retry: int, base: float, cap: float, rand: float) -> None:
    for jitter in ("full", "equal", "none"):
        delay = Retry(base=base, cap=cap, jitter=jitter).delay(retry, rand=lambda: rand)
        assert 0 <= delay <= cap


def test_delays_grow_by_the_factor() -> None:
    retry = Retry(base=0.5, factor=2, cap=3, jitter="none")
    assert [retry.delay(n) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 3.0]
    assert Retry(base=8, jitter="equal").delay(1, rand=lambda: 0.5) == 6.0
    assert Retry(base=8, jitter="full").delay(1, rand=lambda: 0.5) == 4.0


@pytest.mark.parametrize(
    ("text", "size"), [("512MiB", 512 * 2**20), ("1.5 kB", 1500), ("4096", 4096), (7, 7), ("1gib", 2**30)]
)
def test_sizes(text: object, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1MB", "1 mile", True, None, float("nan"), timedelta(1)])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("250 ms", 0.25), ("5m", 300), ("2h", 7200), (0, 0)]
)
def test_durations(text: object, seconds: float) -> None:
    assert parse_duration(text) == seconds


@given(st.integers(1, 2**49))
def test_formatted_bytes_read_back_within_a_permille(size: int) -> None:
    assert parse_bytes(format_bytes(size)) == pytest.approx(size, rel=1e-3)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.25, "0.25 s"), (119, "119 s"), (600, "10 m"), (86400, "24 h"), (864000, "10 d")]
)
def test_a_duration_is_shown_in_a_unit_that_is_read(seconds: float, shown: str) -> None:
    assert format_age(seconds) == shown
    assert parse_duration(shown) == seconds


class Unwritable:
    """What cannot be shown in a message."""

    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Retry(on=5), "retry.on=5 is not made of exception types"),  # type: ignore[arg-type]
        (lambda: Retry(on="ValueError"), "retry.on='ValueError' is not made of"),  # type: ignore[arg-type]
        (lambda: Retry(on=(ValueError, 5)), "is not made of exception types"),  # type: ignore[arg-type]
        (lambda: Retry(on=Unwritable()), "Unwritable that cannot be written"),  # type: ignore[arg-type]
        (lambda: Retry(per_category=5), "retry.per_category=5 is no mapping"),  # type: ignore[arg-type]
        (lambda: Retry(per_category=[]), r"retry.per_category=\[\] is no mapping"),  # type: ignore[arg-type]
        (lambda: Retry(jitter=Unwritable()), "Unwritable that cannot be written"),  # type: ignore[arg-type]
        (lambda: Limit(Unwritable(), 5), "Unwritable that cannot be written"),  # type: ignore[arg-type]
        (lambda: limit(Unwritable(), 5).__enter__(), "Unwritable that cannot be"),  # type: ignore[arg-type]
        (lambda: breaker(Unwritable()), "Unwritable that cannot be written"),  # type: ignore[arg-type]
        (lambda: breaker("of no author").force_open("why", author=object()), "author=<object"),  # type: ignore[arg-type]
    ],
)
def test_an_argument_of_another_kind_is_a_wrong_setting(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_exceptions_to_retry_may_come_from_a_generator() -> None:
    assert Retry(on=(each for each in (ValueError, KeyError))).on == (ValueError, KeyError)  # type: ignore[arg-type]
