"""huey: `huey_consumer app_huey.queue -w 2 -k process`."""

import os

from common import main, mark
from huey import PriorityRedisHuey

queue = PriorityRedisHuey("bench", url=os.environ["BENCH_REDIS"], results=False)
task = queue.task(name="mark")(mark)

if __name__ == "__main__":
    main(task)
