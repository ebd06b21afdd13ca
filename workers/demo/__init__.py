"""The demo: real files, imported through the fleet into PostgreSQL and accounted for row by row."""

from workers.demo.command import group
from workers.demo.tasks import import_chunk, import_dataset, summarise

__all__ = ["group", "import_chunk", "import_dataset", "summarise"]
