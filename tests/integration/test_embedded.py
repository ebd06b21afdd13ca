"""What users of the embedded servers see."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from seawall.embedded import Attachment, attach, find, status
from seawall.embedded.home import Home
from seawall.errors import StartupError
from support.embedded import family, gone, user
from support.servers import stop, temporary_home
from support.waiting import wait_until

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root starts servers as another user")

_ONCE = """
import sys
from pathlib import Path
from seawall.embedded import attach
with attach(Path(sys.argv[1]), database=False) as attachment:
    print(attachment.pids["keeper"])
    sys.stdin.read()
"""

_SERVE = """
import sys
from pathlib import Path
from seawall.embedded import attach
with attach(Path(sys.argv[1])) as attachment:
    print(attachment.servers, sorted(attachment.pids))
"""


def ping(attachment: Attachment) -> bool:
    with redis.Redis.from_url(str(attachment.servers.redis_url)) as client:
        return bool(client.ping())


def database(attachment: Attachment) -> psycopg.Connection:
    return psycopg.connect(str(attachment.servers.database_url), autocommit=True)


def left(home: Path) -> None:
    wait_until(lambda: not status(home).running, what="the servers to leave")


class TestServing:
    def test_a_fresh_home_serves_both(self, home: Path) -> None:
        with attach(home) as attachment:
            assert ping(attachment)
            with database(attachment) as connection:
                assert connection.execute("select current_user, current_database()").fetchone() == (
                    "app",
                    "app",
                )
            assert set(attachment.pids) == {"keeper", "redis", "postgres"}

    def test_data_and_urls_survive_a_restart(self, home: Path) -> None:
        with attach(home) as first:
            with redis.Redis.from_url(str(first.servers.redis_url)) as client:
                client.set("kept", "yes")
            with database(first) as connection:
                connection.execute("create table kept as select 42 as answer")
        left(home)
        with attach(home) as second:
            assert second.servers == first.servers
            with redis.Redis.from_url(str(second.servers.redis_url)) as client:
                assert client.get("kept") == b"yes"
            with database(second) as connection:
                assert connection.execute("select answer from kept").fetchone() == (42,)

    def test_only_what_is_asked_for_runs(self, home: Path) -> None:
        with attach(home, database=False) as redis_only:
            assert set(redis_only.pids) == {"keeper", "redis"}
            assert redis_only.servers.database_url is None
            with attach(home, redis=False) as database_only:
                assert set(database_only.pids) == {"keeper", "redis", "postgres"}
                assert database_only.servers.redis_url is None

    def test_every_acknowledged_write_is_on_disk(self, home: Path) -> None:
        with (
            attach(home, database=False) as attachment,
            redis.Redis.from_url(str(attachment.servers.redis_url)) as client,
        ):
            assert client.config_get("append*")["appendfsync"] == "always"
            assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}

    def test_a_home_with_a_long_path(self, home: Path) -> None:
        deep = home / ("long" * 30) / "home"
        with attach(deep) as attachment:
            assert ping(attachment)
            assert Home(deep).socket.parent != deep
            stop(deep)
        Home(deep).private.rmdir()


class TestUsers:
    def test_the_last_one_turns_off_the_light(self, home: Path, tmp_path: Path) -> None:
        with attach(home) as attachment, user(home, tmp_path / "user") as other:
            everybody = family(home)
            attachment.close()
            assert ping(attachment)
            other.signal(signal.SIGTERM)
            wait_until(lambda: gone(everybody), timeout=5, what="the servers to leave")
        assert not status(home).running

    def test_closing_twice_is_closing_once(self, home: Path) -> None:
        with attach(home, database=False) as attachment, attach(home, database=False) as other:
            attachment.close()
            attachment.close()
            assert ping(other)

    def test_many_at_once_meet_one_keeper(self, home: Path) -> None:
        argv = [sys.executable, "-c", _ONCE, str(home)]
        users = [
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(6)
        ]
        keepers = {one.stdout.readline() for one in users if one.stdout}
        for one in users:
            one.communicate("", timeout=30)
        assert keepers != {""}
        assert len(keepers) == 1

    def test_the_servers_outlive_a_short_gap(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SEAWALL_EMBEDDED__LINGER", "60")
        with attach(home, database=False) as first:
            before = first.pids
        with attach(home, database=False) as second:
            assert second.pids == before

    @pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
    def test_who_comes_while_the_keeper_leaves_is_served(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, step: int
    ) -> None:
        monkeypatch.setenv("SEAWALL_EMBEDDED__LINGER", "0")
        keepers = set()
        for pause in range(0, 20, step):
            with attach(home, database=False) as attachment:
                assert ping(attachment)
                keepers.add(attachment.pids["keeper"])
            time.sleep(
                pause / 1000
            )  # not a wait: it aims at another moment of the keeper's leaving each time
        assert len(keepers) > 1

    def test_a_forked_child_is_a_user_too(self, home: Path) -> None:
        attachment = attach(home, database=False)
        end, parent_end = socket.socketpair()
        with end, parent_end:
            if (child := os.fork()) == 0:
                parent_end.close()
                end.recv(1)
                os._exit(0)
            end.close()
            attachment.close()
            try:
                with pytest.raises(AssertionError):
                    wait_until(lambda: not status(home).running, timeout=0.5)
                assert ping(attachment)
            finally:
                parent_end.close()
                os.waitpid(child, 0)
        left(home)

    def test_looking_neither_starts_nor_keeps(self, home: Path) -> None:
        assert find(home) is None
        assert not status(home).running
        assert not home.exists()
        with attach(home) as attachment:
            assert find(home) == attachment.servers
            assert status(home).pids == attachment.pids
        wait_until(lambda: find(home) is None, what="the servers to leave although we keep looking")
        assert set(status(home).ports) == {"redis", "postgres"}

    def test_no_thread_is_left_in_a_user(self, home: Path) -> None:
        before = threading.active_count()
        with attach(home, database=False):
            assert threading.active_count() == before


class TestSecrets:
    def test_both_servers_ask_for_passwords_that_nobody_else_is_told(self, home: Path) -> None:
        with attach(home) as attachment:
            ports = status(home).ports
            with (
                redis.Redis(port=ports["redis"], retry=Retry(NoBackoff(), 0)) as client,
                pytest.raises(redis.AuthenticationError),
            ):
                client.ping()
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(
                    host="127.0.0.1", port=ports["postgres"], user="app", password="guess", dbname="app"
                )
            assert ping(attachment)
            # None is in arguments, logs or reprs, and no other user can read them.
            passwords = [access.password for access in Home(home).recall().access.values()]
            told = [repr(attachment), repr(attachment.servers), repr(status(home))]
            told += [str(process.cmdline()) for process in family(home)]
            told += [str(process.environ()) for process in family(home)]
            told += [path.read_text() for path in home.glob("*.log")]
            assert len(passwords) == 2
            assert not [text for text in told for password in passwords if password in text]
            assert (home / "servers.json").stat().st_mode & 0o777 == 0o600
            assert Home(home).socket.stat().st_mode & 0o777 == 0o600
            assert (home / "data").stat().st_mode & 0o777 == 0o700


class TestFailures:
    """Each is one line with the cause and the fix."""

    def fails(self, home: Path) -> str:
        with pytest.raises(StartupError) as caught:
            attach(home, timeout=20)
        message = str(caught.value)
        assert "\n" not in message
        return message

    def used_once(self, home: Path, *, redis: bool = True, database: bool = True) -> None:
        with attach(home, redis=redis, database=database):
            stop(home)

    def test_a_port_that_was_taken_meanwhile_is_replaced(self, home: Path) -> None:
        self.used_once(home, database=False)
        port = status(home).ports["redis"]
        with socket.create_server(("127.0.0.1", port)), attach(home, database=False) as attachment:
            assert ping(attachment)
            assert status(home).ports["redis"] != port

    def test_a_damaged_memory(self, home: Path) -> None:
        with attach(home, redis=False) as attachment, database(attachment) as connection:
            connection.execute("create table kept ()")
            stop(home)
        (home / "servers.json").write_text('{"access": 7}')
        assert self.fails(home).endswith(
            "servers.json is damaged: delete it; the data stays, ports and passwords will be new"
        )
        (home / "servers.json").unlink()
        with attach(home, redis=False) as attachment, database(attachment) as connection:
            connection.execute("select from kept")

    def test_a_directory_of_another_major_version(self, home: Path) -> None:
        self.used_once(home, redis=False)
        (home / "data/postgres/PG_VERSION").write_text("9\n")
        message = self.fails(home)
        assert "was written by PostgreSQL 9" in message
        assert "install PostgreSQL 9 and name its directory in SEAWALL_EMBEDDED__PATH" in message
        assert "or move the directory away to start empty" in message

    def test_a_damaged_append_only_file(self, home: Path) -> None:
        self.used_once(home, database=False)
        next((home / "data/redis/appendonlydir").glob("*.manifest")).write_text("nonsense\n")
        assert "redis exited with status 1" in self.fails(home)

    def test_a_binary_of_another_architecture(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with temporary_home() as directory:
            directory.mkdir()
            foreign = directory / "valkey-server"
            foreign.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(57))
            foreign.chmod(0o755)
            monkeypatch.setenv("SEAWALL_EMBEDDED__PATH", str(directory))
            message = self.fails(home)
        assert f"{foreign} cannot run on this machine" in message
        assert "pip install 'seawall[embedded]'" in message

    def test_a_keeper_that_cannot_start(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys, "executable", "/bin/false")
        assert "the keeper ended at once (it said nothing): see " in self.fails(home)

    def test_a_file_in_place_of_the_home(self, tmp_path: Path) -> None:
        (tmp_path / "home").write_text("")
        assert "set SEAWALL_HOME to a directory" in self.fails(tmp_path / "home")

    def test_a_keeper_that_does_not_answer(self, home: Path) -> None:
        with attach(home, database=False) as attachment:
            keeper = psutil.Process(attachment.pids["keeper"])
            keeper.suspend()
            try:
                with pytest.raises(StartupError, match=r"not ready within 0\.2 s"):
                    attach(home, database=False, timeout=0.2)
            finally:
                keeper.resume()

    def test_asking_for_nothing(self, home: Path) -> None:
        with pytest.raises(ValueError, match="asks for nothing"):
            attach(home, redis=False, database=False)


@as_root
class TestAccounts:
    @pytest.fixture
    def unreachable(self, home: Path) -> Iterator[Path]:
        """A home where root may go and the servers' user may not."""
        home.mkdir(mode=0o700)
        yield home / "below"
        stop(home / "below")
        shutil.rmtree(Home(home / "below").private, ignore_errors=True)

    def test_the_servers_of_root_run_as_another_user(self, home: Path) -> None:
        with attach(home) as attachment:
            pids = attachment.pids
            users = {name: psutil.Process(pid).uids().effective for name, pid in pids.items()}
        assert users["keeper"] == 0
        assert users["redis"] == users["postgres"] != 0

    def test_data_out_of_their_reach_lies_elsewhere(self, unreachable: Path) -> None:
        for _ in range(2):
            with attach(unreachable) as attachment:
                assert ping(attachment)
                assert status(unreachable).directory == Home(unreachable).private / "data"
                stop(unreachable)
        assert unreachable.parent.stat().st_mode & 0o777 == 0o700

    def test_data_that_was_swept_from_there(self, unreachable: Path) -> None:
        with attach(unreachable, database=False):
            stop(unreachable)
        shutil.rmtree(Home(unreachable).private)
        with pytest.raises(StartupError, match=r"data, which is gone: restore it, or delete .*servers\.json"):
            attach(unreachable)

    def test_two_homes_never_share_data(self, unreachable: Path) -> None:
        copy = unreachable.parent / "copy"
        with attach(unreachable, database=False) as attachment:
            shutil.copytree(unreachable, copy, ignore=shutil.ignore_patterns("*.sock"))
            with pytest.raises(StartupError, match="not ready within 1 s"):
                attach(copy, database=False, timeout=1)
            assert ping(attachment)


