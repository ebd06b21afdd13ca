"""A second task of a name."""

from support.moving.app import app


@app.task(name="mart.twin")
def other() -> None:
    """Left out by Celery without a word."""
