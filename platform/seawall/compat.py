"""What differs between the supported releases of redis-py, kombu and Celery, each difference in one place.

Everything else is written for the newest release. A difference goes when the release that needs it leaves the
bounds in pyproject.toml; tests/unit/test_contracts.py looks at each in whichever release is installed, and
`make test-matrix` installs the oldest and the newest.
"""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any, Final

from redis.connection import SENTINEL, AbstractConnection  # type: ignore[attr-defined] # redis-py 8 moved it

UNSET: Final[Any] = SENTINEL
"""Redis-py's timeout of a read for which nobody named one: the socket's own holds."""

READS_WITH_TIMEOUT: Final = "timeout" in inspect.signature(AbstractConnection.read_response).parameters
"""Whether `read_response` takes a timeout; before redis-py 8 only the socket has one."""

NO_NOTIFICATIONS: Final[dict[str, Any]] = {}
"""Parameters of connections without notifications of maintenance, which redis-py has from its release 7 on.

With them a pool no longer looks whether a connection still holds somebody's answer, and lends it.
"""
if "maint_notifications_config" in inspect.signature(AbstractConnection.__init__).parameters:
    from redis.maint_notifications import MaintNotificationsConfig

    NO_NOTIFICATIONS["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)


@contextlib.contextmanager
def socket_waits(connection: Any, seconds: float | None) -> Iterator[None]:
    """Within the block a connection of redis-py's waits so long for an answer."""
    sock = connection._sock  # noqa: SLF001 - redis-py's
    if sock is not None:
        sock.settimeout(seconds)
    try:
        yield
    finally:
        if sock is not None:
            with contextlib.suppress(OSError):  # it was closed within
                sock.settimeout(connection.socket_timeout)
