"""pgqueuer on PostgreSQL: `python app_pgqueuer.py work`, one process each."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
from common import main, mark
from pgqueuer import PgQueuer, Queries
from pgqueuer.db import AsyncpgDriver

_open: list[Queries] = []


async def work() -> None:
    queuer = PgQueuer(AsyncpgDriver(await asyncpg.connect(os.environ["BENCH_DATABASE"])))

    @queuer.entrypoint("mark")
    async def task(job: object) -> None:
        mark(float(job.payload))  # type: ignore[attr-defined]

    await queuer.run(dequeue_timeout=timedelta(seconds=30), batch_size=10)


async def empty() -> None:
    connection = await asyncpg.connect(os.environ["BENCH_DATABASE"])
    await connection.execute("drop schema public cascade; create schema public")
    await Queries(AsyncpgDriver(connection)).install()
    await connection.close()


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[None]:
    connection = await asyncpg.connect(os.environ["BENCH_DATABASE"])
    _open.append(Queries(AsyncpgDriver(connection)))
    yield
    await connection.close()


if __name__ == "__main__":
    if sys.argv[1] == "work":
        asyncio.run(work())
    elif sys.argv[1] == "empty":
        asyncio.run(empty())
    else:
        main(lambda sent: _open[0].enqueue("mark", repr(sent).encode()), opened)
