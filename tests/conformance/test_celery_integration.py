"""Celery's own integration tests pass with cells; see `celery_integration.py`."""

from pathlib import Path

import pytest
from conformance import celery_integration


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("part", celery_integration.PARTS)
def test_celerys_own_integration_tests_pass_with_cells(part: str, tmp_path: Path) -> None:
    try:
        suite = celery_integration.suite()
    except celery_integration.Unavailable as exc:
        pytest.skip(str(exc))
    outcomes = suite.run(part, cells=True, folder=tmp_path)
    assert suite.surprises(outcomes, folder=tmp_path) == []
    assert "passed" in outcomes.values()
