"""A history of files that a test writes, and its database."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from seawall.database.migrations import Entry, History, Migrations, Patience
from support.waiting import wait_until


@dataclass
class Shop:
    """The history `shop` in a directory of the test, and the database it is for."""

    url: str
    directory: Path
    patience: Patience = field(default_factory=lambda: Patience(lock_timeout=0.1, tries=3, turn=60.0))

    @property
    def history(self) -> History:
        return History("shop", self.directory)

    @property
    def migrations(self) -> Migrations:
        return Migrations(self.url, [self.history], patience=self.patience)

    def write(self, stem: str, up: str, down: str | None = None) -> Path:
        path = self.directory / f"{stem}.up.sql"
        path.write_text(up)
        if down is not None:
            (self.directory / f"{stem}.down.sql").write_text(down)
        return path

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str) -> Any:
        return self.sql(query)[0][0]

    def exists(self, relation: str) -> bool:
        return bool(self.value(f"SELECT to_regclass('{relation}') IS NOT NULL"))

    def states(self) -> list[str]:
        def line(entry: Entry) -> str:
            return f"{entry.label} {entry.state}"

        return list(map(line, self.migrations.status()))

    def wait_for_backend(self, query: str) -> int:
        """The pid of another session once its current statement looks like `query` and is running."""
        return wait_until(
            lambda: [
                pid
                for (pid,) in self.sql(
                    "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
                    f" AND query LIKE '{query}%' AND datname = current_database()"
                )
            ],
            what=f"a backend that runs {query}",
        )[0]


@pytest.fixture
def shop(database_url: str, tmp_path: Path) -> Shop:
    directory = tmp_path / "migrations"
    directory.mkdir()
    return Shop(database_url, directory)
