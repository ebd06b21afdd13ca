"""The files of deploy/ as what they declare, each program ready to be run."""

import configparser
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from seawall.quantity import parse_duration
from support.delivery import ROOT

DEPLOY: Final = ROOT / "deploy"
PASSWORD: Final = "nobody-guesses-1"
COMPOSE_PATIENCE: Final = 10.0  # seconds that compose gives a service that does not say how long
_CODE: Final = ROOT / "workers"


@dataclass(frozen=True, kw_only=True)
class Program:
    """One program of a file, and what the file says about it."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    directory: str
    mounts: tuple[tuple[Path, str], ...]
    """What an image or a machine has in place for it: (source, target), read-only."""
    kept: tuple[str, ...] = ()
    """Directories that outlive it."""
    scratch: tuple[str, ...] = ()
    """Directories that do not."""
    healthcheck: tuple[str, ...] = ()
    patience: float = COMPOSE_PATIENCE
    stop_signal: signal.Signals = signal.SIGTERM
    is_job: bool = False
    notifies: bool = False


def compose(**answers: str) -> dict[str, Any]:
    """The services of compose.yaml as Docker Compose, which needs no Docker for it, resolves them.

    `answers` stand in .env; without them, only the passwords do.
    """
    program = shutil.which("docker-compose", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("docker-compose is not installed", allow_module_level=True)
    said = dict.fromkeys(("REDIS_PASSWORD", "POSTGRES_PASSWORD"), PASSWORD) | {
        "FLOWER_BASIC_AUTH": f"user:{PASSWORD}",
        **answers,
    }
    done = subprocess.run(
        [program, "--env-file", "/dev/null", "--profile", "*", "config", "--format=json"],
        cwd=DEPLOY,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **said},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise ValueError(done.stderr.strip())
    services: dict[str, Any] = json.loads(done.stdout.replace("$$", "$"))["services"]
    return services


def programs(services: Mapping[str, Any]) -> list[Program]:
    """Those of compose.yaml, each after what it depends on."""
    jobs = {
        name
        for service in services.values()
        for name, on in service.get("depends_on", {}).items()
        if on["condition"] == "service_completed_successfully"
    }
    ordered: list[str] = []
    while len(ordered) < len(services):
        ordered += [
            name
            for name, service in services.items()
            if name not in ordered and set(service.get("depends_on", {})) <= set(ordered)
        ]
    return [_service(name, services[name], is_job=name in jobs) for name in ordered]


def _service(name: str, said: Mapping[str, Any], *, is_job: bool) -> Program:
    of_image = image() if "build" in said else None
    command = said.get("command") or (of_image.argv if of_image else ())
    return Program(
        name=name,
        argv=tuple(command),
        environment={**(of_image.environment if of_image else {}), **said.get("environment", {})},
        directory=of_image.directory if of_image else "/",
        mounts=of_image.mounts if of_image else (),
        kept=tuple(volume["target"] for volume in said.get("volumes", ()) if volume["type"] == "volume"),
        scratch=tuple(said.get("tmpfs", ())),
        healthcheck=_healthcheck(said),
        patience=_seconds(said.get("stop_grace_period", "10s")),
        stop_signal=signal.Signals[said.get("stop_signal", "SIGTERM")],
        is_job=is_job,
    )


def _healthcheck(said: Mapping[str, Any]) -> tuple[str, ...]:
    kind, *test = said.get("healthcheck", {}).get("test", ["NONE"])
    return ("sh", "-c", *test) if kind == "CMD-SHELL" else tuple(test)


def _seconds(text: str) -> float:
    """`5m30s`, as compose writes it."""
    return sum(parse_duration(part) for part in re.findall(r"[\d.]+[a-z]+", text))


def image() -> Program:
    """What the Dockerfile's image runs by itself."""
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ").rpartition("\nFROM ")[2]
    said = re.findall(r"^([A-Z]+) (.+)$", text, re.MULTILINE)
    variables = [word.partition("=") for kind, rest in said if kind == "ENV" for word in shlex.split(rest)]
    environment = {name: value.replace("$PATH", "/usr/bin:/bin") for name, _, value in variables}
    directory, command = dict(said)["WORKDIR"], json.loads(dict(said)["CMD"])
    return Program(
        name="image",
        argv=tuple(command),
        environment=environment,
        directory=directory,
        mounts=((Path(sys.prefix), "/opt/seawall"), (_CODE, f"{directory}/workers")),
        kept=tuple(re.findall(r"install -d .*?(/\S+)", text)),  # what it may write to without compose.yaml
        scratch=("/tmp",),
        stop_signal=signal.Signals[dict(said)["STOPSIGNAL"]],
        patience=330.0,
    )


def unit(path: Path) -> Program:
    """What a unit of systemd runs."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[method-assign,assignment]
    parser.read(path)
    said = parser["Service"]
    file = DEPLOY / "systemd" / f"{Path(said['EnvironmentFile']).name}.example"
    variables = [
        *re.findall(r"^(\w+)=(.*)$", file.read_text().replace("change-me", PASSWORD), re.MULTILINE),
        *(tuple(word.split("=", 1)) for word in shlex.split(said["Environment"])),
    ]
    directory = said["WorkingDirectory"]
    return Program(
        name=path.stem,
        argv=tuple(shlex.split(said["ExecStart"].replace("%%", "%"))),
        environment={"PATH": "/usr/local/bin:/usr/bin:/bin", **dict(variables)},
        directory=directory,
        mounts=((Path(sys.prefix), f"{directory}/.venv"), (_CODE, f"{directory}/workers")),
        kept=(f"/var/lib/{said['StateDirectory']}",),
        scratch=("/tmp",) if said["PrivateTmp"] == "yes" else (),
        patience=float(said.get("TimeoutStopSec", "90")),
        stop_signal=signal.Signals[said.get("KillSignal", "SIGTERM")],
        is_job=said["Type"] == "oneshot",
        notifies=said["Type"] == "notify",
    )
