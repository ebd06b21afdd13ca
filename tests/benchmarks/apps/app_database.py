"""One version of the platform on one session: each line of the input is a statement to be measured.

The answer is the median of its times and the CPU of the caller, both in microseconds for one statement.
"""

import statistics
import sys
import time

from seawall.database.pool import Database

_BATCH = 300

database = Database(sys.argv[1])
for line in sys.stdin:
    query, taken = line.strip(), []
    spent = time.thread_time()
    for _ in range(_BATCH):
        started = time.perf_counter()
        database.fetch_one(query)
        taken.append(time.perf_counter() - started)
    spent = time.thread_time() - spent
    print(statistics.median(taken) * 1e6, spent / _BATCH * 1e6, flush=True)  # noqa: T201 - it is the answer
