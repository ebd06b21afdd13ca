"""The circuits that single processes of a worker hold open by themselves, while the fleet's may be closed.

They decide nothing for others: they are told to Redis for whoever looks at the fleet (`Store.held`).
"""

from collections.abc import Iterable, Mapping

from seawall import identity
from seawall.breaker.machine import Rules
from seawall.breaker.store import Store
from seawall.breaker.table import Own, Record


class OwnCircuits:
    """What the processes behind one table said of theirs, by slot and pid. For the hub's thread alone."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._open: dict[tuple[int, int], Own] = {}
        self._untold: set[tuple[int, int]] = set()

    def take_in(self, received: Iterable[Record | Own]) -> list[Record]:
        """Keep what is said of them; the rest of what was received is returned."""
        records = []
        for one in received:
            if isinstance(one, Own):
                self._open[one.slot, one.pid] = one
                self._untold.add((one.slot, one.pid))
            else:
                records.append(one)
        return records

    def repeat(self) -> None:
        """All of them are to be told again: to another server, or after it was away."""
        self._untold.update(self._open)

    def tell(self, store: Store, circuits: Mapping[int, tuple[str, Rules]], now: float) -> None:
        """Tell what is new of these circuits, by slot; each entry ends by itself with its time.

        Raises redis-py's errors; what was not told then is still to be told.
        """
        told = [key for key in self._untold if key[0] in circuits]
        if not told:
            return
        machine = identity.machine()
        store.hold(
            (
                *circuits[slot],
                f"{self._host}/{pid}@{machine}",
                now - self._open[slot, pid].since,
                max(0.0, self._open[slot, pid].until - now),
            )
            for slot, pid in told
        )
        self._untold.difference_update(told)
        self.forget(now)

    def forget(self, now: float) -> None:
        """What is over is forgotten; what a process held that is gone is over, and to be told."""
        for (slot, pid), own in tuple(self._open.items()):
            if own.until <= now:
                del self._open[slot, pid]
                self._untold.discard((slot, pid))
            elif identity.is_gone(pid):
                self.take_in([Own(slot, pid, own.since, 0.0)])
