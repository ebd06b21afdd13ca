"""Secrets among a call's arguments: how they are found, and in which spellings they are hidden in texts."""

import html
import json
from collections.abc import Callable, Iterator
from typing import Any, Final
from urllib.parse import quote, quote_plus

import pytest
from celery import chain, chord, group

from seawall import Seawall, policy
from seawall.policies import secrecy_of
from seawall.redaction import (
    ARGUMENTS,
    FIELD,
    STORED,
    ends,
    escapes,
    is_plain,
    redact,
    redact_arguments,
    redact_text,
    secret_values,
    shortened,
    values,
)
from support import secret_forms as corpus
from support.regex_steps import Steps

S: Final = "Xk9vQ2mZ7rT4"
ODD: Final = (
    "pa'ss\"wo\\rd", "pä$$w0rd €", "a/b+c=d&e f", "ключ", "x1\ny2\tz3", "😀emo😀ji", "<tag>&'q", "100%25x",
    "\\\\srv\\x", "a\\\n'b", "p@ss:w/rd", "\ud800x'y",
)  # fmt: skip
SPELT: Final[dict[str, Callable[[str], str]]] = {
    "itself": str,
    "repr": repr,
    "ascii": ascii,
    "repr with both quotes": lambda s: repr(f"\"'{s}"),
    "repr of bytes": lambda s: repr(s.encode("utf-8", "surrogatepass")),
    "json": json.dumps,
    "json with slashes escaped": lambda s: json.dumps(s).replace("/", r"\/"),
    "json in unicode": lambda s: json.dumps(s, ensure_ascii=False),
    "url": lambda s: quote(s, errors="surrogatepass"),
    "url, all of it": lambda s: quote(s, safe="", errors="surrogatepass").replace("%2F", "%2f"),
    "form": lambda s: quote_plus(s, errors="surrogatepass"),
    "url, twice": lambda s: quote(quote(s, errors="surrogatepass")),
    "html": html.escape,
    "repr of repr": lambda s: repr(repr(s)),
    "json of json": lambda s: json.dumps(json.dumps({"a": s})),
    "repr of json of repr": lambda s: repr(json.dumps(repr(s))),
    "json of url": lambda s: json.dumps({"url": quote(s, errors="surrogatepass")}),
}  # fmt: skip


AROUND: Final = 20
"""Characters that `SPELT` puts around a secret, at most."""


@pytest.mark.parametrize("spelt", SPELT.values(), ids=[*SPELT])
@pytest.mark.parametrize("secret", [S, *ODD], ids=ascii)
def test_a_secret_argument_is_hidden_however_a_text_spells_it(
    spelt: Callable[[str], str], secret: str
) -> None:
    known = secret_values((), {"password": secret})
    text = f"no such order: {spelt(secret)}, said the shop"
    shown = redact_text(text, known)
    assert len(shown) <= len("no such order: ***, said the shop") + AROUND
    assert shown.startswith("no such order: ")
    assert shown.endswith(", said the shop")
    assert "***" in shown
    assert not is_plain(text, known)


def test_a_text_that_only_shares_a_part_with_a_secret_is_shown() -> None:
    known = ("pa'ss\"wo\\rd", "ключ", "a b")
    text = "C:\\wo\\rd 100% ss & more + \\u0444"
    assert redact_text(text, known) == text


def test_what_an_escaped_secret_may_look_like_is_looked_for_in_bounded_steps() -> None:
    for secret in ("\\\\\\'\\'", "ключ", "pa'ss\\wo", "'" * 50, "\\" * 9):
        steps = Steps(escapes._escaped(secret), small=None)
        for piece in ("\\", "'", "%5", "\\u04", "&amp;", "wo\\"):
            few, many = (steps.of(piece * times, "finditer") for times in (400, 800))
            assert many <= 2.2 * few, (secret, piece)


