"""How long one verb holds the server up when there is much of everything.

`PYTHONPATH=tests python tests/benchmarks/delivery_scale.py`. A script runs alone on the server, so its
longest run is what everybody else may have to wait. Figures are the server's own (SLOWLOG), in ms.
"""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from kombu import Connection

from seawall.delivery import Queues, scripts
from seawall.delivery.channel import Channel
from seawall.delivery.envelope import Envelope
from support.delivery import OURS, own_server

_LEASE_OVER = 1.0  # a moment in 1970


class Scale:
    """One queue on one server, filled in different ways."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._redis: Any = channel.redis
        self._redis.config_set("slowlog-log-slower-than", 0)
        self._redis.config_set("slowlog-max-len", 100_000)

    def _fill(self, many: int, *, queue: str = "q", due: float = 0.0) -> None:
        for start in range(0, many, 500):
            numbers = range(start, min(start + 500, many))
            body = '{"headers":{"id":"x"},"properties":{}}'
            moment = round(due * 1e6)
            self._channel.submit(queue, [Envelope(f"4{n:08d}", moment, body, "", 0) for n in numbers])

    def _longest(self, name: str, work: Callable[[], object]) -> None:
        self._redis.slowlog_reset()
        begun = time.monotonic()
        work()
        seconds = time.monotonic() - begun
        runs = [
            entry["duration"] / 1e3
            for entry in self._redis.slowlog_get(100_000)
            if entry["command"].startswith(b"EVAL")
        ]
        line = f"{name:58} {len(runs):6} runs, longest {max(runs, default=0):8.2f} ms, all {seconds:7.2f} s"
        print(line)  # noqa: T201 - it is a report
        self._redis.flushall()

    def _claim(self, queues: list[str], wanted: int) -> list[Any]:
        claimant, line = self._channel._consume()
        claimant.serve(queues)
        keys, arguments = line.prepare(queues, wanted)
        answer = scripts.claim(claimant.client, keys, arguments)
        taken: list[Any] = answer[2][0][::3]
        return taken

    def _dead_consumers(self, many: int, holding: int) -> None:
        self._fill(many * holding)
        ids = self._redis.zrange("seawall:{q}:ready", 0, -1)
        self._redis.delete("seawall:{q}:ready")
        for number in range(many):
            held = ids[number * holding : (number + 1) * holding]
            self._redis.hset(f"seawall:{{q}}:held:c{number}", mapping=dict.fromkeys(held, "1"))
            self._redis.zadd("seawall:{q}:consumers", {f"c{number}": _LEASE_OVER})

    def run(self) -> None:
        """Print one line for each shape."""
        queues = Queues(self._redis)
        self._claim(["q"], 1)  # the server knows the script from here on
        self._fill(100_000)
        self._longest("claim 128 of 100,000", lambda: self._claim(["q"], 128))
        self._longest("submit 100,000 in batches", lambda: self._fill(100_000))
        self._fill(100_000)
        self._longest("purge 100,000", lambda: queues.purge("q"))
        self._fill(10_000, due=time.time() + 1)
        time.sleep(1.1)
        self._longest("claim while 10,000 delays end at once", lambda: self._claim(["q"], 128))
        self._dead_consumers(100, 128)
        self._longest("claim after 100 consumers with 128 each died", lambda: self._claim(["q"], 128))
        self._redis.zadd("seawall:{q}:consumers", {f"c{n}": (time.time() + 60) * 1e6 for n in range(1000)})
        self._fill(1000)
        self._longest("claim beside 1,000 consumers", lambda: self._claim(["q"], 128))
        self._redis.zadd("seawall:{q}:consumers", {f"c{n}": (time.time() + 60) * 1e6 for n in range(1000)})
        self._longest("count a queue with 1,000 consumers", lambda: queues.counts("q"))
        for served in (10, 100, 1000, 10_000):
            names = [f"q{n}" for n in range(served)]
            self._longest(f"claim from {served:,} empty queues", partial(self._claim, names, 8))
        self._redis.sadd("seawall:queues", *(f"q{n}" for n in range(10_000)))
        self._longest("count 10,000 queues", lambda: [queues.counts(name) for name in queues.names()])


def main() -> None:
    """Measure on a server of its own."""
    with (
        tempfile.TemporaryDirectory() as folder,
        own_server(Path(folder) / "s", fsync="everysec") as server,
        Connection(server.url, transport=OURS) as connection,
    ):
        channel = connection.channel()
        assert isinstance(channel, Channel)
        Scale(channel).run()


if __name__ == "__main__":
    main()
