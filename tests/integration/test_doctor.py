"""The doctor finds each planted misconfiguration, and nothing where there is none."""

import contextlib
import json
import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
import redis
from celery import Celery
from click.testing import CliRunner
from psycopg import sql

from seawall import Seawall
from seawall.cli import group
from seawall.config import settings
from seawall.database.migrations import Migrations
from seawall.doctor import (
    Machine,
    Severity,
    audit_celery,
    audit_machine,
    audit_redis,
    audit_versions,
    examine,
)
from seawall.doctor.machine import cells, workers
from seawall.fleet import FleetSpec
from seawall.startup import histories
from support.nodes import ROOT
from support.proxy import proxy
from support.waiting import wait_until

GOOD_FLEET = """
app = "app"
drain_timeout = "330s"
[workers.default]
queues = ["celery"]
concurrency = 2
memory = "512MiB"
[migrations]
shop = "{migrations}"
"""
OF_A_BUSY_MACHINE = {"redis.latency"}  # of which nobody says that nothing is wrong
ROOMY = Machine(memory=8 << 30, cores=2, files=65536)


@dataclass
class Site:
    """A good set-up, in which a test spoils one thing."""

    redis_url: str
    database_url: str
    app: Seawall
    directory: Path
    monkeypatch: pytest.MonkeyPatch
    machine: Machine = ROOMY

    def setting(self, name: str, value: str) -> AbstractContextManager[object]:
        self.monkeypatch.setenv(name, value)
        settings.cache_clear()
        return contextlib.nullcontext()

    def fleet(self, old: str, new: str) -> AbstractContextManager[object]:
        path = self.directory / "fleet.toml"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        return contextlib.nullcontext()

    def found(self) -> set[str]:
        spec = FleetSpec.load(self.directory / "fleet.toml")
        return {finding.check for finding in examine(self.app, spec, machine=self.machine)}