NAMED: Final[tuple[Callable[[str], Any], ...]] = (
    lambda s: {"name": "password", "value": s},
    lambda s: {"Name": "DB_PASSWORD", "Value": s},
    lambda s: {b"key": b"api_key", b"value": s.encode()},
    lambda s: {"id": "password", "value": s},
    lambda s: {"field": "pin", "value": s},
    lambda s: [{"ParameterKey": "DbPassword", "ParameterValue": s}],
    lambda s: ["run", "--password", s],
    lambda s: ("run", "-u", f"ann:{s}"),
    lambda s: ["mysql", "-uroot", f"-p{s}"],
    lambda s: [("password", s), ("user", "ann")],
    lambda s: {"authorization": f"Bearer {s}"},
    lambda s: {"kind": "Secret", "data": {"cert": s}, "metadata": {"name": "shop"}},
    lambda s: {"apiVersion": "v1", "items": [{"kind": "Secret", "stringData": {"a.env": s}}]},
    lambda s: {"kty": "RSA", "n": "0vx7", "e": "AQAB", "d": s},
    lambda s: {"keys": [{"kty": "oct", "k": s}]},
    lambda s: {"kty": "RSA", "oth": [{"r": s}]},
    lambda s: {b"kty": b"RSA", b"qi": s.encode()},
    lambda s: [{"op": "replace", "path": "/password", "value": s}],
    lambda s: {"value": s, "path": "/users/0/apiKey", "op": "add"},
    lambda s: {"op": "add", "path": "/credentials/-", "value": {"x": s}},
    lambda s: ["HSET", "user:1", "password", s],
    lambda s: [b"HSET", b"user:1", b"password", s.encode()],
    lambda s: ["hset", "user:1", "name", "ann", "password", s],
    lambda s: ["HSET", "session:tokens", "ann", s],
    lambda s: ["HMSET", "user:1", "age", 5, "token", s],
    lambda s: ["XADD", "logins", "*", "user", "ann", "password", s],
    lambda s: ["AUTH", s],
    lambda s: ["AUTH", "ann", s],
    lambda s: (b"AUTH", b"ann", s.encode()),
    lambda s: ["HELLO", "3", "AUTH", "ann", s],
    lambda s: ["MIGRATE", "h", "6379", "", "0", "5000", "AUTH", s, "KEYS", "a"],
    lambda s: ["CONFIG", "SET", "requirepass", s],
    lambda s: ["ACL", "SETUSER", "ann", "on", f">{s}"],
    lambda s: ["SET", "user:1:token", s, "EX", 60],
    lambda s: ["SETEX", "user:1:token", 60, s],
    lambda s: ["MSET", "a", "1", "db_password", s],
    lambda s: [["SET", "a", 1], ["AUTH", s]],
    lambda s: {"fieldName": "password", "fieldValue": s},
    lambda s: {"header": "X-Api-Key", "values": [s]},
    lambda s: {"type": "password", "value": s},
    lambda s: {"op": "replace", "path": ["users", "password"], "value": s},
    lambda s: ("INSERT INTO users (name, password) VALUES (?, ?)", ("ann", s)),
    lambda s: {"sql": "UPDATE users SET password = %(p)s", "params": {"p": s}},
)  # fmt: skip
"""Values in which what stands beside it says that it is secret."""


@pytest.mark.parametrize("secret", [S, "winter"])
@pytest.mark.parametrize("place", range(len(NAMED)))
def test_what_stands_beside_a_value_says_that_it_is_secret(place: int, secret: str) -> None:
    value = NAMED[place](secret)
    assert secret not in repr(redact(value))
    assert secret not in repr(redact_arguments((value,), {"a": value}, bound=ARGUMENTS))
    kept = "ann" in repr(redact(value)) or "INSERT" in repr(value) or "tokens" in repr(value)
    assert "ann" not in repr(value) or kept
    known = secret_values((value,), {})
    assert secret not in redact_text(f"no order of {secret}!", known)
    assert known == secret_values((), {"a": {"b": [{"c": {"d": [[value]]}}]}})


@pytest.mark.parametrize("place", range(len(corpus.VALUES)))
def test_what_redact_hides_as_a_whole_is_looked_for_in_texts_too(place: int) -> None:
    value = corpus.VALUES[place](S)
    whole = "'***'" in repr(redact(value)) or any(isinstance(each, tuple) for each in value)
    assert not whole or S in " ".join(secret_values((value,), {}))


