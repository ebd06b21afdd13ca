"""Submissions that wait for replicas: a real primary, and a replica that is slow or stands still."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from seawall import Seawall
from seawall.delivery import submit_many
from seawall.delivery.channel import Channel
from support.delivery import Server, own_server
from support.proxy import Proxy, proxy
from support.waiting import busyness, wait_until

MESSAGES = "seawall:{celery}:messages"
OURS = "seawall.delivery:Transport"


class Pair(NamedTuple):
    primary: Server
    replica: Server
    way: Proxy
    """By which the replica hears of the primary."""


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with (
        own_server(tmp_path / "primary", fsync="no", extra=("--repl-diskless-sync-delay", "0")) as primary,
        own_server(tmp_path / "replica", fsync="no") as replica,
        proxy(primary.url) as way,
        replica.client() as client,
    ):
        host, port = way.url.removeprefix("redis://").removesuffix("/0").split(":")
        client.replicaof(host, port)
        wait_until(
            lambda: client.info("replication")["master_link_status"] == "up", timeout=30, what="the replica"
        )
        yield Pair(primary, replica, way)


@contextmanager
def app_of(pair: Pair, **delivery: Any) -> Iterator[Celery]:
    with Seawall("replicas", broker=pair.primary.url, backend="cache+memory://", set_as_current=False) as app:
        app.conf.broker_transport_options = {"delivery": delivery}
        app.task(name="t", ignore_result=True, shared=False)(_nothing)
        yield app


def _nothing(_number: int = 0) -> None:
    """Never run."""


@contextmanager
def frozen(server: Server) -> Iterator[None]:
    assert server.proc is not None
    os.kill(server.proc.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.proc.pid, signal.SIGCONT)


def kept(server: Server) -> int:
    with server.client() as client:
        return int(client.hlen(MESSAGES))


def test_a_submission_returns_when_the_replica_has_it(pair: Pair) -> None:
    with app_of(pair, replicas=1, replicas_within=4.0) as app:
        app.send_task("t")
        pair.way.delay = 0.2
        for number in range(3):
            app.send_task("t")
            assert kept(pair.replica) == number + 2
        submit_many([app.signature("t") for _ in range(600)], app=app)
        assert kept(pair.replica) == 604


def test_by_default_no_submission_waits_for_a_replica(pair: Pair) -> None:
    with app_of(pair) as app, frozen(pair.replica):
        app.send_task("t")
        assert kept(pair.primary) == 1
        with pair.primary.client() as client:
            assert "cmdstat_wait" not in client.info("commandstats")


@pytest.mark.parametrize("bulk", [False, True])
def test_who_submits_hears_that_a_replica_has_not_got_it_and_that_the_server_has(
    pair: Pair, *, bulk: bool
) -> None:
    with app_of(pair, replicas=1, replicas_within=0.3 * busyness()) as app, frozen(pair.replica):
        submit: Callable[[], Any] = (
            (lambda: submit_many([app.signature("t")], app=app)) if bulk else (lambda: app.send_task("t"))
        )
        with pytest.raises(
            OperationalError, match=r"0 of 1 replicas .*The task may have been accepted"
        ) as heard:
            submit()
        assert str(heard.value).count("may have been accepted") == 1
        assert kept(pair.primary) == 1, "asked once, although kombu repeats what fails"
        with pair.primary.client() as client:
            assert client.info("commandstats")["cmdstat_wait"]["calls"] <= 2, (
                "the server did not know the script"
            )
    wait_until(lambda: kept(pair.replica) == 1, timeout=30, what="the replica to go on")


@pytest.mark.slow
def test_what_goes_on_with_accepted_work_waits_for_no_replica(pair: Pair) -> None:
    options = {"delivery": {"replicas": 1, "replicas_within": 4.0}}
    with Connection(pair.primary.url, transport=OURS, transport_options=options) as connection:
        channel = connection.channel()
        assert isinstance(channel, Channel)
        with frozen(pair.replica), connection.Producer(channel) as producer:
            producer.publish({}, routing_key="celery", headers={"id": "1", "retries": 1})
            with pytest.raises(OperationalError, match="The task may have been accepted"):
                producer.publish({}, routing_key="celery", headers={"id": "2", "retries": 0})
        assert channel._size("celery") == 2
