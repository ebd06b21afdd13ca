# ruff: noqa: E501 - tables
"""Secrets by their own form: PEM, JWK, headers, cookies, elements, and with `tokens` those of services.

What is typed, sent and printed has modules of its own: `commands`, `protocols`, `messages`.

The patterns keep to the rules of `texts`, and look only where the text holds what is in all of their matches.
"""

import re
from typing import Final

from seawall.redaction import tokens
from seawall.redaction.commands import without_typed
from seawall.redaction.messages import without_messages
from seawall.redaction.names import JWK, is_secret
from seawall.redaction.protocols import without_said
from seawall.redaction.rules import Rule, applied
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
_JWK: Final = re.compile(rf"(['\"](?:{'|'.join(JWK)})\\{{0,15}}+['\"]\s?:\s?b?\\{{0,15}}+['\"])[^'\"\\]*+")
_COOKIE: Final = re.compile(
    r"(<(?:Cookie|Morsel:)[ ][^\s=>]{1,128}+=)[^\s>]++|(\bCookie\('[^'\n]{1,128}+', ')[^'\n]++"
)
_KTY: Final = re.compile("['\"]kty")
"""In it are the other fields' meanings."""
_SCHEME: Final = re.compile(
    r"\b(?:(bearer)[ \t]{1,4}+(?!tokens?\b|auth)[\w.~+/=-]{6,}+"
    r"|(basic)[ \t]{1,4}+(?=[\w.~+/-]{0,64}[\d=])[\w.~+/=-]{6,}+"
    r"|(token)[ \t]{1,4}+(?=[\w.~+/-]{0,64}\d)[\w.~+/-]{8,}+={0,2}(?![\w=]))",
    re.IGNORECASE,
)
_FIELDS: Final = "code|sid|session|sess|st|s|hash|mac|digest|verify|appid|access|private|policy|ott|sas"
_QUERY: Final = re.compile(
    rf"((?:(?:[?&#;]|\\u0026)(?:{_FIELDS})=|(?:%3F|%26)(?:{_FIELDS})%3D))([^\s&#'\"<>;%]{{4,}}+)",
    re.IGNORECASE,
)
"""Fields of a query that are secret if what they hold is no word and no number."""
_SESSION: Final = re.compile(
    r"((?<![\w.-])(?:[\w.-]{0,64}?sess(?:ion)?|wordpress_\w{1,64}+|(?:[a-z]{2,16}+\.)?sid)=)([^\s;,&'\"<>%]{8,}+)",
    re.IGNORECASE,
)
"""A cookie of a session, whatever the framework calls it: `laravel_session=...`."""
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
    r"((?<![\w-])(?:string)?data['\"]?:\s?)(?:\{(?:[^{}]|\{[^{}]*+\})*+\}?|\n(?:[ \t]{1,16}+[^\n]*+(?:\n|\Z))++)",
    re.IGNORECASE,
)
_CALLS: Final = (
    "login", "authenticate", "fernet", "stripe", "telegrambot", "telebot", "asynctelebot", "getconnection", "hashpw",
    "checkpw", "hmac.new", "jwt.encode", "jwt.decode", "cookies.set", "set_cookie", "check_password_hash",
    "pymysql.connect", "mysqldb.connect", "psycopg.connect", "psycopg2.connect", "asyncpg.connect", "simple_bind",
    "simple_bind_s", "mysqli_connect", "pdo", "ftp", "ftp_tls", "minio", "ldap3.connection", "pbkdf2_hmac",
    "create_user", "create_superuser", "argon2.hash", "urlsafeserializer", "urlsafetimedserializer", "signer",
    "timestampsigner", "sendgridapiclient", "oauthhandler", "oauth1userhandler", "github", "twilio.rest.client",
)  # fmt: skip
_CALLED: Final = re.compile(
    rf"((?<![\w-])(?:{'|'.join(map(re.escape, _CALLS))}|require\('stripe'\)"
    r"|connect(?=\(['\"][^'\"\n]{0,128}['\"],[^'\"()\n]{0,16}['\"][^'\"\n]{0,128}['\"],\s?['\"]))\()([^'\"()\n]{0,128}+"
    r"(?:['\"][^'\"\n]{0,256}+['\"][^'\"()\n]{0,128}+){1,5}+)",
    re.IGNORECASE,
)
"""Calls that take a secret without a name for it: what is quoted in them is hidden."""
_QUOTED: Final = re.compile(r"(['\"])[^'\"\n]{1,256}+(?=['\"])(?:['\"])")
_PGPASS: Final = re.compile(
    r"(?<![^\s'\"(])([\w.*-]{1,128}+:(?:[0-9]{4,5}|\*):[\w.*-]{1,64}+:[\w.*-]{1,64}+:)([^\s:'\")]{4,512}+)"
)
_CURLRC: Final = re.compile(r"(\buser ?=\s?['\"][^\s:'\"]{1,64}+:)[^\s'\"]++")
_NAMING: Final = frozenset({"name", "key", "id", "field", "header", "property"})
"""Attributes that say what the element's `value` or its content is."""


