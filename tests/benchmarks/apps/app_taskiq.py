"""taskiq on a Redis list: `taskiq worker app_taskiq:broker -w 2`."""

import contextlib
import os
from collections.abc import AsyncIterator

from common import main, mark
from taskiq_redis import ListQueueBroker

broker = ListQueueBroker(url=os.environ["BENCH_REDIS"])


@broker.task(task_name="mark")
async def task(sent: float) -> None:
    mark(sent)


@contextlib.asynccontextmanager
async def opened() -> AsyncIterator[None]:
    await broker.startup()
    yield
    await broker.shutdown()


if __name__ == "__main__":
    main(task.kiq, opened)
