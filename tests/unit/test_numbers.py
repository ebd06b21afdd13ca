"""Every place that takes seconds, bytes or counts is found by looking, and given numbers that are none.

A number that is added to a setting, a fleet file, a command or the public face is found by these tests. It
passes if it has a kind (`seawall.quantity`), or fails until it has one or is listed with the reason.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import click
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

import seawall
from seawall.breaker.config import Config
from seawall.breaker.face import Breaker
from seawall.cli import Amount, group
from seawall.config import PREFIX, Settings, settings
from seawall.database.pool import Database
from seawall.delivery import Queues
from seawall.delivery.options import LENGTH, Options
from seawall.errors import ConfigError
from seawall.fleet import FleetSpec
from seawall.health import Beat
from seawall.limits import limit
from seawall.policies import Limit, Policy, policy
from seawall.quantity import (
    DAY,
    LONGEST_WAIT,
    MOST,
    Count,
    Duration,
    Number,
    Quantity,
    Seconds,
    Size,
    Whole,
    check_fields,
    format_duration,
    parse_duration,
    quantity_of,
    shown,
)
from seawall.retries import retry_after
from seawall.runtime.declaration import Declaration, service
from support.numbers import HUGE, TEXTS, VALUES, Another, check_line, outcome


def is_number(annotation: Any) -> bool:
    """Whether a field or parameter takes an int or a float, alone or among others."""
    parts = [annotation, *get_args(annotation)]
    parts += [inner for part in parts for inner in get_args(part)]
    return any(part is int or part is float for part in parts)


# Settings and fleet.toml


def model_fields(
    model: type[BaseModel], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Quantity | None]]:
    """Each number of a pydantic model and of those inside it, by its path."""
    for name, field in model.model_fields.items():
        parts = [part for part in (field.annotation, *get_args(field.annotation)) if inspect.isclass(part)]
        inner = [part for part in parts if issubclass(part, BaseModel)]
        for each in inner:
            key = (*path, name) if field.annotation is each else (*path, name, "a")
            yield from model_fields(each, key)
        kind = quantity_of(field.annotation, field.metadata)
        if not inner and (kind is not None or is_number(field.annotation)):
            yield (*path, name), kind


SETTINGS = dict(model_fields(Settings))
FLEET = dict(model_fields(FleetSpec))


def test_every_number_of_the_settings_and_of_fleet_toml_has_a_kind() -> None:
    assert len(SETTINGS) > 25
    assert len(FLEET) >= 5
    assert [path for path, kind in {**SETTINGS, **FLEET}.items() if kind is None] == []


@pytest.mark.parametrize("path", SETTINGS, ids=".".join)
def test_a_setting_is_one_clear_line_or_a_number_of_its_kind(
    path: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, variable = SETTINGS[path], PREFIX + "__".join(path).upper()

    def by_environment(value: str) -> Any:
        monkeypatch.setenv(variable, value)
        return _read(path)

    for text in TEXTS:
        outcome(by_environment, text, variable, kind)
    monkeypatch.delenv(variable)

    def by_file(value: Any) -> Any:
        monkeypatch.setattr("seawall.config.read_file", lambda: _nested(path, value))
        return _read(path)

    for value in VALUES[: -len(TEXTS)]:
        outcome(by_file, value, variable, kind)


def _read(path: tuple[str, ...]) -> Any:
    settings.cache_clear()
    value: Any = settings()
    for part in path:
        value = getattr(value, part)
    return value


def _nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    for part in reversed(path):
        value = {part: value}
    return value  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "content", ["x = inf", "[memory]\nwarning = nan", f"x = {'9' * 5000}", f"x = {'[' * 5000}"]
)
def test_a_file_with_such_numbers_is_one_clear_line(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, read in (("seawall.toml", settings), ("fleet.toml", FleetSpec.load)):
        Path(name).write_text(content)
        settings.cache_clear()
        with pytest.raises(ConfigError) as caught:
            read(*([Path(name)] if name == "fleet.toml" else []))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", FLEET, ids=".".join)
def test_a_field_of_fleet_toml_is_one_clear_line_or_a_number_of_its_kind(
    path: tuple[str, ...], tmp_path: Path
) -> None:
    file = tmp_path / "fleet.toml"
    plain = ("inf", "-inf", "nan", "-1", "0", "1.5", "9" * 400, "true", "5e-324", "[1]")
    for literal in (*plain, *map(repr, TEXTS)):
        *tables, field = path
        content = 'app = "a"\n'
        content += "" if tables else f"{field} = {literal}\n"
        content += "[workers.a]\n"
        content += f"[{'.'.join(tables)}]\n" if tables and tables != ["workers", "a"] else ""
        content += f"{field} = {literal}\n" if tables else ""
        file.write_text(content)

        def load(_value: Any) -> Any:
            value: Any = FleetSpec.load(file)
            for part in path:
                value = value[part] if isinstance(value, dict) else getattr(value, part)
            return value

        outcome(load, literal, path[-1], FLEET[path])


# Dataclasses


def modules() -> Iterator[ModuleType]:
    """All of the platform's."""
    for found in pkgutil.walk_packages(seawall.__path__, "seawall."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def checked_classes() -> list[type]:
    """Every dataclass that has a number with a kind."""
    found = {
        each
        for module in modules()
        for each in vars(module).values()
        if inspect.isclass(each)
        and dataclasses.is_dataclass(each)
        and not issubclass(each, Quantity)
        and any(quantity_of(field.type) for field in dataclasses.fields(each))
    }
    return sorted(found, key=lambda each: each.__qualname__)


CLASSES = checked_classes()
NEEDED: dict[type, dict[str, Any]] = {
    Limit: {"key": "k", "n": 1},
    Declaration: {"name": "s", "factory": object},
}
BY_QUEUE = ("max_length", "queue_weights")
ANOTHER_WAY = {
    (Policy, "priority"): "parse_priority",
    (Policy, "timeout"): "policy()",
    (Policy, "memory"): "policy()",
    (Policy, "memory_limit"): "policy()",
}


def test_the_dataclasses_that_people_fill_are_found() -> None:
    names = {each.__name__ for each in CLASSES}
    assert names >= {"Retry", "Limit", "Policy", "Config", "Options", "Marks", "Declaration"}


@pytest.mark.parametrize("each", CLASSES, ids=lambda each: each.__name__)
def test_a_field_of_a_dataclass_is_one_clear_line_or_a_number_of_its_kind(each: type) -> None:
    for field in dataclasses.fields(each):
        if not is_number(field.type) or not field.init or (each, field.name) in ANOTHER_WAY:
            continue
        kind = quantity_of(field.type)
        assert kind is not None or field.name in BY_QUEUE, f"{each.__name__}.{field.name} has no kind"

        def make(value: Any, name: str = field.name) -> Any:
            return getattr(each(**{**NEEDED.get(each, {}), name: value}), name)

        for value in VALUES:
            outcome(make, value, field.name, kind)


@pytest.mark.parametrize("name", BY_QUEUE)
def test_a_number_of_one_queue_is_one_clear_line_or_finite(name: str) -> None:
    def make(value: Any) -> Any:
        options: Any = {name: {"q": value}}
        return getattr(Options(**options), name)["q"]

    for value in VALUES:
        outcome(make, value, name, Number(most=MOST))


def test_defaults_are_numbers_of_their_kind() -> None:
    for each in CLASSES:
        for field in dataclasses.fields(each):
            kind, default = quantity_of(field.type), field.default
            if kind is not None and default not in (dataclasses.MISSING, None):
                assert kind.parse(default, field=field.name) == default
    for model, numbers in ((Settings, SETTINGS),):
        for path, kind in numbers.items():
            value: Any = model.model_fields[path[0]].default
            for part in path[1:]:
                value = getattr(value, part)
            assert value is None or (kind is not None and kind.parse(value, field="x") == value), path


# The public face

Give = Callable[[Any], Any]
NOBODY: Any = None
QUEUES = Queues(NOBODY)
LONG = Duration(least=0.001)


def _held(**arguments: Any) -> None:
    with limit("k", **{"n": 1, **arguments}):
        pass


def _breaker() -> Breaker:
    return Breaker("numbers", Config())


CALLS: dict[str, tuple[Quantity, Give]] = {
    "policy(priority)": (Whole(most=9), lambda value: policy(priority=value)),
    "policy(timeout)": (LONG, lambda value: policy(timeout=value)),
    "policy(memory)": (Size(), lambda value: policy(memory=value)),
    "policy(memory_limit)": (Size(), lambda value: policy(memory_limit=value)),
    "limit(n)": (Whole(least=1), lambda value: _held(n=value)),
    "limit(wait)": (Duration(), lambda value: _held(wait=value)),
    "recovers(every)": (Duration(), lambda value: seawall.recovers(seawall.Category.NETWORK, every=value)),
    "memory.on_pressure(timeout)": (LONG, lambda value: seawall.memory.on_pressure(int, timeout=value)),
    "service(attempts)": (Whole(least=1), lambda value: service("s", attempts=value)),
    "service(timeout)": (Duration(least=0.001, most=LONGEST_WAIT), lambda value: service("s", timeout=value)),
    "System.beat(within)": (Duration(), lambda value: Beat("b", value)),
    "Breaker.force_open(for_)": (LONG, lambda value: _breaker().force_open("x", value)),
    "Breaker.force_closed(for_)": (LONG, lambda value: _breaker().force_closed("x", value)),
    "Database.run(attempts)": (
        Whole(least=1),
        lambda value: Database("postgresql://h").run(repr, attempts=value),
    ),
    "Queues.release(rate)": (
        Number(least=1 / DAY, most=1e9),
        lambda value: QUEUES.release("q", "d", rate=value),
    ),
    "Queues.release(most)": (Whole(), lambda value: QUEUES.release("q", "d", most=value)),
    "Queues.dead(limit)": (Whole(least=1), lambda value: QUEUES.dead("q", limit=value)),
    "Queues.dead(skip)": (Whole(), lambda value: QUEUES.dead("q", skip=value)),
    "Queues.prune(older_than)": (Duration(), lambda value: QUEUES.prune("q", older_than=value, most=1)),
    "Queues.prune(most)": (Whole(), lambda value: QUEUES.prune("q", older_than=1, most=value)),
}
ANOTHER_TEST = {"Retry", "Limit", "Marks"}
NOT_FOR_PEOPLE = {
    "Retry.delay(retry)": "our own count",
    "Retry.delay(rand)": "a function",
    "BreakerOpen": "we raise it",
    "LimitReached": "we raise it",
    "Usage": "we return it",
    "Settings": "pydantic-settings' own parameters",
    "Marks.level(share)": "our own reading",
    "Limit.arguments": "no number",
}
OPTIONAL = {"most", "rate", "for_", "priority", "timeout", "memory", "memory_limit"}


def face() -> Iterator[str]:
    """Each parameter of the public face that takes a number."""
    members = {name: getattr(seawall, name) for name in seawall.__all__}
    for name in seawall.memory.__all__:
        members[f"memory.{name}"] = getattr(seawall.memory, name)
    for each in (Breaker, Database, Queues):
        members[each.__name__] = each
    for name, member in members.items():
        if inspect.ismodule(member) or not callable(member):
            continue
        for called, function in ((name, member), *_methods(name, member)):
            for parameter in _parameters(function):
                if is_number(parameter.annotation) and not _is_listed(called, parameter.name):
                    yield f"{called}({parameter.name})"


def _methods(name: str, member: Any) -> Iterator[tuple[str, Any]]:
    if inspect.isclass(member):
        for method, function in vars(member).items():
            if inspect.isfunction(function) and not method.startswith("_"):
                yield f"{name}.{method}", function


def _parameters(function: Any) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function, eval_str=True).parameters.values())
    except (ValueError, NameError):  # built in, or an annotation that is only known to a type checker
        return []


