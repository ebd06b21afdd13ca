"""How tasks travel: the transport that Seawall uses on Redis."""

from seawall.delivery.transport import Transport, transport_for

__all__ = ["Transport", "transport_for"]
