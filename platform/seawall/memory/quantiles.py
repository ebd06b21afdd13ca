"""Quantiles of sizes from a stream, in logarithmic buckets that merge exactly.

The histogram of DDSketch (Masson, Rim, Lee: "DDSketch: A fast and fully-mergeable quantile sketch with
relative-error guarantees", VLDB 2019): a size x is counted in bucket ceil(log_g x) with
g = (1 + ERROR) / (1 - ERROR), and a bucket answers with the middle of its bounds, so that every quantile is
within ERROR of an observed value. Merging adds counts: the order and the process do not matter.
"""

import math
from collections.abc import Mapping
from typing import Final

ERROR: Final = 0.02
"""The largest relative error of an answer."""

_GAMMA: Final = (1 + ERROR) / (1 - ERROR)
_LOG_GAMMA: Final = math.log(_GAMMA)


def bucket(size: int) -> int:
    """The bucket that counts `size` bytes; everything below one byte is 0."""
    return 0 if size <= 1 else math.ceil(math.log(size) / _LOG_GAMMA)


def value(number: int) -> int:
    """The size that stands for a bucket."""
    return round(2 * _GAMMA**number / (_GAMMA + 1))


def quantile(counts: Mapping[int, int], share: float) -> int | None:
    """The size that `share` of the observations do not exceed; None without any."""
    total = sum(counts.values())
    if total <= 0:
        return None
    rank, seen = math.ceil(share * total), 0
    for number in sorted(counts):
        seen += counts[number]
        if seen >= rank:
            return value(number)
    return None
