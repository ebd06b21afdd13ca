"""Secrets in text: what parses is taken apart, and only the rest is a matter of patterns.

`redact_text` looks for a name, asks `names.is_secret`, and then reads what stands there as a value: quoted
(with any number of backslashes, as JSON within JSON has them), a container, the rest of a header's line, or
what goes on to the next `name=`. What is a secret by its own form is found by `forms`.

Texts are strangers' and of any size, so no pattern here looks at a character more often than a fixed number
of times: repetitions are possessive behind a boundary, or bounded. What is not closed is hidden to the end.
A text of which both ends are shown is searched as a whole up to `LONGEST`. A longer one, and one of which
only the beginning is shown, is cut before it is searched. A secret that the cut falls on would be half a
secret that no rule knows, so `MARGIN` more characters are searched than are shown, and are left out.
"""

import functools
import re
from collections.abc import Iterable
from typing import Final

from seawall.redaction import commands, escapes, messages, protocols, sentences
from seawall.redaction.forms import KEYS, MARKED, QUERIES, without_forms
from seawall.redaction.names import is_secret, own
from seawall.redaction.rules import first_looks
from seawall.redaction.urls import HIDDEN, hide_in_setting
from seawall.redaction.words import is_ordinary

_HINTS: Final = (
    "pass", "pwd", "pw", "secret", "token", "auth", "cred", "cookie", "sess", "key", "pin", "otp", "jwt",
    "cvv", "cvc", "csc", "sig", "bearer", "pa5", "p4s", "p45", "assertion", "verifier", "saml", "psk",
    "hmac", "ticket", "kennwort", "code", "contrase", "mnemonic", "phrase", "pem", "ssn", "srf",
    "t.sid", "t_sid", "t-sid", "tsid",
)  # fmt: skip
"""One of these is in every secret name: a quick look before the slow one."""

_OTHERS, _SIGNS = first_looks(KEYS, QUERIES, MARKED, messages.RULES, protocols.RULES, sentences.RULES)


def _needed(hints: Iterable[str]) -> tuple[str, ...]:
    """Those in which there is no other."""
    each = tuple(dict.fromkeys(hints))
    return tuple(hint for hint in each if not any(other in hint for other in each if other != hint))


_SUSPICIOUS: Final = _needed((*_HINTS, "://", ":\\", "3a%2", *commands.HINTS, *_OTHERS))
"""One of these, or one of `_SIGNS`, is in every text in which anything is hidden."""


def _head(hints: Iterable[str]) -> re.Pattern[str]:
    """A name that may be secret, and what stands between a name and its value."""
    return re.compile(
        rf"""
        (?<![\w.-])(?=[\w.-]*?(?:{"|".join(map(re.escape, hints))}))
        (?P<name>[\w.-]++)
        (?P<close>\\{{0,15}}+(?:['"]|u0022|&quot;|%22)?+)(?:\[\])?+(?P<bracket>(?:,(?=\)))?+[\])}}]{{0,2}}+)
        (?:
            \s?,\s?(?P<said>default=|\\{{0,15}}+['"](?:parameter)?value\\{{0,15}}+['"]\s?:\s?)?
                (?=[bu]?\\{{0,15}}+['"])(?P<pair>)
            |[ \t]{{0,8}}+(?:=>|:=|->|={{1,2}}|%3[da]|:(?!:)|::(?=[ \t]))[ \t]{{0,8}}+
            |(?:(?<=\\)(?:u003[da]|x3[da])|&\#(?:61|x3d);)
            |[ \t]{{1,8}}+(?:is|was|to)(?:[ \t:]{{1,8}}+(?=['"])|:[ \t]{{1,8}}+)
            |(?P<call>\((?=[bfru]{{0,2}}\\{{0,15}}+['"]))
            |(?P<markup>>)
            |(?P<flag>[ \t]{{1,8}}+)
        )
        """,
        re.IGNORECASE | re.VERBOSE,
    )