HARMLESS: Final[tuple[Any, ...]] = (
    ["email", "password", "name"],
    ["SET", "user:1:name", "ann"],
    ["HSET", "user:1", "name", "ann", "age", 5],
    ["auth", "v2", "token"],
    {"name": "size", "value": 5},
    {"op": "add", "path": "/name", "value": "ann"},
    {"path": "/etc/secrets/db.txt", "value": "x"},
    {"kind": "ConfigMap", "data": {"a": "b"}},
    {"d": "1", "p": "2", "k": "3"},
    {"task": "shop.charge", "args": [1, "x"], "kwargs": {}, "options": {}},
    ["get", "set", "token", "name"],
    ["migrate", "auth", "users"],
    ("user", "ann@example.org", 17),
    [17, "token", 5],
    ("INSERT INTO users (name) VALUES (?)", ("ann",)),
    {"query": "password", "args": ["ann"]},
    {"type": "text", "value": "ann", "sql": "select 1", "params": [5]},
)


@pytest.mark.parametrize("value", HARMLESS, ids=repr)
def test_a_value_without_a_secret_is_shown_as_it_is(value: Any) -> None:
    assert redact(value) == value
    assert secret_values((value,), {}) == ()


def test_a_key_below_a_secret_name_that_is_no_word_is_looked_for() -> None:
    assert secret_values((), {"tokens": {S: "admin", "user": "98765"}}) == (S, "admin", "98765")


def charge(order: int, *tokens: str, **secrets: str) -> None:
    """Never run."""


def test_arguments_beyond_the_named_ones_are_called_as_the_function_calls_them() -> None:
    shown = redact_arguments((17, "tok1", S, "tok3"), {"card": S, "note": "tok4"}, function=charge)
    assert shown == ((17, "***", "***", "***"), {"card": "***", "note": "***"})
    found = secret_values((17, "tok1", S, "tok3"), {"card": "tok4"}, function=charge)
    assert set(found) == {"tok1", S, "tok3", "tok4"}


def test_an_argument_that_only_has_a_keyword_names_no_place() -> None:
    def pays(order: int, *rest: str, password: str = "") -> None:
        """Never run."""

    assert redact_arguments((17, "ann"), {"password": S}, function=pays) == ((17, "ann"), {"password": "***"})


def test_a_thousand_secrets_of_a_call_are_looked_for_and_the_single_ones_first() -> None:
    several = [f"tk{number:08}z" for number in range(3000)]
    found = secret_values(([{"tokens": several}],), {"password": S})
    assert len(found) == values.MOST_VALUES
    assert S in found
    assert set(found) - {S} == set(several[: values.MOST_VALUES - 1])


def test_looking_for_secrets_visits_a_bounded_part_of_the_arguments() -> None:
    rows = [{"id": number, "name": "ann", "note": ["x"] * 5} for number in range(60_000)]
    seen = 0

    class Row(dict[str, Any]):
        def items(self) -> Any:
            nonlocal seen
            seen += len(self)
            return super().items()

    found = secret_values(([Row(row) for row in rows],), {"password": S, "deep": {"a": [{"pin": "98765"}]}})
    assert found == (S, "98765")
    assert seen <= values.VISITED


