"""Settings: sources, provenance, refusals, and passwords that stay hidden."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest

from seawall import ConfigError, settings
from seawall.config import Settings, effective, keys
from seawall.redaction import hide_passwords
from seawall.sections import Section

SECRET = "hunter2"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No variable and no file of the outside, and nothing remembered."""
    for key in keys():
        monkeypatch.delenv(key.variable, raising=False)
    monkeypatch.delenv("SEAWALL_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    settings.cache_clear()
    yield
    settings.cache_clear()


def refusal() -> str:
    with pytest.raises(ConfigError) as caught:
        settings()
    return str(caught.value)


def test_without_any_source_everything_has_its_default() -> None:
    assert settings().redis_url is None
    assert settings().home == Path(".seawall")
    assert {source for _, _, source in effective(settings())} == {"default"}


CHOICES = [
    (section, name, choice)
    for section, group in Settings.model_fields.items()
    if isinstance(group.annotation, type) and issubclass(group.annotation, Section)
    for name, field in group.annotation.model_fields.items()
    if get_origin(field.annotation) is Literal
    for choice in get_args(field.annotation)
]


@pytest.mark.parametrize(("section", "name", "choice"), CHOICES)
def test_a_choice_is_read_in_any_case(
    section: str, name: str, choice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for written in (choice.lower(), choice.upper(), choice.title()):
        monkeypatch.setenv(f"SEAWALL_{section}__{name}".upper(), written)
        settings.cache_clear()
        assert getattr(getattr(settings(), section), name) == choice


def test_the_environment_beats_the_file_which_beats_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "seawall.toml"
    file.write_text('home = "from-file"\n[database]\nconnect_timeout = "2s"\nlock_timeout = "1m"\n')
    monkeypatch.setenv("SEAWALL_DATABASE__CONNECT_TIMEOUT", "250ms")
    assert settings().home == Path("from-file")
    assert settings().database.connect_timeout == 0.25
    assert settings().database.lock_timeout == 60.0
    sources = {key.name: source for key, _, source in effective(settings())}
    assert sources["database.connect_timeout"] == "environment (SEAWALL_DATABASE__CONNECT_TIMEOUT)"
    assert sources["database.lock_timeout"] == "file (seawall.toml)"
    assert sources["memory.budget"] == "default"


@pytest.mark.parametrize(
    "hosts", ["one:5432,two:5433", "one,two:5432", "[::1]:5432,two", "one:1,[::1]:2", ",one", "one:5432"]
)
def test_postgresql_may_have_several_hosts(monkeypatch: pytest.MonkeyPatch, hosts: str) -> None:
    url = f"postgresql://u:{SECRET}@{hosts}/d?target_session_attrs=read-write"
    monkeypatch.setenv("SEAWALL_DATABASE_URL", url)
    known = settings().database_url
    assert known is not None
    assert known.get_secret_value() == url
    assert SECRET not in repr(settings())


def test_a_password_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", f"redis://:{SECRET}@cache:6379/0")
    monkeypatch.setenv("SEAWALL_DATABASE_URL", f"postgresql://shop:{SECRET}@db/shop?password={SECRET}")
    shown = [value for _, value, _ in effective(settings())]
    assert "redis://:***@cache:6379/0" in shown
    assert SECRET not in f"{shown} {settings()!r} {settings()}"


@pytest.mark.parametrize("raw", ["/", ",", ";", "'", ")", "a/b;c,d", "(", "[", "?", "#", "@", ":", "%"])
def test_a_password_with_a_raw_character_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch, raw: str) -> None:
    urls = {
        "SEAWALL_DATABASE_URL": f"postgres://shop:a{raw}{SECRET}@db/shop",
        "SEAWALL_REDIS_URL": f"redis://:a{raw}{SECRET}@cache/0",
        "SEAWALL_BROKER_URL": f"amqp://shop:a{raw}{SECRET}@mq//",
    }
    for variable, url in urls.items():
        monkeypatch.setenv(variable, url)
        settings.cache_clear()
        try:
            said = str([*effective(settings())])
        except ConfigError as exc:
            said = str(exc)
        assert SECRET not in said
        monkeypatch.delenv(variable)


def test_a_token_in_an_address_is_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", f"redis://{SECRET}@cache/0")
    monkeypatch.setenv("SEAWALL_ALERTS__WEBHOOK", f"https://hooks.slack.com/services/T0/B0/{SECRET}")
    assert SECRET not in f"{[*effective(settings())]} {settings()!r}"


@pytest.mark.parametrize(
    "url",
    [
        f"https://hooks.slack.com/services/T0/B0/{SECRET}",
        f"https://discord.com/api/webhooks/123/{SECRET}",
        f"https://prod-7.westeurope.logic.azure.com:443/workflows/{SECRET}/triggers/manual/paths/invoke?sig={SECRET}",
        f"https://chat.example.org/{SECRET}",
        f"HTTP://alerts:8080/a/{SECRET}?x=1#{SECRET}",
        f"htps://alerts.example/{SECRET}",
        f"alerts.example/{SECRET}",
        f"https://alerts.example?key={SECRET}",
    ],
)
def test_of_a_webhook_the_host_alone_is_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SEAWALL_ALERTS__WEBHOOK", url)
    try:
        said = next(value for key, value, _ in effective(settings()) if key.name == "alerts.webhook")
    except ConfigError as exc:
        said = str(exc)
    assert SECRET not in said
    assert "/***" in said


@pytest.mark.parametrize("variable", ["SEAWALL_REDIS_URL", "SEAWALL_BROKER_URL", "SEAWALL_DATABASE_URL"])
@pytest.mark.parametrize("between", ["/", "#", "?", "[", "]", "@", "\uff0f", ":"])
def test_no_half_of_a_password_with_a_sign_in_it_is_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, between: str
) -> None:
    """Such a URL may be invalid or lead somewhere else; Python's own errors show what they cannot read."""
    scheme = "postgresql" if variable == "SEAWALL_DATABASE_URL" else "redis"
    halves = "abXk9vQ2", "mZ7rT4cd"
    monkeypatch.setenv(variable, f"{scheme}://u:{halves[0]}{between}{halves[1]}@cache:1/0")
    try:
        shown = f"{[*effective(settings())]} {settings()!r}"
    except ConfigError as exc:
        shown = str(exc)
        assert variable in shown
    assert not [half for half in halves if half in shown], shown


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        (
            "SEAWALL_REDIS_URL",
            f"http://:{SECRET}@x",
            "SEAWALL_REDIS_URL='http://:***@x' has no known scheme: use",
        ),
        ("SEAWALL_REDIS_URL", "localhost", "SEAWALL_REDIS_URL='localhost' has no known scheme"),
        ("SEAWALL_BROKER_URL", f"amqp://u:{SECRET}@h:port/", "is no valid URL"),
        ("SEAWALL_DATABASE_URL", f"postgresql://u:{SECRET}@h:5432,other:port/d", "is no valid URL"),
        ("SEAWALL_DATABASE_URL", f"postgresql://u:1,2/{SECRET}@h/d", "is no valid URL"),
        (
            "SEAWALL_DATABASE_URL",
            f"mysql://u:{SECRET}@h/",
            "has no known scheme: use postgres://, postgresql://",
        ),
        (
            "SEAWALL_MEMORY__BUDGET",
            "12 parsecs",
            "SEAWALL_MEMORY__BUDGET='12 parsecs' is not a size: write bytes",
        ),
        ("SEAWALL_DATABASE__LOCK_TIMEOUT", "soon", "SEAWALL_DATABASE__LOCK_TIMEOUT='soon' is not a duration"),
        ("SEAWALL_DATABASE__MAX_CONNECTIONS_PER_PROCESS", "0", "='0' is out of range: use 1 to 262,143"),
        (
            "SEAWALL_REDDIS_URL",
            "redis://x",
            "SEAWALL_REDDIS_URL is not a setting: did you mean SEAWALL_REDIS_URL?",
        ),
        ("SEAWALL_HOME", "", "SEAWALL_HOME='' is no path: name one, or leave the setting out"),
        ("SEAWALL_HOME", " ", "SEAWALL_HOME=' ' is no path"),
        ("SEAWALL_FLEET", "", "SEAWALL_FLEET='' is no path"),
        ("SEAWALL_RECORDS__SPOOL", "", "SEAWALL_RECORDS__SPOOL='' is no path"),
        ("SEAWALL_MEMORY__WARNING", "0.9", "SEAWALL_MEMORY__CRITICAL=0.8 is not above memory.warning=0.9"),
        (
            "SEAWALL_MEMORY__EXHAUSTED",
            "0.8",
            "SEAWALL_MEMORY__EXHAUSTED='0.8' is not above memory.critical=0.8",
        ),
        ("SEAWALL_MEMORY__WARNING", "nan", "SEAWALL_MEMORY__WARNING='nan' is not a number"),
        (
            "SEAWALL_MEMORY__HYSTERESIS",
            "0.5",
            "SEAWALL_MEMORY__HYSTERESIS='0.5' is not below memory.warning=0.5",
        ),
        ("SEAWALL_CONFIG", "nowhere.toml", "SEAWALL_CONFIG='nowhere.toml' cannot be read (No such file"),
    ],
)
def test_a_wrong_variable_is_one_clear_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)
    message = refusal()
    assert words in message
    assert "\n" not in message
    assert SECRET not in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("hom = 1", "hom is not a setting: did you mean home?"),
        (
            "[database]\nlock_timout = 3",
            "database.lock_timout is not a setting: did you mean database.lock_timeout?",
        ),
        ("home = ", "seawall.toml: not valid TOML"),
        ("[memory]\nbudget = true", "SEAWALL_MEMORY__BUDGET=True is not a size"),
    ],
)
def test_a_wrong_file_is_one_clear_line(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "seawall.toml").write_text(content)
    message = refusal()
    assert words in message
    assert "\n" not in message


