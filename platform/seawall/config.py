"""`Settings`: everything an operator may set, from `SEAWALL_*` and a TOML file, validated once.

Sources, strongest first: environment (`SEAWALL_DATABASE__CONNECT_TIMEOUT`; `__` separates levels), then the
TOML file named by `SEAWALL_CONFIG` (default: `seawall.toml` in the working directory, if it exists), then
the defaults. Nothing is read at import: `settings()` reads on its first call and keeps the answer.

Unknown keys are refused in both sources, so a typing error cannot pass as a default. Messages and printed
values never hold a password.
"""

import difflib
import functools
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from seawall import redaction
from seawall.errors import ConfigError
from seawall.quantity import quantity_of, shown
from seawall.redaction import HIDDEN, hide_passwords
from seawall.sections import (
    AlertSettings,
    BeatSettings,
    DatabaseSettings,
    EmbeddedSettings,
    HealthSettings,
    LogSettings,
    MemorySettings,
    RecordsSettings,
    RetrySettings,
    Section,
    StartupSettings,
    WorkerSettings,
    check_path,
)
from seawall.urls import (
    BROKER_SCHEMES,
    DATABASE_SCHEMES,
    REDIS_SCHEMES,
    SENTINEL,
    check_url,
    scheme_of,
    sentinels_of,
)

PREFIX: Final = "SEAWALL_"
FILE_VARIABLE: Final = "SEAWALL_CONFIG"
DEFAULT_FILE: Final = Path("seawall.toml")
_HOST: Final = re.compile(r"(?:[^:/?#\s]+://)?[^/?#\s]*")
_SERVICE_LINK: Final = re.compile(r"_SERVICE_(HOST|PORT)|_PORT(_\d+_(TCP|UDP|SCTP).*)?$")
"""What Kubernetes adds to the environment of its own accord for a service called seawall or seawall-..."""


class Settings(BaseSettings):
    """All settings of a process. Frozen; get it from `settings()`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid", case_sensitive=False
    )

    redis_url: SecretStr | None = Field(
        default=None,
        description="Redis or Valkey for results and shared state, also "
        "`sentinel://host;sentinel://host/0?master_name=main`. "
        "Unset: the broker, if that is Redis, else the embedded server.",
    )
    broker_url: SecretStr | None = Field(
        default=None,
        description="Broker of the tasks (`redis://`, `rediss://`, `sentinel://`, `amqp://`). "
        "Unset: `redis_url`.",
    )
    redis_prefix: str = Field(
        default="",
        pattern=r"^[^\s{}*?\[\]\\]*$",
        description="What every key in Redis begins with, such as `shop:`, of queues, results, workers, "
        "breakers, limits and memory alike: for a server that is shared, or a user limited to such keys.",
    )
    database_url: SecretStr | None = Field(
        default=None, description="PostgreSQL (`postgresql://`). Unset: the embedded server."
    )
    home: Path = Field(
        default=Path(".seawall"),
        description="Directory of the embedded servers and of the fleet's own files.",
    )
    fleet: Path | None = Field(
        default=None,
        description="The file that declares the fleet for `seawall up` ([its fields](fleet.md)). "
        "Unset: `fleet.toml`, or `workers/fleet.toml` where only that exists.",
    )
    redact: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Names of values that are never shown, beside password, token and the like "
        "(docs/failures.md): arguments, keys and fields, in any case and with any separators. "
        "In the environment separated by commas.",
    )
    database: DatabaseSettings = DatabaseSettings()
    worker: WorkerSettings = WorkerSettings()
    beat: BeatSettings = BeatSettings()
    memory: MemorySettings = MemorySettings()
    retry: RetrySettings = RetrySettings()
    records: RecordsSettings = RecordsSettings()
    alerts: AlertSettings = AlertSettings()
    log: LogSettings = LogSettings()
    embedded: EmbeddedSettings = EmbeddedSettings()
    startup: StartupSettings = StartupSettings()
    health: HealthSettings = HealthSettings()

    _check_paths = field_validator("home", "fleet", mode="before")(check_path)

    @field_validator("redact", mode="before")
    @classmethod
    def _read_names(cls, value: object) -> object:
        if isinstance(value, str):
            if value.lstrip().startswith("["):
                try:
                    return json.loads(value)
                except ValueError:
                    raise ValueError(
                        "is no list: write names separated by commas, such as ssn,iban"
                    ) from None
            value = value.split(",")
        if isinstance(value, list):
            return [name for each in value if not isinstance(each, str) or (name := each.strip())]
        return value

    @property
    def fleet_file(self) -> Path:
        """Where the fleet is declared; the file need not exist."""
        here, below = Path("fleet.toml"), Path("workers/fleet.toml")
        return self.fleet or (below if below.is_file() and not here.is_file() else here)

    @field_validator("redis_url", "broker_url", "database_url")
    @classmethod
    def _check_url(cls, value: SecretStr | None, info: Any) -> SecretStr | None:
        if value is None:
            return None
        allowed = {
            "redis_url": REDIS_SCHEMES | {SENTINEL},
            "broker_url": BROKER_SCHEMES,
            "database_url": DATABASE_SCHEMES,
        }[info.field_name]
        for url in value.get_secret_value().split(";"):
            check_url(url, allowed)
        if info.field_name == "redis_url" and scheme_of(value.get_secret_value()) == SENTINEL:
            sentinels_of(value.get_secret_value())
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
        found = Settings()
    except ValidationError as exc:
        raise ConfigError("\n".join(_explain(exc))) from None
    redaction.add(found.redact)
    return found


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
    except (ValueError, RecursionError) as exc:  # also of an int of thousands of digits
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
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from keys(field.annotation, path)
        else:
            default = "unset" if field.default is None else _plain(field.default)
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
        plain = "unset" if value is None else _plain(value)
        yield (
            key,
            plain if isinstance(value, tuple) else _hidden(plain, key.kind),
            source,
        )  # names are no secrets


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
        value = shown(_without_password(error["input"], known[name].kind if name in known else ""))
        if error["type"] == "value_error":  # our own words, with the fix
            yield f"{label}={value} {error['ctx']['error']}"
        else:
            yield f"{label}={value} is wrong: {error['msg'][0].lower()}{error['msg'][1:]}"


def _without_password(value: object, kind: str) -> object:
    return _hidden(_plain(value), kind) if isinstance(value, str | SecretStr) else value


def _hidden(plain: str, kind: str) -> str:
    """`plain` without passwords; the path of a webhook is one, so of a URL of no server the host is shown."""
    shown = hide_passwords(plain)
    if kind != "URL" or scheme_of(shown) in BROKER_SCHEMES | DATABASE_SCHEMES:
        return shown
    host = _HOST.match(shown)
    return shown if host is None or host.end() == len(shown) else f"{host[0]}/{HIDDEN}"


def _plain(value: object) -> str:
    if isinstance(value, tuple):
        return json.dumps(value)
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _lookup(tree: Mapping[str, Any], path: tuple[str, ...]) -> bool:
    node: Any = tree
    for part in path:
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


def _kind(field: FieldInfo) -> str:
    """What the value is: the unit and bounds of a quantity, else the sort of text."""
    if quantity := quantity_of(field.annotation, field.metadata):
        return f"{quantity.unit}, {quantity.bounds()}"
    if get_origin(field.annotation) is tuple:
        return "names"
    options = [field.annotation, *get_args(field.annotation)]
    words = {SecretStr: "URL", Path: "path", bool: "yes or no"}
    return next((words[option] for option in options if option in words), "text")