def _is_listed(called: str, parameter: str) -> bool:
    plain = called.removeprefix("memory.")
    return plain in ANOTHER_TEST | NOT_FOR_PEOPLE.keys() or f"{plain}({parameter})" in NOT_FOR_PEOPLE


def test_every_number_of_the_public_face_is_listed_here() -> None:
    assert sorted(face()) == sorted(CALLS)


@pytest.mark.parametrize("call", CALLS)
def test_an_argument_out_of_bounds_is_one_clear_line(call: str) -> None:
    (kind, give), field = CALLS[call], call.partition("(")[2][:-1]
    for value in VALUES:
        if _accepts(kind, value) or (field == "priority" and isinstance(value, str)):
            continue
        with pytest.raises(ConfigError) as caught:
            give(value)
        check_line(str(caught.value), field)


def _accepts(kind: Quantity, value: Any) -> bool:
    try:
        kind.read(value)
    except ValueError:
        return False
    return True


# Commands

TEXT_OPTIONS = {
    *("reason", "name", "names", "identity", "identities", "queue", "task", "fingerprint", "fingerprints"),
    *("status", "address", "arguments", "keywords", "history_name", "options", "app"),
}
PLAIN_TYPES = (click.Choice, click.Path, click.types.BoolParamType, click.types.UnprocessedParamType)


