"""Delivery over TLS and over Sentinel, with real servers."""

import contextlib
import operator
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError
from redis import Redis

from seawall import Seawall
from seawall.delivery import transport_for
from seawall.delivery.refusal import PERMANENT
from seawall.errors import ConfigError
from support.delivery import Server, free_port, own_server, valkey_server
from support.processes import Proc
from support.waiting import wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with own_server(tmp_path / "server", fsync="everysec") as running:
        yield running


def round_trip(connection: Connection) -> None:
    with connection.SimpleQueue("q") as queue:
        queue.put("hello")
        message = queue.get(timeout=5)
        assert message.payload == "hello"
        message.ack()


def test_sentinel_finds_the_master_and_the_next_sentinel_keeps_the_transport(
    server: Server, tmp_path: Path
) -> None:
    port = free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor main 127.0.0.1 {server.port} 1\n"
    )
    sentinel = Proc([valkey_server(), str(conf), "--sentinel"], log=tmp_path / "sentinel.log")
    try:
        sentinel.wait_for("+monitor")
        url = f"sentinel://127.0.0.1:{port};sentinel://127.0.0.1:{port}"
        options = {"master_name": "main", "delivery": {"lease": 5}}
        with Connection(url, transport=transport_for(url), transport_options=options) as connection:
            round_trip(connection)
            connection.maybe_switch_next()
            assert connection.transport_cls == "seawall.delivery:SentinelTransport"
            round_trip(connection)
    finally:
        sentinel.destroy()


def test_a_node_of_a_cluster_is_refused(tmp_path: Path) -> None:
    # The default bus port is the port + 10,000, which may be beyond the last there is.
    cluster = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
    with (
        own_server(tmp_path / "node", fsync="no", extra=cluster) as node,
        Connection(node.url, transport=transport_for(node.url)) as connection,
        pytest.raises(ConfigError, match="is a node of a Redis Cluster"),
    ):
        connection.channel()


@contextlib.contextmanager
def tls_in_front_of(port: int, certificate: Path, key: Path) -> Iterator[int]:
    """Ends TLS and passes bytes on: the server that tests use has no TLS of its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def copy(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                target.sendall(chunk)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(plain: socket.socket) -> None:
        with (
            plain,
            contextlib.suppress(OSError),
            context.wrap_socket(plain, server_side=True) as client,
            socket.create_connection(("127.0.0.1", port)) as behind,
        ):
            answers = threading.Thread(target=copy, args=(behind, client), name="tls-answers")
            answers.start()
            copy(client, behind)
            answers.join()

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listener.accept()
                threads.append(threading.Thread(target=serve, args=(plain,), name="tls-client"))
                threads[-1].start()

    acceptor = threading.Thread(target=accept, name="tls-acceptor")
    acceptor.start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        acceptor.join()
        wait_until(lambda: not any(thread.is_alive() for thread in threads), what="the proxy's end")


@pytest.mark.skipif(
    not shutil.which("openssl"), reason="openssl is not installed: no certificate to test with"
)
def test_tls_verifies_the_server_by_default(server: Server, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    argv += ["-keyout", str(key), "-out", str(certificate), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(argv, check=True, capture_output=True)
    with tls_in_front_of(server.port, certificate, key) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        transport = transport_for(url)
        with (
            Connection(url, transport=transport) as stranger,
            pytest.raises(OperationalError, match="certificate verify failed"),
        ):
            stranger.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
        with Connection(f"{url}?ssl_ca_certs={certificate}", transport=transport) as known:
            round_trip(known)


MOST_ATTEMPTS = 5
REFUSALS = {
    "the password was revoked": ["resetpass", ">new"],
    "a right was taken away": ["-evalsha", "-eval"],
    "a key is forbidden": ["resetkeys", "~other:*"],
}


@pytest.mark.parametrize("rule", REFUSALS.values(), ids=REFUSALS)
def test_a_producer_that_the_server_refuses_hears_it_after_one_attempt(
    server: Server, rule: list[str]
) -> None:
    url = server.url.replace("redis://", "redis://shop:old@")
    with server.client() as admin, _app(url) as connected, _app(url) as new:
        admin.execute_command("ACL", "SETUSER", "shop", "on", ">old", "~*", "&*", "+@all")
        connected.send_task("t")
        admin.execute_command("ACL", "SETUSER", "shop", *rule)
        for app in (connected, new):
            admin.execute_command("CLIENT", "KILL", "USER", "shop")
            before = _asked(admin)
            with pytest.raises(OperationalError) as refused:
                app.send_task("t")
            assert isinstance(refused.value.__cause__, PERMANENT)
            connections, refusals = map(operator.sub, _asked(admin), before)
            assert connections <= MOST_ATTEMPTS
            assert 0 < refusals <= MOST_ATTEMPTS


def _app(url: str) -> Seawall:
    return Seawall("refused", broker=url, backend="cache+memory://", set_as_current=False)


def _asked(admin: "Redis") -> tuple[int, int]:
    """How often somebody connected, and how often the server said no."""
    stats: Any = admin.info("stats")
    denied = sum(stats[f"acl_access_denied_{each}"] for each in ("auth", "cmd", "key"))
    return stats["total_connections_received"], denied
