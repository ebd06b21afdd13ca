"""Numbers as only a hostile or an unlucky caller gives them, and what may come of them."""

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

from seawall.errors import ConfigError
from seawall.quantity import Quantity

HUGE = 10**5000
"""Python refuses to write it: an error message that tries is an error itself."""


class Another:
    """A number of another library: it says only by `__index__` what it is."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


TEXTS = [
    *("inf", "-inf", "infinity", "nan", "1e999", "-1", "-0", "-5s", "0", "0.4ms", "5e-324", "1e-9"),
    *("30d", "99999999d", "1e300", "9" * 5000, "9" * 25, " 5 ", "5.0", "1_000", "\u0661\u0662", "0x10"),
    *("", " ", "soon", "True", "5 parsecs", "1" + "0" * 400, "x is 5"),
]

_NUMBERS: list[Any] = [math.inf, -math.inf, math.nan, -1, -0.5, -0.0, 0, 5e-324, 1e-9, 0.5, 1.5, 1e300]
_NUMBERS += [10**400, HUGE, -HUGE, 2**31, 2**53, 2**64, Another(5), Another(-1), Another(HUGE)]
_OTHERS = [
    True,
    False,
    Decimal(5),
    Decimal("NaN"),
    Decimal("inf"),
    Fraction(1, 3),
    b"5",
    1j,
    [],
    {},
    object(),
]
VALUES: list[Any] = [*_NUMBERS, *_OTHERS, *TEXTS]


def outcome(give: Callable[[Any], Any], value: Any, field: str, kind: Quantity | None) -> Any:
    """What `give` makes of `value`: a number within the bounds of `kind`, or None after one clear line."""
    try:
        got = give(value)
    except ConfigError as exc:
        check_line(str(exc), field)
        return None
    if kind is not None:
        check_number(got, kind)
    return got


def check_line(line: str, field: str) -> None:
    """One line that names the field, shows the value in short and says what to write."""
    assert "\n" not in line, line
    assert field in line
    assert len(line) < 400, line
    assert any(f": {fix} " in line for fix in ("use", "write", "give", "pass", "raise", "correct")), line


def check_number(got: Any, kind: Quantity) -> None:
    """Finite, within its bounds, and of the two types there are inside."""
    assert type(got) in (int, float), got
    assert math.isfinite(got)
    assert kind.least <= got <= kind.most or (kind.or_zero and got == 0), got
    assert str(got) != "-0.0"
