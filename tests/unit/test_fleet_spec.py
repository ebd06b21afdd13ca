import importlib.util
import signal
from pathlib import Path

import pytest

from seawall.errors import ConfigError
from seawall.fleet import FleetSpec, Program

FULL = """
app = "workers.app"
drain_timeout = "1m"
[commands]
demo = "workers.demo:group"
[workers.default]
queues = ["celery", "mail"]
concurrency = 3
pool = "threads"
processes = 2
memory = "512MiB"
environment = { MALLOC_ARENA_MAX = "2" }
options = ["--without-gossip"]
[workers.heavy]
[beat]
enabled = true
[flower]
enabled = true
port = 5556
address = "0.0.0.0"
"""


def load(tmp_path: Path, text: str) -> FleetSpec:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    return FleetSpec.load(path)


def programs(spec: FleetSpec, *, has_schedule: bool = False) -> dict[str, Program]:
    made = spec.programs("python", home=Path("home"), has_schedule=has_schedule, environment={"COMMON": "1"})
    return {program.name: program for program in made}


def test_every_field_becomes_an_option_of_its_program(tmp_path: Path) -> None:
    spec = load(tmp_path, FULL)
    made = programs(spec)

    assert spec.drain_timeout == 60.0
    assert spec.commands == {"demo": "workers.demo:group"}
    assert list(made) == ["beat", "default1", "default2", "heavy1", "flower"]
    worker = made["default2"]
    assert " ".join(worker.argv) == (
        "python -m seawall.worker -q -A workers.app worker -n default2@%h"
        " -Q celery,mail -c 3 -P threads -E --loglevel INFO --without-gossip"
    )
    assert worker.environment == {
        "COMMON": "1",
        "MALLOC_ARENA_MAX": "2",
        "SEAWALL_MEMORY__BUDGET": str(512 * 1024**2),
    }
    assert worker.needs_ready
    assert (worker.drain_signal, worker.stop_signal) == (signal.SIGTERM, signal.SIGQUIT)
    assert made["beat"].argv[6:] == (
        "beat",
        "--schedule",
        "home/beat-schedule",
        "--pidfile=",
        "--loglevel",
        "INFO",
    )
    assert made["flower"].argv[6:] == ("flower", "--logging=warning", "--address=0.0.0.0", "--port=5556")
    assert made["flower"].outlives_others
    assert not made["flower"].needs_ready


def test_a_profile_says_nothing_and_gets_celerys_own_concurrency(tmp_path: Path) -> None:
    quiet = "[flower]\nenabled = false"  # with it, events are sent from the start
    worker = programs(load(tmp_path, f'app = "a"\n[workers.default]\n{quiet}'))["default1"]

    assert worker.argv[6:] == (
        "worker",
        "-n",
        "default1@%h",
        "-Q",
        "celery",
        "--loglevel",
        "INFO",
    )
    assert worker.environment == {"COMMON": "1"}


@pytest.mark.parametrize(
    ("enabled", "has_schedule", "runs"),
    [('"auto"', True, True), ('"auto"', False, False), ("true", False, True), ("false", True, False)],
)
def test_beat_runs_if_asked_for_or_if_there_is_a_schedule(
    tmp_path: Path, enabled: str, has_schedule: bool, runs: bool
) -> None:
    spec = load(tmp_path, f'app = "a"\n[workers.default]\n[beat]\nenabled = {enabled}')

    assert ("beat" in programs(spec, has_schedule=has_schedule)) is runs


def test_a_choice_is_read_in_any_case(tmp_path: Path) -> None:
    spec = load(tmp_path, 'app = "a"\n[workers.default]\npool = "Prefork"\n[beat]\nenabled = "AUTO"')
    assert (spec.workers["default"].pool, spec.beat.enabled) == ("prefork", "auto")


def test_flower_on_port_0_gets_a_free_port(tmp_path: Path) -> None:
    option = programs(load(tmp_path, 'app = "a"\n[workers.default]\n[flower]\nport = 0'))["flower"].argv[-1]

    assert int(option.removeprefix("--port=")) > 0


