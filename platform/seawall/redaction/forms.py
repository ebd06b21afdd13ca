"""Secrets by their own form: PEM, JWK, tokens of services, headers, cookies and elements.

What is typed, sent and printed has modules of its own: `commands`, `protocols`, `messages`.

The patterns keep to the rules of `texts`, and look only where the text holds what is in all of their matches.
"""

import re
from typing import Final

from seawall.redaction.commands import without_typed
from seawall.redaction.messages import without_messages
from seawall.redaction.names import is_secret
from seawall.redaction.protocols import without_said
from seawall.redaction.sentences import without_sentences
from seawall.redaction.urls import HIDDEN, hide_in_text
from seawall.redaction.words import is_ordinary

_PEM: Final = re.compile(
    r"-{4,5} ?BEGIN[ +%20]{1,3}"
    r"(?:[A-Z0-9 ]{0,32}PRIVATE[ +%20]{1,3}KEY(?: BLOCK)?+|OpenVPN Static key V\d) ?-{4,5}"
    r"(?:(?!---- ?END).)*+(?:---- ?END[^\n]{0,60}?----)?"
    r"|\A(?:(?!---- ?(?:BEGIN|END)).)*+-{1,5} ?END[A-Z0-9 ]{0,32}PRIVATE KEY[^\n]{0,60}?----"  # cut before it
    r"|(?<=Private-Lines: )\d(?:(?!Private-MAC|\n\n|\\n\\n).)*+",
    re.DOTALL | re.IGNORECASE,
)
_JWK: Final = re.compile(r'("(?:d|p|q|dp|dq|qi|k)"\s?:\s?)"[^"]*+"?')
_COOKIE: Final = re.compile(
    r"(<(?:Cookie|Morsel:)[ ][^\s=>]{1,128}+=)[^\s>]++|(\bCookie\('[^'\n]{1,128}+', ')[^'\n]++"
)
_SCHEME: Final = re.compile(
    r"\b(?:(bearer)[ \t]{1,4}+(?!tokens?\b|auth)[\w.~+/=-]{6,}+"
    r"|(basic)[ \t]{1,4}+(?=[\w.~+/-]{0,64}[\d=])[\w.~+/=-]{6,}+"
    r"|(token)[ \t]{1,4}+(?=[\w.~+/-]{0,64}\d)[\w.~+/-]{8,}+={0,2}(?![\w=]))",
    re.IGNORECASE,
)
_TOKENS: Final = re.compile(
    r"""(?<![\w-])(?:
        (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b | gh[pousr]_[A-Za-z0-9]{20,}+ | github_pat_\w{20,}+
        | xox[a-z]-[\w-]{10,}+ | [sr]k_(?:live|test)_\w{8,}+ | sk-[\w-]{20,}+ | glpat-[\w-]{16,}+
        | eyJ[\w-]{8,}+\.[\w-]{8,}+(?:\.[\w-]*+)? | AIza[\w-]{30,}+ | npm_\w{30,}+ | pypi-[\w-]{30,}+
        | SG\.[\w-]{16,}+\.[\w-]{16,}+ | ya29\.[\w.-]{16,}+ | dop_v1_\w{16,}+ | hv[sb]\.[\w-]{16,}+
        | AGE-SECRET-KEY-1\w{4,}+ | (?:bot)?\d{8,10}:[\w-]{30,}+
    )""",
    re.VERBOSE,
)
_QUERY: Final = re.compile(
    r"((?:[?&#;]|%3F|%26|\\u0026|&amp;)(?:code|sid|session|sess|st|s|hash|mac|digest|verify|appid|access|private|policy|ott)(?:=|%3D))"
    r"([^\s&#'\"<>;%]{4,}+)",
    re.IGNORECASE,
)
"""Fields of a query that are secret if what they hold is no word and no number."""
_GRANT: Final = re.compile(r"((?<![\w.-])code['\"]?\s?[=:]\s?['\"]?)[^\s&,'\"}]{4,}+")
_GRANTED: Final = re.compile("grant_type", re.IGNORECASE)
"""Beside that the code of OAuth stands."""
_NETRC: Final = re.compile(r"(\blogin[ \t]{1,4}+\S{1,64}+[ \t]{1,4}+password[ \t]{1,4}+)\S++")
_USER: Final = re.compile(
    r"((?<![\w-])(?:-u|--user|--proxy-user)(?:[ =]{1,2}|['\"],[ ]?)['\"]?[^\s:'\"]{1,128}+:)[^\s'\"]++"
)
_DIGEST: Final = re.compile(
    r"(\bdigest\b(?:(?!\bdigest\b)[^\n]){0,1024}?\bresponse=)\"[^\"]*+\"", re.IGNORECASE
)
_SIGNED: Final = re.compile(r"(\bSignedHeaders=[\w;-]{0,512}+,\s?Signature=)[^\s,'\"]++")
_DSN: Final = re.compile(r"(?<!\S)([^\s:@/]{1,64}+:)[^\s@]{1,128}+(?=@(?:tcp|unix)\()")
_TAG: Final = re.compile(r"<[a-z][\w:.-]{0,63}+\s[^<>]{0,4096}+>[^<]*+", re.IGNORECASE)
_ATTRIBUTE: Final = re.compile(r"""(?<=\s)([\w:.-]{1,64}+)(\s{0,4}=\s{0,4}['"])([^'"]*+)""")
_PLIST: Final = re.compile(
    r"(<(?:key|name)>\s{0,8}([\w.-]{1,64}+)\s{0,8}</(?:key|name)>\s{0,32}(?:<\w{1,32}+>\s{0,8}){1,3}"
    r"|<\w{1,32}+[ ]name=\"([\w.-]{1,64}+)\"[^<>]{0,256}>\s{0,32}<value>)[^<]++",
    re.IGNORECASE,
)
_MANIFEST: Final = re.compile(r"\bkind['\"]?:\s?['\"]?secret\b|\bpatch secret\b", re.IGNORECASE)
_DATA: Final = re.compile(
    r"((?<![\w-])(?:string)?data['\"]?:\s?)(?:\{[^{}]*+\}?|\n(?:[ \t]{1,16}+[^\n]*+(?:\n|\Z))++)",
    re.IGNORECASE,
)
_CALLED: Final = re.compile(
    r"((?<![\w-])(?:login|authenticate|fernet|stripe|telegrambot|getconnection|(?:hashpw|checkpw)|hmac\.new|jwt\.(?:en|de)code"
    r"|cookies\.set|set_cookie|check_password_hash|(?:pymysql|mysqldb|psycopg2?|asyncpg)\.connect|require\('stripe'\)"
    r"|connect(?=\(['\"][^'\"\n]{0,128}['\"],\s?['\"][^'\"\n]{0,128}['\"],\s?['\"]))\()([^'\"()\n]{0,128}+"
    r"(?:['\"][^'\"\n]{0,256}+['\"][^'\"()\n]{0,128}+){1,5}+)",
    re.IGNORECASE,
)
"""Calls that take a secret without a name for it: what is quoted in them is hidden."""
_QUOTED: Final = re.compile(r"(['\"])[^'\"\n]{1,256}+(?=['\"])(?:['\"])")
_PGPASS: Final = re.compile(
    r"(?<![^\s'\"(])([\w.*-]{1,128}+:(?:\d{1,5}|\*):[\w.*-]{1,64}+:[\w.*-]{1,64}+:)([^\s:'\")]{4,512}+)"
)
_CURLRC: Final = re.compile(r"(\buser\s?=\s?['\"][^\s:'\"]{1,64}+:)[^\s'\"]++")
_NAMING: Final = frozenset({"name", "key", "id", "field", "header", "property"})
"""Attributes that say what the element's `value` or its content is."""


