import math

import pytest

from seawall import ConfigError
from seawall.cluster import Packer, micros

MOST = 1 << 53


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (1.5, 1_500_000),
        (0, 0),
        (-1, -1_000_000),
        (math.inf, MOST),
        (-math.inf, -MOST),
        (1e300, MOST),
        (10**400, MOST),
    ],
)
def test_any_number_of_seconds_is_one_that_scripts_can_count(seconds: float, expected: int) -> None:
    assert micros(seconds) == expected


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="nan"):
        micros(math.nan)


@pytest.mark.parametrize("text", ["caf\udce9", "\ud83d", "a\udfff b", "caf\xe9", ""])
def test_any_text_becomes_bytes_for_a_server(text: str) -> None:
    (packed, *_) = Packer().pack("SET", text, b"value", 1, 1.5)
    assert text.encode(errors="backslashreplace") in packed
