"""Alerts: a group or a category of errors was seen more often in a minute than the settings allow.

The recorder's thread counts what the journals of its worker say, also while PostgreSQL is away. An alert is a
line in the log, the event `AlertRaised`, and a POST to `alerts.webhook`; each at most once in `alerts.quiet`
for the same group or category. The webhook has a thread and a short queue of its own: one that is slow or
broken costs alerts, which the log has anyway, and nothing else.
"""

import json
import logging
import queue
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from seawall import events
from seawall.events import Event
from seawall.failure import message_of
from seawall.redaction import HIDDEN
from seawall.sections import AlertSettings

logger = logging.getLogger(__name__)

WINDOW: Final = 60.0
_SLOT: Final = 5.0
_KEYS: Final = 2000
_WAITING: Final = 100
_PATIENCE: Final = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertRaised(Event):
    """So many errors of one group or category in the last minute; `fingerprint` is empty for a category."""

    kind: str
    category: str
    fingerprint: str
    task: str
    exception: str
    count: int
    worker: str


class Alerts:
    """Counts, and raises. For one thread, but the webhook's, which it starts when it is needed."""

    def __init__(
        self, chosen: AlertSettings, worker: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._chosen = chosen
        self._worker = worker
        self._clock = clock
        self._counts: dict[str, deque[list[float]]] = {}
        self._raised: dict[str, float] = {}
        self._waiting: queue.Queue[AlertRaised] = queue.Queue(_WAITING)
        self._thread: threading.Thread | None = None

    def count(self, seen: Mapping[str, Any]) -> None:
        """One occurrence, as the journal has it."""
        now = self._clock()
        group, category = str(seen["fingerprint"]), str(seen["category"])
        self._add("group", f"group {group}", self._chosen.group, now, seen)
        self._add("category", f"category {category}", self._chosen.category, now, {"category": category})

    def _add(self, kind: str, key: str, most: int, now: float, seen: Mapping[str, Any]) -> None:
        if not most:
            return
        if key not in self._counts and len(self._counts) >= _KEYS:
            del self._counts[next(iter(self._counts))]
        slots = self._counts.setdefault(key, deque())
        while slots and slots[0][0] <= now - WINDOW:
            slots.popleft()
        if not slots or now - slots[-1][0] >= _SLOT:
            slots.append([now, 0])
        slots[-1][1] += 1
        count = int(sum(slot[1] for slot in slots))
        if count >= most and now - self._raised.get(key, float("-inf")) >= self._chosen.quiet:
            recently = {each: at for each, at in self._raised.items() if now - at < self._chosen.quiet}
            self._raised = recently | {key: now}
            self._raise(kind, seen, count)

    def _raise(self, kind: str, seen: Mapping[str, Any], count: int) -> None:
        fields = {name: str(seen.get(name, "")) for name in ("category", "fingerprint", "task", "exception")}
        alert = AlertRaised(kind=kind, count=count, worker=self._worker, **fields)
        what = f"{alert.exception} in {alert.task}" if kind == "group" else f"category {alert.category}"
        logger.error("alert: %d errors in a minute, %s %s", count, what, alert.fingerprint)
        events.emit(alert)
        if self._chosen.webhook is not None:
            try:
                self._waiting.put_nowait(alert)
            except queue.Full:
                logger.warning("an alert does not reach the webhook: too many wait for it")
            if self._thread is None:
                self._thread = threading.Thread(target=self._post_all, name="seawall-alerts", daemon=True)
                self._thread.start()

    def _post_all(self) -> None:
        while True:
            alert = self._waiting.get()
            try:
                self._post(alert)
            except Exception as exc:  # noqa: BLE001 - a webhook may fail in any way; the alert is in the log
                logger.warning("an alert did not reach the webhook: %s", self._told(exc))

    def _told(self, exc: Exception) -> str:
        """What went wrong, without the path of the webhook, which Python names and which is a secret."""
        said, url = message_of(exc), urlsplit(self._chosen.webhook.get_secret_value())  # type: ignore[union-attr]
        for part in (url.query, url.path.strip("/")):
            said = said.replace(part, HIDDEN) if part else said
        return said

    def _post(self, alert: AlertRaised) -> None:
        assert self._chosen.webhook is not None  # noqa: S101 - without one there is no thread
        request = urllib.request.Request(  # noqa: S310 - the settings allow http and https only
            self._chosen.webhook.get_secret_value(),
            data=json.dumps({"event": "alert", **asdict(alert)}).encode(),
            headers={"Content-Type": "application/json", "User-Agent": "seawall"},
        )
        with urllib.request.urlopen(request, timeout=_PATIENCE):  # noqa: S310
            pass
