"""Breakers measured: `python tests/benchmarks/breakers.py`, with `PYTHONPATH=tests`.

Ours stands beside pybreaker (in memory and on Redis), circuitbreaker and purgatory, where they are installed
(`pip install pybreaker circuitbreaker purgatory`; nothing else needs them). Two tables: what one call costs,
and what happens in a fleet of processes when the dependency dies, with about 190 calls a second each. The
others open after five failures in a row, ours by its defaults: about ten in the whole fleet. All of it is
noisy on a busy machine; take the ratios.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from seawall import cluster
from seawall.breaker import Place, breaker, close
from seawall.breaker import place as places
from seawall.errors import BreakerOpen
from support import breaker_user
from support.breaker_user import Guard, User
from support.breakers import Fleet, fleet
from support.delivery import own_server
from support.waiting import wait_until

OPEN_FOR = 2.0
"""Seconds that the circuits of fleets stay open."""


def guard_ours(url: str, open_for: float) -> Guard:
    if places._place is None:
        places.use(Place(lambda: cluster.connect(url)))
    return breaker("dependency", open_for=open_for, max_open_for=open_for), BreakerOpen


def guard_circuitbreaker(_url: str, open_for: float) -> Guard:
    import circuitbreaker

    one = circuitbreaker.CircuitBreaker(failure_threshold=5, recovery_timeout=open_for)
    return one, circuitbreaker.CircuitBreakerError


def guard_pybreaker(_url: str, open_for: float) -> Guard:
    import pybreaker

    one = pybreaker.CircuitBreaker(fail_max=5, reset_timeout=open_for, throw_new_error_on_trip=False)
    return one, pybreaker.CircuitBreakerError


def guard_pybreaker_redis(url: str, open_for: float) -> Guard:
    import pybreaker
    from redis import Redis

    storage = pybreaker.CircuitRedisStorage(pybreaker.STATE_CLOSED, Redis.from_url(url), namespace="bench")
    one = pybreaker.CircuitBreaker(
        fail_max=5, reset_timeout=open_for, state_storage=storage, throw_new_error_on_trip=False
    )
    return one, pybreaker.CircuitBreakerError


def guard_purgatory(_url: str, open_for: float) -> Guard:
    import purgatory

    factory = purgatory.SyncCircuitBreakerFactory(default_threshold=5, default_ttl=open_for)
    factory.initialize()
    from purgatory.domain.model import OpenedState

    return factory("dependency"), OpenedState


GUARDS: dict[str, Callable[[str, float], Guard]] = {
    "ours": guard_ours,
    "circuitbreaker": guard_circuitbreaker,
    "pybreaker": guard_pybreaker,
    "pybreaker on Redis": guard_pybreaker_redis,
    "purgatory": guard_purgatory,
}


def installed(names: list[str]) -> list[str]:
    """Those that can be measured here."""
    return [name for name in names if name == "ours" or importlib.util.find_spec(name.split()[0])]


def per_call(function: Callable[[], Any], many: int) -> float:
    """Microseconds, the best of several rounds: the machine has other things to do as well."""
    best = float("inf")
    for _ in range(7):
        begun = time.perf_counter()
        for _ in range(many):
            function()
        best = min(best, time.perf_counter() - begun)
    return best / many * 1e6


def nothing() -> None:
    pass


def broken() -> None:
    raise breaker_user.Down


def overhead(name: str, url: str, many: int) -> dict[str, float]:
    """What a call through a decorated function costs beyond a bare one, and what it sends to Redis."""
    guard, refused = GUARDS[name](url, 60.0)
    guarded, failing = guard(nothing), guard(broken)
    bare = per_call(nothing, many)
    slow = many if name != "pybreaker on Redis" else many // 50
    guarded()
    time.sleep(0.3)  # ours joins its server
    with cluster.connect(url) as client:
        client.config_resetstat()
        closed = per_call(guarded, slow) - bare
        commands = _commands(client) / (7 * slow)
        while True:
            try:
                failing()
            except refused:
                break
            except breaker_user.Down:
                continue

        def refuse() -> None:
            with suppress(refused):
                guarded()

        def caught() -> None:
            with suppress(breaker_user.Down):
                pass

        opened = per_call(refuse, slow // 10) - per_call(caught, many)
    close()
    return {"closed, us": closed, "open, us": opened, "commands per call": commands}


def _commands(client: Any) -> int:
    stats = client.info("commandstats")
    own = ("config", "info", "client", "hello", "select")
    return sum(int(one["calls"]) for name, one in stats.items() if not name.startswith(own, 8))


def outage(found: Fleet) -> dict[str, float]:
    """The dependency dies, stays dead for some half-open times, and comes back."""
    time.sleep(1.0)
    died = time.monotonic()
    found.fail(100)
    time.sleep(OPEN_FOR * 0.6)
    refusals: dict[str, float] = {}
    for entry in found.entries("refused", after=died):
        refusals.setdefault(entry.by, entry.at)
    first = min(refusals.values(), default=died)
    leaked = found.counts(after=died, before=died + OPEN_FOR * 0.6)["failed"]
    heard = [entry.at for entry in found.entries("cluster closed open", after=died)]
    wait_until(lambda: time.monotonic() > died + OPEN_FOR * 3.5, timeout=60)
    probes = [entry.at for entry in found.entries("failed", after=died + OPEN_FOR * 0.6)]
    bursts = [at for number, at in enumerate(probes) if not number or at - probes[number - 1] > OPEN_FOR / 2]
    figures = {
        "calls leaked": leaked,
        "tripped after, ms": (first - died) * 1e3,
        "refusing everywhere after, ms": (max(refusals.values(), default=first) - first) * 1e3,
        "probes per half-open": len(probes) / max(1, len(bursts)),
        "processes that refused": len(refusals),
    }
    if heard:
        figures["told everywhere after, ms"] = (max(heard) - min(heard)) * 1e3
    found.fail(0)
    back = time.monotonic()
    time.sleep(OPEN_FOR + 2.0)
    good = [entry.at for entry in found.entries("succeeded", after=back)]
    if good:
        per_tenth = [
            sum(at // 0.1 == tick for at in good) for tick in range(int(good[0] // 0.1), int(good[-1] // 0.1))
        ]
        figures["recovery, most calls per 100 ms"] = max(per_tenth, default=0)
        figures["recovery, calls in its first 100 ms"] = sum(at < good[0] + 0.1 for at in good)
    return figures


@contextmanager
def bench_fleet(url: str, folder: Path, name: str, many: int, *, cells: bool) -> Iterator[Fleet]:
    with fleet(url, folder) as found:
        found.program = [sys.executable, str(Path(__file__).resolve()), "--user"]
        if cells:
            found.start(1, children=many, guard=name, open_for=OPEN_FOR)
        else:
            found.start(many, guard=name, open_for=OPEN_FOR)
        yield found


def main() -> None:
    """Measure, and print."""
    if sys.argv[1:2] == ["--user"]:
        settings = json.loads(sys.argv[2])
        guard = GUARDS[settings["guard"]]
        breaker_user.run(User(settings), lambda: guard(settings["url"], settings["open_for"]))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200_000, help="calls of each round of the first table")
    parser.add_argument("--rounds", type=int, default=3, help="outages of each fleet")
    parser.add_argument("--processes", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--guards", nargs="+", default=list(GUARDS), choices=list(GUARDS))
    parser.add_argument("--table", choices=["calls", "fleets", "both"], default="both")
    chosen = parser.parse_args()
    names = installed(chosen.guards)
    with tempfile.TemporaryDirectory() as folder, own_server(Path(folder) / "s", fsync="everysec") as server:
        if chosen.table != "fleets":
            for name in names:
                show(name, [overhead(name, server.url, chosen.calls)])
        if chosen.table != "calls":
            for many in chosen.processes:
                for name in names:
                    for cells in (False, True) if name == "ours" else (False,):
                        figures = []
                        for number in range(chosen.rounds):
                            server.client().flushall()
                            place = Path(folder) / f"{name}-{many}-{cells}-{number}"
                            with bench_fleet(server.url, place, name, many, cells=cells) as found:
                                figures.append(outage(found))
                        show(f"{name}, {many} {'cells' if cells else 'processes'}", figures)


def show(title: str, rounds: list[dict[str, float]]) -> None:
    """The median of the rounds, and the worst."""
    print(title)  # noqa: T201 - it is a report
    for key in {key: None for one in rounds for key in one}:
        values = [one[key] for one in rounds if key in one]
        worst = f"   worst {max(values):,.4g}" if len(values) > 1 else ""
        print(f"    {key:38} {statistics.median(values):>10,.4g}{worst}")  # noqa: T201


if __name__ == "__main__":
    main()
