"""Rounds of messages through one real worker, with an account after each."""

import contextlib
import json
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from celery import Celery
from redis import Redis

from seawall.delivery import scripts
from support.fuzz import account, api, mutations
from support.fuzz.app import NEIGHBOURS, create
from support.fuzz.capture import CORPUS, STEPS
from support.nodes import ProcessContainer, environment
from support.waiting import wait_until

POOLS = {
    "cells": ("--concurrency=2",),
    "prefork": ("--pool=prefork", "--concurrency=2"),
    "threads": ("--pool=threads", "--concurrency=2"),
}
FORKED_AT_START = {"cells": 2, "prefork": 2, "threads": 0}
STUCK_FOR = 60.0
"""Seconds without a movement after which what is left is stuck."""

_API, _BROADCAST, _VERB, _KILLS = 0.15, 0.03, 0.3, 0.003
"""Shares: of calls and broadcasts among all, of the submit verb and of killers among raw messages."""

_FORGOTTEN = ("messages", "history", "lineage", "dead", "delayed", "parked", "unpark", "aside")
LOOK_EVERY, _TOLD = 0.1, 20
_BLOCK, _WORK, _LONGEST_BLOCK = 400, 0.01, 300.0
JUNK_RATE = 20.0
"""Messages a second that come beside the healthy ones when throughput is measured."""

_OVERRAN = "which this pool cannot stop"
"""Said by a worker of threads that ends for a hard limit, to be started again."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is sent, and to what."""

    pool: str
    seed: int
    messages: int
    a_round: int = 3000
    first_round: int = 0
    trace: bool = False
    options: tuple[str, ...] = ("-l", "ERROR")


@dataclass
class Totals:
    """The account of one pool."""

    sent: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    became: Counter[str] = field(default_factory=Counter)
    deaths: int = 0
    strikes: int = 0
    restarts: int = 0
    most_deaths: int = 0
    problems: list[str] = field(default_factory=list)

    def add(self, other: "Totals") -> None:
        """What another run of the same pool found, too."""
        for mine, theirs in ((self.sent, other.sent), (self.kinds, other.kinds), (self.became, other.became)):
            mine.update(theirs)
        self.deaths += other.deaths
        self.strikes += other.strikes
        self.restarts += other.restarts
        self.most_deaths = max(self.most_deaths, other.most_deaths)
        self.problems += other.problems

    @property
    def messages(self) -> int:
        """All that was sent but the neighbours."""
        return self.sent.total() - self.sent["neighbours"]

    def lines(self) -> Iterator[str]:
        """In words."""
        yield f"sent {dict(self.sent)}"
        yield f"kinds of messages and changes {dict(self.kinds)}"
        yield f"became {dict(self.became)}"
        yield (
            f"{self.deaths} processes died, {self.strikes} strikes, at most {self.most_deaths} "
            f"for one message, {self.restarts} workers of threads ended for a hard limit"
        )


