"""The names of tasks: what workers know, and what a message asks for.

A task whose name no worker that consumes its queue knows waits under `name:<task>` (`unknown` says how).

Who submits hears of it too. Heartbeats say which names a worker knows: a digest in each beat, and the list
under that digest once for all workers that have the same (`lua/layout.lua`). `Submissions` looks a name up
when it is submitted, in a thread of its own, and warns once where workers live and none knows it.

A name is a stranger's text. `waits_for` makes of it what keys and settlements can carry.

Commands read this module, so that it imports nothing of Celery.
"""

import hashlib
import logging
import os
import threading
import time
from typing import Any, Final
from urllib.parse import quote

from redis import Redis
from redis.exceptions import RedisError

from seawall import cluster, servers
from seawall.cluster import Script, let_through
from seawall.config import settings
from seawall.errors import SeawallError
from seawall.quantity import format_age

logger = logging.getLogger(__name__)

PREFIX: Final = "name:"
WORKERS: Final = "seawall:{workers}"
"""What the keys of workers begin with; see `lua/layout.lua`."""

LOOK_AGAIN: Final = 600.0
"""Seconds after which a name that was known, or could not be asked for, is looked up again."""

_LONGEST: Final = 200
_AT_ONCE: Final = 500
_MOST_NAMES: Final = 10_000

_unknown: Final = Script("seawall.worker", "unknown")


def waits_for(name: str) -> str:
    """Under which dependency tasks of that name are parked: ASCII, without line feeds, of bounded length."""
    shown = quote(name, safe="", errors="surrogatepass")
    if len(shown) > _LONGEST:
        digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()
        shown = f"{shown[: _LONGEST // 2]}:{digest}"  # a quoted name holds no colon of its own
    return PREFIX + shown


def name_in(dependency: str) -> str | None:
    """The name that tasks parked for this dependency wait for, as `waits_for` shows it; None for others."""
    return dependency.removeprefix(PREFIX) if dependency.startswith(PREFIX) else None


def advice(name: str) -> str:
    """What to do about tasks that wait for a worker that knows `name`."""
    longest = format_age(settings().worker.unknown_for)
    return (
        f"start a worker that knows {name} and consumes the queue, or correct the name where it is "
        f"submitted; after {longest} (worker.unknown_for) each is a dead letter, to be requeued or discarded"
    )


class Known:
    """The names that an application's workers know, and a digest of them; it follows late registrations."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._names: list[str] = []
        self._digest = ""

    def look(self) -> tuple[str, list[str]]:
        """The digest and the names, in order."""
        if len(self._names) != len(self._app.tasks):
            self._names = sorted(self._app.tasks)
            self._digest = digest_of(self._names)
        return self._digest, self._names


def digest_of(texts: list[str]) -> str:
    """A short text that is the same for the same texts only."""
    return hashlib.sha256("\0".join(texts).encode(errors="surrogatepass")).hexdigest()[:32]


def write_down(client: "Redis", digest: str, names: list[str], seconds: float) -> None:
    """Put the list of names under its digest, for so many seconds."""
    key = f"{WORKERS}:known:{digest}"
    with client.pipeline() as pipe:
        for start in range(0, len(names), _AT_ONCE):
            let_through(pipe, "SADD", key, *names[start : start + _AT_ONCE])
        pipe.pexpire(key, round(seconds * 1000))
        pipe.execute()


def unknown_among(client: "Redis", names: list[str]) -> list[str]:
    """Those of the names that no living worker knows; none if no worker lives, or one does not say."""
    found = _unknown(client, [WORKERS], list(names))
    return [names[index - 1] for index in found]


class Submissions:
    """Warns of submitted names that no living worker knows: once per name, from a thread that soon ends.

    To note a name costs one look into a dictionary. One round trip answers for all names that came meanwhile.
    """

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, also in a forked child: the thread stayed with its parent."""
        self._look_at: dict[str, float] = {}
        self._asked: list[str] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def note(self, name: str) -> None:
        """A task of this name is submitted."""
        if not self._is_due(name) or not servers.redis_is_known() or len(self._look_at) >= _MOST_NAMES:
            return
        with self._lock:
            if not self._is_due(name):  # another thread submits it too
                return
            self._look_at[name] = time.monotonic() + LOOK_AGAIN
            self._asked.append(name)
            if self._thread is None:
                # No daemon: a program that submits and ends is told as well. It takes a round trip at most.
                self._thread = threading.Thread(target=self._run, name="seawall-names", daemon=False)
                self._thread.start()

    def _is_due(self, name: str) -> bool:
        return time.monotonic() >= self._look_at.get(name, 0.0)

    def _run(self) -> None:
        while names := self._next():
            try:
                self._look(names)
            except (RedisError, OSError, SeawallError) as exc:
                logger.debug("nobody says which names workers know: %s", exc)
            except Exception:
                logger.exception("the names of submitted tasks cannot be looked up")

    def _next(self) -> list[str]:
        with self._lock:
            names, self._asked = self._asked[:_AT_ONCE], self._asked[_AT_ONCE:]
            if not names:
                self._thread = None
        return names

    def _look(self, names: list[str]) -> None:
        if not servers.redis_is_known():  # any more
            return
        for name in unknown_among(cluster.client(), names):
            self._look_at[name] = float("inf")
            logger.warning(
                "no worker that runs now knows the task %r: it waits for one that does, and is a dead letter "
                "after %s (worker.unknown_for); correct the name, or start workers of its release",
                *(name, format_age(settings().worker.unknown_for)),
            )


submissions: Final = Submissions()
os.register_at_fork(after_in_child=submissions.forget)