_HEAD: Final = _head(_HINTS)
_NOTHING: Final = re.compile(r"(?:None|null|True|true|False|false|YES|NO)(?=[)\]},;]{0,4}+(?:\s|\Z))")
_NUMBER: Final = re.compile(r"\d{1,9}+(?=[)\]},;]{0,4}+(?:\s|\Z))")
"""Values without quotes that are no secrets; the second where `tokens` are counted."""
_RAISED: Final = re.compile(
    r"(?P<modules>(?:[a-z_]\w{0,63}\.){0,8})(?P<name>[A-Z][A-Za-z0-9]{0,127}?)(?P<kind>Error|Exception|Warning)?"
)
"""The class of an exception, by its modules or by how it ends."""
_LINE_SEEN: Final = 512
"""Characters of an exception's message that are looked at."""
_BEFORE_PAIR: Final = re.compile(r"(?P<lead>[:=>.,]|\" \()\s{0,8}+[bu]?\\{0,15}+['\"]\Z", re.IGNORECASE)
"""What stands before a quoted name: the mapping's key of which it is the value, a list's element, a table."""
_LEAD: Final = 32
_SECOND: Final = re.compile(
    r"[bu]?\\{0,15}+['\"](?P<word>[^'\"\\\n]{0,128}+)\\{0,15}+['\"](?:(?P<key>\s{0,8}+(?::|=>)|\.['\"])|(?P<more>,))?+",
    re.IGNORECASE,
)
"""A short quoted text behind a quoted name: a key, if a value follows, or one of several elements."""
_IDENTIFIER: Final = re.compile(r"[a-z]+(?:[_.][a-z]+)*", re.IGNORECASE)
_OPENER: Final = re.compile(r"[bBuUrRfF]{0,2}(\\{0,15}+)(['\"])|[\[({]")
_CALL: Final = re.compile(r"[A-Za-z_][\w.]{0,63}+(?=\()")
_QUOTES: Final = {quote: re.compile(rf"(?:\\{{0,15}}+){quote}") for quote in "'\""}
_CHANGED: Final = re.compile(r"[ ]->[ ]\"[^\"\n]*+")
"""What a plan of Terraform's sets in place of the quoted value before it."""
_BRACKETS: Final = re.compile(r"'(?:[^'\\]|\\.)*+'?|\"(?:[^\"\\]|\\.)*+\"?|[\[({\])}]", re.DOTALL)
_NESTED: Final = re.compile(r"[\[({\])}]")
_UNQUOTED: Final = re.compile(
    r"""(?:
        (?!\\{0,15}+['"](?:[\s,;:)\]}>]|\Z))            # a quote that closes what the pair stands in
        (?![,;&\s]{1,4}+[a-z_][\w.-]{0,63}+['"]?+[ \t]{0,2}+(?:=(?![=\s]|\Z)|:|%3d))  # the next name
        [^\n]
    )*+""",
    re.VERBOSE | re.IGNORECASE,
)
_MEMBER: Final = re.compile(r"[^,}\])\n]*+")
_LINE: Final = {quote: re.compile(rf"[^\r\n{quote}]*+") for quote in ("", "'", '"')}
_ELEMENT: Final = re.compile(r"\s{0,64}+(?:<!\[CDATA\[)?+[^<]*+")
_WORD: Final = re.compile(r"[^\s'\"]*+")
_DONE: Final = re.compile(r"\*\*\*(?=[\s,;:&)\]}>'\"\\<@]|\Z)")
_HEADERS: Final = ("authorization", "cookie", "stripe-signature", "sentry-auth")
_FLAG: Final = re.compile(r"-[A-Za-z]\w{3,}")
"""`-Password`, `-storepass`: of PowerShell, Java, Go and others, with one dash."""
_PREFIXED: Final = re.compile(r"<[\w-]{1,32}+:\Z")
_IN_QUERIES: Final = frozenset({"signature", "key", "hmac", "sign", "assertion", "ticket"})
"""Secret as a field of a query, where a text of its own would rather speak of something else."""
_ESCAPED: Final = frozenset({"3F", "26", "3B", "20", "0A"})

_BLOCK: Final = re.compile(
    r"(?:[!&][^\s#]{0,64}+[ \t]{0,8}+){0,2}+(?:[|>][0-9+-]{0,2}+)?+[ \t]{0,8}+(?:#[^\n]{0,512}+)?+"
    r"\r?\n(?P<indent>[ \t]*+)(?=(?P<item>-\s)|\S)"
)
"""Tags, anchors and a comment may stand in the line of YAML's key."""
_NEXT_LINE: Final = re.compile(r"\n")
_NEXT_BLOCK: Final = re.compile(r"\n(?=[^\s\]})'\"])")
"""Where a line begins that is no part of what is written deeper above it."""
_INDENTED: Final = 256
"""Characters before a name in which its line may begin."""