def without_forms(text: str, seen: str) -> str:
    """`text` without those; `seen` is `text` in lower case."""
    text = hide_in_text(applied(KEYS, text, seen))
    text = without_messages(applied(QUERIES, text, seen), seen)
    text = without_sentences(without_said(without_typed(text, seen), seen), seen)
    return applied(MARKED, text, seen)


def _tag(found: re.Match[str]) -> str:
    """An element that says by an attribute what its value or its content is."""
    head, end, content = found[0].partition(">")
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


def _unless_ordinary(found: re.Match[str]) -> str:
    return found[0] if is_ordinary(found[2]) else f"{found[1]}{HIDDEN}"


def _scheme(found: re.Match[str]) -> str:
    return f"{found[found.lastindex or 0]} {HIDDEN}"


def _cookie(found: re.Match[str]) -> str:
    return f"{found[1] or found[2]}{HIDDEN}"


def _plist(found: re.Match[str]) -> str:
    return f"{found[1]}{HIDDEN}" if is_secret(found[2] or found[3]) else found[0]


def _called(found: re.Match[str]) -> str:
    return found[1] + _QUOTED.sub(rf"\1{HIDDEN}\1", found[2])


KEYS: Final = (Rule(("private", "static key"), _PEM, HIDDEN),)
QUERIES: Final = (
    Rule(("=", "%3d"), _QUERY, _unless_ordinary, sign=re.compile(rf"[?&#;6f](?:{_FIELDS})(?:=|%3d)")),
    Rule(("sess=", "session=", "sid=", "wordpress_"), _SESSION, _unless_ordinary),
    Rule(("grant_type",), _GRANT, beside=_GRANTED),
)
MARKED: Final = (
    Rule(('response="',), _DIGEST, rf'\1"{HIDDEN}"'),
    Rule(("signature=",), _SIGNED),
    Rule(("kty",), _JWK, beside=_KTY),
    Rule(("<cookie", "<morsel", "cookie("), _COOKIE, _cookie),
    Rule(("<",), _TAG, _tag, named=True),
    Rule(("<key>", "<name>", "<value>"), _PLIST, _plist, named=True),
    Rule(("secret",), _DATA, rf"\1{HIDDEN}\n", beside=_MANIFEST),
    Rule(("connect(", "stripe", *(f"{each}(" for each in _CALLS)), _CALLED, _called),
    Rule(("@tcp(", "@unix("), _DSN),
    *tokens.RULES,
    Rule(("bearer", "basic", "token"), _SCHEME, _scheme),
    Rule((":",), _PGPASS, _unless_ordinary, sign=re.compile(r":(?:[0-9]{4,5}|\*):")),
    Rule(("user=", "user ="), _CURLRC),
    Rule(("login",), _NETRC, named=True),
    Rule(("-u",), _USER),
)  # fmt: skip
"""All in this order."""
