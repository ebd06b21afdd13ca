"""Every command with hostile arguments, with the servers there, away and frozen; watched, and completed."""

import contextlib
import fcntl
import json
import os
import pty
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click
import psutil
import pytest
from celery import Celery
from click.testing import CliRunner
from redis import Redis

from seawall import embedded, settings
from seawall.cli import group, reach
from seawall.cli.reach import PATIENCE, Unreachable, try_postgres, try_redis
from seawall.cli.status import AWAY, NOTHING_RUNS
from seawall.database.migrations import Migrations, platform_history
from seawall.delivery import Queues, park
from seawall.fleet import Control
from seawall.worker.names import waits_for
from support.commands import LEAVES, LONG_LIVED, attempts
from support.delivery import OURS, Server, own_server
from support.nodes import ROOT
from support.waiting import busyness, wait_until

AWAY_REDIS = "redis://127.0.0.1:1/0"
AWAY_DATABASE = "postgresql://someone:secret@127.0.0.1:1/shop"
ASK_NOBODY = LONG_LIVED | {
    *(("init",), ("config",), ("completion",), ("migrate", "new")),
    *(("doctor",), ("memory", "profile"), ("health",), ("migrate", "baseline")),  # not where nothing is named
}
"""Commands that ask no server in a folder without a fleet."""

IMPORTED = (
    "import sys\nfrom seawall.cli import group\n"
    "group(sys.argv[1:], standalone_mode=False)\n"
    "print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
)
"""Runs a command and prints the packages that it took."""

NOT_FOR_LOOKING = frozenset({"celery", "kombu", "amqp", "billiard", "flower"})
"""What nobody needs who only looks, and what takes long to import."""

LAST_STATUS = 14  # of `migrate`; a fault of our own has 70
NEEDS_REDIS = ("queues list", "breakers list", "memory list", "dead list", "queues purge q --yes")
NEEDS_DATABASE = ("errors list", "breakers history", "migrate status", "migrate plan", "errors show 0a")

Use = Callable[..., None]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Use:
    """Have commands ask these servers, in a folder without a fleet."""
    monkeypatch.chdir(tmp_path)
    for name in ("SEAWALL_FLEET", "SEAWALL_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def choose(redis: str, database: str = AWAY_DATABASE) -> None:
        monkeypatch.setenv("SEAWALL_REDIS_URL", redis)
        monkeypatch.setenv("SEAWALL_DATABASE_URL", database)
        settings.cache_clear()

    return choose


def survives(path: tuple[str, ...]) -> int:
    """Call a command in every way nobody should; how many ways there were."""
    if path == ("migrate", "new"):  # writes files, and not into the platform's folder
        Path("fleet").mkdir()
        Path("seawall.toml").write_text('fleet = "fleet.toml"')
        Path("fleet.toml").write_text('app = "shop"\n[migrations]\nshop = "fleet"\n[workers.default]')
        settings.cache_clear()
    tried = 0
    for arguments in attempts(LEAVES[path]):
        told = CliRunner().invoke(group, [*path, *arguments])
        about = (path, arguments, told.output)
        assert told.exception is None or isinstance(told.exception, SystemExit), about
        assert 0 <= told.exit_code <= LAST_STATUS, about
        assert "Traceback" not in told.output, about
        assert "secret" not in told.output, about
        tried += 1
    return tried


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in LONG_LIVED], ids=" ".join)
def test_no_argument_ends_a_command_in_a_traceback_while_the_servers_are_away(
    path: tuple[str, ...], use: Use
) -> None:
    use(AWAY_REDIS)
    assert survives(path)


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in LONG_LIVED], ids=" ".join)
def test_no_argument_ends_a_command_in_a_traceback(
    path: tuple[str, ...], use: Use, redis_url: str, database_url: str
) -> None:
    use(redis_url, database_url)
    assert survives(path)


