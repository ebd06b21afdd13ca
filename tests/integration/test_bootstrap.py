import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery

import seawall
from seawall import Features, MigrationError, StartupError, System, bootstrap
from seawall.config import settings
from seawall.database.migrations import Migrations
from seawall.errors import ConfigError
from seawall.health import Question
from seawall.startup import histories
from support.delivery import free_port
from support.processes import started
from support.proxy import proxy
from support.services import World, threads_of
from support.waiting import busyness, wait_until

QUIET = Features(logging=False, errors=False)


@pytest.fixture
def _configured(redis_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", redis_url)
    monkeypatch.setenv("SEAWALL_DATABASE_URL", database_url)
    monkeypatch.setenv("SEAWALL_FLEET", "none.toml")
    settings.cache_clear()


@pytest.fixture
def _migrated(_configured: None, database_url: str) -> None:
    Migrations(database_url, histories()).up()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def system(_migrated: None) -> Iterator[System]:
    made = bootstrap(features=QUIET)
    yield made
    made.shutdown()


@pytest.mark.usefixtures("_migrated")
def test_one_line_makes_a_process_ready_with_its_own_services_and_the_end_stops_them(world: World) -> None:
    @seawall.service("gateway", requires=("redis", "migrations"))
    def gateway() -> Iterator[str]:
        world.note("started", "gateway")
        yield "a gateway"
        world.note("stopped", "gateway")

    system = bootstrap(services=[gateway], features=QUIET)

    assert system["gateway"] == "a gateway"
    wait_until(lambda: system.health().ok, what="readiness")
    assert system.health(Question.LIVE).ok
    assert system.health(Question.STARTUP).ok
    numbers = system.metrics()
    assert numbers["check_up.database"] == 1
    assert numbers["service_start_attempts.gateway"] == 1
    assert "database_pool_max" in numbers
    system.shutdown()
    system.shutdown()
    assert world.up == []
    assert not system.health(Question.STARTUP).ok
    wait_until(lambda: not threads_of(), what="the end of all threads")


def test_bootstrapping_again_gives_the_same_and_refuses_another(system: System) -> None:
    assert bootstrap(features=QUIET) is system
    with pytest.raises(ConfigError, match="called before"):
        bootstrap(features=Features(logging=False, errors=False, broker=False))
    system.shutdown()
    again = bootstrap(features=QUIET)
    assert again is not system
    again.shutdown()


@pytest.mark.usefixtures("_migrated")
def test_an_app_that_exists_is_installed_and_its_broker_waited_for(redis_url: str) -> None:
    app = Celery("shop", broker=redis_url, set_as_current=False)
    system = bootstrap(app, features=QUIET)
    assert isinstance(app, seawall.Seawall)
    assert "broker" in {each.name for each in system.report().services}
    system.shutdown()


@pytest.mark.usefixtures("_configured")
def test_pending_migrations_are_refused_waited_for_or_ignored_and_never_applied(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def policy(word: str) -> None:
        monkeypatch.setenv("SEAWALL_STARTUP__MIGRATIONS", word)
        settings.cache_clear()

    policy("refuse")
    with pytest.raises(
        StartupError, match=r"'migrations' did not start: .*run `seawall migrate up`"
    ) as caught:
        bootstrap(features=QUIET)
    assert isinstance(caught.value.__cause__, MigrationError)

    policy("ignore")
    bootstrap(features=QUIET).shutdown()
    assert Migrations(database_url, histories()).plan()

    policy("wait")
    monkeypatch.setenv("SEAWALL_STARTUP__TIMEOUT", "0.5s")
    settings.cache_clear()
    with pytest.raises(
        StartupError, match="'migrations' did not start: StartupError: migrations are pending"
    ):
        bootstrap(features=QUIET)

    monkeypatch.setenv("SEAWALL_STARTUP__TIMEOUT", "60s")
    settings.cache_clear()
    stop = seawall.events.subscribe(
        seawall.runtime.ServiceAttemptFailed, lambda _event: Migrations(database_url, histories()).up()
    )
    bootstrap(features=QUIET).shutdown()
    stop()


@pytest.mark.usefixtures("_migrated")
def test_a_server_that_is_late_is_waited_for_and_one_that_never_comes_is_named(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(redis_url) as way:
        monkeypatch.setenv("SEAWALL_REDIS_URL", way.url)
        monkeypatch.setenv("SEAWALL_STARTUP__TIMEOUT", "0.3s")
        settings.cache_clear()
        way.die()
        with pytest.raises(StartupError, match=r"service '(redis|broker)' did not start"):
            bootstrap(features=QUIET)
        wait_until(lambda: not threads_of("seawall-st"), what="nothing half started")

        monkeypatch.setenv("SEAWALL_STARTUP__TIMEOUT", "60s")
        settings.cache_clear()
        stop = seawall.events.subscribe(seawall.runtime.ServiceAttemptFailed, lambda _event: way.revive())
        bootstrap(features=QUIET).shutdown()
        stop()


WAITS = """
import logging, sys, time
import seawall

class Told(logging.Handler):
    def emit(self, record):
        if record.name == "seawall.startup":
            print(f"{time.monotonic() - begun:.2f} {record.getMessage()}", flush=True)

begun = time.monotonic()
logging.basicConfig(handlers=[Told()])
seawall.bootstrap()
"""


@pytest.mark.parametrize(
    ("lacks", "awaited", "advice"),
    [
        ("redis", "redis", "SEAWALL_REDIS_URL"),
        pytest.param("database", "database", "SEAWALL_DATABASE_URL", marks=pytest.mark.slow),
        ("migrations", "migrations", "seawall migrate up"),
        ("servers", "the embedded servers", "the first start takes a while"),
    ],
)
@pytest.mark.usefixtures("_configured")
def test_a_start_that_waits_says_soon_for_what_and_what_to_do(
    lacks: str, awaited: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lacks in {"redis", "database"}:
        url = f"{'redis' if lacks == 'redis' else 'postgresql'}://127.0.0.1:{free_port()}/0"
        monkeypatch.setenv(f"SEAWALL_{lacks.upper()}_URL", url)
    if lacks == "servers":
        for name in ("SEAWALL_REDIS_URL", "SEAWALL_DATABASE_URL"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("SEAWALL_HOME", str(tmp_path / "home"))
    with started([sys.executable, "-c", WAITS], log=tmp_path / "log") as script:
        wait_until(lambda: f"waiting for {awaited}" in script.output, timeout=20)
        said = next(line for line in script.output.splitlines() if f"waiting for {awaited}" in line)
        if lacks == "servers":
            wait_until(lambda: "waiting for migrations" in script.output, timeout=60)
    assert advice in said
    assert "at most 1m" in said or lacks == "servers"
    if lacks != "migrations":  # which are looked at when the servers are there
        assert float(said.split()[0]) < 4.0 * busyness()  # its imports too; it gives up after a minute


FORKS = """
import os
from seawall import Features, bootstrap
from support.waiting import busyness, wait_until

quiet = Features(logging=False)
system = bootstrap(features=quiet)
child = os.fork()
if child == 0:
    status = 1
    try:
        system.shutdown()
        own = bootstrap(features=quiet)
        wait_until(lambda: own.health().ok, timeout=30)
        own.shutdown()
        status = 0 if own is not system else 2
    finally:
        os._exit(status)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
wait_until(lambda: system.health().ok, what="the parent to be as it was")
assert bootstrap(features=quiet) is system
system.shutdown()
"""


@pytest.mark.usefixtures("_migrated")
def test_a_forked_child_gets_a_system_of_its_own_and_leaves_its_parents_alone() -> None:
    # A process of its own: threads that other tests left in this one may hold anything at the fork.
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", "."])}
    done = subprocess.run(
        [sys.executable, "-c", FORKS], env=variables, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("_migrated")
def test_a_producer_does_not_load_celery_and_leaves_cleanly() -> None:
    script = (
        "import sys, seawall; s = seawall.bootstrap(features=seawall.Features(logging=False)); "
        "assert s.report().services; print('celery' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


UNCAUGHT = """
import asyncio, threading
import seawall

class Careless:
    def __del__(self):
        raise KeyError("of a destructor")

def fails():
    raise LookupError("of a thread")

async def forgotten():
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await asyncio.sleep(0)

system = seawall.bootstrap()
thread = threading.Thread(target=fails, name="errand")
thread.start()
thread.join()
Careless()
asyncio.run(forgotten())
system.shutdown()
raise RuntimeError("the last one")
"""


@pytest.mark.usefixtures("_migrated")
def test_what_nobody_catches_in_a_bootstrapped_process_is_logged_once_with_its_class() -> None:
    done = subprocess.run([sys.executable, "-c", UNCAUGHT], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines()]  # nothing but lines of the log
    caught = [(line["event"], line["category"]) for line in lines if "fingerprint" in line]
    assert caught == [
        ("thread errand failed: LookupError", "internal"),
        ("destructor Careless.__del__ failed: KeyError", "internal"),
        ("asyncio ? failed: ZeroDivisionError", "internal"),
        ("process failed: RuntimeError", "internal"),
    ]


ENDED = """
import multiprocessing, signal, sys
import seawall
from seawall import Features, bootstrap

wanted, = sys.argv[1:]
off = Features(logging=False, redis=False, broker=False, database=False)

@seawall.service("gateway")
def gateway():
    yield
    print("stopped", flush=True)

if wanted == "a handler of its own":
    signal.signal(signal.SIGTERM, lambda *_: print("its own", flush=True))
system = bootstrap(services=[gateway], features=off)
if wanted == "shut down":
    system.shutdown()
if wanted == "a child":
    def idle():
        print("idle", flush=True)
        signal.pause()

    child = multiprocessing.get_context("fork").Process(target=idle)
    child.start()
    print(sys.stdin.readline(), end="", flush=True)
    child.terminate()
    child.join()
    print(child.exitcode, flush=True)
    sys.exit()
try:
    print("ready", flush=True)
    sys.stdin.readline()
finally:
    print("left", flush=True)
"""


def ended(wanted: str, *, at: str = "ready") -> tuple[int, list[str]]:
    """The exit status of a script that was told to end, and what it printed then."""
    with subprocess.Popen(
        [sys.executable, "-c", ENDED, wanted], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as script:
        assert script.stdout is not None
        assert script.stdin is not None
        try:
            assert any(line.strip() == at for line in script.stdout)
            if at == "ready":
                script.send_signal(signal.SIGTERM)
            script.stdin.close()
            return script.wait(60), script.stdout.read().splitlines()
        finally:
            script.kill()


@pytest.mark.parametrize(
    ("wanted", "status", "said"),
    [
        ("nothing special", 128 + signal.SIGTERM, ["left", "stopped"]),
        ("a handler of its own", 0, ["its own", "left", "stopped"]),
        ("shut down", -signal.SIGTERM, []),
    ],
)
@pytest.mark.usefixtures("_configured")
def test_a_script_that_is_told_to_end_stops_its_services(wanted: str, status: int, said: list[str]) -> None:
    assert ended(wanted) == (status, said)


@pytest.mark.usefixtures("_configured")
def test_the_child_of_a_script_ends_as_other_children_do() -> None:
    assert ended("a child", at="idle") == (0, [str(-signal.SIGTERM), "stopped"])
