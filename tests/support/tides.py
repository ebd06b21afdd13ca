"""An application with a schedule: a beat is started with `celery -A support.tides beat`; nothing is run."""

from typing import Any, Final

from celery.schedules import crontab

from seawall import Seawall

EVERY: Final = 0.25

app = Seawall("tides", set_as_current=False, autofinalize=True)


@app.task(shared=False, name="tides.turn")
def turn(which: str) -> None:
    """Do nothing."""


_schedule: dict[str, Any] = {
    "often": {"task": "tides.turn", "schedule": EVERY, "args": ("often",)},
    "each minute": {"task": "tides.turn", "schedule": crontab(), "args": ("minute",)},
}
app.conf.beat_schedule = _schedule
