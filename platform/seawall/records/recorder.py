"""The thread in a worker's main process that brings rows from the spool into PostgreSQL."""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import psycopg

from seawall import events
from seawall.errors import SeawallError
from seawall.records import ledger, retention
from seawall.records.alerts import Alerts
from seawall.records.events import RecordsAdopted, RecordsCaughtUp, RecordsHeldBack, RecordsLost
from seawall.records.journal import Gauge, Journal
from seawall.records.ledger import Batch
from seawall.records.spool import Segment, Spool
from seawall.sections import RecordsSettings

if TYPE_CHECKING:
    from seawall.database.pool import Database

logger = logging.getLogger(__name__)

_EVERY: Final = 0.2
_AT_ONCE: Final = 1000
_LONGEST_PAUSE: Final = 2.0
_LOOK_FOR_ORPHANS_EVERY: Final = 30.0
_MAINTAIN_EVERY: Final = 3600.0
_MAINTAIN_AGAIN: Final = 60.0
_AWAY: Final = (psycopg.Error, SeawallError, OSError)


class Recorder:
    """A service. `upkeep` is called in its thread once an hour, for what else grows old."""

    def __init__(  # noqa: PLR0913 - what it works with
        self,
        spool: Spool,
        database: "Callable[[], Database]",
        chosen: RecordsSettings,
        *,
        alerts: Alerts | None = None,
        upkeep: Callable[[], object] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.gauge = Gauge()
        self.journal = Journal(spool.path, self.gauge)
        self.held_back_since: float | None = None
        self._spools = [spool]
        self._database = database
        self._chosen = chosen
        self._alerts = alerts
        self._heard: dict[str, int] = {}
        self._upkeep = upkeep
        self._clock = clock
        self._applied: dict[str, int] = {}
        self._unsure = False  # whether the database knows better than we how far it is
        self._deleted: list[str] = []
        self._waited = 0
        self._adopt_at = self._maintain_at = float("-inf")
        self._pause = _EVERY
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin; safe to repeat. There is no second life after `stop`."""
        if self._thread is None and not self._ended.is_set():
            self._thread = threading.Thread(target=self._run, name="seawall-records", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 5.0) -> None:
        """Write what there is, for so many seconds at most; the rest stays on disk. Safe to repeat."""
        if self._ended.is_set():
            return
        self._ended.set()
        self.journal.close()
        if self._thread is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                return  # it waits for an answer; the process's end is its end
            self._write_the_rest(timeout)
        for spool in self._spools:
            if not spool.leave():
                logger.warning("what PostgreSQL has not taken waits in %s for the next worker", spool.path)

    def _write_the_rest(self, timeout: float) -> None:
        give_up_at = self._clock() + timeout
        while self._clock() < give_up_at and self.held_back_since is None and self._turn():
            pass
        with contextlib.suppress(*_AWAY):
            if self._deleted and self.held_back_since is None:
                with self._database().connection() as connection:
                    self._forget_deleted(connection)

    def _run(self) -> None:
        while not self._ended.wait(self._pause):
            try:
                more = self._turn()
                self._look_around()
            except Exception:
                logger.exception("what becomes of tasks is written down later")
                more = False
            self._pause = self._next_pause(more=more)

    def _next_pause(self, *, more: bool) -> float:
        if self.held_back_since is not None:
            return min(self._pause * 2, _LONGEST_PAUSE)
        return 0.0 if more else _EVERY

    # Writing

    def _turn(self) -> bool:
        """Write one batch; whether another is ready."""
        segments = [segment for spool in self._spools for segment in self._segments_of(spool)]
        self._measure(segments)
        if self._alerts is not None:
            self._hear(segments, self._alerts)
        try:
            if self._unsure:
                self._ask(segments)
            batch, more = self._collect(segments)
            if batch.reached:
                self._write(batch)
            self._delete_finished(segments)
        except _AWAY as exc:
            self._unsure = True
            self._hold_back(exc)
            return False
        self._catch_up(len(batch), more=more)
        return more

    def _hear(self, segments: list[Segment], alerts: Alerts) -> None:
        """Count what failed, whether or not PostgreSQL takes it."""
        own, heard = self._spools[0].path, {}
        for segment in segments:
            start = self._heard.get(segment.name, 0)
            if segment.path.parent != own:
                continue  # it failed in another life
            heard[segment.name] = start
            if start < segment.size:
                text = segment.read(start)
                heard[segment.name] += len(text)
                for row in text.splitlines() if b"\ne" in text or text[:1] == b"e" else ():
                    if row[:1] == b"e":
                        with contextlib.suppress(Exception):  # whatever the row holds; the ledger says so
                            alerts.count(json.loads(row[1:]))
        self._heard = heard

    def _segments_of(self, spool: Spool) -> list[Segment]:
        with contextlib.suppress(FileNotFoundError):
            return spool.segments()
        return []

    def _measure(self, segments: list[Segment]) -> None:
        waiting = sum(segment.size - self._applied.get(segment.name, 0) for segment in segments)
        self.gauge.level = min(waiting // self._chosen.spool_size, Gauge.FULL)

    def _ask(self, segments: list[Segment]) -> None:
        """How far each journal was written, by the only one who knows for certain."""
        with self._database().connection() as connection:
            self._applied = ledger.applied(connection, [segment.name for segment in segments])
        self._unsure = False

    def _collect(self, segments: list[Segment]) -> tuple[Batch, bool]:
        """The next rows, and whether there are more."""
        batch = Batch()
        for segment in segments:
            start = self._applied.get(segment.name, 0)
            if start >= segment.size:
                continue
            if len(batch) >= _AT_ONCE:
                return batch, True
            if text := segment.read(start):
                batch.add(segment.name, start, text, _AT_ONCE)
            elif segment.finished() and (rest := segment.tail(start)):
                batch.add(segment.name, start, rest, len(batch) + 1)  # cut off by a SIGKILL
        return batch, len(batch) >= _AT_ONCE

    def _write(self, batch: Batch) -> None:
        refused: list[str] = []
        try:
            with self._database().transaction() as connection:
                ledger.write(connection, batch)
                self._forget_deleted(connection)
        except Exception as exc:
            if not ledger.of_a_row(exc):
                raise
            with self._database().transaction() as connection:
                refused = ledger.write_apart(connection, batch)
        self._applied |= batch.reached
        for rows, why in [*batch.lost(), *((1, f"it cannot be written: {reason}") for reason in refused)]:
            logger.error("%d rows of what became of tasks are lost: %s", rows, why)
            events.emit(RecordsLost(rows=rows, reason=why))

    def _forget_deleted(self, connection: "psycopg.Connection[dict[str, object]]") -> None:
        if self._deleted:
            ledger.forget(connection, self._deleted)
            self._deleted.clear()

    def _delete_finished(self, segments: list[Segment]) -> None:
        for segment in segments:
            applied = self._applied.get(segment.name, 0)
            if applied >= segment.size and segment.finished():
                if segment.path.stat().st_size > applied:
                    continue  # its last row came after we looked
                segment.path.unlink()
                self._applied.pop(segment.name, None)
                self._deleted.append(segment.name)

    def _hold_back(self, exc: BaseException) -> None:
        if self.held_back_since is not None:
            return
        self.held_back_since = self._clock()
        reason = " ".join(str(exc).split()) or type(exc).__name__
        logger.warning("what becomes of tasks waits on disk: %s", reason)
        events.emit(RecordsHeldBack(reason=reason))

    def _catch_up(self, rows: int, *, more: bool) -> None:
        if self.held_back_since is None:
            return
        self._waited += rows
        if not more:
            seconds, self.held_back_since = self._clock() - self.held_back_since, None
            logger.info("PostgreSQL takes rows again after %.1f s; %d had waited", seconds, self._waited)
            events.emit(RecordsCaughtUp(rows=self._waited, seconds=seconds))
            self._waited = 0

    # Now and then

    def _look_around(self) -> None:
        now = self._clock()
        if now >= self._adopt_at:
            self._adopt_at = now + _LOOK_FOR_ORPHANS_EVERY
            self._adopt()
        if now >= self._maintain_at and self.held_back_since is None:
            self._maintain_at = now + _MAINTAIN_AGAIN
            try:
                retention.maintain(self._database(), self._chosen)
                self._upkeep()
            except _AWAY as exc:
                logger.warning("old records are deleted later: %s", " ".join(str(exc).split()))
            else:
                self._maintain_at = now + _MAINTAIN_EVERY

    def _adopt(self) -> None:
        """Take over what workers that were killed left, and give up what is empty."""
        for spool in list(self._spools[1:]):
            if not self._segments_of(spool) and spool.leave():
                self._spools.remove(spool)
        for spool in self._spools[0].orphans():
            waiting = sum(segment.size for segment in spool.segments())
            self._spools.append(spool)
            self._unsure = True
            if waiting:
                logger.warning("a worker was killed: what it left in %s is written by this one", spool.path)
                events.emit(RecordsAdopted(spool=spool.path.name, waiting=waiting))
