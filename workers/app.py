"""The Celery application of this repository's fleet: `celery -A workers.app ...`."""

from seawall import Seawall

app = Seawall("workers", include=["workers.demo"])
