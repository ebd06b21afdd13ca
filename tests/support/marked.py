"""A Seawall app with the marking tasks of `support.delivery_app`; configured by the same environment."""

import json
import os
import time

from seawall import Seawall
from support.delivery_app import mark

app = Seawall("marked")
app.conf.update(
    broker_url=os.environ.get("DELIVERY_BROKER", "redis://localhost:1"),
    broker_transport_options=json.loads(os.environ.get("DELIVERY_OPTIONS", "{}")),
    task_ignore_result=True,
    **json.loads(os.environ.get("DELIVERY_CONF", "{}")),
)


@app.task
def work(name: object, seconds: float = 0.0) -> None:
    """Marks its start and its end."""
    mark("start", name)
    time.sleep(seconds)
    mark("end", name)
