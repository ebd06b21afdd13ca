"""Fuzzes workers with messages and prints the account.

    PYTHONPATH=tests python -m support.fuzz.run --messages 100000 --seed 7

The pools run beside each other, each with servers and a process of its own. Prints what was sent, what became
of it, the branches that were reached, the throughput of healthy neighbours beside junk by that without, and
every problem; the exit status says whether there was one. The seed repeats the messages, not the moments at
which processes meet. A part of the messages goes through workers whose branches are counted, which costs
more than twice the time; another part through workers that write every line and send every event.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from support import rabbitmq
from support.delivery import own_server
from support.fuzz import arcs, rabbit
from support.fuzz.fuzzer import JUNK_RATE, POOLS, Fuzzer, Plan, Totals, fuzz

_TRACED = 0.15
"""The share of messages whose branches are counted, half of them with events and lines."""

_ON_RABBITMQ = 0.03
"""How many go through RabbitMQ besides, where it is installed: a round is seconds of its worker's start."""

_TALKATIVE = ("-l", "INFO", "-E", "--max-tasks-per-child=300")
_STOP_WITHIN = 60.0
_STOPS = (signal.SIGTERM, signal.SIGINT)
_AT_LEAST = 0.9


def plans(pool: str, seed: int, messages: int) -> Iterator[Plan]:
    """How a pool's messages are divided; each part goes on where the seed's rounds of the last one ended."""
    plan = Plan(pool=pool, seed=seed, messages=int(messages * _TRACED / 2), trace=True)
    yield plan
    yield (plan := replace(plan, options=_TALKATIVE, first_round=_next_round(plan)))
    rest = messages - 2 * plan.messages
    yield Plan(pool=pool, seed=seed, messages=rest, first_round=_next_round(plan))


def _next_round(plan: Plan) -> int:
    return plan.first_round - (-plan.messages // plan.a_round)


def fuzz_pool(pool: str, seed: int, messages: int, pairs: int, folder: Path) -> bool:
    """Fuzz one pool and print its account; whether there was a problem."""
    totals = Totals()
    for number, plan in enumerate(plans(pool, seed, messages) if messages else ()):
        part = folder / pool / f"{number}"
        producer = arcs.collected(part / "arcs") if plan.trace else contextlib.nullcontext()
        with own_server(part / "server", fsync="no") as server, producer:
            totals.add(fuzz(server.url, part, plan, lambda line: _say(pool, line)))
    if messages and rabbitmq.is_installed():
        totals.add(_on_rabbitmq(pool, seed, int(messages * _ON_RABBITMQ), folder / pool / "rabbitmq"))
    for line in totals.lines():
        _say(pool, line)
    _say(pool, counted(reached(folder, [pool])))
    return bool(totals.problems) or (pairs > 0 and _ratio(pool, seed, pairs, folder) < _AT_LEAST)


def _on_rabbitmq(pool: str, seed: int, messages: int, folder: Path) -> Totals:
    """A further part, through a worker whose broker is RabbitMQ and whose branches are counted."""
    plan = Plan(pool=pool, seed=seed, messages=messages, a_round=1000, trace=True)
    (folder / "redis").mkdir(parents=True)
    with (
        rabbitmq.node(folder / "node") as url,
        own_server(folder / "redis", fsync="no") as server,
        arcs.collected(folder / "arcs"),
    ):
        return rabbit.fuzz(url, server.url, folder, plan, lambda line: _say(f"{pool} on RabbitMQ", line))


def _ratio(pool: str, seed: int, pairs: int, folder: Path) -> float:
    """The throughput of healthy neighbours beside junk by that without, as the median of so many pairs."""
    part, plan = folder / pool / "throughput", Plan(pool=pool, seed=seed, messages=0)
    with (
        own_server(part / "server", fsync="no") as server,
        Fuzzer(server.url, part, plan).running() as fuzzer,
    ):
        ratios = fuzzer.throughput(pairs)
    ratio = median(ratios)
    shown = ", ".join(f"{each:.2f}" for each in ratios)
    _say(pool, f"neighbours beside {JUNK_RATE:.0f} junk/s by those without: {ratio:.2f}, median of {shown}")
    return ratio


def reached(folder: Path, pools: list[str]) -> set[arcs.Arc]:
    """What workers of these pools, and their producers, reached."""
    found: set[arcs.Arc] = set()
    for pool in pools:
        for directory in folder.glob(f"{pool}/*/arcs"):
            found |= arcs.read(directory)
    return arcs.in_functions(found)


def counted(found: set[arcs.Arc]) -> str:
    """Branches in words: those of the path of a message, and all."""
    branches = arcs.branches(found)
    near = [branch for branch in branches if branch[0].startswith(arcs.PATH)]
    return f"{len(near)} of {arcs.branches_there()} branches of a message's way; {len(branches)} of all code"


def _say(pool: str, line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {pool}: {line}", flush=True)  # noqa: T201 - it is a report


def _each_beside_the_others(pools: list[str], chosen: Any, folder: Path) -> bool:
    """A process for each pool; whether one of them had a problem."""
    share = -(-chosen.messages // len(pools))
    with contextlib.ExitStack() as stack:
        running = []
        for pool in pools:
            command = [sys.executable, "-m", "support.fuzz.run", "--pool", pool, "--keep", folder]
            command += ["--messages", share, "--seed", chosen.seed, "--pairs", chosen.pairs]
            process = subprocess.Popen([str(each) for each in command])
            stack.callback(_end, process)
            running.append(process)
        codes = [process.wait() for process in running]
    return any(codes)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """In order: it ends the servers and workers that it started."""
    process.terminate()
    try:
        process.wait(_STOP_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _stop(signum: int, _frame: object) -> None:
    for each in _STOPS:
        signal.signal(each, signal.SIG_IGN)  # a second one must not interrupt what ends all that was started
    sys.exit(128 + signum)


def main(arguments: Any = None) -> int:
    """Fuzz every pool that was asked for and print the account."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000, help="in all pools together")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--pairs", type=int, default=6, help="of runs with and without junk; 0 for none")
    parser.add_argument("--pool", action="append", choices=POOLS)
    parser.add_argument("--keep", type=Path, help="directory for logs; default: one that is removed")
    chosen = parser.parse_args(arguments)
    pools = chosen.pool or list(POOLS)
    for signum in _STOPS:
        signal.signal(signum, _stop)
    with contextlib.ExitStack() as stack:
        folder = chosen.keep or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz-")))
        if len(pools) == 1:
            return int(fuzz_pool(pools[0], chosen.seed, chosen.messages, chosen.pairs, folder))
        _say("all", f"seed {chosen.seed}")
        failed = _each_beside_the_others(pools, chosen, folder)
        _say("all", counted(reached(folder, pools)))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
