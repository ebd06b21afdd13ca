"""Secrets in what clients say to servers: SQL, Redis, mail and FTP, as drivers and logs show it."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from seawall.redaction.names import is_secret
from seawall.redaction.rules import Rule, applied, holds_secret_name
from seawall.redaction.urls import HIDDEN
from seawall.redaction.words import is_ordinary

_PAIRED: Final = {
    "HSET": 2, "HMSET": 2, "HSETNX": 2, "XADD": 3, "CONFIG": 2, "SET": 1, "SETNX": 1, "GETSET": 1,
    "APPEND": 1, "MSET": 1, "MSETNX": 1,
}  # fmt: skip
"""Where in a command of Redis names and their values begin, one after the other."""
_KEYED: Final = {
    "HSET": 3, "HMSET": 3, "HSETNX": 3, "SETEX": 3, "PSETEX": 3, "SETRANGE": 3, "LPUSH": 2, "RPUSH": 2,
    "SADD": 2, "PUBLISH": 2,
}  # fmt: skip
"""Where what a key holds begins: all of it is secret if the key is called so."""
_ADMITTING: Final = {"HELLO": 2, "MIGRATE": 1}
"""Commands that may hold an AUTH of their own, and how far behind it the secret stands."""
_RULES_OF_USERS: Final = frozenset({">", "<", "#", "!"})
_OTHER_WORDS: Final = frozenset({*_ADMITTING, "ACL"})
"""In small letters those are hardly commands."""
COMMANDS: Final = frozenset({*_PAIRED, *_KEYED, *_ADMITTING, "AUTH", "ACL"})
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
_PARAMETERS: Final = re.compile(
    r"(\[parameters:[ ]|\[(?:generated|cached|raw sql|no key|caching|dialect)[^\]\n]{0,64}+\][ ]|;[ ]args="
    r"|\bparameters:[ ](?=\$1)|\b(?:with[ ])?(?:parameters|params|args)(?:=|:[ ]|[ ](?=[\[({]))"
    r"|['\"],[ ](?=[\[({])|[ ]--[ ](?=\[)|[ ]{2}(?=\[\[))[^\n]*+",
    re.IGNORECASE,
)
"""What a driver has sent, below or behind the statement."""
_WRITING: Final = ("insert into ", "update ", "replace into ", "merge into ")
_VERBS: Final = (*_WRITING, "select ", "delete from ")
_LONGEST_VERB: Final = 16
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
_SPOKEN: Final = re.compile(
    rf"(?:b?(['\"])(?:{'|'.join(sorted(COMMANDS))})\1"
    r"(?:,?[ ]b?(?:'[^'\n]{0,512}+'|\"[^\"\n]{0,512}+\"|\d{1,16}+)){1,64}+"
    r"|(?<![\w'\"])(?:H(?:M?SET|SETNX)|MSET(?:NX)?|P?SETEX|XADD)"
    r"(?:[ ](?:'[^'\n]{0,512}+'|\"[^\"\n]{0,512}+\"|[^\s'\"]{1,512}+)){2,64}+)"
)
"""A command of Redis, as clients and MONITOR show its words."""
_SPOKEN_WORD: Final = re.compile(r"(b?)(?:'([^'\n]*+)'|\"([^\"\n]*+)\"|([^\s'\",]++))")
_WIRE: Final = re.compile(
    r"(\$4(EOL)AUTH(?:EOL)\$\d{1,6}+(?:EOL)(?:[^\r\n\\]{1,512}+(?:EOL)\$\d{1,6}+(?:EOL))?)".replace(
        "EOL", r"\r?\n|(?:\\{1,15}+r)?\\{1,15}+n"
    )
    + r"[^\r\n\\]++"
)
"""`AUTH` as it goes over the wire."""
_MAIL: Final = re.compile(
    r"(\bAUTH(?:ENTICATE)?[ ](?:PLAIN|LOGIN|XOAUTH2|CRAM-MD5|NTLM)[ ]"
    r"(?!PLAIN\b|LOGIN\b|XOAUTH2|CRAM|NTLM|SCRAM|DIGEST)"
    r"|\b[A-Za-z]{1,6}\d{1,6}[ ]LOGIN[ ](?:\"[^\"\n]{0,128}+\"|[^\s\"]{1,128}+)[ ]"
    r"|\ALOGIN[ ]\"[^\"\n]{0,128}+\"[ ]"
    r"|\bPASS[ ](?=[^\s'\"\\]{1,256}+(?:['\"]|\\r|\r))|\bUSERPASS[ ])(?:\"[^\"\n]*+\"?|[^\s'\"\\]++)"
)


def secrets_of_redis(words: Sequence[object]) -> dict[int, str]:
    """What is shown instead of which words of a command of Redis; nothing in another list."""
    said = [word if isinstance(word, str) else "" for word in words]
    command = said[0].upper() if said else ""
    if command not in COMMANDS or (command in _OTHER_WORDS and said[0] != command):
        return {}
    if command == "ACL":
        rules = [
            (place, word[:1]) for place, word in enumerate(said) if place >= len(("ACL", "SETUSER", "ann"))
        ]
        return {place: f"{sign}{HIDDEN}" for place, sign in rules if sign in _RULES_OF_USERS}
    places = _of_auth(said) if command == "AUTH" else _of_redis(command, said)
    return {place: HIDDEN for place in places if place < len(said)}


def _of_auth(said: Sequence[str]) -> Iterator[int]:
    """`AUTH S` and `AUTH ann S`; in small letters that may be other words."""
    sure = said[0].isupper() or not is_ordinary(said[-1])
    if sure and len(said) in {2, 3}:
        yield len(said) - 1


def _of_redis(command: str, said: Sequence[str]) -> Iterator[int]:
    if len(said) > 1 and command in _KEYED and holds_secret_name(said[1]):
        yield from range(_KEYED[command], len(said), 2 if command in _PAIRED else 1)
    if command in _PAIRED:
        names = range(_PAIRED[command], len(said) - 1, 2)
        yield from (place + 1 for place in names if holds_secret_name(said[place]))
    if command in _ADMITTING:
        behind = {"AUTH": _ADMITTING[command], "AUTH2": 2}
        yield from (place + behind[word.upper()] for place, word in enumerate(said) if word.upper() in behind)


def without_said(text: str, seen: str) -> str:
    """`text` without those; `seen` is `text` in lower case."""
    if "[parameters:" in seen or any(verb in seen for verb in _VERBS):
        text = _without_parameters(text)
    return applied(RULES, text, seen)


def _inserted(found: re.Match[str]) -> str:
    """All values of a row that has one in a column of a secret name: which is whose is a parser's matter."""
    hidden = any(map(is_secret, found[2].split(","))) and "'" in found[3]
    return f"{found[1]}{HIDDEN}" if hidden else found[0]


