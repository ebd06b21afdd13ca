"""Workers that record into a migrated database, and what the tables say afterwards."""

import contextlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from seawall.database.migrations import Migrations, platform_history

__all__ = ["Recorded", "recorded"]


@dataclass
class Recorded:
    """A database with the platform's tables."""

    url: str

    @property
    def env(self) -> dict[str, str]:
        """What a worker needs to record into it."""
        return {"SEAWALL_DATABASE_URL": self.url, "SEAWALL_STARTUP__MIGRATIONS": "ignore"}

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def states(self) -> Counter[str]:
        """Runs by state."""
        with contextlib.suppress(psycopg.OperationalError):
            return Counter(dict(self.sql("SELECT state, count(*) FROM seawall.task_runs GROUP BY 1")))
        return Counter()


@pytest.fixture
def recorded(database_url: str) -> Recorded:
    """An empty ledger."""
    Migrations(database_url, [platform_history()]).up()
    return Recorded(database_url)
