"""An application as Celery's tutorial has it, with ours installed or without.

`python app_everything.py` submits as many tasks as each line of its input says, and says when it had begun.
"""

import os
import sys
import time

from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_BACKEND"])
if os.environ["BENCH_SYSTEM"] != "prefork":
    import seawall

    seawall.install(app)


@app.task(name="bench.add")
def add(one: int, two: int) -> int:
    """The body of the task."""
    return one + two


if __name__ == "__main__":
    for line in sys.stdin:
        begun = time.monotonic()
        for number in range(int(line)):
            add.delay(number, number)
        print(begun, flush=True)  # noqa: T201
