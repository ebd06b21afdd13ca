"""Does a task keep memory from run to run? Decided while runs go on, with a stated confidence.

Each measured run tells how many bytes its process kept, read around a collection and a trim (untrimmed
readings blame whoever ran next). A run that kept more than `FLOOR` counts as growth. Whether growth has
become the rule is asked by Page's cumulative sum (E. S. Page, "Continuous inspection schemes", Biometrika
41, 1954) over the log likelihood ratio of a sign: growth in half of the runs, against one run in ten, which
clean tasks stay below after their first runs (caches, imports, a new arena of the allocator).

    score = max(0, score + log(P1 / P0))              after growth
    score = max(0, score + log((1 - P1) / (1 - P0)))  after any other run

Flagged at `THRESHOLD`: a clean task is flagged once in more than e^THRESHOLD measured runs (Lorden, Annals of
Mathematical Statistics 42, 1971), which is the confidence stated here: below one in a million a run. A task
that always leaks is flagged by its ninth measured run, one that leaks in every second run by about its
27th. A bounded cache that fills over many runs looks like a leak for as long as it fills; its score falls to
zero afterwards and the flag goes.
"""

import math
from typing import Final

FLOOR: Final = 16 * 1024
"""Bytes a run may keep without counting: four pages."""

P0: Final = 0.1
P1: Final = 0.5
GROWTH: Final = math.log(P1 / P0)
REST: Final = math.log((1 - P1) / (1 - P0))
THRESHOLD: Final = 14.0

FIRST_RUNS: Final = 5
"""Runs of a task in a fresh process that are not judged: they import, connect and fill caches."""


def step(score: float, kept: int) -> float:
    """The score after a run that kept `kept` bytes; it never exceeds twice the threshold, so it can fall."""
    return min(2 * THRESHOLD, max(0.0, score + (GROWTH if kept > FLOOR else REST)))


def leaking(score: float, *, before: bool = False) -> bool:
    """Whether the task is flagged; a flag stands until the score is back at zero."""
    return score >= THRESHOLD or (before and score > 0)


class Batch:
    """Several steps at once, to be applied to a score that others change too.

    Steps compose: each is "add, then stay between two bounds", and so is any sequence of them. `lowest` and
    `highest` are what the sequence makes of the least and the greatest score.
    """

    def __init__(self) -> None:
        self.shift = 0.0
        self.lowest = 0.0
        self.highest = 2 * THRESHOLD

    def add(self, kept: int) -> None:
        """One more run, after those added before."""
        self.shift += GROWTH if kept > FLOOR else REST
        self.lowest, self.highest = step(self.lowest, kept), step(self.highest, kept)

    def apply(self, score: float) -> float:
        """What `step` after `step` would make of `score`."""
        return min(self.highest, max(self.lowest, score + self.shift))
