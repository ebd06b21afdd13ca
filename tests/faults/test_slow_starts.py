"""No cell is born deaf, however slowly other threads of its worker read and work things out at the time.

SLOW_STARTS_MANY says how many workers the slow test starts; each of them bears sixteen cells.
"""

from pathlib import Path

import pytest

from support.slow_starts import CELLS, starts
from support.suspects import from_environment


@pytest.mark.timeout(300)
def test_cells_that_are_born_while_other_threads_are_slow_take_tasks(tmp_path: Path) -> None:
    assert starts(tmp_path, 1) == 2 * CELLS


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_many_cells_are_born_and_none_is_deaf(tmp_path: Path) -> None:
    many = from_environment("SLOW_STARTS_MANY", 125)
    assert starts(tmp_path, many, seed=1) == 2 * CELLS * many
