"""Many rounds of killers of their worker among neighbours, and other ways to die: no innocent is given up.

The rounds take hours one after another, and mostly wait: SUSPECT_ROUNDS says how many there are of each kind,
and SUSPECT_LANES how many run at once.
"""

import contextlib
import signal
from pathlib import Path
from typing import Any

import pytest
from celery import chord

from support.control_groups import inside, memory_group
from support.suspects import (
    MOST_RUNS,
    Account,
    Storm,
    from_environment,
    neighbours,
    own_fleet,
    rounds,
    storm,
)
from support.waiting import wait_until

POOLS = ("cells", "prefork")
DELIVERY_LIMIT = 3


def check(accounts: list[Account], made_of: Storm) -> None:
    """Every killer is a dead letter, and nobody else is."""
    for account in accounts:
        assert account.innocents_buried == []
        assert len(account.buried) == made_of.killers
        assert max(account.runs) <= MOST_RUNS
        assert account.kills > 0, "a round in which nothing struck is none"


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("concurrency", [2, 4, 16])
@pytest.mark.parametrize("pool", POOLS)
def test_many_rounds_of_killers_among_neighbours_of_three_seconds(
    tmp_path: Path, pool: str, concurrency: int
) -> None:
    made_of = Storm(pool=pool, concurrency=concurrency, killers=2, seconds=3.0)
    many, at_once = from_environment("SUSPECT_ROUNDS", 50), from_environment("SUSPECT_LANES", 4)
    check(rounds(tmp_path, made_of, many, at_once), made_of)


WAYS: dict[str, dict[str, Any]] = {
    "after a delay": {"options": {"countdown": 1.0}},
    "two at once": {"killers": 2},
    "in a worker that is told to stop": {"stopping": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("pool", POOLS)
def test_other_killers_of_their_worker(tmp_path: Path, pool: str, way: str) -> None:
    made_of = Storm(pool=pool, concurrency=4, seconds=1.0, **WAYS[way])
    check(rounds(tmp_path, made_of, 1, 1), made_of)


@pytest.mark.slow
@pytest.mark.parametrize("pool", POOLS)
def test_a_killer_in_a_chord_ends_it_and_its_neighbours_in_it_have_run(tmp_path: Path, pool: str) -> None:
    with own_fleet(tmp_path, {"task_ignore_result": False}) as fleet:
        with fleet.client() as app:
            work, kill = (app.signature(f"support.marked.{name}") for name in ("work", "kill_worker"))
            header = [work.clone(each) for each in neighbours("innocent", 4, 1.0)] + [kill.clone(("killer",))]
            chord(header, app=app)(app.signature("support.marked.work", args=("never",), immutable=True))
            while fleet.queues.counts("celery").dead == 0:
                worker = fleet.worker(pool, 4, wait=False)
                fleet.until(
                    lambda worker=worker: (
                        worker.popen.poll() is not None or fleet.queues.counts("celery").dead
                    ),  # type: ignore[misc]
                    "the killer's next run or its end",
                    120,
                )
                assert worker.popen.poll() in (None, -signal.SIGKILL), worker.output
                if worker.popen.poll() is not None:
                    fleet.place.kill(worker)
            fleet.until(lambda: fleet.queues.counts("celery").held == 0, "the end of the others")
        assert fleet.buried() == ["('killer',)"]
        assert fleet.ended("innocent") == 4
        assert fleet.started("never") == 0
        assert fleet.started("killer") <= MOST_RUNS


@pytest.mark.slow
@pytest.mark.parametrize("how", ["abort", "segfault", "import", "exit 0"])
@pytest.mark.parametrize("pool", POOLS)
def test_who_kills_only_its_own_process_is_charged_alone_and_nobody_runs_again(
    tmp_path: Path, pool: str, how: str
) -> None:
    made_of = Storm(pool=pool, concurrency=4, seconds=1.0, way="kill_own_process", arguments=(how,))
    with own_fleet(tmp_path) as fleet:
        account = storm(fleet, made_of)
    assert account.buried == [f"('killer-0', '{how}')"]
    assert account.runs == [DELIVERY_LIMIT]
    assert (account.kills, account.repeated) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("pool", POOLS)
def test_a_control_group_without_memory_takes_the_worker_and_no_innocent_is_given_up(
    tmp_path: Path, pool: str
) -> None:
    limit = 500 << 20
    with memory_group(limit) as group, contextlib.ExitStack() as stack:
        if group is None:
            pytest.skip("no control group of the memory controller can be made here")
        fleet = stack.enter_context(own_fleet(tmp_path))
        fleet.environment |= {"SEAWALL_MEMORY__BUDGET": "16GiB"}  # more than there is: our guard sees nothing
        entering = tuple(inside(group, []))
        made_of = Storm(
            pool=pool,
            concurrency=4,
            seconds=1.0,
            inside=entering,
            way="run_out_of_memory",
            arguments=(2 * limit,),
        )
        account = storm(fleet, made_of)
        print(f"\n{pool}: {account}")  # noqa: T201 - the account is the point
        if not account.kills:
            pytest.skip("the kernel took the task's own process and left the worker alone")
        check([account], made_of)


@pytest.mark.slow
@pytest.mark.parametrize("pool", POOLS)
def test_beside_a_suspect_a_worker_of_sixteen_keeps_its_throughput(tmp_path: Path, pool: str) -> None:
    """Beside it, at the same time, works one without a suspect."""
    gate, many = tmp_path / "gate", 480
    with own_fleet(tmp_path / "with") as burdened, own_fleet(tmp_path / "without") as free:
        burdened.submit("hold", [("suspect", str(gate))])
        victim = burdened.worker(pool, 16)
        burdened.until(lambda: burdened.on_record() == 1, "its start to be on record")
        burdened.place.kill(victim)
        for fleet in (burdened, free):
            fleet.worker(pool, 16)
        burdened.until(lambda: burdened.started("suspect") == 2, "the suspect to run again")
        for fleet in (burdened, free):
            fleet.submit("work", neighbours("beside", 2 * many, 0.5))
        wait_until(lambda: free.ended("beside") >= many, timeout=120, what="half of them to end")
        beside, alone = burdened.ended("beside"), free.ended("beside")
        print(f"\n{pool}: {beside} tasks beside a suspect, {alone} without one, {beside / alone:.2f}")  # noqa: T201
        assert burdened.ended("suspect") == 0
        gate.touch()
        burdened.until(lambda: burdened.ended("suspect") == 1, "its end")
    assert beside >= 0.8 * alone