@pytest.mark.parametrize("command", [*NEEDS_REDIS, *NEEDS_DATABASE])
def test_a_server_that_refuses_is_named_at_once(command: str, use: Use) -> None:
    use(AWAY_REDIS)
    told = CliRunner().invoke(group, command.split())
    assert told.exit_code == 1
    (line,) = told.output.splitlines()
    assert line.startswith("seawall: Redis" if command in NEEDS_REDIS else "seawall: PostgreSQL")
    assert "127.0.0.1:1" in line
    assert "refused" in line.lower()


@pytest.fixture(scope="module")
def frozen() -> Iterator[str]:
    """A Redis that takes connections and answers nothing."""
    with contextlib.ExitStack() as stack:
        from support.servers import temporary_home

        home = stack.enter_context(temporary_home())
        attached = stack.enter_context(embedded.attach(home, database=False))
        pid = attached.pids["redis"]
        os.kill(pid, signal.SIGSTOP)
        stack.callback(os.kill, pid, signal.SIGCONT)
        yield str(attached.servers.redis_url)


def test_a_server_that_is_frozen_gets_a_second_and_no_more(frozen: str, use: Use) -> None:
    use(frozen)
    for command in NEEDS_REDIS:
        told = CliRunner().invoke(group, command.split())
        assert told.exit_code == 1, told.output
        assert "no answer within 1 s" in told.output
        assert told.output.startswith("seawall: Redis at 127.0.0.1:")
    told = CliRunner().invoke(group, ["status"])
    assert told.exit_code == AWAY
    assert told.output.startswith("nobody can say whether a fleet runs: Redis at 127.0.0.1:")


@pytest.fixture
def silent(frozen: str, servers: embedded.Servers, use: Use) -> tuple[str, str]:
    """Servers that take connections and, behind that, say nothing; where they are."""
    entered = f"{servers.database_url}?options=-c%20post_auth_delay%3D20"  # after it was asked for a login
    secure = urlsplit(frozen)._replace(scheme="rediss").geturl()  # accepts, and shakes no hands
    use(secure, entered)
    places = [urlsplit(url) for url in (secure, entered)]
    redis, database = (f"{place.hostname}:{place.port}" for place in places)
    return redis, database


@pytest.mark.parametrize("path", [path for path in LEAVES if path not in ASK_NOBODY], ids=" ".join)
def test_servers_that_fall_silent_after_the_first_word_are_named_within_two_seconds(
    path: tuple[str, ...], silent: tuple[str, str]
) -> None:
    arguments = ["nosuch" for each in LEAVES[path].params if isinstance(each, click.Argument)]
    options = next(attempts(LEAVES[path]))
    begun = time.monotonic()
    told = CliRunner().invoke(group, [*path, *options, *arguments])
    assert time.monotonic() - begun < (2 * PATIENCE + 1) * busyness()
    assert told.exit_code == 1, told.output
    assert any(place in told.output for place in silent)
    assert f"no answer within {PATIENCE:g} s" in told.output
    assert "cannot be reached" in told.output


def test_silent_alternatives_share_one_second(frozen: str, use: Use) -> None:
    place = urlsplit(frozen).netloc.rpartition("@")[2]
    begun = time.monotonic()
    with pytest.raises(Unreachable, match=rf"{place} \(no answer within 0.25 s\), {place}"):
        try_redis(";".join([frozen] * 4))
    assert time.monotonic() - begun < 2 * PATIENCE * busyness()


def test_a_slow_resolver_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's resolver cannot be slowed from here, so it alone is replaced."""
    told = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: told.wait(30) and [])
    try:
        with pytest.raises(Unreachable, match=r"away\.invalid:6379 \(no answer within 1 s\)"):
            try_redis("redis://away.invalid")
        with pytest.raises(Unreachable, match=r"away\.invalid:5432/shop: no answer within 1 s"):
            try_postgres("postgresql://someone:secret@away.invalid/shop")
    finally:
        told.set()


