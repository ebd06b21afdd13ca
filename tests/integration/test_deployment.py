"""Every program of deploy/ runs, is healthy, keeps what has to be kept, and ends when it is told to."""

import base64
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from seawall.embedded import Servers
from support.deployed import DEPLOY, PASSWORD, Program, compose, image, programs, unit
from support.notifying import notified
from support.pod import Pod, entering
from support.waiting import wait_until

UNITS = sorted(DEPLOY.glob("systemd/*.service"))
_FETCH = """
import sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Authorization": sys.argv[2]})
try:
    print(urllib.request.urlopen(request, timeout=10).status)
except urllib.error.HTTPError as refused:
    print(refused.status)
"""


@pytest.fixture
def pod(servers: Servers, tmp_path: Path) -> Iterator[Pod]:
    """A network in which PostgreSQL is there as the files name it."""
    if why := entering()[1]:
        pytest.skip(f"no network of its own here: {why}")
    admin = str(servers.database_url)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE seawall LOGIN PASSWORD {}").format(PASSWORD))
        connection.execute("CREATE DATABASE seawall OWNER seawall")
    try:
        with Pod.opened(tmp_path / "pod", _database(servers), list(compose())) as opened:
            yield opened
    finally:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS seawall WITH (FORCE)")
            connection.execute("DROP ROLE seawall")


def test_every_service_of_compose_is_healthy_keeps_its_files_and_ends(pod: Pod) -> None:
    services = {program.name: program for program in programs(compose(WORKER_CONCURRENCY="1"))}
    postgres = services.pop("postgres")  # its image runs what it holds: only its check stands in the file
    for program in services.values():
        _up(pod, program)
        if "worker" in program.argv:
            _keeps_its_rows(pod, program)
    assert pod.asks("redis", *postgres.healthcheck).returncode == 0
    assert "sends the schedule" in pod.up["beat"][1].output, "a second beat would not wait for it"
    _flower_shows_queues_to_who_has_the_password(pod)
    _all_end(pod)


@pytest.mark.slow
def test_what_postgres_had_not_taken_outlives_a_worker_that_is_killed(pod: Pod, servers: Servers) -> None:
    services = {program.name: program for program in programs(compose(WORKER_CONCURRENCY="1"))}
    for name in ("redis", "migrate", "workers"):
        _up(pod, services[name])
    pod.postgres.go_deaf()
    # It fails at once, for want of its arguments.
    sent = pod.asks("workers", "celery", "--app=workers.app", "call", "demo.summarise")
    assert sent.returncode == 0, sent.stderr
    task, spool = sent.stdout.strip(), pod.seen(services["workers"], "/var/lib/seawall")
    wait_until(lambda: any(task in path.read_text() for path in _files(spool)), what="its row in the spool")

    pod.up["workers"][1].destroy()
    pod.postgres.cut()
    pod.postgres.hear_again()
    _up(pod, services["workers"])

    with psycopg.connect(_database(servers), autocommit=True) as connection:
        runs = "SELECT state FROM seawall.task_runs WHERE task_id = %s"
        row = wait_until(lambda: connection.execute(runs, (task,)).fetchone(), what="its row")
    assert row == ("dead",)


@pytest.mark.slow
def test_the_image_runs_a_worker_by_itself(pod: Pod) -> None:
    services = {program.name: program for program in programs(compose())}
    for name in ("redis", "migrate"):
        _up(pod, services[name])
    itself = image()
    program = replace(itself, environment={**services["workers"].environment, **itself.environment})

    proc = pod.start(program)

    proc.wait_for(" ready.", timeout=60)
    _keeps_its_rows(pod, program)
    _all_end(pod)


@pytest.mark.slow
@pytest.mark.parametrize("name", [program.name for program in map(unit, UNITS) if program.notifies])
def test_a_unit_says_that_it_is_ready_keeps_its_files_and_ends(pod: Pod, name: str, tmp_path: Path) -> None:
    units = {program.name: program for program in map(unit, UNITS)}
    _up(pod, next(program for program in programs(compose()) if program.name == "redis"))
    _up(pod, units["seawall-migrate"])
    (tmp_path / "n").mkdir()
    told = {"NOTIFY_SOCKET": "/run/systemd/notify", "WATCHDOG_USEC": "3000000"}
    itself = units[name]
    program = replace(
        itself,
        environment={**itself.environment, **told},
        mounts=(*itself.mounts, (tmp_path / "n", "/run/systemd")),
    )

    with notified(tmp_path / "n" / "notify") as said:
        proc = pod.start(program)

        def ready() -> bool:
            assert proc.popen.poll() is None, proc.output
            return {b"READY=1", b"WATCHDOG=1"} <= said

        wait_until(ready, timeout=90, what="READY=1 and WATCHDOG=1")
        _keeps_its_rows(pod, program)
        _all_end(pod)
        wait_until(lambda: b"STOPPING=1" in said, what="STOPPING=1")


def _database(servers: Servers) -> str:
    return urlsplit(str(servers.database_url))._replace(path="/seawall").geturl()


def _up(pod: Pod, program: Program) -> None:
    """Run a job to its end, and anything else until its health check says yes."""
    proc = pod.start(program)
    if program.is_job:
        assert proc.wait(60) == 0, proc.output
    else:
        assert program.healthcheck, f"{program.name} has no health check"
        pod.wait_healthy(program.name)


def _keeps_its_rows(pod: Pod, program: Program) -> None:
    """What PostgreSQL has not taken yet outlives a worker, wherever it runs."""
    kept = [pod.seen(program, place) for place in program.kept]
    assert any(list(place.glob("spool/*/owner")) for place in kept), pod.up[program.name][1].output


def _flower_shows_queues_to_who_has_the_password(pod: Pod) -> None:
    proof = base64.b64encode(f"user:{PASSWORD}".encode()).decode()
    for word, status in ((proof, "200"), ("bm9ib2R5", "401")):
        url = "http://127.0.0.1:5555/broker"
        done = pod.asks("flower", "python", "-c", _FETCH, url, f"Basic {word}")
        assert done.stdout.strip() == status, (done.stderr, pod.up["flower"][1].output)


def _all_end(pod: Pod) -> None:
    """Cleanly, in the time of the file, the last one first, and with nothing left where nothing is kept."""
    for name, (program, proc) in reversed(pod.up.items()):
        if not program.is_job:
            assert pod.stop(name) == 0, proc.output
        left = [path for place in program.scratch for path in _files(pod.seen(program, place))]
        assert not left, f"{name} left files where they are lost"
        assert "Traceback" not in proc.output
        assert "Read-only file system" not in proc.output


def _files(directory: Path) -> Iterator[Path]:
    return (path for path in directory.rglob("*") if not path.is_dir())
