"""Where the servers of a home keep their data, and as which user they run.

The data lies in `data/` of the home:

    redis/  postgres/       each server's own directory; postgres.new/ while it is being made
    programs/               copies of binaries (see `programs`)

unless the servers run as another user (root's case) who cannot get there: then it lies in the home's private
directory, and the home remembers where. Which of the two is tried as that user, not computed from mode bits;
no directory's rights are ever widened.

The data directory is locked by an flock that the servers inherit from the keeper. So it is free only when the
keeper and every process of its servers are gone, however they went, and who holds it may start servers.
"""

import os
import shutil
import time
from pathlib import Path

from seawall.embedded.home import Home, Memory, lock
from seawall.embedded.process import Account, run, servers_account
from seawall.errors import StartupError

# An earlier keeper's servers, told to stop as it died, end in a fraction of this.
_PREDECESSOR = 20.0


class Site:
    """The data directory of a home, locked for this process and the servers it starts."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.account = servers_account()
        self.memory = home.recall()
        try:
            self.directory = self._directory()
            self.lock = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
            lock(self.lock, time.monotonic() + _PREDECESSOR)
        except TimeoutError:
            raise StartupError(
                f"servers of an earlier run still use {self.directory}:"
                f" end them (`fuser {self.directory}` names them)"
            ) from None
        except OSError as exc:
            raise home.unusable(exc) from exc

    def subdirectory(self, name: str) -> Path:
        """A private directory of the servers' user, made if need be."""
        path = self.directory / name
        self._make(path)
        return path

    def give(self, path: Path) -> None:
        """Make the servers' user the owner of a file or directory."""
        if self.account is not None:
            os.chown(path, self.account.uid, self.account.gid)

    def save(self) -> None:
        """Remember `memory`."""
        self.home.remember(self.memory)

    def _directory(self) -> Path:
        if (recorded := self.memory.elsewhere) is not None:
            if not recorded.is_dir():
                raise StartupError(
                    f"the data of {self.home.path} lay in {recorded}, which is gone:"
                    f" restore it, or delete {self.home.path / 'servers.json'} to start with none"
                )
            return recorded
        directory = self.home.path / "data"
        if not _reaches(self.account, self.home.path):
            directory = self.home.make_private() / "data"
            self.memory = Memory(directory, self.memory.access)
        self._make(directory)
        return directory

    def _make(self, path: Path) -> None:
        if not path.is_dir():
            path.mkdir(mode=0o700)
            self.give(path)


def _reaches(account: Account | None, directory: Path) -> bool:
    if account is None:
        return True
    status, _ = run(["/bin/sh", "-c", 'test -x "$0"', directory], account=account)
    return status == 0


def remove_tree(path: Path) -> None:
    """Delete a directory that may not exist."""
    if path.exists():
        shutil.rmtree(path)
