"""Celery with the same settings twice: ours (every protection on) and plain prefork.

BENCH_BALLAST in MiB; BENCH_RESULTS to store what tasks return; BENCH_NAMES: how many names the task has.
"""

import os

from celery import Celery
from common import main, mark

OURS = os.environ["BENCH_SYSTEM"].startswith("ours")
ballast = [str(number) for number in range(int(os.environ.get("BENCH_BALLAST", "0")) * 1_048_576 // 64)]

if OURS:
    import seawall
    from seawall import delivery

    app: Celery = seawall.install(Celery("bench"))
else:
    app = Celery("bench")
app.conf.update(
    broker_url=os.environ["BENCH_REDIS"],
    task_ignore_result=not os.environ.get("BENCH_RESULTS"),
    result_backend=os.environ["BENCH_REDIS"],
    task_acks_late=True,
    worker_prefetch_multiplier=1,
    task_time_limit=310,
    task_soft_time_limit=300,
    broker_connection_retry_on_startup=True,
)
names = int(os.environ.get("BENCH_NAMES", "1"))
tasks = [app.task(name=f"bench.mark{number or ''}")(mark) for number in range(names)]
task = tasks[0]

if __name__ == "__main__":
    import sys

    if OURS and sys.argv[1] == "fill":
        delivery.submit_many((tasks[n % len(tasks)].s() for n in range(int(sys.argv[2]))), app=app)
    else:
        main(task.delay)
