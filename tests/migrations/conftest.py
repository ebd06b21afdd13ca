"""What the tests of this directory share."""

from pathlib import Path

import pytest

from support.migrations import Shop


@pytest.fixture
def shop(database_url: str, tmp_path: Path) -> Shop:
    """An empty history and its empty database."""
    directory = tmp_path / "migrations"
    directory.mkdir()
    return Shop(database_url, directory)
