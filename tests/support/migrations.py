"""A history of migrations that a test writes, and the database that it is for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from seawall.database.migrations import History, Migrations, Patience
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

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(query.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *parameters: object) -> Any:
        return self.sql(query, *parameters)[0][0]

    def exists(self, relation: str) -> bool:
        return self.value("SELECT to_regclass(%s)", relation) is not None

    def states(self) -> list[str]:
        return [f"{entry.label} {entry.state}" for entry in self.migrations.status()]

    def wait_for_backend(self, query: str) -> int:
        """The pid of another session once it runs a statement that starts with `query`."""
        search = (
            "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid()"
            " AND starts_with(query, %s) AND datname = current_database()"
        )
        ((pid,), *_) = wait_until(lambda: self.sql(search, query), what=f"a backend that runs {query}")
        return int(pid)
