"""How long to wait before the next attempt. Pure: the randomness is an argument."""

import random
from collections.abc import Callable


def exponential(attempt: int, *, base: float, factor: float = 2.0, cap: float) -> float:
    """Seconds before retry number `attempt` (from 1): `base * factor**(attempt - 1)`, at most `cap`."""
    try:
        return min(cap, base * factor ** (attempt - 1))
    except OverflowError:
        return cap


def full_jitter(delay: float, *, rand: Callable[[], float] = random.random) -> float:
    """Uniform in [0, delay): spreads clients that failed together.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015 ("Full Jitter").
    """
    return delay * rand()


def equal_jitter(delay: float, *, rand: Callable[[], float] = random.random) -> float:
    """Uniform in [delay / 2, delay): as above ("Equal Jitter"), for waits that must not vanish."""
    return delay / 2 + delay / 2 * rand()
