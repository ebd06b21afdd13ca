"""Fixtures for every test; what they are is said where they are defined."""

from support.servers import database_url, home, no_process_left, redis_url, servers

__all__ = ["database_url", "home", "no_process_left", "redis_url", "servers"]
