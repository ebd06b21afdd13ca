"""Who this process is among all that lease messages or hold shares.

Host name and pid name nobody: both come again, in containers that share a host name and after a restart. So a
worker and each of its processes have a random token. A supervisor makes the tokens of its cells before it
forks them, and so knows whose leases it may renew or settle. A process that was given none makes its own, and
is a worker by itself; so is a forked child, whatever its parent was.
"""

import functools
import os
import secrets
import socket
from pathlib import Path
from typing import NamedTuple


class Identity(NamedTuple):
    """One process; `worker` is what all processes of its worker share."""

    worker: str
    process: str
    pid: int


def token() -> str:
    """A new one. It holds neither dots nor colons, which separate the parts of a consumer's name."""
    return secrets.token_hex(8)


def current() -> Identity:
    """This process's, made on first use."""
    if _Known.identity.pid != os.getpid():
        own = token()
        become(own, own)
    return _Known.identity


def become(worker: str, process: str) -> None:
    """From now on this process is known by these tokens."""
    _Known.identity = Identity(worker, process, os.getpid())


def new_name(serial: object) -> str:
    """A name for something of this process, such as a consumer: `host:pid:worker.process.serial`."""
    worker, process, pid = current()
    return f"{socket.gethostname()}:{pid}:{worker}.{process}.{serial}"


@functools.cache
def machine() -> str:
    """Where pids are told apart: this boot of this kernel, and its PID namespace; empty where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}-{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return ""


def is_gone(pid: int) -> bool:
    """Whether this machine has no process of that pid."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def process_of(name: str) -> str:
    """The token of the process that made a name; empty if it is no such name."""
    return _part(name, 1)


def worker_of(name: str) -> str:
    """The token of that process's worker; empty if it is no such name."""
    return _part(name, 0)


def _part(name: str, place: int) -> str:
    parts = name.rpartition(":")[2].split(".")
    return parts[place] if len(parts) == _PARTS else ""


_PARTS = 3


class _Known:
    identity = Identity("", "", 0)
