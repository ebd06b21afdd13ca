"""What delivery tells the rest of the process."""

from celery.utils.dispatch import Signal

poisoned = Signal(name="poisoned", providing_args=["queue", "message", "history", "strikes"])
"""A message was given up: it is a dead letter now.

Sent once, in the process whose claim or settlement made it one. `queue` is its name, `message` the kombu
message as a dictionary (headers hold the task's name and id), `history` a list of (seconds since the epoch,
consumer, reason). The dead letter itself stays in Redis until it is revived or discarded.
"""

unreadable = Signal(name="unreadable", providing_args=["queue", "tag", "body", "error"])
"""Something in a queue was no message at all, and is a dead letter now. `tag` is its id."""
