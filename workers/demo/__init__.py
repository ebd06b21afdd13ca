"""The demo: real files, imported through the fleet and accounted for row by row, and a tour."""

from workers.demo.command import group
from workers.demo.tasks import import_chunk, import_dataset, summarise
from workers.demo.tour_tasks import broken, charge, flaky, hog, long, steady

__all__ = [
    "broken",
    "charge",
    "flaky",
    "group",
    "hog",
    "import_chunk",
    "import_dataset",
    "long",
    "steady",
    "summarise",
]
