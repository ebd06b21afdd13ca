"""fleet.toml: which programs there are. Read once, checked once, frozen.

app = "workers.app"             # what celery -A takes
drain_timeout = "30s"
[commands]                      # commands added to `seawall`: name = "module:click_object"
demo = "workers.demo:group"
[migrations]                    # SQL migrations of its own: name of the history = directory
workers = "workers/migrations"
[tables]                        # what its code expects of the database: name = "module:tables"
demo = "workers.demo.tables:TABLES"
[workers.default]               # a profile: a kind of worker
queues = ["celery"]
concurrency = 2                 # default: the cores
pool = "cells"
processes = 1                   # how many workers of this profile
memory = "512MiB"               # hard ceiling of each worker with all its processes
environment = { }
options = []                    # further options of `celery worker`, as they are
[beat]
enabled = "auto"                # "auto": if the app has a schedule
[flower]
enabled = "auto"                # "auto": if it is installed
address = "127.0.0.1"
port = 5555                     # 0: a free one
"""

import difflib
import importlib.util
import signal
import socket
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from seawall.errors import ConfigError
from seawall.fleet.program import Program
from seawall.quantity import LONGEST_WAIT, Bytes, Duration, Whole, shown

Enabled = Literal["auto", True, False]
_MOST_CELLS: Final = 10_000
_MOST_WORKERS: Final = 1000
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
Reference = Annotated[str, StringConstraints(pattern=r"^[\w.]+:\w+$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Profile(_Table):
    """One kind of worker."""

    queues: tuple[str, ...] = Field(default=("celery",), min_length=1)
    concurrency: Annotated[int, Whole(least=1, most=_MOST_CELLS)] | None = None
    pool: Literal["cells", "prefork", "threads", "gevent", "eventlet", "solo", "processes", "custom"] = (
        "cells"
    )
    processes: Annotated[int, Whole(least=1, most=_MOST_WORKERS)] = 1
    memory: Bytes | None = None
    environment: dict[str, str] = Field(default_factory=dict)
    options: tuple[str, ...] = ()

    def worker(self, name: str, celery: tuple[str, ...], environment: Mapping[str, str]) -> Program:
        """The program of one worker; SIGTERM is Celery's warm shutdown, SIGQUIT its cold one."""
        concurrency = () if self.concurrency is None else ("-c", str(self.concurrency))
        if self.memory is not None:  # a budget of its own, no share of the fleet's
            environment = {
                name: value for name, value in environment.items() if name != "SEAWALL_MEMORY__BOARD"
            }
            environment["SEAWALL_MEMORY__BUDGET"] = str(self.memory)
        pool = () if self.pool == "cells" else ("-P", self.pool)  # what the app's workers have anyway
        options = ("-Q", ",".join(self.queues), *concurrency, *pool, "--loglevel", "INFO")
        return Program(
            name=name,
            argv=(*celery, "worker", "-n", f"{name}@%h", *options, *self.options),
            environment={**environment, **self.environment},
            needs_ready=True,
            stop_signal=signal.SIGQUIT,
        )


class Beat(_Table):
    """Celery's scheduler."""

    enabled: Enabled = "auto"


class Flower(_Table):
    """The dashboard."""

    enabled: Enabled = "auto"
    address: str = "127.0.0.1"
    port: Annotated[int, Whole(most=65535)] = 5555

    def installed(self) -> bool:
        """Whether the dashboard extra is there."""
        return importlib.util.find_spec("flower") is not None

    def command(self, python: str, app: str) -> tuple[str, ...]:
        """Celery's `flower` command, in a process where it can read our queues."""
        return (python, "-m", "seawall.dashboard", "-A", app, "flower")

    def wanted(self) -> bool:
        """Whether to run it.

        Raises:
            ConfigError: it is asked for and not installed.
        """
        installed = self.installed()
        if self.enabled is True and not installed:
            raise ConfigError(
                "[flower]: enabled=True but Flower is not installed: "
                "install seawall[dashboard], or write enabled = false"
            )
        return installed and self.enabled is not False

    def free_port(self) -> int:
        """`port`, or one that is free now; a restarted Flower keeps it."""
        if self.port:
            return self.port
        with socket.create_server((self.address, 0)) as server:
            port: int = server.getsockname()[1]
            return port


class FleetSpec(_Table):
    """What fleet.toml says."""

    app: Annotated[str, StringConstraints(pattern=r"^[\w.]+(:[\w.]+)?$")]
    drain_timeout: Annotated[float, Duration(most=LONGEST_WAIT)] = 30.0
    commands: dict[Name, Reference] = Field(default_factory=dict)
    migrations: dict[Name, Path] = Field(default_factory=dict)
    tables: dict[Name, Reference] = Field(default_factory=dict)
    workers: dict[Name, Profile] = Field(default_factory=dict)
    beat: Beat = Beat()
    flower: Flower = Flower()

    @classmethod
    def load(cls, path: Path) -> Self:
        """The spec in the file `path`.

        Raises:
            ConfigError: it cannot be read or says something wrong; one line with the file, the field,
                the value and what to write instead.
        """
        try:
            tables = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as exc:
            raise ConfigError(
                f"{path} cannot be read ({exc.strerror}): write it or name another file"
            ) from exc
        except (ValueError, RecursionError) as exc:
            raise ConfigError(f"{path} is no TOML: {exc}") from exc
        try:
            return cls.model_validate(tables)
        except ValidationError as exc:
            raise ConfigError(_in_one_line(path, exc.errors()[0])) from exc

    @model_validator(mode="after")
    def _has_workers(self) -> Self:
        names = [name for name, _profile in self._workers()]
        if not names:
            raise ConfigError("there is no worker: add a profile, such as a table [workers.default]")
        if twice := {name for name in names if names.count(name) > 1}:
            raise ConfigError(f"two workers would be called {min(twice)!r}: rename one of their profiles")
        return self

    def _workers(self) -> list[tuple[str, Profile]]:
        """Every worker of every profile by name: `default1`, `default2`, ..."""
        return [
            (f"{name}{number}", profile)
            for name, profile in self.workers.items()
            for number in range(1, profile.processes + 1)
        ]

    def programs(
        self,
        python: str = sys.executable,
        *,
        home: Path,
        has_schedule: bool,
        environment: Mapping[str, str] | None = None,
    ) -> list[Program]:
        """The programs, each with `environment` added to ours.

        `python` runs them; `home` keeps beat's schedule; `has_schedule` is known by the Celery app alone.

        Raises:
            ConfigError: Flower is asked for and not installed.
        """
        common = dict(environment or {})
        celery = (python, "-m", "seawall.worker", "-A", self.app)  # `celery -A`, without what people need
        programs = []
        if self.beat.enabled is True or (self.beat.enabled == "auto" and has_schedule):
            schedule = ("--schedule", str(home / "beat-schedule"), "--pidfile=", "--loglevel", "INFO")
            programs.append(Program(name="beat", argv=(*celery, "beat", *schedule), environment=common))
        programs += [profile.worker(name, celery, common) for name, profile in self._workers()]
        if self.flower.wanted():
            address = (f"--address={self.flower.address}", f"--port={self.flower.free_port()}")
            programs.append(
                Program(
                    name="flower",
                    argv=(*self.flower.command(python, self.app), *address),
                    environment=common,
                    outlives_others=True,
                )
            )
        return programs


_TABLES: Final[Mapping[str, type[_Table]]] = {"beat": Beat, "flower": Flower, "workers": Profile}


def _in_one_line(path: Path, error: ErrorDetails) -> str:
    """`fleet.toml [workers.default]: concurrency='two': input should be a valid integer`."""
    at = [str(part) for part in error["loc"] if part != "[key]"]
    known = _TABLES.get(at[0], FleetSpec).model_fields if len(at) > 1 else FleetSpec.model_fields
    where = f"{path} [{'.'.join(at[:-1])}]" if len(at) > 1 else str(path)
    cause: Any = error.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return f"{where}: {cause}"
    field, value = at[-1], shown(error["input"])
    if isinstance(cause, ValueError):  # of a quantity
        return f"{where}: {field}={value} {cause}"
    if error["type"] == "missing":
        return f"{where}: {field} is missing: write {field} = ..."
    if error["type"] == "extra_forbidden":
        near = difflib.get_close_matches(field, known, n=1) or [", ".join(known)]
        return f"{where}: {field}={value} is unknown: write {near[0]} or remove it"
    message = error["msg"].replace("tuple", "list")  # TOML has no tuples
    return f"{where}: {field}={value}: {message[0].lower()}{message[1:]}"