def test_status_of_nothing_says_so_and_starts_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_HOME", str(home))
    settings.cache_clear()
    told = CliRunner().invoke(group, ["status"])
    assert told.exit_code == NOTHING_RUNS
    assert told.output == (
        "no fleet runs, and its embedded servers are stopped: start one with `seawall up`\n"
    )
    assert not home.exists()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Redis with a password, `secret`, and a user `nobody` who may do nothing."""
    with own_server(tmp_path_factory.mktemp("guarded")) as server:
        with server.client() as client:
            client.execute_command("ACL", "SETUSER", "nobody", "on", ">secret", "-@all", "+ping", "+hello")
            client.config_set("requirepass", "secret")
        yield server


@pytest.mark.parametrize(
    ("entry", "database", "why"),
    [
        (":wrong@", "0", "WRONGPASS|invalid username-password"),
        ("", "0", "Authentication required|already authenticated"),
        (":secret@", "99", "DB index is out of range"),
        ("nobody:secret@", "0", "no permissions|NOPERM"),
    ],
)
def test_status_of_a_redis_that_refuses_is_that_nobody_can_say(
    guarded: Server, entry: str, database: str, why: str, use: Use
) -> None:
    use(f"redis://{entry}127.0.0.1:{guarded.port}/{database}")
    told = json.loads(run("status", "--json", status=AWAY))
    assert re.search(why, told["fleet"]["away"]["Redis"])
    assert told["fleet"]["summary"].startswith("nobody can say whether a fleet runs: ")
    lines = run("status", status=AWAY)
    assert len(re.findall(why, lines)) == 1 or "NOPERM" in why
    assert "no fleet runs" not in lines


def test_servers_that_end_while_status_asks_are_stopped_and_not_unreachable(
    home: Path, use: Use, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWALL_HOME", str(home))
    settings.cache_clear()
    attached = embedded.attach(home)
    pids, find = attached.pids, embedded.find

    def found_just_before_the_end(place: Path) -> embedded.Servers | None:
        found = find(place)
        attached.close()
        wait_until(lambda: not any(map(psutil.pid_exists, pids.values())), what="their end")
        return found

    monkeypatch.setattr(embedded, "find", found_just_before_the_end)
    assert run("status", status=NOTHING_RUNS).startswith(
        "no fleet runs, and its embedded servers are stopped"
    )


def test_a_fleet_without_a_worker_is_said_to_start_or_stop(
    home: Path, use: Use, servers: embedded.Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWALL_HOME", str(home))
    use(str(servers.redis_url), str(servers.database_url))
    home.mkdir(exist_ok=True)
    with contextlib.closing(Control(home)):
        told = run("status", status=NOTHING_RUNS)
    assert told.startswith(f"the fleet of process {os.getpid()} starts or stops: no worker of it runs now")


def test_status_asks_both_servers_at_once(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "PATIENCE", 20.0)
    with socket.create_server(("127.0.0.1", 0)) as redis, socket.create_server(("127.0.0.1", 0)) as database:
        places = [f"127.0.0.1:{each.getsockname()[1]}" for each in (redis, database)]
        use(f"redis://{places[0]}/0", f"postgresql://someone:secret@{places[1]}/shop")
        asking = threading.Thread(target=run, args=("status",), kwargs={"status": AWAY})
        asking.start()
        connections = [each.accept()[0] for each in (redis, database)]
        connections[0].settimeout(20.0)
        assert connections[0].recv(65536).endswith(b"PING\r\n")  # and waits for its answer yet
        connections[0].settimeout(0.0)
        with pytest.raises(BlockingIOError):
            connections[0].recv(1)
        for each in connections:
            each.close()
    asking.join(30.0)
    assert not asking.is_alive()


class Queued(NamedTuple):
    """A queue with one message, declared by an application, and where it is."""

    url: str
    name: str


@pytest.fixture
def queued(redis_url: str, use: Use) -> Queued:
    use(redis_url)
    name = f"payments-{uuid.uuid4().hex[:6]}"  # this process remembers what it has declared
    with Celery("queued", broker=redis_url, set_as_current=False) as app:
        app.conf.broker_transport = OURS
        app.send_task("shop.pay", queue=name)
    return Queued(redis_url, name)


def run(*arguments: str, status: int = 0) -> str:
    told = CliRunner().invoke(group, arguments)
    assert told.exit_code == status, told.output
    return told.output


def test_health_is_that_of_the_servers_where_no_question_and_no_address_say_otherwise(
    use: Use, redis_url: str, database_url: str
) -> None:
    use(redis_url, database_url)
    told = json.loads(run("health", "--json", "--timeout=10"))
    assert {each["name"] for each in told["checks"] if each["ok"]} == {"redis", "broker", "database"}
    use(AWAY_REDIS, database_url)
    assert "redis: " in run("health", status=1)


def test_queues_need_no_fleet_file_where_the_settings_name_the_server(queued: Queued) -> None:
    name = queued.name
    assert json.loads(run("queues", "list", "--json"))[name]["ready"] == 1
    assert json.loads(run("queues", "pause", name, "--json")) == {"paused": name}
    assert "paused" in run("queues", "list")
    run("queues", "resume", name)
    assert run("queues", "purge", name, "--yes") == f"deleted 1 message of {name}\n"


def test_names_that_nothing_has_are_refused(queued: Queued) -> None:
    for verb in (["pause"], ["resume"], ["purge", "--yes"]):
        told = run("queues", *verb, queued.name[:-1], status=2)
        assert f"no queue {queued.name[:-1]!r}: did you mean {queued.name!r}?" in told
    with Redis.from_url(queued.url) as client, contextlib.closing(client):
        assert not Queues(client).counts(queued.name).paused
    assert "no record of a task 'shop.nosuch'" in run("memory", "forget", "shop.nosuch", status=2)
    assert "no queue 'nosuch'" in run("dead", "list", "-q", "nosuch", status=2)


@pytest.mark.parametrize("answer", ["y\n", "n\n"])
def test_a_question_is_no_part_of_json(queued: Queued, answer: str) -> None:
    told = CliRunner().invoke(group, ["queues", "purge", queued.name, "--json"], input=answer)
    assert "Delete every waiting task" in told.stderr
    assert (json.loads(told.stdout)["deleted"] if answer == "y\n" else told.stdout == "") == 1


def test_tasks_of_modules_that_the_application_names_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"late_{uuid.uuid4().hex[:8]}"
    source = "from celery import shared_task\n@shared_task(name='late.task')\ndef task():\n    pass\n"
    (tmp_path / f"{module}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    with Celery("late", broker="memory://", include=[module], set_as_current=False) as app:
        argv = ["memory", "profile", "late.task", "--runs", "2", "--warm-up", "0", "--json"]
        told = CliRunner().invoke(group, argv, obj=SimpleNamespace(app=app))
    assert told.exit_code == 0, told.output
    assert (json.loads(told.output)["task"], json.loads(told.output)["runs"]) == ("late.task", 2)


def test_what_migrations_say_is_json_too(use: Use, database_url: str) -> None:
    use(AWAY_REDIS, database_url)
    (first, *_) = json.loads(run("migrate", "plan", "--json"))
    assert first["sql"]
    assert json.loads(run("migrate", "check", "--json", status=3))[0]["kind"] == "pending"
    applied = json.loads(run("migrate", "up", "--json"))["applied"]
    assert [each["history"] for each in applied] == ["seawall"] * len(applied)
    assert {each["state"] for each in json.loads(run("migrate", "status", "--json"))} == {"applied"}
    assert run("migrate", "plan") == "-- nothing is pending\n"
    assert json.loads(run("migrate", "down", "--json"))["undone"][0]["migration"] == applied[-1]["migration"]
    assert len(Migrations(database_url, [platform_history()]).plan()) == 1


def environment(redis: str) -> dict[str, str]:
    return {**os.environ, "SEAWALL_REDIS_URL": redis, "SEAWALL_DATABASE_URL": AWAY_DATABASE}


def seawall(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "seawall.cli", *arguments]


def test_a_watched_list_redraws_the_terminal_and_fits_it_until_ctrl_c(queued: Queued) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 10, 40, 0, 0))
    argv = seawall("queues", "list", "--watch", "0.1")
    seen = b""
    with subprocess.Popen(
        argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(queued.url)
    ) as proc:
        os.close(theirs)
        while seen.count(b"\x1b[H") < 3:
            seen += os.read(ours, 65536)
        proc.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # its end
            while piece := os.read(ours, 65536):
                seen += piece
        assert proc.wait(30) == 0
    os.close(ours)
    assert seen.count(b"\x1b[2J") == 1
    assert queued.name.encode() in seen
    assert b"Traceback" not in seen


def test_a_watched_list_on_a_pipe_is_a_line_of_json_a_look(queued: Queued) -> None:
    argv = seawall("queues", "list", "--json", "--watch=0.1")
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=environment(queued.url)) as proc:
        assert proc.stdout is not None
        looks = [json.loads(proc.stdout.readline()) for _ in range(2)]
        proc.send_signal(signal.SIGINT)
        assert proc.wait(30) == 0
    assert [look[queued.name]["ready"] for look in looks] == [1, 1]
    assert "--watch redraws a terminal, and this is none" in run("queues", "list", "--watch", status=2)


def imported(command: str, env: dict[str, str], place: Path | None = None) -> set[str]:
    argv = [sys.executable, "-c", IMPORTED, *command.split()]
    done = subprocess.run(argv, env=env, cwd=place, capture_output=True, text=True, check=True)
    return {*done.stderr.split()}


def test_a_list_asks_redis_without_celery_and_postgres(queued: Queued) -> None:
    with Celery("queued", broker=queued.url, set_as_current=False) as app:
        app.conf.broker_transport = OURS
        with app.connection_for_read() as connection, connection.channel() as opened:
            channel: Any = opened
            park(channel.basic_get(queued.name), waits_for("shop.pay"))  # about which there is advice
    assert "shop.pay" in run("queues", "list")
    for command in ("queues list", "dead list", "breakers list", "memory list"):
        assert not imported(command, environment(queued.url)) & {*NOT_FOR_LOOKING, "psycopg"}, command


def test_a_list_asks_postgres_without_celery_and_redis(database_url: str, tmp_path: Path) -> None:
    [*Migrations(database_url, [platform_history()]).up()]
    for command in ("errors list", "breakers history", "migrate status", "migrate plan", "migrate check"):
        found = imported(command, {**environment(AWAY_REDIS), "SEAWALL_DATABASE_URL": database_url}, tmp_path)
        assert "psycopg" in found
        assert not found & {*NOT_FOR_LOOKING, "redis", "opentelemetry"}, command


def test_status_asks_both_servers_without_celery(queued: Queued, database_url: str) -> None:
    found = imported("status", {**environment(queued.url), "SEAWALL_DATABASE_URL": database_url})
    assert {"psycopg", "redis"} <= found
    assert not found & NOT_FOR_LOOKING


def test_bash_completes_commands_and_options() -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    script = (
        'eval "$(seawall completion bash)"\n'
        "complete -p seawall\n"
        "for words in 'seawall que' 'seawall queues l' 'seawall queues list --w'; do\n"
        "  COMP_WORDS=($words); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); COMPREPLY=()\n"
        "  _seawall_completion seawall; echo ${COMPREPLY[@]}\n"
        "done"
    )
    scripts = Path(sys.executable).parent
    env = {**os.environ, "PATH": f"{scripts}:{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True, env=env, cwd=ROOT)
    registered, *completed = done.stdout.splitlines()
    assert registered.endswith("_seawall_completion seawall")
    assert completed == ["queues", "list", "--watch"]


@pytest.mark.parametrize(("shell", "registers"), [("zsh", "compdef"), ("fish", "complete --no-files")])
def test_other_shells_get_what_they_read(shell: str, registers: str) -> None:
    assert registers in run("completion", shell)
