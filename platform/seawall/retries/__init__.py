"""Retries that an outage cannot turn into a storm: how soon the other side wants us, and how many at all."""

from seawall.retries.after import retry_after
from seawall.retries.budget import RetryBudget

__all__ = ["RetryBudget", "retry_after"]