@pytest.mark.parametrize("bound", [ARGUMENTS, FIELD, STORED], ids=["arguments", "field", "stored"])
def test_of_many_texts_no_more_is_searched_than_a_bound_says(
    bound: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = 0

    def shortened(text: str, most: int, *_: Any) -> str:
        nonlocal searched
        searched += min(len(text), most)
        return text[:most]

    monkeypatch.setattr(values, "shortened", shortened)
    many = [f"{number} order of ann {S} " * 5000 for number in range(500)]
    args, _ = redact_arguments((many,), {"many": many}, bound=bound)
    assert searched <= 2 * bound.total
    assert args[0][-1] == "..."
    assert sum(map(len, args[0])) <= bound.total + 3 * len(many)


def test_what_is_stored_of_huge_arguments_is_bounded_and_stays_a_value() -> None:
    rows = [{"id": number, "password": S, "name": "ann"} for number in range(60_000)]
    args, kwargs = redact_arguments((rows, 5), {"rows": rows, "n": 1.5}, bound=STORED, text=False)
    stored = json.dumps([args, kwargs])
    assert S not in stored
    assert len(args[0]) <= STORED.nodes
    assert args[0][-1] == "..."
    assert args[1] == "..."
    assert len(stored) < 2_000_000


@pytest.fixture
def app() -> Iterator[Seawall]:
    made = Seawall("nested", broker="memory://", backend="cache+memory://", set_as_current=False)

    @made.task(name="shop.pay", shared=False)
    @policy(redact=["card"])
    def pay(order: int, card: str = "", note: str = "") -> None:
        """Never run."""

    @made.task(name="shop.login", shared=False)
    def login(user: str, password: str) -> None:
        """Never run."""

    @made.task(name="shop.all", shared=False)
    def everything(password: str, order: int) -> None:
        """Never run."""

    @made.task(name="shop.plan", shared=False)
    def plan(parts: Any) -> None:
        """Never run."""

    yield made
    made.close()


def nested(app: Any) -> dict[str, Any]:
    """Signatures with a secret in them, and `ann` or 17 that none of them hides."""
    pay, login, everything = app.tasks["shop.pay"], app.tasks["shop.login"], app.tasks["shop.all"]
    return {
        "signature": login.s("ann", S),
        "immutable": login.si("ann", S),
        "keywords": pay.s(17, card=S),
        "after a result": chain(pay.s(17), login.s(S)),
        "chain": chain(login.s("ann", S), pay.si(17, S)),
        "group": group(login.s("ann", S), pay.s(17, S)),
        "chord": chord([pay.s(17, S)], login.s(S)),
        "chain of groups of chains": chain(group(chain(login.s("ann", S), login.s(S)), pay.si(17, S))),
        "map": chain(everything.map([S]), pay.si(17)),
        "starmap": login.starmap([("ann", S)]),
        "chunks": login.chunks([("ann", S), ("ann", S)], 1),
        "group of chunks": login.chunks([("ann", S), ("ann", S)], 1).group(),
        "callbacks": pay.s(17).set(link=login.si("ann", S)),
        "link": pay.s(17, link=[login.si("ann", S)]),
    }


@pytest.mark.parametrize("serialised", [False, True])
def test_a_signature_s_arguments_are_called_as_its_own_task_calls_them(app: Any, serialised: bool) -> None:
    plan = app.tasks["shop.plan"]
    for name, part in nested(app).items():
        value = json.loads(json.dumps(part)) if serialised else part
        shown = repr(redact_arguments((value,), {"parts": [value]}, bound=ARGUMENTS, **secrecy_of(plan)))
        assert S not in shown, (name, shown)
        assert "ann" in shown or "17" in shown or "..." in shown, (name, shown)
        assert secret_values((value,), {}, **secrecy_of(plan)) == (S,), name
        assert S not in repr(redact({"embed": [value]}, tasks=secrecy_of(plan)["tasks"])), name


def test_the_arguments_of_a_map_are_called_as_its_task_calls_them(app: Any) -> None:
    starmap = app.tasks["celery.starmap"]
    login = json.loads(json.dumps(app.tasks["shop.login"].s()))
    for args, kwargs in (([login, [["ann", S]]], {}), ([], {"task": login, "it": [["ann", S]]})):
        shown = repr(redact_arguments(args, kwargs, **secrecy_of(starmap)))
        assert S not in shown
        assert "ann" in shown
        assert secret_values(args, kwargs, **secrecy_of(starmap)) == (S,)


def test_the_signature_of_a_task_that_nobody_knows_is_shown_by_its_keys(app: Any) -> None:
    value = {"task": "other.app", "args": ["ann"], "kwargs": {"password": S}, "options": {}}
    shown = redact_arguments(
        (value, {"task": None}, {"task": "shop.pay", "args": None}), {}, **secrecy_of(app.tasks["shop.plan"])
    )
    assert shown[0][0] == {**value, "kwargs": {"password": "***"}}


@pytest.mark.parametrize("size", [100, 5_000, 60_000])
def test_no_half_of_a_known_secret_is_left_at_a_cut(size: int) -> None:
    secret = "".join(f"{number:x}q" for number in range(size))[:size]
    known = secret_values((), {"password": secret})
    for before in (0, 10, 1000, 3000, 4090, 10_000):
        for after in (0, 10, 1000, 3000, 4090, 200_000):
            text = f"{'y ' * before}{secret}{' y' * after}"
            for shown in (ends(text, 4096, known), shortened(text, 4096, known), redact_text(text, known)):
                assert secret[:70] not in shown
                assert secret[-70:] not in shown
                assert secret[size // 2 : size // 2 + 70] not in shown
