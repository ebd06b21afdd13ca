"""Its tasks, each with one thing that the doctor speaks of; `plain` has none, and says nothing either."""

from celery import Task

from seawall import policy
from support.moving.app import ContextTask, HookedTask, PoliteTask, TenantTask, app


@app.task(name="mart.plain")
def plain() -> None:
    """Acknowledged early, without a limit, never tried again."""


@app.task(name="mart.report", soft_time_limit=600)
def report() -> None:
    """A soft limit alone."""


@app.task(name="mart.limits", soft_time_limit=60, time_limit=60)
def limits() -> None:
    """A soft limit that is not below the hard one."""


@app.task(name="mart.early", acks_late=False, time_limit=60)
def early() -> None:
    """Says when it is acknowledged."""


@app.task(name="mart.killer", reject_on_worker_lost=True, acks_late=True, ignore_result=True)
def killer() -> None:
    """Comes back for ever today; stores no result."""


@app.task(name="mart.again", autoretry_for=(OSError,), max_retries=1)
def again() -> None:
    """Tried again by Celery."""


@app.task(name="mart.rated", rate_limit="10/m")
def rated() -> None:
    """With a rate of its own."""


@app.task(name="mart.urgent", priority=0)
def urgent() -> None:
    """The most urgent today, the least under Seawall."""


@app.task(name="mart.pickled", serializer="pickle")
def pickled() -> None:
    """Takes what is no JSON."""


@app.task(name="mart.twice", time_limit=90)
@policy(timeout="1m")
def twice() -> None:
    """Says its limit in two ways."""


@app.task(name="mart.batch", Strategy="celery_batches:Strategy")
def batch() -> None:
    """Collects requests."""


@app.task(name="mart.flask", base=ContextTask)
def flask() -> None:
    """Runs in a context."""


@app.task(name="mart.hooked", base=HookedTask)
def hooked() -> None:
    """Has hooks."""


@app.task(name="mart.tenant", base=TenantTask)
def tenant() -> None:
    """Runs in a context, and beside Seawall's."""


@app.task(name="mart.polite", base=PoliteTask)
def polite() -> None:
    """Runs in a context that Seawall's is part of."""


class Registered(Task):  # type: ignore[type-arg]
    """A class of Celery's own."""

    name = "mart.registered"

    def run(self) -> None:
        """Not tried again."""


app.register_task(Registered())


@app.task(name="mart.coroutine")
async def coroutine() -> None:
    """Never awaited."""


@app.task(name="mart.twin")
def twin() -> None:
    """There is another one of this name."""
