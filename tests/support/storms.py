"""Storms over the workers of one broker, and what they did to the tasks.

A kill records what the dead worker held at that moment, so that each loss has a clock of its own: from the
kill to the next start of the task, or to the next kill that took it before it could start again.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import psutil
import redis

from support.delivery import Site
from support.waiting import wait_until

_BASE = "seawall:{celery}"


@dataclass(frozen=True)
class Kill:
    """One killed worker: when, and the tasks it held; those with True had been put on record as started."""

    at: float
    held: dict[str, bool]


@dataclass(frozen=True)
class Loss:
    """A task that a killed worker held. `again` is its next start; None if it was lost once more before."""

    task: str
    kill: Kill
    again: float | None

    @property
    def seconds(self) -> float | None:
        """From the kill to the next start."""
        return None if self.again is None else self.again - self.kill.at


@dataclass
class Storm:
    """A site under attack."""

    place: Site
    tasks: int
    faults: list[float] = field(default_factory=list)
    restored: list[float] = field(default_factory=list)
    overdue: list[float] = field(default_factory=list)
    kills: list[Kill] = field(default_factory=list)

    def report(self, name: str) -> dict[str, Any]:
        """The figures, also printed."""
        marks = self.place.marks
        ends, starts = marks.times("end"), marks.times("start")
        losses = list(self.losses(starts))
        back = sorted(loss.seconds for loss in losses if loss.seconds is not None)
        found = {
            "faults": len(self.faults),
            "lost": self.tasks - len(ends),
            "started again": sum(len(times) - 1 for times in starts.values()),
            "finished twice": sum(len(times) > 1 for times in ends.values()),
            "held by the killed": len(losses),
            "of these killed again before their start": sum(loss.again is None for loss in losses),
            "started again after, median s": round(back[len(back) // 2], 2) if back else None,
            "started again after, worst s": round(back[-1], 2) if back else None,
            "back in line after, worst s": round(max(self.restored), 2) if self.restored else None,
            "of that after the lease, with a worker up": round(max(self.overdue, default=0.0), 2),
        }
        print(f"\n{name} {self.place.transport}: {found}")  # noqa: T201 - the table is the point
        for loss in sorted(losses, key=lambda loss: -(loss.seconds or 0.0))[:3]:
            print(f"  {self.chain(loss.task, starts)}")  # noqa: T201
        return found

    def losses(self, starts: dict[str, list[float]]) -> Iterator[Loss]:
        """Every loss, with the clock of its own kill only."""
        for kill in self.kills:
            for task in kill.held:
                again = min((moment for moment in starts.get(task, ()) if moment > kill.at), default=None)
                next_kill = min(
                    (other.at for other in self.kills if other.at > kill.at and task in other.held),
                    default=None,
                )
                if again is not None and (next_kill is None or again < next_kill):
                    yield Loss(task, kill, again)
                elif next_kill is not None:
                    yield Loss(task, kill, None)
                # Otherwise its acknowledgement was on the way when its worker died.

    def chain(self, task: str, starts: dict[str, list[float]]) -> str:
        """The life of one task in words, in seconds since its first event."""
        events = [(moment, "started") for moment in starts.get(task, ())]
        events += [(moment, "ended") for moment in self.place.marks.times("end").get(task, ())]
        events += [
            (kill.at, "killed after its start" if kill.held[task] else "killed before a start on record")
            for kill in self.kills
            if task in kill.held
        ]
        events.sort()
        return f"task {task}: " + ", ".join(f"{what} {at - events[0][0]:.2f}" for at, what in events)

    def record_kill(self, at: float, pids: set[int]) -> list[str]:
        """Note what a worker that was killed a moment ago held; returns the names it held it under.

        The stock transport does not say who holds what: there it is what its processes were running.
        """
        held = self._running_in(pids)
        with redis.Redis.from_url(self.place.url) as client:
            names: Any = client.zrange(f"{_BASE}:consumers", 0, -1)
            mine = [name.decode() for name in names if int(name.decode().rsplit(":", 2)[1]) in pids]
            for name in mine:
                leases: Any = client.hgetall(f"{_BASE}:held:{name}")
                bodies: Any = client.hmget(f"{_BASE}:messages", list(leases)) if leases else []
                for mark, body in zip(leases.values(), bodies, strict=True):
                    if body is not None:
                        held[_name_of(body)] = mark.startswith(b"+")
        self.kills.append(Kill(at, held))
        return mine

    def _running_in(self, pids: set[int]) -> dict[str, bool]:
        here = [line for line in self.place.marks.lines() if int(line[3]) in pids]
        ended = {line[1] for line in here if line[0] == "end"}
        return {line[1]: False for line in here if line[0] == "start" and line[1] not in ended}

    def finished(self) -> bool:
        """Whether every task has ended."""
        return len(self.place.marks.counts("end")) >= self.tasks

    def wait_for_progress(self, lines: int) -> None:
        """Until so many marks were made, or all is done."""
        target = len(self.place.marks.lines()) + lines
        wait_until(
            lambda: len(self.place.marks.lines()) >= target or self.finished(),
            timeout=120,
            what="the tasks to go on",
        )

    def note_restored(self, names: list[str], killed: float) -> None:
        """Wait until nothing is held under these names any more, and note how long after `killed`.

        While every worker is down there is nobody to restore anything: `overdue` counts from the moment since
        which the leases have been over and a living worker takes part in the queue. A name is no proof of
        life: the claim that a worker sent just before its end registers it after its death.
        """
        due: float | None = None

        def restored() -> bool:
            nonlocal due
            leases: Any = client.zrange(f"{_BASE}:consumers", 0, -1, withscores=True)
            ends = {name.decode(): end / 1e6 for name, end in leases}
            over = all(ends.get(name, 0.0) < time.time() for name in names)
            if not (over and any(_lives(name) for name in ends)):
                due = None
            elif due is None:
                due = time.monotonic()
            return not any(name in ends for name in names)

        with redis.Redis.from_url(self.place.url) as client:
            wait_until(restored, timeout=60)
        now = time.monotonic()
        self.restored.append(now - killed)
        self.overdue.append(now - (due or now))


def _lives(consumer: str) -> bool:
    try:
        return psutil.Process(int(consumer.rsplit(":", 2)[1])).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name_of(body: bytes) -> str:
    return str(json.loads(json.loads(body)["body"])[0][0])
