"""fleet.toml: which programs there are. Read once, checked once, frozen.

The descriptions of the fields are what docs/fleet.md, the schema for editors and the file that `seawall init`
writes say of them (`seawall.fleet.written`).
"""

import difflib
import importlib.util
import signal
import socket
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails

from seawall.errors import ConfigError
from seawall.fleet.program import Program
from seawall.quantity import LONGEST_WAIT, Bytes, Duration, Whole, shown
from seawall.sections import Section

Enabled = Literal["auto", True, False]
_MOST_CELLS: Final = 10_000
_MOST_WORKERS: Final = 1000
Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]*$")]
_Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]  # what a program can be given
_Variable = Annotated[str, StringConstraints(pattern=r"^[^=\x00]+$")]
_Queue = Annotated[str, StringConstraints(pattern=r"^[^,\x00]+$")]  # -Q separates them by commas
Reference = Annotated[str, StringConstraints(pattern=r"^[\w.]+:\w+$")]


class Profile(Section):
    """One kind of worker."""

    queues: tuple[_Queue, ...] = Field(
        default=("celery",), min_length=1, description="The queues that it takes tasks from."
    )
    concurrency: Annotated[int, Whole(least=1, most=_MOST_CELLS)] | None = Field(
        default=None,
        description="How many tasks each worker runs at once. Unset: as many as there are cores.",
        examples=[4],
    )
    pool: Literal["cells", "prefork", "threads", "gevent", "eventlet", "solo", "processes", "custom"] = Field(
        default="cells", description="How they run: in Seawall's cells, or in one of Celery's pools."
    )
    processes: Annotated[int, Whole(least=1, most=_MOST_WORKERS)] = Field(
        default=1, description="How many workers of this profile run here."
    )
    memory: Bytes | None = Field(
        default=None,
        description='Memory budget of each worker with all its processes, such as "512MiB". '
        "Unset: the workers share that of the machine.",
        examples=["512MiB"],
    )
    environment: dict[_Variable, _Text] = Field(
        default_factory=dict,
        description="Environment variables added for it.",
        examples=[{"MALLOC_ARENA_MAX": "2"}],
    )
    options: tuple[_Text, ...] = Field(
        default=(),
        description="Further options of `celery worker`, as they are typed there.",
        examples=[["--max-tasks-per-child=1000"]],
    )

    def worker(
        self, name: str, celery: tuple[str, ...], environment: Mapping[str, str], *, observed: bool
    ) -> Program:
        """The program of one worker; SIGTERM is Celery's warm shutdown, SIGQUIT its cold one.

        `observed`: Flower will ask for events of tasks, so they are sent from the first task on.
        """
        concurrency = () if self.concurrency is None else ("-c", str(self.concurrency))
        if self.memory is not None:  # a budget of its own, no share of the fleet's
            environment = {
                name: value for name, value in environment.items() if name != "SEAWALL_MEMORY__BOARD"
            }
            environment["SEAWALL_MEMORY__BUDGET"] = str(self.memory)
        pool = () if self.pool == "cells" else ("-P", self.pool)  # what the app's workers have anyway
        events = ("-E",) if observed else ()
        options = ("-Q", ",".join(self.queues), *concurrency, *pool, *events, "--loglevel", "INFO")
        return Program(
            name=name,
            argv=(*celery, "worker", "-n", f"{name}@%h", *options, *self.options),
            environment={**environment, **self.environment},
            needs_ready=True,
            stop_signal=signal.SIGQUIT,
        )


class Beat(Section):
    """Celery's scheduler."""

    enabled: Enabled = Field(
        default="auto", description='Whether it runs. "auto": if the application has a schedule.'
    )


class Flower(Section):
    """The dashboard."""

    enabled: Enabled = Field(default="auto", description='Whether it runs. "auto": if it is installed.')
    address: str = Field(
        default="127.0.0.1", description="The address that it listens on. Others need FLOWER_BASIC_AUTH."
    )
    port: Annotated[int, Whole(most=65535)] = Field(
        default=5555, description="Its port, or the next free one where that is taken. 0: any free one."
    )

    def installed(self) -> bool:
        """Whether the dashboard extra is there."""
        return importlib.util.find_spec("flower") is not None

    def command(self, python: str, app: str) -> tuple[str, ...]:
        """Celery's `flower` command, in a process where it can read our queues."""
        return (python, "-m", "seawall.dashboard", "-q", "-A", app, "flower", "--logging=warning")

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


class FleetSpec(Section):
    """What fleet.toml says."""

    app: Annotated[str, StringConstraints(pattern=r"^[\w.]+(:[\w.]+)?$")] = Field(
        description="The Celery application, as `celery -A` takes it.", examples=["shop.celery"]
    )
    drain_timeout: Annotated[float, Duration(most=LONGEST_WAIT)] = Field(
        default=30.0, description="How long tasks may take to finish after the first Ctrl-C."
    )
    commands: dict[Name, Reference] = Field(
        default_factory=dict,
        description='Commands added to `seawall`: name = "module:click_command".',
        examples=[{"shop": "shop.commands:group"}],
    )
    migrations: dict[Name, Path] = Field(
        default_factory=dict,
        description="SQL migrations of the application: name of the history = directory.",
        examples=[{"shop": "migrations"}],
    )
    tables: dict[Name, Reference] = Field(
        default_factory=dict,
        description='What its code expects of the database: name = "module:tables".',
        examples=[{"shop": "shop.tables:TABLES"}],
    )
    workers: dict[Name, Profile] = Field(
        default_factory=dict, description="Kinds of workers, each a table [workers.NAME]; at least one."
    )
    beat: Beat = Beat()
    flower: Flower = Flower()

    @classmethod
    def of_application(cls, app: str, queues: Sequence[str]) -> Self:
        """The fleet of an application that has no fleet.toml: one worker on all its queues, all else default.

        Raises:
            ConfigError: `app` is no name of an application.
        """
        try:
            return cls(app=app, workers={"default": Profile(queues=tuple(queues))})
        except ValidationError as exc:
            raise ConfigError(_in_one_line(Path("-A"), exc.errors()[0])) from exc

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
        # As `celery -q -A`, without what people need: no banners, and no logs are left out.
        celery = (python, "-m", "seawall.worker", "-q", "-A", self.app)
        programs = []
        if self.beat.enabled is True or (self.beat.enabled == "auto" and has_schedule):
            schedule = ("--schedule", str(home / "beat-schedule"), "--pidfile=", "--loglevel", "INFO")
            programs.append(Program(name="beat", argv=(*celery, "beat", *schedule), environment=common))
        observed = self.flower.wanted()
        programs += [
            profile.worker(name, celery, common, observed=observed) for name, profile in self._workers()
        ]
        if observed:
            address = (f"--address={self.flower.address}", f"--port={self.flower.free_port()}")
            programs.append(
                Program(
                    name="flower",
                    argv=(*self.flower.command(python, self.app), *address),
                    environment=common,
                    outlives_others=True,
                    announces_url=True,
                )
            )
        return programs


_TABLES: Final[Mapping[str, type[Section]]] = {"beat": Beat, "flower": Flower, "workers": Profile}


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
