"""The directory that a user names: where the processes of one home meet, and what is remembered there.

    lock                      whoever starts or ends a keeper holds it (flock), for milliseconds
    keeper.sock               the keeper listens here (in the private directory if the path would be too long)
    keeper.log  redis.log  postgres.log
    servers.json              0600: ports and passwords, and the data's directory if it lies elsewhere
    data/                     see `site`

The private directory is one below /var/tmp that belongs to this user and this home alone. It takes what the
home cannot: a socket, whose path may have 107 bytes, and the data, when root keeps the home where the user
that the servers run as cannot go.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from seawall.errors import StartupError

_MAX_SOCKET_PATH = 100
_MAX_LOG = 1 << 20


@dataclass(frozen=True)
class Access:
    """How one server is reached; kept, so that URLs survive restarts."""

    port: int
    password: str = field(repr=False)


@dataclass
class Memory:
    """What servers.json holds."""

    elsewhere: Path | None = None
    access: dict[str, Access] = field(default_factory=dict)


class Home:
    """The paths of one home, and its lock."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().resolve()
        key = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
        self.private = Path("/var/tmp") / f"seawall-{os.geteuid()}-{key}"  # noqa: S108 - see make_private
        self._memory = self.path / "servers.json"
        socket = self.path / "keeper.sock"
        fits = len(os.fsencode(socket)) <= _MAX_SOCKET_PATH
        self.socket = socket if fits else self.private / "keeper.sock"

    def make(self) -> None:
        """Create the directories. What exists is left as it is; nobody's rights are widened."""
        try:
            # Servers of root run as another user, who must pass through; all there is to read is 0600.
            make_folders(self.path.parent, 0o755)
            _make_directory(self.path, 0o711 if os.geteuid() == 0 else 0o700)
            if self.socket.parent == self.private:
                self.make_private()
        except OSError as exc:
            raise self.unusable(exc) from exc

    def make_private(self) -> Path:
        """Create the private directory, or make sure that the one there is ours and nobody else writes it."""
        _make_directory(self.private, 0o711)
        found = self.private.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
            raise StartupError(
                f"{self.private} exists and is not ours alone: remove it, or set another SEAWALL_HOME"
            )
        return self.private

    def unusable(self, exc: OSError) -> StartupError:
        """The error that says what cannot be done where."""
        where = self.path if exc.filename is None else exc.filename
        return StartupError(
            f"embedded servers cannot use {where} ({exc.strerror}):"
            " set SEAWALL_HOME to a directory on a local disk that this user can write"
        )

    def log(self, name: str) -> Path:
        """The log file of `name`."""
        return self.path / f"{name}.log"

    def open_log(self, name: str) -> int:
        """A descriptor that appends to the log; the one before is kept when it has grown large."""
        path = self.log(name)
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size > _MAX_LOG:
                path.replace(path.with_suffix(".log.1"))
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def turn(self, deadline: float) -> Iterator[None]:
        """Be the only one who starts or ends a keeper; `deadline` is monotonic.

        Raises:
            TimeoutError: somebody else held the lock all the time.
        """
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            lock(descriptor, deadline)
            try:
                yield
            finally:
                # Closing is not enough: a child that another thread forked meanwhile has the descriptor too.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def recall(self) -> Memory:
        """Read servers.json; a first start has none."""
        try:
            stored = json.loads(self._memory.read_bytes())
            access = {
                name: Access(int(one["port"]), str(one["password"])) for name, one in stored["access"].items()
            }
            elsewhere = stored["elsewhere"]
            return Memory(None if elsewhere is None else Path(elsewhere), access)
        except FileNotFoundError:
            return Memory()
        except PermissionError as exc:
            raise StartupError(
                f"{self._memory} belongs to another user:"
                " run as that user, or set SEAWALL_HOME to a directory of your own"
            ) from exc
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise StartupError(
                f"{self._memory} is damaged: delete it; the data stays, ports and passwords will be new"
            ) from exc

    def remember(self, memory: Memory) -> None:
        """Write servers.json so that a reader sees the old or the new one, and nobody else any."""
        elsewhere = None if memory.elsewhere is None else str(memory.elsewhere)
        stored = {
            "elsewhere": elsewhere,
            "access": {name: asdict(one) for name, one in memory.access.items()},
        }
        draft = self._memory.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(stored, file, indent=2)
        draft.replace(self._memory)


def lock(descriptor: int, deadline: float) -> None:
    """Take the flock of an open file; it lasts until every copy of the descriptor is closed.

    Raises:
        TimeoutError: it was still held at `deadline` (monotonic).
    """
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError from None
            time.sleep(0.01)
        else:
            return


def make_folders(path: Path, mode: int) -> None:
    """Make `path` and what is missing above it: nobody has more rights there than `mode` gives them.

    `Path.mkdir(parents=True)` gives what is above all the rights that the umask leaves.
    """
    for each in reversed((path, *path.parents)):
        each.mkdir(mode=mode, exist_ok=True)


def _make_directory(path: Path, mode: int) -> None:
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from None
    else:
        path.chmod(mode)  # whatever the umask
