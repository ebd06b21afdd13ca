"""Secrets by their own form: PEM, tokens of services, commands, and messages of libraries that hold one.

The patterns keep to the rules of `texts`, and look only where the text holds what is in all of their matches.
"""

import re
from typing import Final

from seawall.redaction.names import is_secret
from seawall.redaction.urls import HIDDEN, hide_in_text

_PEM: Final = re.compile(
    r"-{4,5} ?BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?+ ?-{4,5}"
    r"(?:(?!---- ?END).)*+(?:---- ?END[^\n]{0,60}?----)?"
    r"|(?<=Private-Lines: )\d(?:(?!Private-MAC|\n\n|\\n\\n).)*+",
    re.DOTALL,
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
        | SG\.[\w-]{16,}+\.[\w-]{16,}+ | (?:bot)?\d{8,10}:[\w-]{30,}+
    )""",
    re.VERBOSE,
)
_SQL: Final = re.compile(r"\b((?:password|identified by)[ \t]{1,4}+E?)'(?:[^']|'')*+'?", re.IGNORECASE)
_NETRC: Final = re.compile(r"(\blogin[ \t]{1,4}+\S{1,64}+[ \t]{1,4}+password[ \t]{1,4}+)\S++")
_USER: Final = re.compile(
    r"((?<![\w-])(?:-u|--user|--proxy-user)(?:[ =]{1,2}|['\"],[ ]?)['\"]?[^\s:'\"]{1,128}+:)[^\s'\"]++"
)
_KEY: Final = re.compile(r"(Key \(([^)\n]{0,512}+)\)=\()([^\n]*+)")
_DIGEST: Final = re.compile(
    r"(\bdigest\b(?:(?!\bdigest\b)[^\n]){0,1024}?\bresponse=)\"[^\"]*+\"", re.IGNORECASE
)
_SHELL: Final = re.compile(
    r"(\b(?:(?:sshpass|mysql\w{0,8}|docker login|redis-cli|az login|7z[ar]?)\b"
    r"[^\n]{0,128}?(?:\s|['\"],[ ]?['\"])-[pa]"
    r"|(?:openssl|ssh-keygen|zip|ldap\w{3,8})\b[^\n]{0,128}?(?:\s|['\"],[ ]?['\"])-[kPNw])"
    r"(?:\s|['\"],[ ]?['\"])?|\bsmbclient\b[^\n]{0,128}?-U[ =]?[^\s%]{1,64}+%|\bvault login[ ](?!-)"
    r"|\baws configure set[ ](?:aws_secret_access_key|aws_session_token)[ ])[^\s'\"]++"
)
_SIGNED: Final = re.compile(r"(\bSignedHeaders=[\w;-]{0,512}+,\s?Signature=)[^\s,'\"]++")
_BAD_URL: Final = re.compile(
    r"((?:\bnonnumeric port: ['\"]|\bInvalid URL ['\"][^\s:'\"/]{1,64}+:))[^'\"\n]{1,256}(?=@)"
)
_HEADER_PART: Final = re.compile(
    r"(\bHeader part \()(?=(?:(?!Header part \()[^\n]){0,4096}?\) from \(b?['\"]([\w-]{1,64}+)['\"])"
    r"[^\n]{0,4096}?(?=\) from \()"
)
_DSN: Final = re.compile(r"(?<!\S)([^\s:@/]{1,64}+:)[^\s@]{1,128}+(?=@(?:tcp|unix)\()")
_FIELD: Final = re.compile(
    r"""(['"]loc['"]:\s?[(\[]([^)\]\n]{0,512}+)[)\]][^{}\n]{0,512}?['"]input['"]:\s?)[^}\n]*+"""
)
_NAMED: Final = re.compile(
    r"""(\b(?:name|key|id|field|header)(?:=['"]|:\s{0,4}['"]?)([\w.-]{1,64}+)['"]?[^\n>]{0,64}?\s{1,20}value(?:=|:\s?)['"]?)[^\s'">]++"""
)
_TAG: Final = re.compile(r"<[a-z][\w:.-]{0,63}+\s[^<>]{0,4096}+>[^<]*+", re.IGNORECASE)
_ATTRIBUTE: Final = re.compile(r"""(?<=\s)([\w:.-]{1,64}+)(\s{0,4}=\s{0,4}['"])([^'"]*+)""")
_NAMING: Final = frozenset({"name", "key", "id", "field", "header", "property"})
"""Attributes that say what the element's `value` or its content is."""
_ROW: Final = re.compile(r"(Failing row contains \()([^\n]*+)")
_INPUT: Final = re.compile(r"(?<=input_value=)[^\n]++")
_TYPE: Final = ", input_type="
_LOCATION: Final = 2048
"""Characters before a value of pydantic's in which its location is looked for."""


def without_forms(text: str, seen: str) -> str:
    """`text` without those; `seen` is `text` in lower case."""
    if "private" in seen:
        text = _PEM.sub(HIDDEN, text)
    text = hide_in_text(text)
    text = _typed_in_shells(_said_by_libraries(text, seen), seen)
    text = _DSN.sub(rf"\1{HIDDEN}", text)
    text = _ROW.sub(_to_last_bracket, text)
    text = _TOKENS.sub(HIDDEN, text)
    text = _SCHEME.sub(lambda found: f"{found[found.lastindex or 0]} {HIDDEN}", text)
    text = _SQL.sub(rf"\1'{HIDDEN}'", _NETRC.sub(rf"\1{HIDDEN}", text))
    return _USER.sub(rf"\1{HIDDEN}", text)


def _said_by_libraries(text: str, seen: str) -> str:
    if "input_value=" in seen:
        text = _INPUT.sub(_input, text)
    if "key (" in seen:
        text = _KEY.sub(_columns, text)
    if "digest" in seen:
        text = _DIGEST.sub(rf"\1{HIDDEN}", text)
    if "value" in seen or "input" in seen:
        text = _FIELD.sub(_named, _NAMED.sub(_named, text))
    if "<" in text and ('="' in text or "='" in text):
        text = _TAG.sub(_tag, text)
    if "signedheaders=" in seen:
        text = _SIGNED.sub(rf"\1{HIDDEN}", text)
    if "url" in seen or "port" in seen:
        text = _BAD_URL.sub(rf"\1{HIDDEN}", text)
    if "header part" in seen:
        text = _HEADER_PART.sub(_named, text)
    return text


def _typed_in_shells(text: str, seen: str) -> str:
    if any(each in seen for each in (" -", "'-", '"-', "vault", "aws")):
        text = _SHELL.sub(rf"\1{HIDDEN}", text)
    return text


def _input(found: re.Match[str]) -> str:
    """Pydantic shows the input: by its location, and where it is cut, nobody knows a name any more."""
    value, mark, kind = found[0].rpartition(_TYPE)
    if not mark:
        value, kind = found[0], ""
    before = found.string[max(0, found.start() - _LOCATION) : found.start()].split("\n")
    located = len(before) > 1 and any(map(is_secret, before[-2].strip().split(".")))
    cut = "..." in value and not value.startswith(("'", '"'))
    return f"{HIDDEN}{mark}{kind}" if located or cut else found[0]


def _named(found: re.Match[str]) -> str:
    """A value that is named elsewhere: by pydantic's `loc`, by a form's or a manifest's `name`."""
    return f"{found[1]}{HIDDEN}" if any(map(is_secret, re.split("[^\\w-]+", found[2]))) else found[0]


def _tag(found: re.Match[str]) -> str:
    """An element that says by an attribute what its value or its content is."""
    head, end, content = found[0].rpartition(">")
    named = any(each[1].lower() in _NAMING and is_secret(each[3]) for each in _ATTRIBUTE.finditer(head))
    if not named:
        return found[0]
    hidden = _ATTRIBUTE.sub(
        lambda each: f"{each[1]}{each[2]}{HIDDEN}" if each[1].lower() in {"value", "default"} else each[0],
        head,
    )
    return hidden + end + (HIDDEN if content.strip() and not head.endswith("/") else content)


def _columns(found: re.Match[str]) -> str:
    if not any(map(is_secret, found[2].split(","))):
        return found[0]
    return f"{found[1]}{HIDDEN}{_from_last_bracket(found[3])}"


def _to_last_bracket(found: re.Match[str]) -> str:
    return f"{found[1]}{HIDDEN}{_from_last_bracket(found[2])}"


def _from_last_bracket(text: str) -> str:
    _, bracket, after = text.rpartition(")")
    return bracket + after if bracket else ""
