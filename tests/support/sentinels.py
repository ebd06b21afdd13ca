"""A primary, two replicas and three sentinels, as a user runs them: real servers on this machine."""

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from support.delivery import Server, free_port, own_server, valkey_server
from support.processes import Proc
from support.waiting import wait_until

NAME = "main"
CAREFUL = ("--min-replicas-to-write", "1", "--min-replicas-max-lag", "2")
"""A primary that was deposed while it stood still accepts nothing that its successor does not know."""

_AT_ONCE = ("--repl-diskless-sync-delay", "0")  # a replica waits for no other one


class Site:
    """`url` is what a user would put into SEAWALL_REDIS_URL."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._ports: list[int] = []
        self.servers = [
            stack.enter_context(
                own_server(folder / f"server{number}", fsync="everysec", extra=(*CAREFUL, *_AT_ONCE))
            )
            for number in range(3)
        ]
        primary = self.servers[0]
        for replica in self.servers[1:]:
            with replica.client() as client:
                client.replicaof("127.0.0.1", primary.port)
        for replica in self.servers[1:]:
            with replica.client() as client:
                wait_until(
                    lambda client=client: client.info("replication")["master_link_status"] == "up",  # type: ignore[misc]
                    timeout=30,
                    what="a replica to follow",
                )
        for number in range(3):
            self._sentinel(folder, number, stack)
        wait_until(self._all_know_each_other, timeout=60, what="the sentinels to know everybody")

    def _sentinel(self, folder: Path, number: int, stack: ExitStack) -> None:
        port = free_port()
        conf = folder / f"sentinel{number}.conf"
        conf.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {NAME} 127.0.0.1 {self.servers[0].port} 2\n"
            f"sentinel down-after-milliseconds {NAME} 1000\n"
            f"sentinel failover-timeout {NAME} 5000\n"
        )
        sentinel = Proc([valkey_server(), str(conf), "--sentinel"], log=folder / f"sentinel{number}.log")
        stack.callback(sentinel.destroy)
        self._ports.append(port)

    def _all_know_each_other(self) -> bool:
        return all(
            info["num-other-sentinels"] == 2 and info["num-slaves"] == 2
            for info in map(self._told_by, self._ports)
            if info
        ) and all(map(self._told_by, self._ports))

    def _told_by(self, port: int) -> dict[str, int]:
        try:
            with Redis(port=port) as client:
                info: dict[str, int] = client.sentinel_master(NAME)
                return info
        except RedisError:
            return {}

    @property
    def url(self) -> str:
        nodes = ";".join(f"sentinel://127.0.0.1:{port}" for port in self._ports)
        return f"{nodes}/0?master_name={NAME}"

    @property
    def primary(self) -> Server:
        """Who the sentinels say it is."""
        port = next(info["port"] for info in map(self._told_by, self._ports) if info)
        return next(server for server in self.servers if server.port == port)

    def revive(self, server: Server) -> None:
        """Start one that was killed, and wait until there are a primary and two replicas again."""
        assert server.proc is not None
        if server.proc.popen.poll() is not None:
            server.start()
        wait_until(self._is_whole, timeout=90, what="two replicas")

    def _is_whole(self) -> bool:
        with contextlib.suppress(RedisError), self.primary.client() as client:
            followers = client.info("replication")
            return [followers.get(f"slave{number}", {}).get("state") for number in range(2)] == ["online"] * 2
        return False

    def accepts(self) -> bool:
        """Whether the primary can be written to: `CAREFUL` asks it for a replica."""
        with contextlib.suppress(RedisError), self.primary.client() as client:
            return bool(client.set("of-the-test", 1))
        return False

    @contextmanager
    def without(self, server: Server, how: str) -> Iterator[None]:
        """The server is killed, or stands still, and comes back as a replica of the next primary."""
        assert server.proc is not None
        os.kill(server.proc.pid, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        try:
            wait_until(lambda: self.primary is not server, timeout=30, what="the next primary")
            yield
        finally:
            if how == "frozen":
                os.kill(server.proc.pid, signal.SIGCONT)


@contextlib.contextmanager
def sentinels(folder: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(folder, stack)
