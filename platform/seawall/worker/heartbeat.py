"""What every worker says of itself to the whole cluster: a heartbeat in Redis that expires.

`seawall status` reads them (`workers`). A worker beats from before it is ready, so one that waits for a
server is seen waiting, until it has drained; a killed one disappears within `LASTS` seconds. `lua/layout.lua`
has the keys.
"""

import json
import logging
from collections.abc import Callable
from typing import Any, Final

from redis import Redis
from redis.exceptions import RedisError

from seawall import cluster
from seawall.breaker.hub import undisturbed
from seawall.cluster import Script, micros
from seawall.errors import SeawallError
from seawall.silence import Misses
from seawall.worker.names import WORKERS, Known, write_down
from seawall.worker.periodic import Periodic

logger = logging.getLogger(__name__)

ROOT: Final = WORKERS
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


class Heartbeat(Periodic):
    """A service that beats: `describe` says what is said, and `known` which task names the worker knows.

    While Redis is away nothing is said.
    """

    thread = "seawall-heartbeat"

    def __init__(
        self,
        name: str,
        describe: Callable[[], dict[str, Any]],
        *,
        known: Known | None = None,
        every: float = EVERY,
    ) -> None:
        super().__init__()
        self._known = known
        self._name = name
        self._describe = describe
        self._every = every
        self._misses = Misses()

    def turn(self) -> float:
        """Beat."""
        self._say(self._beat_once)
        return self._every

    def stop(self, **_: Any) -> None:
        """Beat no more, and have the worker forgotten."""
        super().stop()
        self._say(lambda: _leave(cluster.client(), [ROOT], [self._name]))

    def _beat_once(self) -> None:
        client, described = cluster.client(), self._describe()
        if self._known is None:
            _beat(client, [ROOT], [self._name, json.dumps(described), micros(LASTS)])
            return
        digest, names = self._known.look()
        described["names"] = digest
        if _beat(client, [ROOT], [self._name, json.dumps(described), micros(LASTS), digest]):
            write_down(client, digest, names, LASTS)

    def _say(self, word: Callable[[], object]) -> None:
        try:
            with undisturbed():
                word()
        except (RedisError, OSError, SeawallError) as exc:
            if self._misses.count():
                logger.info("the cluster does not hear of this worker: %s", exc)
        else:
            self._misses.end()
