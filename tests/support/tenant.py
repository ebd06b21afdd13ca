"""An application whose Redis user may touch keys of one prefix alone: it uses everything that is shared."""

import os

from seawall import Limit, Retry, Seawall, breaker, limit, policy

app = Seawall("tenant", set_as_current=False)
gateway = breaker("lender", min_calls=2, open_for=0.2)


@app.task(name="tenant.charge", shared=False)
@policy(
    requires=["lender"], limit=Limit("tenant:{tenant}", 1), retry=Retry(max_attempts=3, base=0.05, cap=0.1)
)
def charge(tenant: str, flag: str) -> str:
    """Fails at first, so that the retry budget is asked; `flag` is a file that says that it did."""
    with gateway, limit("lender", 2):
        try:
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return tenant
        raise ConnectionError("the first one")
