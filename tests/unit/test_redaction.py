"""Every form in which a secret is known to turn up, in text and in values; and what is no secret."""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Any, Final, NamedTuple
from urllib.error import HTTPError

import pytest
from celery.utils.saferepr import saferepr

from seawall import classify
from seawall.config import settings
from seawall.records.occurrences import reason
from seawall.redaction import (
    ARGUMENTS,
    KEPT,
    LINE,
    LONGEST,
    MESSAGE,
    ends,
    is_plain,
    is_secret,
    names,
    redact,
    redact_arguments,
    redact_exception,
    redact_text,
    secret_values,
    shortened,
    texts,
)
from support import secret_forms as corpus
from support.adversarial import PIECES
from support.harmless_fields import fields
from support.patterns import patterns
from support.regex_matches import found_by
from support.slow_redaction import redact_slowly

FORMS = list(corpus.texts())
MOST_FALSE = 0.01


@pytest.mark.parametrize(
    ("place", "every"),
    [
        (0, 1),  # every form as it is, and enough of them in each surrounding to tell whether it hides any
        *((place, 3) for place in range(1, len(corpus.SURROUNDINGS))),
        *(pytest.param(place, 1, marks=pytest.mark.slow) for place in range(1, len(corpus.SURROUNDINGS))),
    ],
)
def test_no_form_of_a_secret_comes_out_of_a_text(place: int, every: int) -> None:
    around, forms = corpus.SURROUNDINGS[place], FORMS[place % every :: every]
    leaks = Counter(form for form, text, secret in forms if secret in redact_text(around(text)))
    assert not leaks, f"{leaks.total()} of {len(forms)}: {leaks.most_common(20)}"


def test_every_form_holds_its_secret() -> None:
    assert not [form for form, text, secret in FORMS if secret not in text]


@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_what_was_redacted_stays_as_it_is(every: int) -> None:
    shown = [redact_text(text) for _, text, _ in FORMS[::every]]
    assert [redact_text(each) for each in shown] == shown


def mixed(seed: int) -> str:
    """Up to 2 KB of forms with secrets, harmless fields and pieces of both, in any order."""
    chance = random.Random(seed)  # noqa: S311 - texts
    parts = []
    for _ in range(chance.randint(1, 12)):
        part = chance.choice(chance.choice(SOURCES))
        if chance.random() < 0.4:
            cut = chance.randint(0, len(part))
            part = chance.choice([part[:cut], part[cut:], part[:cut] + chance.choice(PIECES) + part[cut:]])
        parts.append(part)
    return chance.choice(["\n", " ", ", ", ""]).join(parts)[:2000]


SOURCES: Final = ([text for _, text, _ in FORMS], fields(), PIECES)


