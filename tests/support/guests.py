"""Workers that live one after another in a thread of one program, as in the tests of an application.

`python -m support.guests cells solo ...` starts one after another with these pools and prints, as JSON, a
list: what each one's tasks returned, what was there of it while it ran, and what is left of it.
"""

import json
import sys
import threading
from collections.abc import Iterator
from typing import Any

from celery.contrib.testing.worker import start_worker

from seawall import Limit, Seawall, admission, policy, service

SERVICES: list[str] = []


@service("harbour")
def harbour() -> Iterator[None]:
    SERVICES.append("started")
    yield
    SERVICES.append("stopped")


app = Seawall("guests", services=[harbour])
app.conf.update(result_backend=app.conf.broker_url)


@app.task
def plain(number: int) -> int:
    return number


@app.task
@policy(limit=Limit("berth", 1))
def alone(number: int) -> int:
    return number


@app.task
@policy(requires=["tide"])
def afloat(number: int) -> int:
    return number


def main() -> None:
    seen: list[dict[str, Any]] = []
    for pool in sys.argv[1:]:
        with start_worker(app, pool=pool, perform_ping_check=False, shutdown_timeout=20.0):
            asked = [task.delay(number) for task in (plain, alone, afloat) for number in range(3)]
            returned = [each.get(timeout=30) for each in asked]
            accounts = sorted(account.name for account in admission.accounts)
        left = [account.name for account in admission.accounts]
        left += [each.name for each in threading.enumerate() if each.name == "seawall-parked"]
        seen.append({"returned": returned, "accounts": accounts, "left": left, "services": [*SERVICES]})
        SERVICES.clear()
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
