"""Runners that are many, that are killed, and that meet a pooler."""

import contextlib
import random
import re
import signal
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from seawall.database.migrations import History, Migrations, session
from seawall.errors import ConfigError, DatabaseUnavailable
from support.migrations import Shop
from support.processes import Proc, started
from support.proxy import proxy
from support.waiting import wait_until

RUNNER = """
import sys
from pathlib import Path
from seawall.database.migrations import History, Migrations
migrations = Migrations(sys.argv[1], [History("shop", Path(sys.argv[2]))])
migrations.up(lambda step: print("ran", step.label, flush=True))
"""
SLOW = "SELECT pg_sleep(CASE WHEN to_regclass('fast') IS NULL THEN 60 END);"


def run(shop: Shop, log: Path) -> contextlib.AbstractContextManager[Proc]:
    return started([sys.executable, "-c", RUNNER, shop.url, str(shop.directory)], log=log)


def wait_for_no_runner(shop: Shop) -> None:
    """Until the server has noticed that its client is gone."""
    query = (
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE application_name = 'seawall migrate' AND datname = current_database()"
    )
    wait_until(lambda: shop.value(query) == 0, what="the end of the killed runner's session")


@pytest.mark.parametrize("many", [8, pytest.param(20, marks=pytest.mark.slow)])
def test_runners_at_once_apply_every_file_once(shop: Shop, tmp_path: Path, many: int) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int); INSERT INTO a SELECT generate_series(1, 1000);")
    for number in range(2, 5):
        shop.write(
            f"000{number}_i", f"-- seawall: no-transaction\nCREATE INDEX CONCURRENTLY i{number} ON a (id);"
        )
    shop.write("0005_b", "INSERT INTO a VALUES (0);")
    with contextlib.ExitStack() as stack:
        runners = [stack.enter_context(run(shop, tmp_path / f"{number}.log")) for number in range(many)]
        assert [runner.wait(120) for runner in runners] == [0] * many, "".join(r.output for r in runners)
        ran = [line for runner in runners for line in runner.output.splitlines()]
    assert sorted(ran) == ["ran 0001_a", "ran 0002_i", "ran 0003_i", "ran 0004_i", "ran 0005_b"]
    assert shop.value("SELECT count(*) FROM a WHERE id = 0") == 1
    assert shop.migrations.check() == ()


def test_a_runner_killed_in_a_file_leaves_nothing_and_the_next_one_succeeds(
    shop: Shop, tmp_path: Path
) -> None:
    shop.write("0001_a", f"CREATE TABLE a (id int);\n{SLOW}")
    with run(shop, tmp_path / "log") as runner:
        shop.wait_for_backend("SELECT pg_sleep")
        runner.signal(signal.SIGKILL)
        runner.wait()
    wait_for_no_runner(shop)
    assert not shop.exists("a")
    shop.sql("CREATE TABLE fast ()")
    assert len(shop.migrations.up()) == 1
    assert shop.migrations.check() == ()