@pytest.mark.parametrize("texts", [1_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_redacting_quickly_shows_what_redacting_slowly_shows(texts: int) -> None:
    for seed in range(texts):
        text = mixed(seed)
        assert redact_text(text) == redact_slowly(text), f"mixed({seed})"


def missed(number: int) -> dict[str, str]:
    """Texts that a pattern finds, of which redaction takes no notice, and the pattern."""
    return {
        text: name
        for name, pattern, _ in patterns()
        if name.startswith("seawall.redaction.")
        for text in found_by(pattern, number, seed=number)
        if redact_text(text) != redact_slowly(text)
    }


@pytest.mark.parametrize("number", [6, pytest.param(300, marks=pytest.mark.slow)])
def test_a_quick_look_misses_nothing_that_a_pattern_finds(number: int) -> None:
    assert missed(number) == {}


def test_an_elements_content_begins_where_its_tag_ends() -> None:
    """Not at the last sign of its kind: all that followed was hidden with a secret far behind the element."""
    text = '<Server (1)>\nname="password"\nuser>x\n  File "shop.py"\nGatewayError: away'
    assert "GatewayError: away" in redact_text(text)
    assert redact_text('<p name="password" x="1">S3cret > more</p>') == '<p name="password" x="1">***</p>'


def test_a_pattern_that_the_quick_look_does_not_know_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "_SUSPICIOUS", tuple(set(texts._SUSPICIOUS) - {"<morsel"}))
    assert set(missed(6).values()) == {"seawall.redaction.forms._COOKIE"}


def test_a_quick_look_knows_every_secret_name() -> None:
    found = [*names._SECRET, *names._ENDINGS, *names._INSIDE, *names._LAST, *names._SIGNING]
    found += [f"{each}pass" for each in names._OF_PASS]
    found += found_by(names._SPELT, 50, seed=1)
    for pair in found_by(names._PAIRS, 500, seed=1):
        found += [pair, pair.replace("_", "-"), re.sub(r"(?<=.)_(\w)", lambda each: each[1].upper(), pair)]
    secret = [name for name in found if is_secret(name)]
    assert len(secret) > 1000
    assert [name for name in secret if not texts._holds(name.lower(), texts._HINTS)] == []


@pytest.mark.usefixtures("_own_names")
def test_an_application_s_name_is_known_wherever_a_library_says_it() -> None:
    names.add(["Zettel"])
    said = (f"Key (zettel)=({S}) already exists.", f"argument --zettel: not so: '{S}'", f'<zettel a="b">{S}<')
    assert [text for text in said if S in redact_text(text)] == []


@pytest.mark.usefixtures("_own_names")
@pytest.mark.parametrize("own", [(), ("card number", "Zettel")])
def test_what_a_quick_look_calls_plain_is_shown_as_it_is(own: tuple[str, ...]) -> None:
    names.add(own)
    texts = [*(text for _, text, _ in FORMS), *fields(), *corpus.HARMLESS, *map(mixed, range(500))]
    texts += [f"card_number={S}", f"zettel: {S}", f"said {S}"]
    values = (S,)
    plain = [text for text in texts if is_plain(text, values)]
    assert [redact_text(text, values) for text in plain] == plain
    assert own or [redact_slowly(text) for text in plain] == plain
    assert len(plain) > 100


@pytest.mark.parametrize("secret", corpus.SECRETS)
@pytest.mark.parametrize("place", range(len(corpus.VALUES)))
def test_no_form_of_a_secret_comes_out_of_a_value(place: int, secret: str) -> None:
    value = corpus.VALUES[place](secret)
    assert secret not in repr(redact(value))
    assert secret not in redact_text(repr(value))


def test_harmless_texts_are_shown_as_they_are() -> None:
    changed = [(text, shown) for text in corpus.HARMLESS if (shown := redact_text(text)) != text]
    assert len(changed) <= MOST_FALSE * len(corpus.HARMLESS), changed[:20]


@pytest.mark.parametrize("text", corpus.LOOKALIKES)
def test_a_text_that_only_looks_like_a_secret_s_form_is_shown_as_it_is(text: str) -> None:
    assert redact_text(text) == text


def test_of_2000_harmless_fields_at_most_one_in_a_hundred_is_hidden() -> None:
    found = fields()
    changed = [
        text for text in found if redact_text(text) != text or redact({"note": text}) != {"note": text}
    ]
    assert len(changed) <= MOST_FALSE * len(found), changed[:20]


def test_harmless_values_are_shown_as_they_are() -> None:
    values = [{name: "5"} for name in corpus.HARMLESS_NAMES]
    changed = [(value, shown) for value in values if (shown := redact(value)) != value]
    assert not changed


@pytest.mark.parametrize("name", corpus.NAMES)
def test_a_secret_name_is_known(name: str) -> None:
    assert is_secret(name)


S = "Xk9vQ2mZ7rT4"


class TwoArguments(Exception):  # noqa: N818
    def __init__(self, user: str, password: str) -> None:
        super().__init__(f"{user}: password={password}")
        self.password = password


def _broken_source() -> SyntaxError:
    try:
        compile(f"password = '{S}' $", "f.py", "exec")
    except SyntaxError as exc:
        return exc
    raise AssertionError


@pytest.mark.parametrize(
    "exc",
    [
        FileNotFoundError(2, "no such file", f"/x?password={S}"),
        FileNotFoundError(2, f"password={S}", "/x", None, f"/y?token={S}"),
        ExceptionGroup(
            f"token={S}", [ValueError(f"password={S}"), ExceptionGroup("x", [KeyError(f"jwt={S}")])]
        ),
        BaseExceptionGroup("x", [KeyboardInterrupt(f"password={S}")]),
        _broken_source(),
        UnicodeDecodeError("utf-8", f"password={S}".encode(), 0, 1, "no"),
        UnicodeEncodeError("ascii", f"password={S}", 0, 1, "no"),
        ImportError(f"password={S}", name=f"token={S}", path=f"/x?token={S}"),
        TwoArguments("ann", S),
        ValueError({"password": S}, [("Authorization", f"Token {S}")]),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_an_exception_keeps_its_class_and_shows_no_secret(exc: BaseException) -> None:
    before = repr(exc)
    shown = redact_exception(exc)
    texts = f"{shown!r} {shown} {vars(shown)} {getattr(shown, 'text', '')} {getattr(shown, 'filename', '')}"
    assert S not in texts
    assert type(shown) is type(exc)
    assert repr(exc) == before


class Login(NamedTuple):
    user: str
    token: str


def test_a_named_tuple_hides_its_secret_fields() -> None:
    assert redact([Login("ann", S)]) == [("ann", "***")]
    assert S not in repr(redact_arguments((Login("ann", S),), {}, bound=ARGUMENTS))
    assert secret_values((Login("ann", S),), {}) == (S,)


def test_an_error_of_urllib_keeps_its_class() -> None:
    exc = HTTPError(f"https://h/?token={S}", 404, f"token={S}", Message(), None)
    shown = redact_exception(exc)
    assert type(shown) is HTTPError
    assert S not in f"{shown} {shown!r} {vars(shown)}"
    assert str(shown) == "HTTP Error 404: token=***"


def test_an_exception_s_message_of_megabytes_is_cut() -> None:
    assert len(str(redact_exception(ValueError("y" * 30_000_000)))) < 17_000


CUT_FORMS: Final = {
    "assigned": f"password={S}",
    "url": f"postgres://u:{S}@h/d",
    "json": f'{{"token": "{S}"}}',
    "header": f"Bearer {S}",
    "signed url": f"https://b/k?X-Amz-Signature={S}",
    "signed header": f"Credential=A/eu/s3, SignedHeaders=host, Signature={S}",
    "shared access": f"https://a.blob.core.windows.net/c?sv=1&sig={S}",
    "curl": f"curl -u ann:{S}",
    "mysql": f"mysql -p{S}",
    "literal": f"kubectl create secret generic x --from-literal=a={S}",
    "piped": f"echo {S} | docker login --password-stdin",
    "pydantic": f"1 validation error for L\npassword\n  x [type=x, input_value='{S}', input_type=str]",
    "sql": f"ALTER ROLE u PASSWORD '{S}'",
    "colours": f"\x1b[36mpassword\x1b[0m=\x1b[35m{S}\x1b[0m",
    "form": f'form-data; name="password"\r\n\r\n{S}\r\n--b--',
    "redis": f"['AUTH', 'ann', '{S}']",
    "patch": f'{{"value": "{S}", "op": "add", "path": "/password"}}',
    "host": f'could not translate host name "{S}@db"',
    "port": f"Invalid port: '{S}'",
    "pem": f"-----BEGIN PRIVATE KEY-----\n{S}\n-----END PRIVATE KEY-----",
}


@pytest.mark.parametrize("margin", [256, pytest.param(texts.MARGIN, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", CUT_FORMS.values(), ids=[*CUT_FORMS])
def test_no_part_of_a_secret_is_left_at_a_cut(
    form: str, margin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts, "MARGIN", margin)
    head = "y " * (margin * 3 // 4)
    for place in range(len(form) + 1):
        for cut in (shortened, ends):
            for most in (200,) if place % 5 else (200, margin):
                text = f"{head[: most - place]} {form} {head}"
                assert S[:4] not in cut(text, most)
                assert S[-4:] not in cut(text, most)
                text = f"{head} {form} {head[: most * 3 // 4 - place]}"
                assert S[-4:] not in cut(text, most)


def _called(text: str) -> str:
    """`argsrepr`, as a message carries it."""
    shown, _ = redact_arguments((text,), {}, bound=ARGUMENTS)
    return saferepr(shown, 1024)


CUTS: Final[dict[str, tuple[int, Callable[[str], object]]]] = {
    "result": (MESSAGE.characters, lambda text: redact_exception(ValueError(text))),
    "event": (KEPT, lambda text: ends(text, KEPT)),
    "traceback": (LINE, lambda text: ends(text, LINE)),
    "log": (LINE, lambda text: shortened(text, LINE)),
    "argsrepr": (ARGUMENTS.characters, _called),
    "argsrepr in all": (1024, _called),
    "reason": (500, lambda text: reason(ValueError(text), classify(ValueError(text)))),
    "text": (LONGEST, redact_text),
}


@pytest.mark.parametrize(
    "where",
    [pytest.param(each, marks=[pytest.mark.slow] if most > KEPT else []) for each, (most, _) in CUTS.items()],
)
def test_no_part_of_a_secret_is_left_where_an_output_ends(where: str) -> None:
    most, output = CUTS[where]
    form = f"password='{S}'"
    fill = "y " * most
    for place in range(0, len(form) + 8, 2):
        for cut in (most, most // 4):  # both ends are shown of some
            shown = str(output(f"{fill[: cut - place]} {form} {fill}"))
            assert S[:4] not in shown
            assert S[-4:] not in shown
        shown = str(output(f"{fill} {form} {fill[: most * 3 // 4 - place]}"))
        assert S[:4] not in shown
        assert S[-4:] not in shown


def test_no_part_of_a_key_is_left_that_is_longer_than_what_is_searched_at_a_cut() -> None:
    lines = "\n".join(f"{S}{number:050}" for number in range(400))
    key = f"-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n"
    for before, after in ((100, 100), (LINE, 100), (100, LINE), (LINE // 4 - 50, 0)):
        text = "x " * before + key + "y " * after
        for shown in (ends(text, 4096), ends(text, LINE // 4), shortened(text, 4096)):
            assert S not in shown


@pytest.mark.parametrize("tokens", [3_000, 9_000, 20_000])  # less and more than LONGEST
@pytest.mark.parametrize("between", [", ", ",\n  "])
def test_no_secret_of_a_long_list_comes_out_behind_a_cut(tokens: int, between: str) -> None:
    several = [f"tk{number:08}z" for number in range(tokens)]
    listed = f"Traceback\nValueError: unknown tokens: [{between.join(map(repr, several))}]"
    for text in (listed, f"{listed}\n\nDuring that:\nRuntimeError: no stock"):
        shown = ends(text, KEPT)
        assert shown.startswith("Traceback\nValueError: unknown tokens: ***")
        assert shown.endswith("RuntimeError: no stock") == (text is not listed)
        assert not [each for each in several if each in shown]


def test_a_secret_of_any_length_leaves_the_words_around_it() -> None:
    secret = S * 4000
    assert ends(f"bad secret='{secret}' in order 17", KEPT) == "bad secret='***' in order 17"
    for text in (f"unknown tokens: {secret}", f"unknown tokens: {secret[: KEPT + 1000]}"):
        assert shortened(text, KEPT).startswith("unknown tokens: ***")
        assert ends(text * 10, KEPT).startswith("unknown tokens: ***")
    assert str(redact_exception(ValueError(f"order 17: token={secret}"))).startswith("order 17: token=***")


class Counted(list[Any]):
    """Counts what is looked at."""

    seen = 0

    def __iter__(self) -> Iterator[Any]:
        for each in super().__iter__():
            self.seen += 1
            yield each


def test_showing_arguments_visits_a_bounded_part_of_them() -> None:
    many = Counted(range(100_000))
    nested = {str(number): ["x" * 100] * 10 for number in range(10_000)}
    shown = redact_arguments((many, "y" * 5_000_000, b"z" * 5_000_000), {"nested": nested}, bound=ARGUMENTS)
    assert many.seen <= ARGUMENTS.nodes + 1
    assert len(repr(shown)) < 100_000


def test_a_number_of_thousands_of_digits_is_neither_printed_nor_looked_for() -> None:
    assert secret_values((), {"token": 10**5000}) == ()
    assert redact(["a", 10**5000]) == ["a", 10**5000]
    assert "bits" in repr(redact_arguments((["a", 10**5000],), {}, bound=ARGUMENTS))


def test_what_is_true_or_false_is_no_secret_to_look_for() -> None:
    assert secret_values((), {"reset_password": True, "tokens": [False]}) == ()


def test_a_secret_argument_of_mutable_bytes_is_looked_for_too() -> None:
    assert secret_values((), {"token": bytearray(S.encode())}) == (S,)


def test_an_object_among_arguments_says_no_secret_and_breaks_nothing() -> None:
    class Said:
        def __repr__(self) -> str:
            return f"Said(password={S!r})"

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    shown = repr(redact_arguments((Said(), Broken(), 10**5000), {"n": 10**5000}, bound=ARGUMENTS))
    assert S not in shown
    assert "Said(password=" in shown


@pytest.fixture
def _own_names() -> Iterator[None]:
    yield
    names._own.clear()
    names._judge.cache_clear()
    settings.cache_clear()


@pytest.mark.usefixtures("_own_names")
def test_the_settings_add_names_in_any_spelling(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"cardNumber={S}", f'{{"card_number": "{S}"}}', f"CARD-NUMBER: {S}"]
    assert all(redact_text(text) == text for text in texts)
    monkeypatch.setenv("SEAWALL_REDACT", '["card_number"]')
    settings.cache_clear()
    settings()
    assert not any(S in redact_text(text) for text in texts)
    assert redact({"CardNumber": S}) == {"CardNumber": "***"}
