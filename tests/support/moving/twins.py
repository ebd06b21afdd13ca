"""A second task of a name, and a second app."""

from celery import Celery

from support.moving.app import app

reports = Celery("reports", set_as_current=False)


@app.task(name="mart.twin")
def other() -> None:
    """Left out by Celery without a word."""
