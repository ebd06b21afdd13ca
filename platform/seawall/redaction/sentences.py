# ruff: noqa: E501 - patterns of sentences
"""Secrets in sentences, and in settings like them: `password S was rejected`, `enable secret 5 S`.

Behind a name that is secret (`names`), a few words may stand that lead on (`is`, `set to`, `for ann`). What
comes then is hidden if it is quoted, or if it is no word: it has a digit, an inner capital or a sign in it
that words, numbers, dates, addresses and names of files do not have. A word is hidden where the sentence says
that it was refused, unless it goes with such a name (`password policy is invalid`). So an ordinary word without
quotes is shown where nothing says it is a secret: `the password is wrong`.
"""

import re
from collections.abc import Callable
from typing import Final

from seawall.redaction.names import is_secret
from seawall.redaction.rules import Rule, applied
from seawall.redaction.urls import HIDDEN
from seawall.redaction.words import is_ordinary

_LONGEST_NAME: Final = 128
_BARE: Final = frozenset({"pass", "auth", "tokens", "secrets", "cookies", "sig", "keys", "bearer", "basic"})
"""Names that are rather something else in a sentence, or say that there are several."""
_REACH: Final = 40
_LEADS: Final = frozenset(
    {
        "is", "was", "are", "now", "be", "will", "set", "changed", "reset", "to", "has", "have", "value",
        "the", "a", "an", "new", "given", "provided", "supplied", "mismatch", "expected", "like", "with",
        "->", "<-", "=", "==", "!=", "||", "??", "or", "::=", "=>", "||=", "?=", "+=", ".=", ":", "-", "»",
        "such", "as", "hash", "generated", "error", "incorrect", "decode", "key",
    }
)  # fmt: skip
"""Words after which the secret is still to come."""
_OF: Final = frozenset({"for", "of", "user", "from", "account", "role", "database", "host"})
"""Words behind which stands whose it is."""
_SKIPPED: Final = _OF | {"key"}
_MOST_WORDS: Final = 8
_NEXT: Final = re.compile(
    r"""[ \t]{0,8}+(?:
        (?P<quote>\\?['"`])(?P<quoted>[^'"`\n]{0,512}+)['"`]?+
        |[\u2018\u201c\u00ab](?P<curled>[^\u2019\u201d\u00bb\n]{0,512}+)
        |(?P<open>[(\[<{])(?P<inner>[^\s(\[<{)\]>}]{1,512}+)(?=[)\]>}](?:[\s.,;:)]|\Z))
        |(?:\{\w{2,16}+\})?+(?P<word><-|[^\s'"`(\[<{][^\s'"`<]{0,511}+)
    )""",
    re.VERBOSE,
)
_REFUSED: Final = re.compile(
    r"[ ](?:(?:was|is|has[ ]been)[ ])?(?:not[ ])?"
    r"(?:rejected|refused|wrong|incorrect|invalid|revoked|accepted|denied|too[ ](?:short|weak|common|long))\b"
)
_COMPANIONS: Final = frozenset(
    {
        "reset", "change", "policy", "authentication", "file", "hash", "field", "length", "grant", "prompt",
        "login", "update", "recovery", "request", "rotation", "check", "validation", "verification",
        "manager", "expiry", "entry", "input", "value", "strength", "confirmation", "signature", "issuer",
        "audience", "header", "format", "type", "exchange", "endpoint", "refresh", "scope", "bucket",
        "name", "parameter", "argument", "key", "id", "code", "claim", "encoding", "payload", "response",
        "algorithm", "setting", "option", "you", "that", "which", "it", "he", "she", "they", "and", "or",
        "but", "must", "may", "can", "should", "still", "already", "also", "again", "always", "never",
        "not", "no", "this", "length.", "since", "because", "if", "when", "in", "provider", "store", "user",
        "generation", "introspection", "size", "at", "on", "by",
    }
)  # fmt: skip
"""Words that follow upon such a name and are part of what it names, or lead the sentence on."""
_SHORT: Final = re.compile(r"\d{4,5}")


def is_noun(found: re.Match[str]) -> bool:
    """Whether the name that is followed by a blank may be followed by its value."""
    name = found["name"].lower()
    if found["close"] or found["bracket"]:  # `["password"] "x"`
        return (
            is_secret(name)
            and found["bracket"] == "]"
            and found.string[found.end() : found.end() + 1] in {"'", '"'}
        )
    if name in _BARE or name.startswith("-") or len(name) > _LONGEST_NAME:
        return False
    before = found.string[max(0, found.start() - _REACH) : found.start()]
    last = before.rsplit(None, 1)[-1].lower() if before[-1:] == " " and before.strip() else ""
    if last == "unexpected" or before.endswith("<"):
        return False
    return is_secret(f"{last}_{name}") if name == "key" else is_secret(found["name"])


def is_key(found: re.Match[str]) -> bool:
    """Whether the name is `key` behind what it opens: `License key: S`."""
    before = found.string[max(0, found.start() - _REACH) : found.start()]
    return (
        found["name"].lower() == "key"
        and bool(before[-1:] == " " and before.strip())
        and is_secret(f"{before.split()[-1]}_key")
    )


