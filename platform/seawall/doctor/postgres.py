"""PostgreSQL: durability, room for the fleet's connections, its limits, and whether it is migrated."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

from seawall.doctor.finding import Finding, error, info, warning
from seawall.errors import ConfigError, DatabaseUnavailable, MigrationError

if TYPE_CHECKING:
    from seawall.database.migrations import Migrations

OLDEST: Final = 140000
_ASKED: Final = (
    *("server_version_num", "max_connections", "superuser_reserved_connections", "fsync"),
    *("synchronous_commit", "full_page_writes", "autovacuum", "default_transaction_read_only"),
    *("server_encoding", "idle_session_timeout", "transaction_timeout"),
)


def audit_postgres(url: str, *, demand: int, migrations: "Callable[[], Migrations]") -> list[Finding]:
    """Everything about the PostgreSQL at `url`; the fleet may hold `demand` connections."""
    from seawall.database.pool import Database

    try:
        database = Database(url, application="seawall doctor")
        try:
            facts = _look(database)
        finally:
            database.close()
    except (DatabaseUnavailable, ConfigError) as exc:
        return [error("postgres.reach", str(exc), "start it, or correct SEAWALL_DATABASE_URL")]
    return [
        *_durability(facts),
        *_room(facts, demand),
        *_fitness(facts),
        *_migrations(migrations),
    ]


def _look(database: Any) -> dict[str, Any]:
    rows = database.fetch("SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(_ASKED),))
    own = database.fetch_one(
        "SELECT d.datconnlimit, r.rolconnlimit, pg_is_in_recovery() AS standby,"
        " current_setting('statement_timeout') AS statement_timeout"
        " FROM pg_database d, pg_roles r WHERE d.datname = current_database() AND r.rolname = current_user"
    )
    return {**{row["name"]: row["setting"] for row in rows}, **(own or {})}


def _durability(facts: dict[str, Any]) -> Iterator[Finding]:
    for name, loss in (
        ("fsync", "a crash of its machine can destroy the database"),
        ("full_page_writes", "a crash of its machine can leave torn pages"),
    ):
        if facts.get(name) == "off":
            yield error(f"postgres.{name}", f"{name} is off: {loss}", f"ALTER SYSTEM SET {name} = on")
    if facts.get("synchronous_commit") == "off":
        yield warning(
            "postgres.synchronous_commit",
            "synchronous_commit is off: a crash loses transactions that were reported as committed",
            "ALTER SYSTEM SET synchronous_commit = on",
        )


def _room(facts: dict[str, Any], demand: int) -> Iterator[Finding]:
    room = int(facts["max_connections"]) - int(facts.get("superuser_reserved_connections", 3))
    if demand > room:
        yield error(
            "postgres.max_connections",
            f"the fleet may hold {demand} connections and the server has {room}",
            "raise the server's, or lower database.max_connections or the fleet's concurrency",
        )
    for name, owner in (("datconnlimit", "database"), ("rolconnlimit", "role")):
        if 0 <= (limit := int(facts.get(name, -1))) < demand:
            yield error(
                f"postgres.{owner}_limit",
                f"the {owner}'s CONNECTION LIMIT is {limit} and the fleet may hold {demand} connections",
                f"ALTER {owner.upper()} ... CONNECTION LIMIT {demand}, or a smaller fleet",
            )


def _fitness(facts: dict[str, Any]) -> Iterator[Finding]:
    if int(facts["server_version_num"]) < OLDEST:
        yield error(
            "postgres.version", "the server is older than PostgreSQL 14", "upgrade it to a supported version"
        )
    if facts.get("standby"):
        yield error("postgres.standby", "it is a standby and refuses writes", "name the primary in the URL")
    elif facts.get("default_transaction_read_only") == "on":
        yield error(
            "postgres.read_only",
            "default_transaction_read_only is on: every write fails",
            "ALTER DATABASE ... RESET default_transaction_read_only (or ALTER ROLE, or ALTER SYSTEM)",
        )
    if facts.get("autovacuum") == "off":
        yield warning(
            "postgres.autovacuum",
            "autovacuum is off: tables grow, and one day the server stops to prevent wraparound",
            "ALTER SYSTEM SET autovacuum = on",
        )
    if facts.get("server_encoding") != "UTF8":
        yield warning(
            "postgres.encoding",
            f"the database's encoding is {facts.get('server_encoding')}: some texts cannot be stored",
            "create the database with ENCODING 'UTF8'",
        )
    for name in ("idle_session_timeout", "transaction_timeout"):
        if int(facts.get(name, 0)) > 0:
            yield info(
                f"postgres.{name}",
                f"{name} is {facts[name]} ms: it ends sessions of the pool",
                f"ALTER ROLE ... SET {name} = 0 for the fleet's role",
            )


def _migrations(migrations: "Callable[[], Migrations]") -> Iterator[Finding]:
    from seawall.database.migrations import Kind

    try:
        problems = migrations().check()
    except (MigrationError, DatabaseUnavailable, ConfigError) as exc:
        yield error("postgres.migrations", str(exc), "make `seawall migrate check` pass")
        return
    for each in problems:
        word = each.kind.name.lower()
        make = warning if each.kind is Kind.INVALID_INDEX else error
        yield make(f"postgres.migrations.{word}", each.message, "make `seawall migrate check` pass")
