"""SIGKILL of everything that has to do with embedded servers: nothing is left behind, nothing is lost."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest
import redis

from seawall.embedded import Attachment, attach, status
from seawall.errors import StartupError
from support.embedded import family, gone, user
from support.waiting import wait_until


def nobody_left(processes: list[psutil.Process]) -> None:
    wait_until(lambda: gone(processes), timeout=5, what=f"the end of {processes}")


def client_of(attachment: Attachment) -> redis.Redis:
    return redis.Redis.from_url(str(attachment.servers.redis_url))


def restarted(home: Path, name: str, before: int) -> None:
    def again() -> bool:
        now = status(home)
        return now.pids.get(name, before) != before and not now.problems

    wait_until(again, what=f"a restart of {name}")


def kill_and_take_port(home: Path, name: str) -> socket.socket:
    """SIGKILL a server and occupy its port before the keeper, stopped meanwhile, can restart it."""
    now = status(home)
    keeper, server = psutil.Process(now.pids["keeper"]), psutil.Process(now.pids[name])
    keeper.suspend()
    try:
        server.kill()
        wait_until(lambda: gone([server]), what="the server's death")
        # Its main thread is dead at once, its socket only when the last of its threads is.
        return wait_until(lambda: taken(now.ports[name]), what="its port")
    finally:
        keeper.resume()


def taken(port: int) -> socket.socket | None:
    """The port, if it can be had."""
    with contextlib.suppress(OSError):
        return socket.create_server(("127.0.0.1", port))
    return None


def test_a_killed_user_takes_the_servers_with_him(home: Path, tmp_path: Path) -> None:
    with user(home, tmp_path / "user") as only:
        processes = family(home)
        only.signal(signal.SIGKILL)
        nobody_left(processes)


@pytest.mark.slow  # the plain run has the only user killed, and everything
def test_all_users_killed_at_once(home: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        users = [stack.enter_context(user(home, tmp_path / f"user{number}")) for number in range(3)]
        processes = family(home)
        for one in users:
            one.signal(signal.SIGKILL)
        nobody_left(processes)


def test_a_killed_user_does_not_disturb_another(home: Path, tmp_path: Path) -> None:
    with attach(home, database=False) as attachment:
        before = attachment.pids
        with user(home, tmp_path / "user") as other:
            other.signal(signal.SIGKILL)
            other.wait()
        assert client_of(attachment).ping()
        assert attachment.pids["redis"] == before["redis"]


def test_a_killed_keeper_takes_the_servers_with_it_and_loses_nothing(home: Path) -> None:
    with attach(home) as attachment:
        with client_of(attachment) as client:
            client.set("kept", "yes")
        with psycopg.connect(str(attachment.servers.database_url)) as connection:
            connection.execute("create table kept as select 42 as answer")
        processes = family(home)
        processes[0].kill()
        nobody_left(processes)
        with attach(home) as again:
            assert again.servers == attachment.servers
            with client_of(again) as client:
                assert client.get("kept") == b"yes"
            with psycopg.connect(str(again.servers.database_url)) as connection:
                assert connection.execute("select answer from kept").fetchone() == (42,)


def test_a_user_who_comes_right_after_the_keeper_was_killed(home: Path) -> None:
    """The old servers still end while the new keeper waits for their data."""
    with attach(home) as attachment:
        os.kill(attachment.pids["keeper"], signal.SIGKILL)
        with attach(home) as again:
            assert again.servers == attachment.servers
            assert client_of(again).ping()


def test_everything_killed_at_once(home: Path, tmp_path: Path) -> None:
    with user(home, tmp_path / "user") as only:
        processes = family(home)
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):  # a child of one that we have just killed
                process.kill()
        only.signal(signal.SIGKILL)
        nobody_left(processes)
    with attach(home) as attachment:
        assert client_of(attachment).ping()


def test_a_keeper_killed_while_it_makes_the_database(home: Path) -> None:
    starter = subprocess.Popen([sys.executable, "-c", _ATTACH, str(home)], stderr=subprocess.DEVNULL)
    draft = home / "data/postgres.new"
    wait_until(draft.exists, timeout=20, what="initdb to begin")
    processes = family_of_starting(home)
    processes[0].kill()
    starter.wait(30)
    nobody_left(processes)
    with (
        attach(home, redis=False) as attachment,
        psycopg.connect(str(attachment.servers.database_url)) as connection,
    ):
        connection.execute("select 1")


def test_a_killed_redis_is_back_with_its_data(home: Path) -> None:
    with attach(home, database=False) as attachment, client_of(attachment) as client:
        client.set("kept", "yes")
        pid = attachment.pids["redis"]
        os.kill(pid, signal.SIGKILL)
        restarted(home, "redis", pid)
        assert client.get("kept") == b"yes"
        assert status(home).restarts["redis"] == 1


def test_a_killed_postgres_is_back_with_its_data(home: Path) -> None:
    with attach(home, redis=False) as attachment:
        url = str(attachment.servers.database_url)
        with psycopg.connect(url) as connection:
            connection.execute("create table kept as select 42 as answer")
        pid = attachment.pids["postgres"]
        os.kill(pid, signal.SIGKILL)
        restarted(home, "postgres", pid)
        with psycopg.connect(url) as connection:
            assert connection.execute("select answer from kept").fetchone() == (42,)


def test_a_port_taken_while_the_server_was_down_is_reported_and_survived(home: Path) -> None:
    with attach(home, database=False) as attachment:
        before = attachment.pids["redis"]
        with kill_and_take_port(home, "redis"):
            port = status(home).ports["redis"]
            with pytest.raises(StartupError, match=f"port {port} was taken by another program"):
                attach(home, database=False, timeout=20)
            assert "redis" in status(home).problems
        restarted(home, "redis", before)
        assert client_of(attachment).ping()


_ATTACH = "import sys, pathlib, seawall.embedded as e; e.attach(pathlib.Path(sys.argv[1]))"


def family_of_starting(home: Path) -> list[psutil.Process]:
    """The keeper, found by its arguments: it answers nobody while it makes a database."""
    keeper = next(
        process
        for process in psutil.process_iter(["cmdline"])
        if (process.info["cmdline"] or [])[-2:] == ["seawall.embedded", str(home)]
    )
    return [keeper, *keeper.children(recursive=True)]