def without_forms(text: str, seen: str) -> str:
    """`text` without those; `seen` is `text` in lower case."""
    if "private" in seen or "static key" in seen:
        text = _PEM.sub(HIDDEN, text)
    text = hide_in_text(text)
    if "=" in seen or "%3d" in seen:
        text = _QUERY.sub(lambda found: found[0] if is_ordinary(found[2]) else f"{found[1]}{HIDDEN}", text)
    if _GRANTED.search(text):
        text = _GRANT.sub(rf"\1{HIDDEN}", text)
    text = without_said(without_typed(without_messages(text, seen), seen), seen)
    text = _marked(without_sentences(text, seen), seen)
    text = _TOKENS.sub(HIDDEN, _DSN.sub(rf"\1{HIDDEN}", text))
    text = _SCHEME.sub(lambda found: f"{found[found.lastindex or 0]} {HIDDEN}", text)
    if ":" in text:
        text = _PGPASS.sub(lambda each: each[0] if is_ordinary(each[2]) else f"{each[1]}{HIDDEN}", text)
        text = _CURLRC.sub(rf"\1{HIDDEN}", text)
    return _USER.sub(rf"\1{HIDDEN}", _NETRC.sub(rf"\1{HIDDEN}", text))


def _marked(text: str, seen: str) -> str:
    """Without what stands in headers, cookies, keys and elements of a kind."""
    if "digest" in seen:
        text = _DIGEST.sub(rf"\1{HIDDEN}", text)
    if "signedheaders=" in seen:
        text = _SIGNED.sub(rf"\1{HIDDEN}", text)
    if '"kty' in seen:
        text = _JWK.sub(rf'\1"{HIDDEN}"', text)
    if "<cookie" in seen or "<morsel" in seen or "cookie(" in seen:
        text = _COOKIE.sub(lambda found: f"{found[1] or found[2]}{HIDDEN}", text)
    if "<" in text and ('="' in text or "='" in text):
        text = _TAG.sub(_tag, text)
    if "<key>" in seen or "<name>" in seen or "<value>" in seen:
        text = _PLIST.sub(
            lambda each: f"{each[1]}{HIDDEN}" if is_secret(each[2] or each[3]) else each[0], text
        )
    if "secret" in seen and "data" in seen and _MANIFEST.search(text):
        text = _DATA.sub(rf"\1{HIDDEN}\n", text)
    if "(" in text and ("'" in text or '"' in text):
        text = _CALLED.sub(lambda each: each[1] + _QUOTED.sub(rf"\1{HIDDEN}\1", each[2]), text)
    return text


def _tag(found: re.Match[str]) -> str:
    """An element that says by an attribute what its value or its content is."""
    head, end, content = found[0].rpartition(">")
    named = is_secret(head[1:129].split(None, 1)[0].rpartition(":")[2]) or any(
        each[1].lower() in _NAMING and is_secret(each[3]) for each in _ATTRIBUTE.finditer(head)
    )
    if not named:
        return found[0]
    hidden = _ATTRIBUTE.sub(
        lambda each: f"{each[1]}{each[2]}{HIDDEN}" if each[1].lower() in {"value", "default"} else each[0],
        head,
    )
    return hidden + end + (HIDDEN if content.strip() and not head.endswith("/") else content)