_COLOURS: Final = ("\x1b", "\x9b", "1b[", "1B[", "033[", "\\e[")
_COLOUR: Final = re.compile(
    r"(?:(?:\x1b|\\{1,15}+(?:[xX]1[bB]|u001[bB]|033|e))\[|\x9b)[0-9;:]{0,64}+[A-Za-z]|\x1b\([A-Z0-9]"
)
"""As it is, or escaped, as JSON and a shell have it."""

LONGEST: Final = 131_072
"""Characters of a text that are searched: of a longer one only the beginning and the end are left."""

MARGIN: Final = 4096
"""Characters behind or before a cut that are searched and not shown: no secret that has a form is longer."""


def redact_text(text: str, values: Iterable[str] = ()) -> str:
    """`text`, such as an exception's message, without what looks like a secret, and without `values`.

    Of one that is longer than `LONGEST`, the beginning and the end, so that none costs more.
    """
    return _searched(text, values) if len(text) <= LONGEST else ends(text, LONGEST, values)


def ends(text: str, most: int, values: Iterable[str] = ()) -> str:
    """Both ends without secrets: a traceback begins with where it was called and ends with what happened."""
    note = f"\n... ({len(text)} characters) ...\n"
    if len(text) <= LONGEST:
        found = _searched(text, values)
        return found if len(found) <= most else f"{found[: most // 4]}{note}{found[-(most * 3 // 4) :]}"
    head = _searched(text[: most // 4 + MARGIN], values)
    tail = _end(text, most * 3 // 4, values, within=head.endswith(HIDDEN))
    return f"{_without_margin(text, head, most // 4)}{note}{tail}"


def _end(text: str, most: int, values: Iterable[str], *, within: bool) -> str:
    """The last characters of `text` without secrets.

    Nobody knows in which list of secrets they begin, so the rest of a line is left out at first, and if the
    beginning of the text ended `within` a secret, all lines are that may be a part of it.
    """
    source = text[-(most + MARGIN) :]
    shown = _without_margin(source[::-1], _searched(source, values)[::-1], most)[::-1]
    begin = (_NEXT_BLOCK if within else _NEXT_LINE).search(shown)
    return shown[begin.end() :] if begin else ""


def beginning(text: str, most: int, values: Iterable[str]) -> str:
    """The first characters of `text` without secrets, and without half of one."""
    found = _searched(text[: most + MARGIN], values)
    return found[:most] if len(text) <= most + MARGIN else _without_margin(text, found, most)


def _without_margin(text: str, found: str, most: int) -> str:
    """`found`, which is left of `most` and `MARGIN` characters of `text`, without what stood in the margin.

    Where its parts stood is looked for from the end, so none is taken to have stood earlier than it did.
    """
    shown = found.split(HIDDEN)
    end = min(len(text), most + MARGIN)
    for number in range(len(shown) - 1, -1, -1):
        part = shown[number]
        place = text.rfind(part, 0, end)
        if place < 0 or (number == len(shown) - 1 and place + len(part) != end):
            break
        if place <= most:
            shown[number] = part[: most - place]
            hidden = HIDDEN if place + len(part) <= most and number < len(shown) - 1 else ""
            return (HIDDEN.join(shown[: number + 1]) + hidden)[:most]
        end = place
    return found[: max(0, min(most, len(found) - MARGIN))]


def _searched(text: str, values: Iterable[str]) -> str:
    plain = without_colours(text)
    shown = _in_plain(plain, values)
    return text if shown == plain else shown


def without_colours(text: str) -> str:
    """What a terminal shows of `text`: colours stand between a name and its value."""
    return _COLOUR.sub("", text) if _holds(text, _COLOURS) else text


def _in_plain(text: str, values: Iterable[str]) -> str:
    text = escapes.hidden(text, values)
    seen = text.lower()
    owned = _may_have_own_name(seen)
    if owned or _is_suspicious(seen):
        text = without_forms(text, seen)
    return _without_named(text) if owned or _holds(seen, _HINTS) else text


def _holds(seen: str, parts: Iterable[str]) -> bool:
    for part in parts:  # noqa: SIM110 - every line passes here; a generator takes twice as long
        if part in seen:
            return True
    return False


def _is_suspicious(seen: str) -> bool:
    if _holds(seen, _SUSPICIOUS):
        return True
    for hint, sign in _SIGNS:  # noqa: SIM110 - as above
        if hint in seen and sign.search(seen):
            return True
    return False


def _may_have_own_name(seen: str) -> bool:
    return bool(own()) and _holds(seen, [name[:2] for name in own()])


def may_hold_name(text: str) -> bool:
    """Whether there may be a secret name in `text`: a quick look, rather True."""
    seen = text.lower()
    return _holds(seen, _HINTS) or _may_have_own_name(seen)


def is_plain(text: str, values: Iterable[str] = ()) -> bool:
    """Whether no part of `text` can hold a secret that `redact_text` knows: a quick look, rather False."""
    text = without_colours(text)
    seen = text.lower()
    return not (_is_suspicious(seen) or escapes.holds(text, values) or _may_have_own_name(seen))


def hide_passwords(text: str) -> str:
    """`text`, which is nothing but a URL or several, as a setting holds them, without their passwords.

    Of one that is longer than `LONGEST`, the beginning.
    """
    shown = hide_in_setting(text[:LONGEST])
    if len(text) <= LONGEST:
        return redact_text(shown)
    return f"{beginning(shown, LONGEST - MARGIN, ())}... ({len(text)} characters)"


def _without_named(text: str) -> str:
    """What stands behind a secret name."""
    head = _head_with(own()) if own() else _HEAD
    pieces: list[str] = []
    shown = place = 0
    while found := head.search(text, place):
        if not _names_a_secret(found):
            place = found.end("name")
            continue
        start, end = _value(text, found)
        pieces += (text[shown:start], HIDDEN if end > start else "")
        shown = end
        place = max(end, found.end("name"))
    pieces.append(text[shown:])
    return "".join(pieces)


@functools.lru_cache(maxsize=8)
def _head_with(names: frozenset[str]) -> re.Pattern[str]:
    """With an application's own names, whose letters may stand apart (`card_number`, `cardNumber`)."""
    return _head((*_HINTS, *(name[:2] for name in sorted(names))))


def _names_a_secret(found: re.Match[str]) -> bool:  # noqa: PLR0911 - a form each
    name, before = found["name"], found.string[max(0, found.start() - 1) : found.start()]
    quoted = bool(found["close"])
    if found["pair"] is not None and (not quoted or found["bracket"] or _is_no_pair(found)):
        return False
    if before in {"?", "&", "~"} and name.lower() in _IN_QUERIES:
        return True
    if before == "%" and name[:2].upper() in _ESCAPED:  # ?, & and ; in a URL within a URL
        return is_secret(name[2:])
    if found["call"] is not None:
        return is_secret(name)
    if (
        found["markup"]
        and before != "<"
        and not _PREFIXED.search(found.string, max(0, found.start() - _INDENTED), found.start())
    ):
        return False
    if found["flag"] and not name.startswith("--") and not _FLAG.match(name):
        return sentences.is_noun(found)
    if (raised := _raised(found)) is not None:
        return is_secret(raised["name"]) and not _is_said(found)
    if sentences.is_key(found) or (name.startswith("-D") and is_secret(name[2:])):
        return True
    return is_secret(name) or (before == "\\" and name[0] in "nrt" and is_secret(name[1:]))


def _is_number_of_tokens(text: str, start: int, name: str) -> bool:
    return name.lower().endswith(("tokens", "_token_id")) and _NUMBER.match(text, start) is not None


def _raised(found: re.Match[str]) -> re.Match[str] | None:
    """The class of an exception, by its end or behind its modules: its name says nothing of its message."""
    if found["close"] or found["bracket"] or not found[0].endswith(": "):
        return None
    raised = _RAISED.fullmatch(found["name"])
    if raised is None or raised["kind"]:
        return raised
    begins = found.string[max(0, found.start() - 1) : found.start()] in {"", "\n"}
    return raised if begins and raised["modules"] and not raised["name"][1:].islower() else None


def _is_said(found: re.Match[str]) -> bool:
    """Whether nothing but words follows in the line, of which none can be a secret."""
    line = found.string[found.end() : found.end() + _LINE_SEEN].partition("\n")[0]
    words = [word.lstrip("'\"([{") for word in line.split()]
    return bool(words) and all(not word or is_ordinary(word) for word in words)


def _is_no_pair(found: re.Match[str]) -> bool:
    """Whether what is quoted behind a quoted name is no value: a mapping's next key, one more column."""
    if found["said"] or found["name"].startswith("-"):
        return False
    before = _BEFORE_PAIR.search(found.string, max(0, found.start() - _LEAD), found.start())
    lead = before["lead"] if before else ""
    if lead in {":", "=", ">", "."}:
        return True
    second = _SECOND.match(found.string, found.end())
    if second is None:
        return False
    if second["key"] or second["word"].startswith("--"):
        return True
    listed = lead in {",", '" ('} or "." in found["name"] or second["more"]
    return bool(listed) and _IDENTIFIER.fullmatch(second["word"]) is not None


def _value(text: str, found: re.Match[str]) -> tuple[int, int]:  # noqa: PLR0911 - a form each
    """Where the value begins and ends of which `found` is the name."""
    start = found.end()
    if done := _DONE.match(text, start):
        return done.end(), done.end()
    if found["call"] is not None:
        return start, max(start, _end_of_container(text, start - 1) - 1)
    if found["flag"] and found["name"][0] != "-":
        return sentences.spoken(text, start, found["name"])
    if found[0].rstrip(" \t").endswith(":") and (end := _end_of_block(text, found)):
        return start, end
    call = _CALL.match(text, start)
    opener = _OPENER.match(text, call.end() if call else start)
    if opener is None and (_NOTHING.match(text, start) or _is_number_of_tokens(text, start, found["name"])):
        return start, start
    if opener is None:
        return start, _end_unquoted(text, start, found)
    if opener[2]:
        begin, (end, after) = opener.end(), _end_of_quoted(text, opener)
        if changed := _CHANGED.match(text, after):
            return begin, changed.end()
    else:
        begin, end = start, _end_of_container(text, opener.start())
        after = end
    if after < len(text) and text[after].isalnum() and not found["close"]:
        return begin, _end_unquoted(text, after, found)  # 'a'b: the quote did not end it
    return begin, end


def _end_of_quoted(text: str, opener: re.Match[str]) -> tuple[int, int]:
    """Where quoted text ends, and its quote: the first with as many backslashes as it began with."""
    depth = len(opener[1])
    if not depth and text.startswith(three := opener[2] * 3, opener.end() - 1):
        end = text.find(three, opener.end() + 2)
        return (end, end + 3) if end >= 0 else (len(text), len(text))
    for mark in _QUOTES[opener[2]].finditer(text, opener.end()):
        backslashes = len(mark[0]) - 1
        if backslashes <= depth if depth else backslashes % 2 == 0:
            return mark.end() - 1 - min(backslashes, depth), mark.end()
    return len(text), len(text)


def _end_of_container(text: str, start: int) -> int:
    depth = 0
    escaped = text[start + 1 : start + 2] == "\\"
    for mark in (_NESTED if escaped else _BRACKETS).finditer(text, start):
        if mark[0] in "[({":
            depth += 1
        elif mark[0] in "])}":
            depth -= 1
            if depth == 0:
                return mark.end()
    return len(text)


def _end_of_block(text: str, found: re.Match[str]) -> int:
    """Where the lines end that YAML puts below a key, deeper than it or as a list; 0 if there are none."""
    block = _BLOCK.match(text, found.end())
    if block is None:
        return 0
    line = text[max(0, found.start() - _INDENTED) : found.start()].rpartition("\n")[2]
    depth, own = len(block["indent"]), len(line) - len(line.lstrip(" \t"))
    if depth < own or (depth == own and not block["item"]):
        return 0
    return _deeper(depth, items=depth == own).match(text, block.end()).end()  # type: ignore[union-attr]


@functools.lru_cache(maxsize=64)
def _deeper(depth: int, *, items: bool) -> re.Pattern[str]:
    """The rest of a line, and all lines after it that are blank or begin with so many blanks."""
    begin = rf"[ \t]{{{depth}}}" + (r"(?=[ \t-])" if items else "")
    return re.compile(rf"[^\n]*+(?:\n(?:[ \t]*+(?=\n|\Z)|{begin}[^\n]*+))*+")


def _end_unquoted(text: str, start: int, found: re.Match[str]) -> int:
    """Where a value without quotes ends; each of these patterns matches anywhere."""
    name = found["name"].lower()
    if found["markup"]:
        return _ELEMENT.match(text, start).end()  # type: ignore[union-attr]
    if found["flag"]:
        return _WORD.match(text, start).end()  # type: ignore[union-attr]
    if found["close"]:
        return _MEMBER.match(text, start).end()  # type: ignore[union-attr]
    if any(each in name for each in _HEADERS):
        around = text[max(0, found.start() - 1) : found.start()]
        return _LINE[around if around in _LINE else ""].match(text, start).end()  # type: ignore[union-attr]
    return _UNQUOTED.match(text, start).end()  # type: ignore[union-attr]
