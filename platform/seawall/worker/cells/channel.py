"""The pipe between the supervisor and one cell: small JSON messages in both directions.

A message is an object with the key "say". What a cell understands stands in `cell.py` (`Cell.hear`), what a
supervisor understands in `pool.py` (`Pool.hear`). Neither side ever blocks on it: what does not fit now is
kept and sent later. A long message goes in several packets, because the kernel refuses one that its buffer
cannot hold; the first byte of a packet says whether more of the message follows.
"""

import errno
import json
import socket
from collections import deque
from typing import Any, Final

_PACKET: Final = 1 << 15
"""Bytes of a message that go into one packet: far below the smallest buffer that a kernel gives a socket."""

_MORE: Final = b"+"
_LAST: Final = b"."


class Channel:
    """One end."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._socket.setblocking(False)  # noqa: FBT003 - the socket's signature
        self._waiting: deque[bytes] = deque()
        self._begun = bytearray()

    @classmethod
    def pair(cls) -> "tuple[Channel, Channel]":
        """Both ends."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), cls(theirs)

    def fileno(self) -> int:
        """What to poll."""
        return self._socket.fileno()

    def say(self, message: str, **fields: Any) -> None:
        """Send now if there is room, else with the next message or `flush`; to nobody who is gone."""
        text = json.dumps({"say": message, **fields}).encode()
        last = (len(text) - 1) // _PACKET * _PACKET
        self._waiting.extend(_MORE + text[at : at + _PACKET] for at in range(0, last, _PACKET))
        self._waiting.append(_LAST + text[last:])
        self.flush()

    def flush(self) -> None:
        """Send what is still waiting."""
        while self._waiting:
            try:
                self._socket.send(self._waiting[0])
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno not in {errno.ENOBUFS, errno.ENOMEM}:  # else the other end is gone
                    self._waiting.clear()
                return
            self._waiting.popleft()

    def heard(self) -> list[dict[str, Any]]:
        """What has arrived."""
        messages: list[dict[str, Any]] = []
        while True:
            try:
                packet = self._socket.recv(1 << 18)
            except BlockingIOError:
                return messages
            except OSError:
                return messages
            if not packet:
                return messages
            self._begun += packet[1:]
            if packet[:1] == _LAST:
                messages.append(json.loads(self._begun))
                self._begun.clear()

    def close(self) -> None:
        """Done with."""
        self._socket.close()