Typed = tuple[str, ...]


def commands(at: click.Command, path: Typed = ()) -> Iterator[tuple[Typed, click.Command]]:
    """All commands below `at` by what is typed."""
    if isinstance(at, click.Group):
        context = click.Context(at)
        for name in at.list_commands(context):
            below = at.get_command(context, name)
            assert below is not None
            yield from commands(below, (*path, name))
    else:
        yield path, at


def options() -> Iterator[tuple[tuple[str, ...], click.Command, click.Parameter]]:
    """All their parameters."""
    for path, command in commands(group):
        for parameter in command.params:
            yield path, command, parameter


def test_every_option_is_a_number_of_a_kind_or_listed_as_text() -> None:
    unknown = [
        (*path, parameter.name, parameter.type)
        for path, _, parameter in options()
        if not isinstance(parameter.type, (Amount, *PLAIN_TYPES))
        and not (isinstance(parameter.type, click.types.StringParamType) and parameter.name in TEXT_OPTIONS)
    ]
    assert unknown == []


NUMBERS = {
    (*path, str(parameter.name)): (command, parameter)
    for path, command, parameter in options()
    if isinstance(parameter.type, Amount)
}


@pytest.mark.parametrize("option", NUMBERS, ids=" ".join)
def test_an_option_out_of_bounds_is_one_line_and_exit_status_2(option: tuple[str, ...]) -> None:
    command, parameter = NUMBERS[option]
    assert isinstance(parameter.type, Amount)
    needed: list[str] = []
    for other in command.params:
        if other is not parameter and other.required:
            needed += [other.opts[0], "x"] if isinstance(other, click.Option) else ["x"]
    for text in TEXTS:
        if _accepts(parameter.type.kind, text):
            continue
        if parameter.opts == ["--watch"] and text.startswith("-"):
            continue  # its number may be left out, so click takes this for another option
        if isinstance(parameter, click.Option):
            arguments = [*needed, f"{parameter.opts[0]}={text}"]
        else:
            arguments = [*needed, "--", text]
        result = CliRunner().invoke(group, [*option[:-1], *arguments])
        assert result.exit_code == 2, (text, result.output)
        assert isinstance(result.exception, SystemExit)
        lines = [line for line in result.output.splitlines() if line.startswith("Error: ")]
        assert len(lines) == 1, result.output
        assert str(parameter.opts[0]).lower() in lines[0].lower()
        assert len(lines[0]) < 300