class Fuzzer:
    """One worker, its broker, and what is sent to it."""

    def __init__(self, url: str, folder: Path, plan: Plan) -> None:
        self.totals = Totals()
        self._url, self._folder, self._plan = url, folder, plan
        corpus = json.loads(CORPUS.read_text())
        self._kills = [entry for entry in corpus if entry["kind"].endswith(": kills")]
        self._broadcasts = [entry for entry in corpus if entry["kind"].startswith("broadcast")]
        self._tasks = [each for each in corpus if each not in self._kills and each not in self._broadcasts]
        self._outcomes, self._arcs = folder / "outcomes", folder / "arcs"
        self._restarts_known = 0
        self.worker: ProcessContainer
        self.broker_url = url
        self.env: dict[str, str] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator["Fuzzer"]:
        """With a worker that takes what is sent, and that ends in order."""
        self._arcs.mkdir(parents=True, exist_ok=True)
        self._outcomes.touch()
        env = environment(self._url, FUZZ_OUTCOMES=str(self._outcomes), PYTHONWARNINGS="ignore", **self.env)
        if self._plan.trace:
            env["FUZZ_ARCS"] = str(self._arcs)
        self.app: Celery = create(self.broker_url, dead_letters=self.env.get("FUZZ_DEAD_LETTERS"))
        self.app.conf.update(result_backend="disabled://")  # nobody waits for the results
        self.client: Any = Redis.from_url(self._url)
        options = (*POOLS[self._plan.pool], *self._plan.options)
        self.worker = ProcessContainer("support.fuzz.app", *options, directory=self._folder, env=env)
        try:
            wait_until(self._runs, timeout=60, what="the worker")
            yield self
            self.worker.kill("SIGTERM")
            try:
                self.worker.wait(60)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"the worker has not ended:\n{self.worker.logs()[-30_000:]}") from None
        finally:
            self.worker.teardown()
            self.client.close()
            self.app.close()

    def _runs(self) -> bool:
        if self.worker.status != "running":
            told = self.worker.logs()[-5000:]
            assert self._plan.pool == "threads", f"the worker exited:\n{told}"
            assert _OVERRAN in told, f"the worker exited:\n{told}"
            self.totals.restarts += 1
            self.worker.start_again()
        return self._consumes()

    def _consumes(self) -> bool:
        return bool(self.client.exists(f"{account.CONSUMED}:consumers"))

    def round(self, number: int, messages: int) -> None:
        """Send so many, wait until they are settled, and look what became of them."""
        dice = Random(f"{self._plan.seed} {self._plan.pool} {number}")  # noqa: S311 - no secret
        stream = self._raw(dice)
        sent = account.Round()
        for index in range(messages):
            self._send_one(sent, dice, stream)
            if index % 20 == 0:
                self._send_neighbour(sent, f"{number}-{index}")
        self._settle(sent)
        self._draw(sent, number)

    def all_rounds(self, tell: Callable[[str], object] = lambda _line: None) -> Totals:
        """Round after round until all is sent; `tell` is told how far it is, and each problem."""
        plan, totals, done = self._plan, self.totals, 0
        while done < plan.messages:
            many = min(plan.a_round, plan.messages - done)
            known = len(totals.problems)
            self.round(plan.first_round + done // plan.a_round, many)
            done += many
            tell(f"{done} of {plan.messages}: {len(totals.problems)} problems")
            for problem in totals.problems[known : known + _TOLD]:
                tell(f"PROBLEM {problem}")
        return totals

    def _raw(self, dice: Random) -> Iterator[bytes]:
        """Raw messages without end; the stated share of them kills the process that runs it."""
        stream = mutations.stream(self._tasks, dice, self.totals.kinds)
        while True:
            if dice.random() < _KILLS and self._plan.pool != "threads":
                self.totals.kinds["a killer"] += 1
                yield mutations.written(mutations.fresh(dice.choice(self._kills)["text"], dice), dice)
            else:
                yield next(stream)

    def _send_one(self, sent: account.Round, dice: Random, stream: Iterator[bytes]) -> None:
        how = dice.random()
        if how < _API:
            name, refusal = api.submitted(self.app, dice)
            if refusal is not None:
                sent.refused.append((name, refusal))
            elif name is not None:
                sent.calls.append(name)
        elif how < _API + _BROADCAST:
            entry = dice.choice(self._broadcasts)
            message = mutations.fresh(entry["text"], dice)
            self._broadcast(entry["place"], mutations.mutated(message, dice, self.totals.kinds))
            sent.broadcasts += 1
        else:
            text = next(stream)
            sent.texts.append(text)
            self._put(text, dice)

    def _broadcast(self, place: str, text: bytes) -> None:
        self.client.publish(place, text)

    def _put(self, text: bytes, dice: Random) -> None:
        """Into a list of the stock transport, or in line by the verb that our producers use."""
        if dice.random() < _VERB:
            tag = f"{dice.randrange(10)}{dice.getrandbits(80):020x}"
            scripts.submit(self.client, [account.CONSUMED], [0, 0, tag, 0, text, "", 0])
        else:
            self.client.lpush(f"celery{dice.choice(STEPS)}", text)

    def _send_neighbour(self, sent: account.Round, name: str) -> None:
        self.app.send_task("fuzz.neighbour", (name,), ignore_result=True)
        sent.neighbours.append(name)

    def _settle(self, sent: account.Round) -> None:
        """Wait until nothing is left to do, or nothing moves any more: what is left is in the account."""
        last: Any = None
        since = time.monotonic()

        def quiet() -> bool:
            nonlocal last, since
            time.sleep(LOOK_EVERY)  # a look costs the server what the worker wants of it
            runs, now = self._runs(), self._movements()
            if not runs or now != last:
                last, since = now, time.monotonic()
                return False
            if time.monotonic() - since > STUCK_FOR:
                return True
            if any(now[: len(STEPS) + 2]) or account.soon_due(self.client, 3.0):
                return False
            seen = account.Broker.read(self.client)
            return not seen.nowhere and not any(seen.unsettled())  # nowhere: it moved while it was looked for

        wait_until(quiet, timeout=300 + len(sent.texts), what="the messages to settle")

    def _movements(self) -> Any:
        with self.client.pipeline() as pipe:
            for step in STEPS:
                pipe.llen(f"celery{step}")
            for place in ("ready", "suspects", "delayed", "dead"):
                pipe.zcard(f"{account.CONSUMED}:{place}")
            pipe.hlen(f"{account.CONSUMED}:messages")
            return pipe.execute()

    def _count(self, sent: account.Round, states: dict[str, Counter[str]]) -> None:
        """What was sent, and the ends of runs that workers told of."""
        self.totals.sent.update(
            raw=len(sent.texts), api=len(sent.calls), refused=len(sent.refused),
            broadcasts=sent.broadcasts, neighbours=len(sent.neighbours),
        )  # fmt: skip
        for ended in states.values():
            self.totals.became.update({f"run {state}": many for state, many in ended.items()})

    def _ran(self) -> dict[str, int]:
        """How often each neighbour ran."""
        return {name.decode(): int(times) for name, times in self.client.hgetall(NEIGHBOURS).items()}

    def _draw(self, sent: account.Round, number: int) -> None:
        totals = self.totals
        broker = account.Broker.read(self.client)
        states, forked = account.outcomes(self._outcomes)
        self._count(sent, states)
        first = number == self._plan.first_round
        died = forked - (FORKED_AT_START[self._plan.pool] if first else 0)
        totals.deaths += died
        totals.strikes += broker.strikes
        totals.most_deaths = max(totals.most_deaths, broker.most_deaths)
        ran = self._ran()
        found = list(
            account.problems(
                sent, broker, states, ran, again=died > 0 or totals.restarts > self._restarts_known
            )
        )
        self._restarts_known = totals.restarts
        totals.problems += [f"round {number}: {problem}" for problem in found]
        totals.became.update({place: len(kept) for place, kept in broker.places.items()})
        self._forget(broker)

    def _forget(self, broker: account.Broker) -> None:
        """Make room for the next round; what is held for its moment stays."""
        self._outcomes.write_text("")
        held = {tag for tag, _ in broker.places["held"]}
        for queue in self.client.scan_iter("seawall:{*}:messages"):
            base = queue.removesuffix(b":messages")
            kept = {tag: self.client.hget(queue, tag) for tag in held if self.client.hexists(queue, tag)}
            names = _FORGOTTEN if base == account.CONSUMED.encode() else (*_FORGOTTEN, "ready", "suspects")
            keys = [base + b":" + name.encode() for name in names]
            self.client.delete(*keys, *self.client.scan_iter(base + b":parked:*"))
            if kept:
                self.client.hset(queue, mapping=kept)
        self.client.delete(NEIGHBOURS)

    def throughput(self, pairs: int) -> list[float]:
        """Neighbours with and without junk beside them, in turns; one ratio of their rates a pair."""
        dice = Random(self._plan.seed)  # noqa: S311 - no secret
        stream = self._raw(dice)
        ratios = []
        for pair in range(pairs):
            first = self._time_of_block(junk=None if pair % 2 else (stream, dice))
            second = self._time_of_block(junk=(stream, dice) if pair % 2 else None)
            ratios.append(first / second if pair % 2 else second / first)
        return ratios

    def _time_of_block(self, junk: tuple[Iterator[bytes], Random] | None) -> float:
        """Seconds until a block of neighbours has run, with junk at its rate or without."""
        for index in range(_BLOCK):
            self.app.send_task("fuzz.neighbour", (f"{index}", _WORK), ignore_result=True)
        began = time.monotonic()
        sent = 0
        while self.client.hlen(NEIGHBOURS) < _BLOCK:
            while junk is not None and sent < (time.monotonic() - began) * JUNK_RATE:
                self._put(next(junk[0]), junk[1])
                sent += 1
            time.sleep(0.5 / JUNK_RATE)
            assert time.monotonic() - began < _LONGEST_BLOCK, "the neighbours do not end"
        took = time.monotonic() - began
        self._settle(account.Round())
        self._forget(account.Broker.read(self.client))
        return took


def fuzz(url: str, folder: Path, plan: Plan, tell: Callable[[str], object] = lambda _line: None) -> Totals:
    """Send so many messages to a worker of that pool; the account."""
    with Fuzzer(url, folder, plan).running() as fuzzer:
        return fuzzer.all_rounds(tell)