def test_a_missing_flower_is_left_out_unless_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    assert "flower" not in programs(load(tmp_path, 'app = "a"\n[workers.default]'))
    asked_for = load(tmp_path, 'app = "a"\n[workers.default]\n[flower]\nenabled = true')
    with pytest.raises(ConfigError, match="Flower is not installed: install"):
        programs(asked_for)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'app = "a"\ndrain_timout = "1s"\n[workers.default]',
            "toml: drain_timout='1s' is unknown: write drain_timeout",
        ),
        (
            'app = "a"\n[workers.default]\nqueue = ["x"]',
            "fleet.toml [workers.default]: queue=['x'] is unknown: write queues",
        ),
        (
            'app = "a"\n[beat]\nport = 1\n[workers.default]',
            "fleet.toml [beat]: port=1 is unknown: write enabled",
        ),
        (
            'app = "a"\n[workers.default]\nconcurrency = "two"',
            "[workers.default]: concurrency='two' is not a whole number: write one",
        ),
        (
            'app = "a"\n[workers.default]\nconcurrency = 0',
            "concurrency=0 is out of range: use 1 to 10,000",
        ),
        (
            'app = "a"\n[workers.default]\npool = "forks"',
            "[workers.default]: pool='forks': input should be 'cells', ",
        ),
        (
            'app = "a"\n[workers.default]\nqueues = "celery"',
            "[workers.default]: queues='celery': input should be a valid list",
        ),
        (
            'app = "a"\n[workers.default]\nmemory = "lots"',
            "[workers.default]: memory='lots' is not a size: write ",
        ),
        (
            'app = "a"\n[workers.default]\nenvironment = { A = 1 }',
            "[workers.default.environment]: A=1: input should be a valid string",
        ),
        (
            'app = "a"\n[workers.default]\nenvironment = { "A=B" = "x" }',
            "[workers.default.environment]: A=B='A=B': string should match pattern",
        ),
        (
            'app = "a"\n[workers.default]\nenvironment = { A = "x\\u0000" }',
            "[workers.default.environment]: A='x\\x00': string should match pattern",
        ),
        (
            'app = "a"\n[workers.default]\noptions = ["x\\u0000"]',
            "[workers.default.options]: 0='x\\x00': string should match pattern",
        ),
        (
            'app = "a"\n[workers.default]\nqueues = ["a,b"]',
            "[workers.default.queues]: 0='a,b': string should match pattern",
        ),
        (
            'app = "a"\ndrain_timeout = "soon"\n[workers.default]',
            "toml: drain_timeout='soon' is not a duration: write ",
        ),
        (
            'app = "a"\n[workers.default]\n[flower]\nport = 99999',
            "[flower]: port=99999 is out of range: use 0 to 65,535",
        ),
        (
            'app = "a"\n[workers.default]\n[beat]\nenabled = "yes"',
            "[beat]: enabled='yes': input should be 'auto', True or",
        ),
        (
            'app = "a"\n[commands]\nx = "no"\n[workers.default]',
            "[commands]: x='no': string should match pattern",
        ),
        ('app = "a"\n[workers."Bad name"]', "Bad name='Bad name': string should match pattern"),
        ('app = "a"', "there is no worker: add a profile"),
        ('app = "a"\n[workers.a]\nprocesses = 11\n[workers.a1]', "two workers would be called 'a11': rename"),
        ("[workers.default]", "fleet.toml: app is missing: write app = ..."),
        ("app = ", "fleet.toml is no TOML: "),
    ],
)
def test_a_wrong_file_is_one_line_that_says_what_to_write(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)

    assert message in str(caught.value)
    assert str(tmp_path / "fleet.toml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"none\.toml cannot be read \(No such file or directory\): write it"
    ):
        FleetSpec.load(tmp_path / "none.toml")
