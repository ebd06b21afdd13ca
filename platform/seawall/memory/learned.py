"""What tasks were seen to use: added to by every worker, kept in Redis, asked for budgets.

Nothing here is waited for by a task: samples are collected, written in one call per task name, and dropped
when the server is away.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from redis import Redis

from seawall.cluster import Argument, Script
from seawall.memory import leaks, quantiles

BASE: Final = "seawall:memory"
QUANTILE: Final = 0.95
ENOUGH: Final = 5
"""Measured runs before a task's record is believed."""

WINDOW: Final = 1000
"""Runs after which older ones begin to count half: a task that has changed is soon known again."""

_FIELD: Final = re.compile(rb"([pk])(\d+)")
_record = Script("seawall.memory", "record", fills=True)


@dataclass(frozen=True, slots=True)
class Sample:
    """One run: `peak` is what it used beyond its start, `kept` what it left, if that was measured."""

    name: str
    peak: int
    kept: int | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is known of one task, over the cluster."""

    name: str
    runs: int = 0
    peaks: dict[int, int] = field(default_factory=dict)
    kept: dict[int, int] = field(default_factory=dict)
    score: float = 0.0
    leaking: bool = False
    growth: int | None = None
    """Bytes kept by an average run among those that grew, since the score left zero."""

    def peak(self, share: float = QUANTILE) -> int | None:
        """Bytes that this share of the runs did not exceed; None while too few are known."""
        return quantiles.quantile(self.peaks, share) if self.runs >= ENOUGH else None

    def retained(self, share: float = 0.5) -> int | None:
        """The same for what runs left behind."""
        return quantiles.quantile(self.kept, share)


@dataclass(frozen=True, slots=True)
class Judged:
    """What a task's flag became by adding to its record."""

    name: str
    before: bool
    leaking: bool


class Learned:
    """The records in one Redis."""

    def __init__(self, client: "Redis", *, base: str = BASE) -> None:
        self._client: Any = client
        self._base = base

    def add(self, samples: Iterable[Sample]) -> list[Judged]:
        """Write samples, in their order per task."""
        by_name: dict[str, list[Sample]] = {}
        for sample in samples:
            by_name.setdefault(sample.name, []).append(sample)
        return [self._add(name, runs) for name, runs in by_name.items()]

    def _add(self, name: str, runs: list[Sample]) -> Judged:
        batch, kept = leaks.Batch(), [run.kept for run in runs if run.kept is not None]
        for size in kept:
            batch.add(size)
        grown = [size for size in kept if size > leaks.FLOOR]
        counts = Counter(f"p{quantiles.bucket(run.peak)}" for run in runs)
        counts.update(f"k{quantiles.bucket(size)}" for size in kept)
        arguments: list[Argument] = [name, batch.shift, batch.lowest, batch.highest, leaks.THRESHOLD]
        arguments += [len(grown), sum(grown), WINDOW, len(runs)]
        for bucket, count in counts.items():
            arguments += [bucket, count]
        before, leaking, _ = _record(self._client, [self._base], arguments)
        return Judged(name, bool(before), bool(leaking))

    def records(self) -> list[Record]:
        """Every task with a record, by name."""
        names = sorted(self._client.smembers(f"{self._base}:tasks"))
        with self._client.pipeline(transaction=False) as pipeline:
            for name in names:
                pipeline.hgetall(f"{self._base}:task:{name.decode()}")
            hashes = pipeline.execute()
        gone = [name for name, fields in zip(names, hashes, strict=True) if not fields]
        if gone:
            self._client.srem(f"{self._base}:tasks", *gone)
        return [_parse(name.decode(), fields) for name, fields in zip(names, hashes, strict=True) if fields]

    def record(self, name: str) -> Record:
        """What is known of one task; an empty record if nothing is."""
        return _parse(name, self._client.hgetall(f"{self._base}:task:{name}"))

    def forget(self, name: str) -> None:
        """Begin again with a task that was mended."""
        self._client.delete(f"{self._base}:task:{name}")


def _parse(name: str, fields: dict[bytes, bytes]) -> Record:
    buckets: dict[bytes, dict[int, int]] = {b"p": {}, b"k": {}}
    for key, count in fields.items():
        if match := _FIELD.fullmatch(key):
            buckets[match[1]][int(match[2])] = int(count)
    grown = int(fields.get(b"grown", 0))
    return Record(
        name=name,
        runs=int(fields.get(b"runs", 0)),
        peaks=buckets[b"p"],
        kept=buckets[b"k"],
        score=float(fields.get(b"score", 0)),
        leaking=b"leaking" in fields,
        growth=int(fields.get(b"kept", 0)) // grown if grown else None,
    )
