"""Celery with the same settings twice: ours (every protection on) and plain prefork.

BENCH_BALLAST in MiB; BENCH_RESULTS to store what tasks return.
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
task = app.task(name="bench.mark")(mark)

if __name__ == "__main__":
    import sys

    if OURS and sys.argv[1] == "fill":
        delivery.submit_many((task.s() for _ in range(int(sys.argv[2]))), app=app)
    else:
        main(task.delay)
