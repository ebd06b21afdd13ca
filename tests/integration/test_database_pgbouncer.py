"""A real PgBouncer in transaction mode: `apt-get install pgbouncer`, whose service is not touched."""

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from seawall.database.circuit import Outcome, outcome_of
from seawall.database.migrations import Migrations, platform_history
from seawall.database.pool import Database
from seawall.errors import ConfigError
from seawall.sections import DatabaseSettings
from support.processes import started

PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
BACKENDS = 2

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="needs PgBouncer (apt-get install pgbouncer)")


@pytest.fixture
def pooler(database_url: str, tmp_path: Path) -> Iterator[str]:
    """A way to the database through a PgBouncer of this test's own."""
    server = urlsplit(database_url)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="seawall-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # it gives root up, and reads its files after that
        (folder / "users.txt").write_text(f'"{server.username}" "{server.password}"\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": folder / "users.txt",
            "pool_mode": "transaction",
            "default_pool_size": BACKENDS,
            "query_wait_timeout": 2,
            **({"user": "nobody"} if os.geteuid() == 0 else {}),
        }
        lines = "\n".join(f"{key} = {value}" for key, value in settings.items())
        databases = f"[databases]\n* = host={server.hostname} port={server.port}\n"
        (folder / "pgbouncer.ini").write_text(f"{databases}[pgbouncer]\n{lines}\n")
        argv = [str(PGBOUNCER), str(folder / "pgbouncer.ini")]
        with started(argv, log=tmp_path / "pgbouncer.log") as process:
            process.wait_for("process up", timeout=20)
            yield server._replace(netloc=f"{server.username}:{server.password}@127.0.0.1:{port}").geturl()


def through(url: str, **limits: float) -> Database:
    return Database(
        url,
        DatabaseSettings(max_connections_per_process=8, pooler="transaction", **limits),  # type: ignore[arg-type]
    )


def test_threads_share_few_sessions_and_limits_end_with_their_transaction(pooler: str) -> None:
    wrong: list[object] = []
    backends: set[int] = set()
    with closing(through(pooler, statement_timeout=7.0)) as database:

        def work(thread: int) -> None:
            for number in range(30):
                with database.transaction() as connection:
                    row = connection.execute(
                        "SELECT %s::int AS x, current_setting('statement_timeout') AS s", (number,)
                    ).fetchone()
                if row != {"x": number, "s": "7s"}:
                    wrong.append((thread, number, row))
                backends.add(database.fetch_value("SELECT pg_backend_pid()"))
                if (outside := database.fetch_value("SHOW statement_timeout")) != "0":
                    wrong.append(outside)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert 1 <= len(backends) <= BACKENDS


def test_a_pooler_without_a_free_session_is_saturated_and_not_away(pooler: str) -> None:
    with closing(through(pooler)) as database, ExitStack() as held:
        for _ in range(BACKENDS):
            held.enter_context(database.transaction()).execute("SELECT 1")
        with pytest.raises(psycopg.Error, match="query_wait_timeout") as caught:
            database.execute("SELECT 1")
        assert outcome_of(caught.value) is Outcome.IGNORED


def test_migrations_refuse_it_by_name(pooler: str) -> None:
    with pytest.raises(ConfigError, match=r"connection pooler \(PgBouncer\?\)"):
        Migrations(pooler, [platform_history()]).up()
