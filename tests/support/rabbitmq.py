"""A RabbitMQ of the tests' own: one node per test process, loopback only, gone with all it started.

The binary comes from the operating system's package (`apt-get install rabbitmq-server`), whose service is
neither needed nor touched: ports, cookie, files and the port mapper epmd are ours, so this node meets neither
one that runs already nor those of other pytest-xdist workers.
"""

import contextlib
import secrets
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from support.processes import started
from support.waiting import wait_until

__all__ = ["rabbitmq_url"]

# Debian's `rabbitmq-server` on PATH is a wrapper that changes the user.
BINARY = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
STARTED = "Server startup complete"


def is_installed() -> bool:
    """Whether this machine has what a node is made of."""
    return BINARY.exists() and shutil.which("epmd") is not None


@contextlib.contextmanager
def node(directory: Path) -> Iterator[str]:
    """Run a node that keeps its files in the new `directory`; its URL, with a password of its own."""
    amqp, distribution, epmd = free_ports(3)
    password = secrets.token_hex(16)
    env = _configure(directory, amqp=amqp, distribution=distribution, epmd=epmd, password=password)
    # Where the node finds no epmd it starts one that leaves its process tree, and outlives it.
    mapper = ("epmd", "-address", "127.0.0.1", "-port", str(epmd))
    with started(mapper, log=directory / "epmd.log", env=env):
        wait_until(lambda: _listens(epmd), timeout=30, what="epmd")
        with started([str(BINARY)], log=directory / "server.log", env=env, cwd=directory) as server:
            server.wait_for(STARTED, timeout=90)
            yield f"amqp://seawall:{password}@127.0.0.1:{amqp}//"
            server.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(20)


def _listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def _configure(
    directory: Path, *, amqp: int, distribution: int, epmd: int, password: str
) -> Mapping[str, str]:
    """Write what the node reads; the environment that leads it there and nowhere else."""
    directory.mkdir(mode=0o700)
    texts = {
        "rabbitmq.conf": f"listeners.tcp.1 = 127.0.0.1:{amqp}\n"
        f"default_user = seawall\ndefault_pass = {password}\n"
        "log.console = true\nlog.console.level = info\nlog.file = false\n",
        "enabled_plugins": "[].\n",
        "rabbitmq-env.conf": "",  # else the machine's own in /etc is read
        ".erlang.cookie": secrets.token_hex(16),
    }
    for name, text in texts.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o400)
    return {
        "HOME": str(directory),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd),
        # A host name that does not resolve would hang the start without a word.
        "RABBITMQ_NODENAME": "x@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_CONF_ENV_FILE": str(directory / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory / "mnesia"),
        "RABBITMQ_LOG_BASE": str(directory / "log"),
        "RABBITMQ_LOGS": "-",
        # No shell script between us and the node: it is the process that we signal and wait for.
        "RABBITMQ_ALLOW_INPUT": "1",
        "RABBITMQ_SERVER_START_ARGS": "-noinput",
    }


def free_ports(count: int) -> list[int]:
    """Different ports of the loopback that nobody listened on a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


@pytest.fixture(scope="session")
def rabbitmq_url(no_process_left: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """RabbitMQ, shared by all tests of this process: who needs an empty queue deletes it first."""
    if not is_installed():
        pytest.skip(f"no RabbitMQ: {BINARY} or epmd is missing, apt-get install rabbitmq-server")
    with node(tmp_path_factory.mktemp("rabbitmq") / "node") as url:
        yield url
