"""Real processes that a test starts, reads, kills and never leaves behind."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from support.waiting import busyness, wait_until


class Proc:
    """One started program: its own session, its output in a file."""

    def __init__(
        self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.log = log
        self._started_with = {} if env is None else dict(env)
        with log.open("ab") as out:
            self.popen = subprocess.Popen(
                list(argv),
                env={**os.environ, **self._started_with},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def tree(self) -> list[psutil.Process]:
        """This process and all below it that are alive now."""
        try:
            root = psutil.Process(self.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def cpu(self) -> float:
        """Seconds of CPU of all of them so far."""
        total = 0.0
        for process in self.tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def wait_for(self, text: str, *, timeout: float = 30.0) -> str:
        """Wait until the output holds `text`, or fail with the output."""

        def seen() -> bool:
            if text in self.output:
                return True
            if self.popen.poll() is not None:
                raise AssertionError(f"exited {self.popen.returncode} before {text!r}:\n{self.output}")
            return False

        try:
            wait_until(seen, timeout=timeout, what=repr(text))
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{self.output}") from None
        return self.output

    def signal(self, signum: signal.Signals) -> None:
        self.popen.send_signal(signum)

    def wait(self, timeout: float = 30.0) -> int:
        """The exit status; `timeout` as for `wait_until`."""
        return self.popen.wait(timeout * busyness())

    def destroy(self) -> None:
        """SIGKILL the process and all below, which is stopped first: what stands forks nothing more."""
        stopped: set[psutil.Process] = set()
        while found := set(self.tree()) - stopped:
            stopped |= found
            for process in found:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.suspend()
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.popen.wait(10)


def alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those of `processes` that still run (zombies do not)."""
    return [process for process in processes if _runs(process)]


def _runs(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextlib.contextmanager
def started(
    argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Proc]:
    """`Proc` that is destroyed, with all it started, at the end of the block."""
    proc = Proc(argv, log=log, env=env, cwd=cwd)
    try:
        yield proc
    finally:
        proc.destroy()
