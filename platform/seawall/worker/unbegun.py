"""What a worker has in its hands and has not begun goes back to the broker when others need that.

A request may wait here for a share, for memory or for its rate. It goes back, at no charge,

- when the process pauses, because memory or a service is exhausted: another machine may run it;
- when a task runs long in the one place where it could run;
- while the worker is to be empty for a suspect that has to run alone (`seawall.delivery`): what does not
  begin would keep that waiting for ever.

What waits for its moment never waits here: it goes back to our transport until then, whoever submitted it.
What a strategy of a task's own has gathered cannot be taken from that: see `strategies`.
"""

from datetime import datetime
from typing import Any, Final

from celery import bootsteps
from celery.utils.time import maybe_iso8601, maybe_make_aware

from seawall import delivery
from seawall.delivery.channel import Channel as LeasedChannel

_LOOK_EVERY: Final = 0.25


def give_back(consumer: Any) -> None:
    """Give back all that waits in this process."""
    consumer.gate.give_back()
    consumer.rates.give_back()


def goes_back_until_due(message: Any) -> bool:
    """Whether a message came before its moment, and has gone back to our transport until then.

    Our publishers leave that to the transport. Of what stock publishers wrote it reads only the common form:
    here come those of protocol 1, and those whose ETA does not say where its clock stands.
    """
    headers, payload = message.headers, message.payload
    fields = {**payload, **headers} if isinstance(payload, dict) else headers
    if not (eta := fields.get("eta")) or not isinstance(message.channel, LeasedChannel):
        return False
    if (moment := _moment_of(eta)) is None:
        return False
    if (seconds := moment - delivery.server_time(message)) > 0:
        return delivery.delay(message, seconds)
    for place in (headers, payload):  # it is due by the server's clock, and not to wait for ours
        if isinstance(place, dict) and place.pop("eta", None):
            place["delayed_until"] = eta.isoformat() if isinstance(eta, datetime) else eta
    return False


def _moment_of(eta: Any) -> float | None:
    """Seconds since the epoch; None for what whoever takes the message in will refuse."""
    try:
        moment: Any = maybe_make_aware(maybe_iso8601(eta))  # type: ignore[arg-type] # None is for no ETA
        return float(moment.timestamp())
    except (AttributeError, ValueError, TypeError, OverflowError):
        return None


class GivingWay(bootsteps.StartStopStep):
    """The consumer's step: it looks whether a suspect that is to run alone waits for an empty worker."""

    label = "GivingWay"

    def __init__(self, c: Any, **options: Any) -> None:
        super().__init__(c, **options)
        self._timer: Any = None

    def include_if(self, c: Any) -> bool:
        """Where requests are consumed; a supervisor consumes none."""
        return bool(getattr(c, "runs_tasks", True))

    def start(self, c: Any) -> None:
        """A connection is there."""
        self._timer = c.timer.call_repeatedly(_LOOK_EVERY, self._look, (c,))

    def stop(self, c: Any) -> None:
        """It is gone."""
        if self._timer is not None:
            c.timer.cancel(self._timer)
            self._timer = None

    def _look(self, c: Any) -> None:
        if c.task_consumer is not None and delivery.gives_way(c.task_consumer.channel):
            give_back(c)
            c.own_strategies.give_way()
