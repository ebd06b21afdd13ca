"""A pipe to ourselves, for work that no socket announces."""

import contextlib
import os


class Doorbell:
    """Readable from `ring` until `answer`; ringing twice is ringing once."""

    def __init__(self) -> None:
        self._out, self._in = os.pipe()
        os.set_blocking(self._out, False)
        os.set_blocking(self._in, False)
        self._rung = False

    def fileno(self) -> int:
        return self._out

    def ring(self) -> None:
        if not self._rung:
            self._rung = True
            with contextlib.suppress(OSError):
                os.write(self._in, b"\0")

    def answer(self) -> None:
        self._rung = False
        with contextlib.suppress(OSError):
            os.read(self._out, 64)

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
