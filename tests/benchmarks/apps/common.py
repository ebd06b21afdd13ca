"""What every system of the worker benchmark does alike: one task body, and two ways of sending.

A run of the task is eight bytes in the file BENCH_MARKS: the seconds from sending to running. An app module
calls `main(send)`: `python app_x.py fill 5000` sends as quickly as `send` can, `pace 300` at low load.
"""

import asyncio
import inspect
import os
import struct
import sys
import time
from typing import Any

_PACE = 0.01
_marks = os.open(os.environ["BENCH_MARKS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def mark(sent: float = 0.0) -> None:
    """The body of the task."""
    os.write(_marks, struct.pack("d", time.time() - sent if sent else 0.0))


def main(send: Any, opened: Any = None) -> None:
    """Send what the command line asks for; `send` may be a coroutine function, `opened` an async context."""
    asyncio.run(_send_all(send, opened))


async def _send_all(send: Any, opened: Any) -> None:
    how, many = sys.argv[1], int(sys.argv[2])
    if opened is not None:
        async with opened():
            await _each(send, how, many)
    else:
        await _each(send, how, many)


async def _each(send: Any, how: str, many: int) -> None:
    for _ in range(many):
        if how == "pace":
            await asyncio.sleep(_PACE)
        sent = send(time.time() if how == "pace" else 0.0)
        if inspect.isawaitable(sent):
            await sent
