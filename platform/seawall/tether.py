"""Processes that do not outlive the one that started them.

Linux sends a process the signal it chose with PR_SET_PDEATHSIG when the *thread* that forked it ends: start
children from a thread that lives as long as they may, the main one at best. Elsewhere there is no such
signal, and nothing happens here.
"""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
# Looked up before any fork: between fork and exec there is no safe moment for it.
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with(parent: int, signum: signal.Signals = signal.SIGKILL) -> None:
    """Let the kernel send this process `signum` when its parent ends; end at once if that has happened.

    Called in the child, after any change of credentials (which would clear the choice).
    """
    if _libc is None:
        return
    _libc.prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
    if os.getppid() != parent:  # it died before the kernel was asked
        os._exit(1)