def _without_parameters(text: str) -> str:
    """Drivers show what they have sent below the statement, or behind it; nothing is looked at twice."""
    pieces: list[str] = []
    end = 0
    for found in _PARAMETERS.finditer(text):
        before = text[max(end, found.start() - _STATEMENT) : found.start()]
        statement = _statement(before, found[1])
        if text.startswith("$1", found.end(1)):  # a server's own log has it below
            after = text[found.end() : found.end() + _STATEMENT].partition("STATEMENT:")[2]
            statement += " " + after.partition("\n")[0]
        hidden = any(map(is_secret, _COLUMN.findall(statement)))
        pieces += (text[end : found.start()], f"{found[1]}{HIDDEN}]" if hidden else found[0])
        end = found.end()
    return "".join((*pieces, text[end:]))


def is_about_secrets(statement: object) -> bool:
    """Whether that is a statement of SQL with a secret column, whose parameters are not shown therefore."""
    if not isinstance(statement, str):
        return False
    begin = statement[:_STATEMENT].lstrip()
    return begin[:_LONGEST_VERB].lower().startswith(_VERBS) and any(map(is_secret, _COLUMN.findall(begin)))


def _statement(before: str, mark: str) -> str:
    """The statement to which parameters belong."""
    if mark.lower().startswith("[parameters"):
        return before.rpartition("[SQL:")[2]
    seen = before.lower()
    begin = max(map(seen.rfind, _WRITING))
    if begin < 0:
        begin = max(map(seen.find, _VERBS))
    return before[begin:] if begin >= 0 else ""


def _spoken(found: re.Match[str]) -> str:
    """A command of Redis by the rule for lists of words."""
    words = list(_SPOKEN_WORD.finditer(found[0]))
    shown = secrets_of_redis([word[word.lastindex or 0] for word in words])
    pieces, end = [], 0
    for place in sorted(shown):
        begin, upto = words[place].span(words[place].lastindex or 0)
        pieces += [found[0][end:begin], shown[place]]
        end = upto
    return "".join((*pieces, found[0][end:]))


def _duplicated(found: re.Match[str]) -> str:
    return f"{found[1]}'{HIDDEN}'" if is_secret(found[2]) else found[0]


RULES: Final = (
    Rule(
        tuple(f"{command.lower()}{end}" for command in sorted(COMMANDS) for end in (" ", "'", '"')),
        _SPOKEN,
        _spoken,
        named=True,
    ),
    Rule(("insert into ",), _INSERT, _inserted, named=True),
    Rule(("duplicate entry ",), _DUPLICATE, _duplicated, named=True),
    Rule(
        ("auth ", "requirepass", "setuser", " >", " #", "'>", "'#", '">', '"#', "with args beginning"), _REDIS
    ),
    Rule(("$4",), _WIRE),
    Rule(("auth", "login ", "pass "), _MAIL),
    Rule(("password", "secret", "identified", "crypt"), _SQL, rf"\1'{HIDDEN}'"),
)
"""In this order."""