def test_every_wrong_key_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_REDIS_URL", "x")
    monkeypatch.setenv("SEAWALL_MEMORY__BUDGET", "y")
    assert len(refusal().splitlines()) == 2


@pytest.mark.parametrize(
    ("url", "hidden"),
    [
        ("redis://host", "redis://host"),
        (f"redis://:{SECRET}@a;redis://u:{SECRET}@b/1", "redis://:***@a;redis://u:***@b/1"),
        ("amqp://guest@host//", "amqp://guest@host//"),
        ("plain words", "plain words"),
    ],
)
def test_passwords_in_urls_are_replaced(url: str, hidden: str) -> None:
    assert hide_passwords(url) == hidden


def test_what_kubernetes_adds_for_a_service_of_our_name_is_not_taken_for_a_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (
        "SEAWALL_PORT",
        "SEAWALL_SERVICE_HOST",
        "SEAWALL_REDIS_PORT_6379_TCP_ADDR",
        "SEAWALL_REDIS_SERVICE_PORT",
    ):
        monkeypatch.setenv(name, "tcp://10.0.0.1:6379")
    assert settings().redis_url is None


def test_every_key_is_described() -> None:
    assert [key.name for key in keys() if not key.description] == []


@pytest.mark.parametrize(
    ("written", "names"),
    [
        ("ssn", ("ssn",)),
        ("ssn, iban,", ("ssn", "iban")),
        ('["ssn", "iban"]', ("ssn", "iban")),
        ("", ()),
        ("  ", ()),
    ],
)
def test_secret_names_are_separated_by_commas(
    written: str, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWALL_REDACT", written)
    assert settings().redact == names
    shown = {key.name: value for key, value, _ in effective(settings())}
    assert json.loads(shown["redact"]) == [*names]


@pytest.mark.parametrize("written", ["[ssn", "[1]", '["ssn", null]'])
def test_names_that_are_no_list_are_refused(written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEAWALL_REDACT", written)
    assert "SEAWALL_REDACT" in refusal() or "redact" in refusal()


@pytest.mark.parametrize("address", ["nan", "h:99999", "h:", "unix:", "http://127.0.0.1:x"])
def test_an_address_of_health_that_is_none_is_refused_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWALL_HEALTH__ADDRESS", address)
    assert refusal().startswith(f"SEAWALL_HEALTH__ADDRESS={address!r} is no address: write host:port")
