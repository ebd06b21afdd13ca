"""An application with one task that leaks, and its runs as a worker measures them."""

import dataclasses
import gc
import json

from seawall import Seawall
from seawall.memory.board import Board
from seawall.memory.learned import Sample
from seawall.memory.runs import Runs
from seawall.policies import Policy

app = Seawall("leaky", set_as_current=False)
kept: list[bytearray] = []


@app.task(name="leaky.leak", shared=False)
def leak(size: int = 50_000) -> int:
    kept.append(bytearray(size))  # the line that leaks
    return len(bytes(size))


@app.task(name="leaky.clean", shared=False)
def clean() -> int:
    return len(bytes(100_000))


def measure(rounds: int) -> str:
    """Run a leaking and a clean task in turns, each using 20 MiB; the samples as JSON."""
    samples: list[Sample] = []
    runs = Runs(Board.create(1 << 40), samples.append)
    gc.collect()
    gc.freeze()
    for number in range(rounds):
        for name, leaked in (("leak", 200_000), ("clean", 0)):
            with runs.run(str(number), name, Policy(), 1 << 20):
                block = bytearray(20 << 20)
                block[::4096] = b"x" * len(block[::4096])
                del block
                kept.append(bytearray(leaked))
            runs.after()
    return json.dumps([dataclasses.asdict(sample) for sample in samples])