@pytest.fixture
def site(redis_url: str, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    shop = tmp_path / "migrations"
    shop.mkdir()
    (shop / "0001_orders.up.sql").write_text("CREATE TABLE orders (number int)")
    (tmp_path / "fleet.toml").write_text(GOOD_FLEET.format(migrations=shop))
    app = Seawall("doctor", set_as_current=False)
    made = Site(redis_url, database_url, app, tmp_path, monkeypatch)
    made.setting("SEAWALL_REDIS_URL", redis_url)
    made.setting("SEAWALL_DATABASE_URL", database_url)
    made.setting("SEAWALL_FLEET", str(tmp_path / "fleet.toml"))
    Migrations(database_url, histories()).up()
    return made


Plant = Callable[[Site], AbstractContextManager[object]]


def conf(**values: Any) -> Plant:
    """A setting of Celery's."""

    def plant(site: Site) -> AbstractContextManager[object]:
        site.app.conf.update(values)
        return contextlib.nullcontext()

    return plant


def fleet(old: str, new: str) -> Plant:
    return lambda site: site.fleet(old, new)


def setting(name: str, value: str) -> Plant:
    return lambda site: site.setting(name, value)


def redis_set(**values: str) -> Plant:
    """A setting of the running Redis, for as long as the test runs."""

    @contextlib.contextmanager
    def plant(site: Site) -> Iterator[None]:
        with redis.Redis.from_url(site.redis_url, decode_responses=True) as client:
            names = [name.replace("_", "-") for name in values]
            before: Mapping[str, str] = {name: client.config_get(name)[name] for name in names}
            for name, value in zip(names, values.values(), strict=True):
                client.config_set(name, value)
            try:
                yield
            finally:
                for name, value in before.items():
                    client.config_set(name, value)

    return plant


def few_clients(site: Site) -> AbstractContextManager[object]:
    """Too few for a larger fleet, and enough for what other tests of this process keep open."""
    site.fleet("concurrency = 2", "concurrency = 30")
    site.fleet("512MiB", "8GiB")
    site.machine = Machine(memory=64 << 30, cores=32, files=65536)
    return redis_set(maxclients="200")(site)


@contextlib.contextmanager
def replica(site: Site) -> Iterator[None]:
    with redis.Redis.from_url(site.redis_url) as client:
        client.replicaof("127.0.0.1", 1)
        try:
            yield
        finally:
            client.replicaof("NO", "ONE")


@contextlib.contextmanager
def far_redis(site: Site) -> Iterator[None]:
    with proxy(site.redis_url) as way:
        way.delay = 0.015
        site.setting("SEAWALL_REDIS_URL", way.url)
        yield


def postgres_system(name: str, value: str) -> Plant:
    """A setting of the whole server, for as long as the test runs."""

    @contextlib.contextmanager
    def plant(site: Site) -> Iterator[None]:
        with psycopg.connect(site.database_url, autocommit=True) as connection:

            def now() -> str:
                row = connection.execute("SELECT current_setting(%s)", (name,)).fetchone()
                return str(row and row[0])

            before = now()
            assignment = sql.SQL("ALTER SYSTEM SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
            connection.execute(assignment)
            connection.execute("SELECT pg_reload_conf()")
            try:
                wait_until(lambda: now() == value, what=f"{name} to be {value}")
                yield
            finally:
                connection.execute(sql.SQL("ALTER SYSTEM RESET {}").format(sql.Identifier(name)))
                connection.execute("SELECT pg_reload_conf()")
                wait_until(lambda: now() == before, what=f"{name} to be {before} again")

    return plant


def on_database(statement: str) -> Plant:
    """A statement about the test's own database, which goes with it."""

    def plant(site: Site) -> AbstractContextManager[object]:
        name = urlsplit(site.database_url).path[1:]
        with psycopg.connect(site.database_url, autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(name)))
        return contextlib.nullcontext()

    return plant


def pending(site: Site) -> AbstractContextManager[object]:
    (site.directory / "migrations" / "0002_more.up.sql").write_text("CREATE TABLE more (number int)")
    return contextlib.nullcontext()


def edited(site: Site) -> AbstractContextManager[object]:
    (site.directory / "migrations" / "0001_orders.up.sql").write_text("CREATE TABLE orders (number bigint)")
    return contextlib.nullcontext()


@contextlib.contextmanager
def few_files(site: Site) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    try:
        site.machine = Machine(memory=ROOMY.memory, cores=ROOMY.cores, files=Machine.here().files)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


PLANTED: dict[str, tuple[Plant, str]] = {
    "an evicting Redis": (
        redis_set(maxmemory="1gb", maxmemory_policy="allkeys-lru"),
        "redis.eviction",
    ),
    "a full Redis": (redis_set(maxmemory="1mb"), "redis.memory"),
    "no append-only file": (redis_set(appendonly="no"), "redis.appendonly"),
    "a lazy append-only file": (redis_set(appendfsync="everysec"), "redis.appendfsync"),
    "few clients": (few_clients, "redis.maxclients"),
    "idle clients are closed": (redis_set(timeout="30"), "redis.timeout"),
    "a replica": (replica, "redis.replica"),
    "a far Redis": (far_redis, "redis.latency"),
    "a database that may be destroyed": (postgres_system("fsync", "off"), "postgres.fsync"),
    "torn pages": (postgres_system("full_page_writes", "off"), "postgres.full_page_writes"),
    "no vacuum": (postgres_system("autovacuum", "off"), "postgres.autovacuum"),
    "lost commits": (
        on_database("ALTER DATABASE {} SET synchronous_commit = off"),
        "postgres.synchronous_commit",
    ),
    "a read-only database": (
        on_database("ALTER DATABASE {} SET default_transaction_read_only = on"),
        "postgres.read_only",
    ),
    "a limited database": (on_database("ALTER DATABASE {} CONNECTION LIMIT 2"), "postgres.database_limit"),
    "a fleet larger than PostgreSQL": (
        setting("SEAWALL_DATABASE__MAX_CONNECTIONS", "500"),
        "postgres.max_connections",
    ),
    "sessions that end": (
        on_database("ALTER DATABASE {} SET idle_session_timeout = '1min'"),
        "postgres.idle_session_timeout",
    ),
    "a pending migration": (pending, "postgres.migrations.pending"),
    "an edited migration": (edited, "postgres.migrations.edited"),
    "a soft limit above the hard one": (
        conf(task_soft_time_limit=400, task_time_limit=300),
        "celery.time_limits",
    ),
    "the stock transport's visibility timeout": (
        conf(broker_transport="redis", broker_transport_options={"visibility_timeout": 60}),
        "celery.visibility_timeout",
    ),
    "killers that come back": (conf(task_reject_on_worker_lost=True), "celery.reject_on_worker_lost"),
    "early acknowledgement": (conf(task_acks_late=False), "celery.acks_early"),
    "hoarding": (conf(worker_prefetch_multiplier=8), "celery.prefetch"),
    "pickle": (conf(accept_content=["json", "pickle"], result_accept_content=["json"]), "celery.pickle"),
    "a serializer nobody accepts": (conf(task_serializer="msgpack"), "celery.serializer"),
    "eager tasks": (conf(task_always_eager=True), "celery.eager"),
    "no retry on submission": (conf(task_publish_retry=False), "celery.publish_retry"),
    "results for ever": (conf(result_expires=None), "celery.result_expires"),
    "a prefix of one half of the keys": (
        conf(broker_transport_options={"global_keyprefix": "shop:"}),
        "celery.key_prefix",
    ),
    "a task that nobody wrote": (
        conf(beat_schedule={"nightly": {"task": "no.such", "schedule": 60}}),
        "celery.schedule",
    ),
    "a queue that nobody consumes": (fleet('["celery"]', '["other"]'), "celery.default_queue"),
    "a route into nothing": (conf(task_routes={"shop.*": {"queue": "slow"}}), "celery.route"),
    "routes as pairs into nothing": (conf(task_routes=[[("shop.*", "slow")]]), "celery.route"),
    "a router into nothing": (conf(task_routes=lambda *_, **__: "slow"), "celery.route"),
    "a router that needs arguments": (conf(task_routes=lambda _, args, **__: args[0]), "celery.router"),
    "budgets above the memory": (fleet("512MiB", "100GiB"), "fleet.memory"),
    "cells without room": (fleet("512MiB", "96MiB"), "fleet.cell_memory"),
    "a crowd": (
        fleet('concurrency = 2\nmemory = "512MiB"', 'concurrency = 9\nmemory = "2GiB"'),
        "fleet.concurrency",
    ),
    "a drain that is too short": (fleet("330s", "30s"), "fleet.drain"),
    "few files": (few_files, "machine.files"),
    "locks waited for longer than statements": (
        setting("SEAWALL_DATABASE__LOCK_TIMEOUT", "90s"),
        "settings.lock_timeout",
    ),
    "statements that outlive their task": (
        setting("SEAWALL_DATABASE__STATEMENT_TIMEOUT", "1h"),
        "settings.statement_timeout",
    ),
}


def test_a_fleet_of_a_few_cells_needs_no_more_files_than_a_process_usually_may_open() -> None:
    usual = Machine(memory=ROOMY.memory, cores=2, files=1024)
    shipped = FleetSpec.load(ROOT / "workers/fleet.toml")
    assert not [*audit_machine(usual, cells(shipped, 2) + workers(shipped))]
    assert [*audit_machine(usual, 200)]


def test_nothing_is_found_where_nothing_is_wrong(site: Site) -> None:
    assert site.found() - OF_A_BUSY_MACHINE == set()


@pytest.mark.parametrize("planted", PLANTED)
def test_each_planted_misconfiguration_is_found_and_nothing_else(site: Site, planted: str) -> None:
    plant, expected = PLANTED[planted]

    with plant(site):
        found = site.found()

    assert found | OF_A_BUSY_MACHINE == {expected} | OF_A_BUSY_MACHINE
    assert expected in found


def test_clocks_that_differ_and_servers_that_are_away_are_named(redis_url: str) -> None:
    [finding] = audit_redis(redis_url, clients=1, clock=lambda: time.time() + 60)
    assert finding.check == "redis.clock"
    assert "60 s apart" in finding.reason
    with proxy(redis_url) as way:
        way.die()
        [finding] = audit_redis(way.url, clients=1)
    assert (finding.check, finding.severity) == ("redis.reach", Severity.ERROR)


@pytest.mark.parametrize("accepted", ["msgpack", "application/x-msgpack"])
def test_a_serializer_is_accepted_by_its_name_and_by_its_content_type(accepted: str) -> None:
    app = Celery("shop", broker="memory://", set_as_current=False)
    app.conf.update(task_serializer="msgpack", result_serializer="msgpack", accept_content=[accepted])
    found = {each.check for each in audit_celery(app)}
    assert not found & {"celery.serializer", "celery.result_serializer"}


def test_an_old_python_is_named() -> None:
    assert [finding.check for finding in audit_versions((3, 10))] == ["versions.python"]


def test_versions_outside_the_bounds_are_refused_before_anything_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in (("celery", "5.4.0"), ("redis", "5.2.1")):
        pretended = tmp_path / f"{name}-{version}.dist-info"
        pretended.mkdir()
        (pretended / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (tmp_path / "app.py").write_text("raise ImportError('this application needs another Celery')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("SEAWALL_REDIS_URL", "redis://127.0.0.1:1")

    told = CliRunner().invoke(group, ["doctor", "--json"])

    assert told.exit_code == 1, told.output
    [finding] = json.loads(told.output)
    assert (finding["check"], finding["severity"]) == ("versions.packages", "error")
    assert "celery 5.4.0 is installed, redis 5.2.1 is installed" in finding["reason"]
    assert finding["fix"] == "pip install 'celery>=5.6,<5.8' 'redis>=6.4,<9'"


def test_the_command_prints_reason_and_fix_and_exits_with_1(site: Site) -> None:
    site.setting("SEAWALL_DATABASE__LOCK_TIMEOUT", "90s")
    (site.directory / "app.py").write_text("from seawall import Seawall\napp = Seawall('shop')\n")
    site.monkeypatch.syspath_prepend(str(site.directory))

    told = CliRunner().invoke(group, ["doctor"])
    listed = CliRunner().invoke(group, ["doctor", "--json"])

    assert told.exit_code == listed.exit_code == 1, told.output
    assert "settings.lock_timeout: database.lock_timeout=90 s is not below" in told.output
    by_name = {each["check"]: each for each in json.loads(listed.output)}
    assert by_name["settings.lock_timeout"]["severity"] == "warning"
    assert by_name["settings.lock_timeout"]["fix"] == "lower SEAWALL_DATABASE__LOCK_TIMEOUT"
