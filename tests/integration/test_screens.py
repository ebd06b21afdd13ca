"""What commands show a person who sees them for the first time; and names at Tab."""

import contextlib
import json
import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from redis import Redis

from seawall import embedded, settings
from seawall.cli import group
from seawall.cli.tables import fields
from seawall.database.migrations import Migrations, platform_history
from seawall.database.pool import Database
from seawall.delivery import Queues
from seawall.memory.learned import Learned, Sample
from support.delivery import OURS

AWAY = ("redis://127.0.0.1:1/0", "postgresql://someone:secret@127.0.0.1:1/shop")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder without a fleet."""
    monkeypatch.chdir(tmp_path)
    for name in ("SEAWALL_FLEET", "SEAWALL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    yield
    settings.cache_clear()


def use(monkeypatch: pytest.MonkeyPatch, redis: str = AWAY[0], database: str = AWAY[1]) -> None:
    """Have commands ask these servers."""
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis)
    monkeypatch.setenv("SEAWALL_DATABASE_URL", database)
    settings.cache_clear()


def run(*arguments: str, status: int = 0, app: Celery | None = None) -> str:
    told = CliRunner().invoke(group, arguments, obj=SimpleNamespace(app=app))
    assert told.exit_code == status, told.output
    return told.output


def at_tab(*words: str) -> list[str]:
    """What the last of these words may become."""
    *given, begun = words
    found = ShellComplete(group, {}, "seawall", "_SEAWALL_COMPLETE").get_completions(given, begun)
    return [each.value for each in found]


def test_names_of_the_servers_are_completed(
    redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, redis_url, database_url)
    [*Migrations(database_url, [platform_history()]).up()]
    name = f"payments-{uuid.uuid4().hex[:6]}"
    with Celery("queued", broker=redis_url, set_as_current=False) as app:
        app.conf.broker_transport = OURS
        app.send_task("shop.pay", queue=name)
    group_of = (
        "INSERT INTO seawall.error_groups (fingerprint, exception, task, category, severity, first_seen,"
        " last_seen) VALUES ('0badcafe77', 'ValueError', 'shop.pay', 'internal', 'error', now(), now())"
    )
    with contextlib.closing(Database(database_url, settings().database)) as database:
        database.execute(group_of)
    assert at_tab("queues", "pause", name[:-2]) == [name]
    assert at_tab("dead", "list", "--queue", name[:-2]) == [name]
    assert at_tab("errors", "show", "0bad") == ["0badcafe"]
    assert at_tab("errors", "resolve", "0badcafe", "0bad") == []
    assert at_tab("errors", "list", "--status", "i") == ["ignored"]


def test_a_server_that_is_away_or_frozen_keeps_nobody_at_tab(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with embedded.attach(home, database=False) as attached:
        use(monkeypatch, str(attached.servers.redis_url))
        at_tab("queues", "pause", "")  # imports
        pid = attached.pids["redis"]
        os.kill(pid, signal.SIGSTOP)
        try:
            started = time.monotonic()
            assert at_tab("queues", "pause", "") == []
            assert time.monotonic() - started < 1.5  # half a second, and what a busy machine adds
        finally:
            os.kill(pid, signal.SIGCONT)
    use(monkeypatch)
    for words in (("queues", "pause", ""), ("errors", "show", ""), ("breakers", "reset", "p")):
        assert at_tab(*words) == []
    assert capfd.readouterr() == ("", "")


def test_a_line_that_says_what_is_wrong_is_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    from seawall.cli import complain

    monkeypatch.setenv("COLUMNS", "40")
    ours, theirs = os.openpty()
    with os.fdopen(theirs, "w") as terminal:
        complain("no queue 'nosuch': known are celery, mail, reports.monthly.generation", file=terminal)
        terminal.flush()
        shown = os.read(ours, 65536).decode().replace("\r\n", "\n")
    os.close(ours)
    assert "\x1b[31mseawall: no queue 'nosuch': known are\n  celery, mail,\n" in shown


def test_what_waits_for_a_task_that_nobody_knows_fits_the_terminal(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, redis_url)
    monkeypatch.setattr("seawall.cli.tables.width", lambda: 60)
    from seawall.cli.queues import _lines

    counts: dict[str, Any] = dict.fromkeys(("ready", "delayed", "held", "dead"), 0)
    parked = "name:shop.gone_since_the_last_release"
    held = {"celery": {**counts, "paused": False, "oldest": None, "parked": {parked: 1}}}
    held["celery"]["parked_oldest"] = {parked: 20.0}
    lines = [*_lines(held)]
    assert any("start a worker" in each for each in lines)
    assert max(map(len, lines)) <= 60 + len("\x1b[1m\x1b[0m")


@pytest.mark.parametrize("command", ["queues list", "dead list", "breakers list", "memory list"])
def test_an_empty_list_says_what_that_means_and_has_no_bare_titles(
    command: str, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, redis_url)
    with Redis.from_url(redis_url) as client:
        Queues(client)
        client.flushdb()
    (line,) = run(*command.split()).splitlines()
    assert line.startswith("no")


def test_an_empty_history_says_so(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, database=database_url)
    [*Migrations(database_url, [platform_history()]).up()]
    assert run("breakers", "history").startswith("nothing is recorded of any breaker")
    assert run("errors", "list").startswith("no open group of errors")


def test_a_task_that_fails_under_the_profile_is_no_fault_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch)
    with Celery("failing", broker="memory://", set_as_current=False) as app:

        @app.task(name="shop.pay")
        def pay() -> None:
            raise ValueError("no card")

        told = run("memory", "profile", "shop.pay", status=1, app=app)
    assert "shop.pay failed, so its memory is not measured: ValueError: no card" in told


def test_init_tells_programs_what_it_wrote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    module = f"shop_{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{module}.py").write_text("from seawall import Seawall\napp = Seawall('shop')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    told = json.loads(run("init", "-A", module, "--json"))
    assert isinstance(told.pop("tasks"), list)
    assert told == {"wrote": "fleet.toml", "app": module, "queues": ["celery"]}
    assert (tmp_path / "fleet.toml").is_file()
    sys.modules.pop(module, None)


def test_servers_that_cannot_start_are_not_said_to_start(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    module = f"shop_{uuid.uuid4().hex[:8]}"
    (tmp_path / f"{module}.py").write_text("from seawall import Seawall\napp = Seawall('shop')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (home / "data/postgres").mkdir(parents=True)
    (home / "data/postgres/PG_VERSION").write_text("9\n")
    monkeypatch.setenv("SEAWALL_HOME", str(home))
    settings.cache_clear()
    assert "was written by PostgreSQL 9" in run("up", "-A", module, status=1)
    assert capfd.readouterr().out == ""
    assert not (home / "servers.json").exists()
    sys.modules.pop(module, None)


def test_settings_are_shown_in_the_words_of_their_file(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    shown = {line.split()[0]: line.split()[1] for line in run("config").splitlines()}
    assert (shown["redact"], shown["records.enabled"], shown["log.program"]) == ("[]", "true", '""')
    assert (shown["database.connect_timeout"], shown["worker.unknown_for"]) == ("5s", "1d")
    assert (shown["memory.budget"], shown["memory.fraction"]) == ("unset", "0.8")
    monkeypatch.setenv("SEAWALL_MEMORY__BUDGET", "512MiB")
    settings.cache_clear()
    assert "memory.budget                         512 MiB" in run("config")


def test_of_many_tasks_those_are_listed_that_use_most(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, redis_url)
    with Redis.from_url(redis_url) as client:
        client.flushdb()
        Learned(client).add(Sample(f"shop.task_{number:03}", 1 << 20) for number in range(299))
        Learned(client).add([Sample("shop.task_299", 1 << 30)] * 12)
    monkeypatch.setattr("seawall.cli.tables.width", lambda: 80)
    lines = run("memory", "list").splitlines()
    assert len(lines) == 102  # titles, a hundred tasks, and what to type for all
    assert lines[1].startswith("shop.task_299")
    assert lines[-1] == "and 200 more tasks: seawall memory list --limit 300"
    assert len(json.loads(run("memory", "list", "--limit", "300", "--json"))) == 300


def test_marks_below_a_line_that_is_wrapped_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seawall.cli.tables.width", lambda: 60)
    source = "    return self.connection.ask(everything_there_is_to_know, at_once)"
    shown = [*fields({"traceback": f"{source}\n    {'^' * 60}\n\nError: no"})]
    assert not any("^" in each for each in shown)
    assert "" in shown


def test_no_migration_is_written_beside_those_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch)
    assert "this fleet has no migrations of its own" in run("migrate", "new", "add_index", status=2)


def test_how_to_complete_stands_in_the_help_as_it_is_typed() -> None:
    lines = [each.strip() for each in run("completion", "--help").splitlines()]
    assert 'bash  eval "$(seawall completion bash)"       in ~/.bashrc' in lines


def test_a_value_of_megabytes_is_no_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("seawall.cli.tables.width", lambda: 80)
    lines = [*fields({"arguments": "x" * 3_000_000})]
    assert len(lines) < 20
    assert "2,999,000 more characters, see --json" in " ".join(" ".join(lines).split())
