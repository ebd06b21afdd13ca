"""What every worker says of itself to the whole cluster: a heartbeat in Redis that expires.

`seawall status` reads them (`workers`). A worker beats from before it is ready, so one that waits for a
server is seen waiting, until it has drained; a killed one disappears within `LASTS` seconds. `lua/layout.lua`
has the keys.
"""

import json
import logging
import threading
from collections.abc import Callable
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from seawall import cluster
from seawall.breaker.hub import undisturbed
from seawall.cluster import Script, micros
from seawall.errors import SeawallError

logger = logging.getLogger(__name__)

ROOT: Final = "seawall:{workers}"
EVERY: Final = 2.0
LASTS: Final = 10.0

_beat: Final = Script("seawall.worker", "beat")
_leave: Final = Script("seawall.worker", "leave")


def workers(client: "Redis") -> dict[str, dict[str, Any]]:
    """What the workers that live say of themselves, by name."""
    members: Any = client.zrange(f"{ROOT}:names", 0, -1)
    names = sorted(member.decode() for member in members)
    bodies: Any = client.mget([f"{ROOT}:beat:{name}" for name in names]) if names else []
    return {name: json.loads(body) for name, body in zip(names, bodies, strict=True) if body is not None}


class Heartbeat:
    """A service that beats, in a thread: `describe` says what is said. While Redis is away nothing is."""

    def __init__(self, name: str, describe: Callable[[], dict[str, Any]], *, every: float = EVERY) -> None:
        self._name = name
        self._describe = describe
        self._every = every
        self._heard = True
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Beat from now on."""
        self._thread = threading.Thread(target=self._run, name="seawall-heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Beat no more, and have the worker forgotten."""
        self._ended.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()
            self._say(lambda: _leave(cluster.client(), [ROOT], [self._name]))

    def _run(self) -> None:
        while True:
            self._say(self._beat_once)
            if self._ended.wait(self._every):
                return

    def _beat_once(self) -> None:
        _beat(cluster.client(), [ROOT], [self._name, json.dumps(self._describe()), micros(LASTS)])

    def _say(self, word: Callable[[], object]) -> None:
        try:
            with undisturbed():
                word()
        except (RedisError, OSError, SeawallError) as exc:
            if self._heard:
                logger.info("the cluster does not hear of this worker: %s", exc)
            self._heard = False
        except Exception:
            logger.exception("this worker could not describe itself")
        else:
            self._heard = True
