"""Secrets in what clients say to servers: SQL, Redis, mail and FTP, as drivers and logs show it."""

import re
from typing import Final

from seawall.redaction.names import is_secret
from seawall.redaction.rules import Rule, applied
from seawall.redaction.urls import HIDDEN

_SQL: Final = re.compile(
    r"\b((?:(?:password|secret)[ \t]{1,4}+E?"
    r"|identified[ \t]{1,4}+(?:with[ \t]{1,4}+[\w'\"]{1,64}+[ \t]{1,4}+)?(?:by|as)[ \t]{1,4}+"
    r"|set[ \t]{1,4}+password[^=;\n]{0,128}+=[ \t]{0,4}+(?:password[ \t]{0,4}+\()?"
    r"|set[ \t]{1,4}+password[ \t]{1,4}+from[^;\n]{1,128}?[ \t]to[ \t]{1,4}+"
    r"|pgp_(?:sym|pub)_(?:en|de)crypt(?:_bytea)?\([^\n']{0,512}+(?:'(?:[^'\n]|''){0,512}+',[ \t]{0,4}+)?"
    r"|(?<!\w)crypt\([ \t]{0,4}+))"
    r"(?:'(?:[^']|'')*+'?|(?<=by )\"[^\"\n]*+\"?|(?<=password\()\"[^\"\n]*+\"?)",
    re.IGNORECASE,
)
_INSERT: Final = re.compile(
    r"\b(insert[ ]into[ ][^\s(]{1,128}+\s{0,4}+\(([^()\n]{0,2048}+)\)\s{0,4}+values\s{0,4}+\()"
    r"((?:[^'()]|\((?:[^()']){0,128}+\)|'(?:[^']|'')*+')*+)",
    re.IGNORECASE,
)
_PARAMETERS: Final = re.compile(r"(\[parameters:[ ])[^\n]*+")
_COLUMN: Final = re.compile(r"[A-Za-z_]\w{2,63}+")
_STATEMENT: Final = 4096
"""Characters before parameters in which names of columns are looked for."""
_DUPLICATE: Final = re.compile(r"(\bDuplicate entry )'[^\n]{0,256}?'(?= for key ['\"]?([\w.]{1,128}+))")
_REDIS: Final = re.compile(
    r"(\bAUTH(?=[ ]\S{1,256}+[ ]?\S{0,256}+\)|[ ]default[ ]|[ ]\w{1,64}+[ ]\S{1,256}+\Z)[ ](?:default[ ])?"
    r"|(?:\A|(?<=['\"])|(?<=[ ]3[ ]))AUTH[ ]"
    r"(?!failed|required|error|succe|ok\b|is\b|not\b|was\b)(?:(?!PLAIN|LOGIN)\w{1,64}+[ ](?=\S))?"
    r"|\b(?:requirepass|masterauth)[ ]+|\b(?:ACL SETUSER|user \w{1,64}+ on)\b[^\n]{0,256}?[ ]['\"]?[>#]"
    r"|\bunknown command [`'\"](?:AUTH|HELLO|ACL|CONFIG)[`'\"], with args beginning with: )"
    r"[^\s'\")][^\n'\")]{0,512}+",
    re.IGNORECASE,
)
_MAIL: Final = re.compile(
    r"(\bAUTH(?:ENTICATE)?[ ](?:PLAIN|LOGIN|XOAUTH2|CRAM-MD5|NTLM)[ ]"
    r"(?!PLAIN\b|LOGIN\b|XOAUTH2|CRAM|NTLM|SCRAM|DIGEST)"
    r"|\b[A-Za-z]{1,6}\d{1,6}[ ]LOGIN[ ](?:\"[^\"\n]{0,128}+\"|[^\s\"]{1,128}+)[ ]"
    r"|\ALOGIN[ ]\"[^\"\n]{0,128}+\"[ ]"
    r"|\bPASS[ ](?=[^\s'\"\\]{1,256}+(?:['\"]|\\r|\r))|\bUSERPASS[ ])(?:\"[^\"\n]*+\"?|[^\s'\"\\]++)"
)


def without_said(text: str, seen: str) -> str:
    """`text` without those; `seen` is `text` in lower case."""
    return applied(RULES, _without_parameters(text) if "[parameters:" in seen else text, seen)


def _inserted(found: re.Match[str]) -> str:
    """All values of a row that has one in a column of a secret name: which is whose is a parser's matter."""
    hidden = any(map(is_secret, found[2].split(","))) and "'" in found[3]
    return f"{found[1]}{HIDDEN}" if hidden else found[0]


def _without_parameters(text: str) -> str:
    """SQLAlchemy shows what it has sent below the statement; nothing is looked at twice."""
    pieces: list[str] = []
    end = 0
    for found in _PARAMETERS.finditer(text):
        statement = text[max(end, found.start() - _STATEMENT) : found.start()].rpartition("[SQL:")[2]
        hidden = any(map(is_secret, _COLUMN.findall(statement)))
        pieces += (text[end : found.start()], f"{found[1]}{HIDDEN}]" if hidden else found[0])
        end = found.end()
    return "".join((*pieces, text[end:]))


def _duplicated(found: re.Match[str]) -> str:
    return f"{found[1]}'{HIDDEN}'" if is_secret(found[2]) else found[0]


RULES: Final = (
    Rule(("insert into ",), _INSERT, _inserted, named=True),
    Rule(("duplicate entry ",), _DUPLICATE, _duplicated, named=True),
    Rule(
        ("auth ", "requirepass", "setuser", " >", " #", "'>", "'#", '">', '"#', "with args beginning"), _REDIS
    ),
    Rule(("auth", "login ", "pass "), _MAIL),
    Rule(("password", "secret", "identified", "crypt"), _SQL, rf"\1'{HIDDEN}'"),
)
"""In this order."""
