"""Starting a program for the keeper: as which user, in which environment, and never outliving the keeper.

Linux sends a child the signal it chose with PR_SET_PDEATHSIG when the thread that spawned it ends. A change
of credentials clears that choice, so it is made after the change, as the last thing before exec; a keeper
that died before it is noticed by the changed parent. The keeper spawns from its only thread.
Elsewhere (macOS) there is no such signal: a keeper that is SIGKILLed leaves its servers running there, and
the next keeper of the home refuses to start beside them (`site` has a lock for that). The death of users is
noticed everywhere.
"""

import contextlib
import errno
import functools
import os
import pwd
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from seawall.errors import StartupError
from seawall.tether import die_with

# None of the keeper's own environment reaches a server: PGPORT, LD_PRELOAD or a locale would change it.
# A fixed TZ also spares initdb the search for the name of the machine's time zone.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


@dataclass(frozen=True)
class Account:
    """The user that the servers run as when the keeper is root."""

    name: str
    uid: int
    gid: int


def servers_account() -> Account | None:
    """`postgres`, else `nobody`, for root (PostgreSQL refuses to run as root); None: run as who we are."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise StartupError(
        "PostgreSQL does not run as root and there is no user 'postgres' or 'nobody' to run it as:"
        " add one of them, or run as an ordinary user"
    )


def spawn(  # noqa: PLR0913 - each is one property of the new process
    argv: Sequence[str | Path],
    *,
    account: Account | None,
    death_signal: signal.Signals = signal.SIGKILL,
    stdin: bytes = b"",
    output: int = subprocess.PIPE,
    keep: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a program that gets `stdin` to read and `death_signal` when the keeper is no more.

    Raises:
        StartupError: we are root without the right to become `account`.
        OSError: the program is missing, may not be run, or is none of this machine's.
    """
    try:
        process = subprocess.Popen(
            [os.fspath(arg) for arg in argv],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=ENVIRONMENT,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
            umask=0o077,
            pass_fds=keep,
            start_new_session=True,
            preexec_fn=functools.partial(die_with, os.getpid(), death_signal),  # noqa: PLW1509 - the keeper has one thread
        )
    except PermissionError as exc:
        if account is None or exc.errno != errno.EPERM:
            raise
        raise StartupError(
            f"root may not become user '{account.name}' here: allow CAP_SETUID and CAP_SETGID,"
            " or run as an ordinary user"
        ) from exc
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(stdin)
        process.stdin = None  # communicate() would flush what is closed
    return process


def run(
    argv: Sequence[str | Path],
    *,
    account: Account | None,
    stdin: bytes = b"",
    keep: Sequence[int] = (),
    timeout: float = 60.0,
) -> tuple[int, str]:
    """Run a program to its end; its exit status and all it wrote. Raises like `spawn`."""
    with spawn(argv, account=account, stdin=stdin, keep=keep) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired as exc:
            process.kill()
            raise StartupError(
                f"{argv[0]} did not end within {timeout:g} s: look at what it waits for"
            ) from exc
    return process.returncode, output.decode(errors="replace")


def last_words(output: str) -> str:
    """The line of a program's output that says why it failed: its last complaint, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    complaints = [line for line in lines if any(word in line.lower() for word in _COMPLAINTS)]
    return (complaints or lines or ["it said nothing"])[-1]


_COMPLAINTS = ("fatal", "panic", "error", "bad ", "can't", "failed", "could not")
