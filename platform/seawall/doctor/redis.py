"""Redis: whether it is set so that no accepted task is lost, is near, and has the right time."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from seawall import cluster
from seawall.doctor.finding import Finding, error, info, warning

OLDEST: Final = (7, 0)
_FAR: Final = 0.01  # seconds for a round trip, the median of several
_SKEW: Final = 2.0  # seconds between our clock and the server's
_FULL: Final = 0.8
_ROUND_TRIPS: Final = 15


@dataclass(frozen=True, slots=True)
class RedisFacts:
    """What a server says of itself."""

    info: Mapping[str, Any]
    config: Mapping[str, str]
    round_trip: float
    skew: float


def audit_redis(url: str, *, clients: int, clock: Callable[[], float] = time.time) -> list[Finding]:
    """Everything about the Redis at `url`; the fleet will open about `clients` connections."""
    try:
        with cluster.connect(url, timeout=2.0) as client:
            facts = _look(client, clock)
    except (RedisError, OSError) as exc:
        reason = f"Redis cannot be asked: {type(exc).__name__}: {exc}"
        return [error("redis.reach", reason, "start it, or correct SEAWALL_REDIS_URL")]
    return [
        *_identity(facts),
        *_memory(facts),
        *_persistence(facts),
        *_distance(facts),
        *_doors(facts, clients),
    ]


def _look(client: Any, clock: Callable[[], float]) -> RedisFacts:
    told = dict(client.info("all"))
    try:
        config = dict(client.config_get("*"))
    except RedisError:  # hosted servers forbid CONFIG: what INFO says has to do
        config = {}
    times, skews = [], []
    for _ in range(_ROUND_TRIPS):
        began = time.monotonic()
        seconds, micros = client.time()
        times.append(time.monotonic() - began)
        skews.append(clock() - times[-1] / 2 - (seconds + micros / 1e6))
    middle = _ROUND_TRIPS // 2
    return RedisFacts(told, config, sorted(times)[middle], sorted(skews)[middle])


def _identity(facts: RedisFacts) -> Iterator[Finding]:
    version = str(facts.info.get("redis_version", "0"))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST and "valkey_version" not in facts.info:
        yield error(
            "redis.version",
            f"Redis {version} lacks commands that delivery needs",
            "upgrade to Redis 7.0 or newer, or Valkey",
        )
    if str(facts.info.get("cluster_enabled")) == "1":
        yield error(
            "redis.cluster",
            "it is a node of a Redis Cluster, which cannot claim from several queues at once",
            "use a single server, or replicas with Sentinel",
        )
    if facts.info.get("role") == "slave":
        yield error(
            "redis.replica", "it is a replica and refuses writes", "name the master, or Sentinel, in the URL"
        )


def _memory(facts: RedisFacts) -> Iterator[Finding]:
    policy = str(facts.info.get("maxmemory_policy", "noeviction"))
    limit = int(facts.info.get("maxmemory", 0) or 0)
    if policy != "noeviction":
        reason = f"maxmemory-policy is {policy}: a full Redis throws accepted tasks away"
        make = error if limit else warning
        yield make("redis.eviction", reason, "CONFIG SET maxmemory-policy noeviction, and in its file")
    used = int(facts.info.get("used_memory", 0))
    if limit and used > _FULL * limit:
        yield warning(
            "redis.memory",
            f"{100 * used // limit} % of maxmemory is used; at 100 % submitting fails",
            "raise maxmemory, or find what fills it with `seawall queues list`",
        )


def _persistence(facts: RedisFacts) -> Iterator[Finding]:
    if str(facts.info.get("aof_enabled")) == "0":
        yield error(
            "redis.appendonly",
            "appendonly is off: a restart loses what was submitted since the last snapshot",
            "CONFIG SET appendonly yes, and in its file",
        )
    elif (fsync := facts.config.get("appendfsync", "always")) != "always":
        how_much = "a second" if fsync == "everysec" else "half a minute"
        yield warning(
            "redis.appendfsync",
            f"appendfsync is {fsync}: a crash of its machine loses up to {how_much} of accepted tasks",
            "CONFIG SET appendfsync always, and in its file",
        )
    if facts.info.get("aof_last_write_status", "ok") != "ok":
        yield error("redis.disk", "its last write to disk failed", "look at its log and its disk")


def _distance(facts: RedisFacts) -> Iterator[Finding]:
    if facts.round_trip > _FAR:
        yield warning(
            "redis.latency",
            f"a round trip takes {facts.round_trip * 1000:.1f} ms",
            "bring it nearer, or give it a processor: every claim and submission waits for it",
        )
    if abs(facts.skew) > _SKEW:
        yield warning(
            "redis.clock",
            f"its clock and this machine's are {abs(facts.skew):.0f} s apart: delays end at the wrong time",
            "synchronise both (NTP)",
        )


def _doors(facts: RedisFacts, clients: int) -> Iterator[Finding]:
    limit = int(facts.config.get("maxclients", facts.info.get("maxclients", 0)) or 0)
    if 0 < limit < clients:
        yield error(
            "redis.maxclients",
            f"maxclients is {limit} and the fleet opens about {clients} connections",
            f"CONFIG SET maxclients {2 * clients}, and in its file",
        )
    if int(facts.config.get("timeout", 0)) > 0:
        yield warning(
            "redis.timeout",
            f"timeout is {facts.config['timeout']}: it closes idle connections under the workers",
            "CONFIG SET timeout 0, and in its file",
        )
    if facts.config.get("requirepass") == "":
        bound = facts.config.get("bind", "")
        local = bool(bound) and all(each.lstrip("-").startswith(("127.", "::1")) for each in bound.split())
        make = info if local else error
        yield make(
            "redis.password",
            "it asks for no password: whoever reaches it can submit and delete tasks",
            "set requirepass, or users by ACL, and name them in SEAWALL_REDIS_URL",
        )
