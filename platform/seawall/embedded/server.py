"""One server in the keeper's care: started when first needed, restarted when it dies, stopped at the end.

IDLE -> STARTING -> READY          needed; serving
STARTING -> IDLE                   it never served: the error goes to whoever waits, the next need tries again
STARTING, READY -> BROKEN          it has served before: tried again after a backoff, on the same port
BROKEN -> STARTING
"""

import logging
import os
import secrets
import signal
import socket
import subprocess
from collections.abc import Callable
from enum import Enum

from seawall.embedded.engines import ENGINES, LOCALHOST, Engine
from seawall.embedded.home import Access
from seawall.embedded.process import last_words, spawn
from seawall.embedded.programs import find, usable
from seawall.embedded.site import Site
from seawall.embedded.wire import ServerAnswer
from seawall.errors import StartupError

log = logging.getLogger(__name__)

_POLL = 0.01  # how often a starting server is asked whether it is ready
_BACKOFF, _MAX_BACKOFF = 0.1, 5.0
_STABLE = 10.0  # a server that served this long starts its failures anew
_CRASH_LOOP = 3  # failures in a row that are no accident any more: whoever waits is told
_LOG_TAIL = 65536
_PORTS = range(20000, 32000)  # below the ports that systems hand out to outgoing connections


class State(Enum):
    """Where in its life a server is."""

    IDLE = "idle"
    STARTING = "starting"
    READY = "ready"
    BROKEN = "broken"


_LEGAL = {
    State.IDLE: {State.STARTING},
    State.STARTING: {State.READY, State.BROKEN, State.IDLE},
    State.READY: {State.BROKEN},
    State.BROKEN: {State.STARTING},
}


class Server:
    """Redis or PostgreSQL on a site. Every method takes the monotonic time and returns soon.

    Except for a first start of PostgreSQL, which makes the database: about half a second.
    """

    def __init__(self, name: str, site: Callable[[], Site]) -> None:
        self.name = name
        self.state = State.IDLE
        self._site = site
        self._engine: Engine | None = None
        self._access: Access | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log_from = 0
        self._served = False
        self._since = 0.0
        self._failures = 0
        self._restarts = 0
        self._problem: str | None = None

    @property
    def given_up(self) -> str | None:
        """Why nobody should wait for this server any longer."""
        hopeless = self.state is State.IDLE or self._failures >= _CRASH_LOOP
        return self._problem if hopeless and self.state is not State.READY else None

    @property
    def answer(self) -> ServerAnswer | None:
        """What the keeper tells about this server; None before its first start."""
        if self._access is None:
            return None
        return ServerAnswer(
            url=ENGINES[self.name].url(self._access),
            port=self._access.port,
            pid=None if self._process is None else self._process.pid,
            restarts=self._restarts,
            problem=self._problem,
        )

    def need(self, now: float) -> None:
        """Somebody needs this server from now on."""
        if self.state is State.IDLE:
            self._start(now)

    def tick(self, now: float) -> None:
        """Notice what has happened and do what is due."""
        match self.state:
            case State.STARTING | State.READY if self._process and self._process.poll() is not None:
                self._ended(now, self._process.returncode)
            case State.STARTING if self._answers():
                self._become(State.READY, now)
                self._served, self._problem = True, None
                log.info("%s is ready", self.name)
            case State.BROKEN if now >= self._since + self._backoff:
                self._restarts += 1
                self._start(now)

    def wakes_at(self, now: float) -> float | None:
        """When `tick` has something to do even if nothing happens before."""
        if self.state is State.STARTING:
            return now + _POLL
        return self._since + self._backoff if self.state is State.BROKEN else None

    def signal(self, *, force: bool = False) -> bool:
        """Tell the process, if it runs, to stop; whether it runs."""
        if self._process is None or self._engine is None or self._process.poll() is not None:
            return False
        self._process.send_signal(signal.SIGKILL if force else self._engine.stop_signal)
        return True

    def wait(self, timeout: float) -> bool:
        """Whether the process has ended within `timeout` seconds."""
        try:
            if self._process is not None:
                self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def _backoff(self) -> float:
        return min(_BACKOFF * 2.0 ** min(self._failures - 1, 10), _MAX_BACKOFF)

    def _become(self, state: State, now: float) -> None:
        if state not in _LEGAL[self.state]:
            raise AssertionError(f"{self.name}: {self.state} -> {state}")
        self.state, self._since = state, now

    def _answers(self) -> bool:
        if self._engine is None or self._access is None or self._process is None:
            return False
        return self._engine.ready(self._access, self._process.pid)

    def _start(self, now: float) -> None:
        self._become(State.STARTING, now)
        try:
            self._launch(self._site())
        except StartupError as exc:
            self._failed(now, str(exc))
        except OSError as exc:
            where = f": {exc.filename}" if exc.filename else ""
            self._failed(
                now, f"{self.name} cannot start ({exc.strerror}{where}): make that possible and try again"
            )

    def _launch(self, site: Site) -> None:
        self._process = None
        program, version = usable(find(self.name), account=site.account, copies=site.directory / "programs")
        first = self._engine is None
        self._engine = ENGINES[self.name](site, program, version)
        if first:
            self._engine.bury()
        known = site.memory.access.get(self.name)
        access = self._access = self._choose_access(known)
        if not self._served:
            self._engine.prepare(access.password, changed=known is None)
        if access != known:
            site.memory.access[self.name] = access
            site.save()
        argv, stdin = self._engine.command(access)
        output = site.home.open_log(self.name)
        try:
            self._log_from = site.home.log(self.name).stat().st_size
            self._process = spawn(
                argv,
                account=site.account,
                death_signal=self._engine.stop_signal,
                stdin=stdin,
                output=output,
                keep=[site.lock],
            )
        finally:
            os.close(output)
        log.info("%s starts on port %d as pid %d", self.name, access.port, self._process.pid)

    def _choose_access(self, known: Access | None) -> Access:
        """Port and password of the last time; a new port if that one is taken and nobody knows it yet."""
        if known is None:
            return Access(_free_port(), secrets.token_hex(16))
        if _is_free(known.port):
            return known
        if self._served:
            raise StartupError(
                f"{self.name}: port {known.port} was taken by another program while the server was down:"
                " end that program"
            )
        log.warning("%s: port %d is taken by another program: choosing another", self.name, known.port)
        return Access(_free_port(), known.password)

    def _ended(self, now: float, status: int) -> None:
        path = self._site().home.log(self.name)
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        else:
            with path.open("rb") as file:
                file.seek(max(self._log_from, path.stat().st_size - _LOG_TAIL))
                words = last_words(file.read().decode(errors="replace"))
            how = f"exited with status {status} ({words})"
        self._failed(now, f"{self.name} {how}: see {path}")

    def _failed(self, now: float, problem: str) -> None:
        if self.state is State.READY and now - self._since >= _STABLE:
            self._failures = 0
        self._failures += 1
        self._problem = problem
        log.error("%s", problem)
        self._become(State.BROKEN if self._served else State.IDLE, now)


def _free_port() -> int:
    for _ in range(100):
        port = secrets.choice(_PORTS)
        if _is_free(port):
            return port
    raise StartupError(f"no free port on {LOCALHOST} in {_PORTS[0]}-{_PORTS[-1]}: end what occupies them")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOCALHOST, port))
        except OSError:
            return False
    return True
