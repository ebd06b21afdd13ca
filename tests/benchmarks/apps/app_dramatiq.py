"""dramatiq: `dramatiq app_dramatiq -p 2 -t 8`."""

import os

import dramatiq
from common import main, mark
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_REDIS"]))
task = dramatiq.actor(actor_name="mark")(mark)

if __name__ == "__main__":
    main(task.send)