def test_a_runner_gives_up_a_server_that_falls_silent_in_a_file(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_LOOK_EVERY", 0.2)
    monkeypatch.setattr(session, "_SILENT_FOR", 0.5)
    shop.write("0001_a", f"CREATE TABLE a (id int);\n{SLOW}")
    problems: list[Exception] = []

    def migrate(url: str) -> None:
        try:
            Migrations(url, [History("shop", shop.directory)]).up()
        except DatabaseUnavailable as exc:
            problems.append(exc)

    with proxy(shop.url) as way:
        runner = threading.Thread(target=migrate, args=(way.url,))
        runner.start()
        shop.wait_for_backend("SELECT pg_sleep")
        way.go_deaf()
        runner.join(30)
        assert not runner.is_alive()
    assert "broke: migrate again" in str(problems[0])
    wait_for_no_runner(shop)
    assert not shop.exists("a")


def test_a_runner_killed_while_it_builds_an_index_is_followed_by_one_that_rebuilds_it(
    shop: Shop, tmp_path: Path
) -> None:
    shop.sql("CREATE TABLE a AS SELECT 1 AS id")
    shop.sql(
        "CREATE FUNCTION slow(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS"
        " 'BEGIN IF to_regclass(''public.fast'') IS NULL THEN PERFORM pg_sleep(60); END IF; RETURN $1; END'"
    )
    shop.write("0001_i", "-- seawall: no-transaction\nCREATE INDEX CONCURRENTLY i ON a (slow(id));")
    with run(shop, tmp_path / "log") as runner:
        shop.wait_for_backend("CREATE INDEX CONCURRENTLY")
        wait_until(lambda: shop.exists("i"), what="the index")
        runner.signal(signal.SIGKILL)
        runner.wait()
    wait_for_no_runner(shop)
    assert shop.states() == ["0001_i running"]
    shop.sql("CREATE TABLE fast ()")
    assert len(shop.migrations.up()) == 1
    assert shop.value("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass")
    assert shop.migrations.check() == ()


def test_a_killed_backend_is_said_to_be_lost_and_the_next_run_succeeds(shop: Shop) -> None:
    shop.write("0001_a", "CREATE TABLE a (id int);")
    shop.write("0002_b", SLOW)

    def kill() -> None:
        pid = shop.wait_for_backend("SELECT pg_sleep")
        shop.sql(f"SELECT pg_terminate_backend({pid})")

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(DatabaseUnavailable, match="broke: migrate again"):
        shop.migrations.up()
    killer.join()
    assert shop.states() == ["0001_a applied", "0002_b pending"]
    shop.sql("CREATE TABLE fast ()")
    assert len(shop.migrations.up()) == 1


@pytest.mark.slow
def test_a_runner_killed_at_twenty_random_moments_leaves_what_the_next_one_heals(
    shop: Shop, tmp_path: Path
) -> None:
    shop.write("0001_a", "CREATE TABLE a AS SELECT generate_series(1, 50000) AS id;")
    for number in range(2, 30, 2):
        index = f"-- seawall: no-transaction\nCREATE INDEX CONCURRENTLY i{number} ON a (id);"
        shop.write(f"{number:04}_index", index)
        shop.write(f"{number + 1:04}_rows", "INSERT INTO a VALUES (-1);")
    for turn in range(20):
        with run(shop, tmp_path / f"{turn}.log") as runner:
            deadline = time.monotonic() + random.uniform(0.2, 1.2)  # noqa: S311 - no secret
            wait_until(lambda: time.monotonic() > deadline, what="the moment")  # noqa: B023 - in this turn
            runner.signal(signal.SIGKILL)
            runner.wait()
        wait_for_no_runner(shop)
    shop.migrations.up()
    assert shop.migrations.check() == ()
    assert shop.value("SELECT count(*) FROM a WHERE id < 0") == 14
    assert shop.value("SELECT count(*) FROM pg_indexes WHERE tablename = 'a'") == 14


def test_a_connection_pooler_is_refused_by_name(shop: Shop) -> None:
    shop.write("0001_a", "SELECT 1;")
    with pooler(shop.url) as url, pytest.raises(ConfigError, match=r"connection pooler \(PgBouncer\?\)"):
        Migrations(url, [shop.history]).up()
    assert shop.states() == ["0001_a pending"]


@contextlib.contextmanager
def pooler(url: str) -> Iterator[str]:
    """A proxy that announces a process id of its own at login, as PgBouncer does."""
    parts = urlsplit(url)
    announced = re.compile(rb"(K\0\0\0\x0c)....", re.DOTALL)

    def forward(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                target.sendall(announced.sub(lambda found: found[1] + b"\0\0\0\7", chunk))
            target.shutdown(socket.SHUT_WR)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.create_connection((parts.hostname, parts.port)) as server:
                back = threading.Thread(target=forward, args=(server, self.request))
                back.start()
                forward(self.request, server)
                back.join()

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        password = f"{parts.username}:{parts.password}@"
        yield parts._replace(netloc=f"{password}127.0.0.1:{proxy.server_address[1]}").geturl()
        proxy.shutdown()
        thread.join()
