"""The schema, the reference and the first file of fleet.toml say what the model that reads it says."""

import json
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

from seawall.errors import ConfigError
from seawall.fleet import FleetSpec, written
from seawall.fleet.spec import Beat, Flower, Profile
from support.nodes import ROOT

MODELS = (FleetSpec, Profile, Beat, Flower)
COMMENTED = re.compile(r"^# (?=\[?[a-z_]+\]?( =|$))", re.MULTILINE)
WRONG = [
    "concurrency = 0",
    'concurrency = "two"',
    "concurrency = 10001",
    'pool = "forks"',
    'queues = "celery"',
    "queues = []",
    "processes = 0",
    'memory = "1 XB"',
    "memory = 0",
    "environment = { A = 1 }",
    "queue = []",
]
RIGHT = [
    "concurrency = 1",
    'pool = "threads"',
    'queues = ["a", "b"]',
    'memory = "512MiB"',
    'memory = "1.5 GB"',
    "memory = 4096",
    'environment = { A = "1" }',
    'options = ["--without-gossip"]',
]


def model_takes(path: Path, text: str) -> bool:
    path.write_text(text)
    try:
        FleetSpec.load(path)
    except ConfigError:
        return False
    return True


def schema_takes(text: str) -> bool:
    checker = jsonschema.Draft202012Validator(written.schema())
    return not list(checker.iter_errors(tomllib.loads(text)))


@pytest.mark.parametrize("line", [*WRONG, *RIGHT])
def test_the_schema_takes_what_the_model_takes_of_a_profile(tmp_path: Path, line: str) -> None:
    text = f'app = "shop"\n[workers.default]\n{line}\n'
    assert model_takes(tmp_path / "fleet.toml", text) is (line in RIGHT)
    assert schema_takes(text) is (line in RIGHT)


@pytest.mark.parametrize(
    ("line", "right"),
    [
        ('drain_timeout = "2m"', True),
        ("drain_timeout = 0.5", True),
        ('drain_timeout = "soon"', False),
        ("drain_timout = 1", False),
        ('[flower]\nport = "x"', False),
        ("[flower]\nport = 65536", False),
        ('[flower]\nenabled = "yes"', False),
        ("[beat]\nenabled = false", True),
        ('[commands]\nshop = "shop.commands:group"', True),
        ('[commands]\nshop = "shop.commands"', False),
    ],
)
def test_the_schema_takes_what_the_model_takes_elsewhere(tmp_path: Path, line: str, right: bool) -> None:
    text = f'app = "shop"\n{line}\n[workers.default]\n'
    assert (model_takes(tmp_path / "fleet.toml", text), schema_takes(text)) == (right, right)


def test_the_first_file_is_taken_with_its_comments_and_without(tmp_path: Path) -> None:
    text = written.first_file("shop.celery", ["celery", "mail"])
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    spec = FleetSpec.load(path)
    assert (spec.app, spec.workers["default"].queues) == ("shop.celery", ("celery", "mail"))
    assert spec == FleetSpec(app="shop.celery", workers={"default": Profile(queues=("celery", "mail"))})

    uncommented = COMMENTED.sub("", text)
    assert model_takes(path, uncommented), uncommented
    assert schema_takes(uncommented)
    shown = tomllib.loads(uncommented)
    assert shown.keys() == FleetSpec.model_fields.keys()
    assert shown["workers"]["default"].keys() == Profile.model_fields.keys()
    assert shown["flower"].keys() == Flower.model_fields.keys()


def test_this_repositorys_fleet_fits_the_schema() -> None:
    assert schema_takes((ROOT / "workers" / "fleet.toml").read_text())


def test_every_field_has_its_words_in_the_schema_and_in_the_reference() -> None:
    reference = "\n".join(written.reference())
    schema = json.dumps(written.schema(), ensure_ascii=False)
    for model in MODELS:
        for name, field in model.model_fields.items():
            if name not in ("beat", "flower"):  # tables of their own
                assert field.description, name
                assert f"| `{name}` |" in reference
                assert json.dumps(field.description) in schema
