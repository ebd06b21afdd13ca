"""What must be true of the server for the promises to hold."""

import logging

from redis import Redis
from redis.exceptions import RedisError

from seawall.errors import ConfigError

logger = logging.getLogger(__name__)

_checked: dict[str, list[str]] = {}


def check(client: "Redis", where: str) -> list[str]:
    """Refuse a server that cannot work; returns what can be lost with it, for a worker to say. Asked once.

    Raises:
        ConfigError: it is a Redis Cluster node.
    """
    if where in _checked:
        return _checked[where]
    try:
        facts = {**client.info("cluster"), **client.info("persistence"), **client.info("memory")}
    except RedisError as exc:  # a hosted server may forbid INFO; then there is nothing to say
        logger.debug("cannot look at %s: %s", where, exc)
        return []
    if facts.get("cluster_enabled") in (1, "1"):
        raise ConfigError(
            f"{where} is a node of a Redis Cluster, which cannot claim from several queues at once: "
            "use a single server, replicas with Sentinel, or the stock transport (broker_transport='redis')."
        )
    return _checked.setdefault(where, [f"{where}: {warning}" for warning in warnings_about(facts)])


def warnings_about(facts: dict[str, object]) -> list[str]:
    """What can be lost with these settings, and what to change."""
    found = []
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction" and facts.get("maxmemory") not in (0, "0", None):
        found.append(
            f"maxmemory-policy is {policy}: under memory pressure whole queues can be evicted. "
            "Set it to noeviction; submitting then fails with an error instead."
        )
    if facts.get("aof_enabled") in (0, "0"):
        found.append(
            "appendonly is off: a restart of the server loses what was submitted since its last snapshot. "
            "Set appendonly yes (appendfsync everysec loses up to a second, always loses nothing)."
        )
    return found
