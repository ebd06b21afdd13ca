"""kombu's Redis transport with priorities the right way round.

Stock kombu keeps one list per priority step on Redis, four by default, and serves the list of the lowest
number first: the reverse of RabbitMQ. Here there are ten, and 9 is served first, as everywhere in Seawall.
"""

from typing import Any, Final

from kombu.transport import redis

from seawall.config import REDIS_SCHEMES, scheme_of
from seawall.priority import HIGHEST, LOWEST, Priority

PATH: Final = "seawall.delivery:Transport"


class Channel(redis.Channel):
    """A channel on which priority 9 overtakes priority 0."""

    priority_steps = list(range(LOWEST, HIGHEST + 1))  # noqa: RUF012 - kombu's attribute
    default_priority = int(Priority.NORMAL)

    def prepare_message(self, body: Any, priority: int | None = None, *args: Any, **kwargs: Any) -> Any:
        """As kombu's, which takes priority 0 for none given."""
        message = super().prepare_message(body, priority, *args, **kwargs)
        if priority is not None:
            message["properties"]["priority"] = priority
        return message

    def _get_message_priority(self, message: dict[str, Any], reverse: bool = False) -> int:  # noqa: FBT001, FBT002
        """The step of `message`: 0, which Redis serves first, for the most urgent."""
        return int(super()._get_message_priority(message, reverse=not reverse))


class Transport(redis.Transport):
    """Selected by `transport_for`, or by hand with `broker_transport`."""

    Channel = Channel


def transport_for(url: object) -> str | None:
    """The `broker_transport` for a broker URL; None leaves the choice to the URL's scheme."""
    return PATH if scheme_of(str(url)) in REDIS_SCHEMES else None
