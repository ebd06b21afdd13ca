"""Its one table."""

from django.db import models


class Order(models.Model):  # type: ignore[misc]
    """What a task has done, where, and over which connection."""

    number = models.IntegerField()
    process = models.IntegerField()
    backend = models.IntegerField()

    class Meta:
        """Where it belongs."""

        app_label = "orders"

    def __str__(self) -> str:
        return f"order {self.number}"