@pytest.mark.parametrize("arguments", [["queues", "list"], ["config"], ["breakers", "list"]], ids=" ".join)
def test_a_wrong_setting_ends_a_command_in_one_line(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWALL_DATABASE__STATEMENT_TIMEOUT", "30d")
    result = CliRunner().invoke(group, arguments)
    line = "seawall: SEAWALL_DATABASE__STATEMENT_TIMEOUT='30d' is out of range: use 0, or 1ms to 24d\n"
    assert (result.exit_code, result.output) == (2, line)
    assert CliRunner().invoke(group, ["--help"]).exit_code == 0


# What others say


@pytest.mark.parametrize("value", VALUES, ids=lambda value: shown(value)[:20])
def test_a_wish_to_be_tried_later_is_a_time_or_nothing(value: Any) -> None:
    error = OSError()
    error.retry_after = value  # type: ignore[attr-defined]
    found = retry_after(error)
    assert found is None or 0 <= found < float("inf")


@pytest.mark.parametrize("value", VALUES, ids=lambda value: shown(value)[:20])
def test_a_queue_declared_with_such_a_length_is_refused_in_one_line(value: Any) -> None:
    if not _accepts(LENGTH, value):
        with pytest.raises(ConfigError, match="x-max-length"):
            LENGTH.parse(value, field="x-max-length of queue 'q'")


# The kinds themselves


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.001, "1ms"), (1.5, "1.5s"), (90, "90s"), (120, "2m"), (7200, "2h"), (86400 * 24, "24d")],
)
def test_a_bound_is_written_as_it_can_be_read(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
    assert parse_duration(text) == seconds


def test_what_cannot_be_written_is_named_by_its_type() -> None:
    assert shown(HUGE) == "(int that cannot be written)"
    assert shown("x" * 100) == f"'{'x' * 39}... (102 characters)"


def test_numbers_of_other_libraries_are_taken() -> None:
    @dataclasses.dataclass
    class Record:
        many: Count
        none: Seconds | None = None

    record = Record(Another(5))  # type: ignore[arg-type]
    check_fields(record)
    assert (type(record.many), record) == (int, Record(5))