def spoken(text: str, start: int, name: str) -> tuple[int, int]:
    """Where the value stands that a sentence goes on with behind a name; nothing if there is none."""
    skip = False
    place = start
    for _ in range(_MOST_WORDS):
        found = _NEXT.match(text, place)
        if found is None:
            break
        if skip and found.lastgroup != "inner":
            skip = _lower(found) in _SKIPPED
            place = found.end()
            continue
        if (word := found["word"]) is None:
            return _enclosed(found, start)
        bare = word.rstrip(",.;:!?").lower() or word
        if bare in _OF:
            skip = True
        elif bare not in _LEADS and not (len(word) == 1 and word.isdigit()):
            return _judged(text, found, name) or (start, start)
        place = found.end()
    return start, start


def _lower(found: re.Match[str]) -> str:
    return (found["word"] or "").lower()


def _enclosed(found: re.Match[str], start: int) -> tuple[int, int]:
    group = next(each for each in ("quoted", "curled", "inner") if found[each] is not None)
    content = found[group]
    if not any(map(str.isalnum, content)) or (group == "inner" and is_ordinary(content)):
        return start, start
    return found.span(group)


def _judged(text: str, found: re.Match[str], name: str) -> tuple[int, int] | None:
    word = found["word"].lstrip(">#").rstrip(",.;:!?)]}>'\"")
    begin = found.start("word") + found["word"].find(word)
    short = name.lower() in {"pin", "otp"} and _SHORT.fullmatch(word)
    if found["word"].endswith(":") or not word:
        return None
    if not is_ordinary(word) or short:
        return begin, begin + len(word)
    refused = word.lower() not in _COMPANIONS and word.isalnum() and _REFUSED.match(text, found.end())
    return (begin, begin + len(word)) if refused else None


_NOUN: Final = (
    r"(?:password|passphrase|passcode|token|secret|(?:api|access|private|secret|account|signing|encryption)[ _-]key"
    r"|(?:verification|login|security|one-time|confirmation)[ -]code|[A-Z]-code|credential|pin|otp)"
)
_FORE: Final = re.compile(
    r"(?<![^\s(\['\"`])(['\"`]?+)([^\s'\"`(\[][^\s'\"`]{3,511}+)"
    r"(['\"`]?+[ ](?:is|as|for|!=|==)[ ](?:not[ ])?(?:an?[ ]|the[ ]|your[ ])?"
    rf"(?:valid[ ]|field[ ]|login[ ])?(?:settings\.)?{_NOUN}\b)",
    re.IGNORECASE,
)
_PAIRED: Final = re.compile(
    r"(\b(?:credentials?|creds|login|logg(?:ed|ing)[ ]in[ ]as|(?:user|username)[:/]password|basic[ ]auth"
    r"|auth(?:entication)?)(?:[ ](?:failed|for|as|are)){0,2}+[: ]{1,2}+\(?"
    r"(?:[\w.@-]{1,64}+(?:[ ]?[:/,][ ]?|[ ](?:and[ ])?))?+)([^\s'\",;)]{4,512}+)",
    re.IGNORECASE,
)
_OTHERWISE: Final = re.compile(
    r"(\b(?:your[ ](?:\w{1,16}+[- ]){0,2}code(?:[ ]is|:)"
    r"|(?:verification|confirmation|security|login|one-time)[ ]code(?:[ ]is|:)?+"
    r"|session(?:[ ]id)?+|cookie[ ]['\"]?[\w-]{1,64}+['\"]?[ ](?:is|=)|cookie[ ][\w-]{1,64}+"
    r"|(?:user|login)[ ][^\s'\"]{1,64}+[ ]pass"
    r"|temporary[ ]password[ ]is[ ]generated[ ]for[ ]\S{1,128}+:|client[ ]secret[ ]provided:|connection[ ]string"
    r"|(?:authorization|cookie)[ ]header:?|got[ ]header[ ][\w-]{1,64}+[ ]with[ ]value"
    r"|(?:rw|ro)community|snmp-server[ ]community"
    r"|(?:tacacs|radius)-server[ ]key|isakmp[ ]key)[ ](?:\d[ ])?['\"]?)([^\s'\",]{4,512}+)"
    r"|(\b(?:use|enter|with)[ ])(\S{4,64}+)(?=[ ](?:as[ ]your|token|password)\b)",
    re.IGNORECASE,
)


def without_sentences(text: str, seen: str) -> str:
    """`text` without those before what says that they are secret, and pairs of a user and a secret."""
    return applied(RULES, text, seen)


def _unless_ordinary(group: int | None) -> Callable[[re.Match[str]], str]:
    def shown(found: re.Match[str]) -> str:
        place = group or (2 if found[2] is not None else 4)
        word = found[place].rstrip(".,;:!?")
        if is_ordinary(word) and not (word.isdigit() and place != group):
            return found[0]
        begin = found.start(place) - found.start()
        return found[0][:begin] + HIDDEN + found[0][begin + len(word) :]

    return shown


RULES: Final = (
    Rule(("pass", "token", "secret", "key", " code", "-code", "creden", "pin", "otp"), _FORE, _unless_ordinary(2)),
    Rule(
        ("creden", "creds", "login ", "login:", "in as", "password", "auth"), _PAIRED, _unless_ordinary(2)
    ),
    Rule(
        (
            " code", "-code", "sess", "cookie ", " pass ", "password", "secret ", "token", "connection string",
            "authorization header", "got header ", "community", " key ", " as your",
        ),
        _OTHERWISE,
        _unless_ordinary(None),
    ),
)  # fmt: skip
"""In this order."""