@as_root
class TestOrdinaryUsers:
    def serve(self, home: Path) -> subprocess.CompletedProcess[str]:
        """A program of `nobody` that attaches once."""
        tell = "import sys; print(sys.version_info >= (3, 11))"
        pythons = (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3")
        found = next((python for python in pythons if self.run(python, tell).stdout == "True\n"), None)
        if found is None:
            pytest.skip("no Python 3.11 that user nobody may run")
        return self.run(found, _SERVE, str(home))

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(entry for entry in sys.path if entry.endswith(("site-packages", "platform")))
        python, code, *rest = argv
        try:
            return subprocess.run(
                [python, "-c", code, *rest],
                check=False,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                cwd="/",
                env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/"},
                user="nobody",
                group=65534,
                extra_groups=[],
            )
        except OSError as exc:
            return subprocess.CompletedProcess(argv, 127, str(exc))

    def test_an_ordinary_user_has_servers(self) -> None:
        with temporary_home() as home:
            home.parent.chmod(0o777)
            done = self.serve(home)
            assert "['keeper', 'postgres', 'redis']" in done.stdout
            assert home.stat().st_mode & 0o777 == 0o700
            assert home.owner() == "nobody"

    def test_a_directory_that_he_may_not_write(self) -> None:
        with temporary_home() as home:
            done = self.serve(home)
            assert done.returncode == 1
            last = done.stdout.splitlines()[-1]
            assert f"embedded servers cannot use {home} (Permission denied): set SEAWALL_HOME" in last
