"""The one rule for names: what is called so is a secret, as a key, an argument, a header, a flag or in text.

A name is taken apart into words (`dbPassword`, `X-Api-Key`, `PGPASSWORD2`); some words are secret by
themselves, some as the end of a longer one without a boundary (`accesstoken`), some kinds of key only with
what they open (`api_key`, but not `primary_key`). Names that say how many, how long or of which kind are none
(`max_tokens`, `token_type`). `add` gives the application's own, which are secret in any spelling.
"""

import functools
import re
from collections.abc import Iterable
from typing import Final

_LONGEST: Final = 128
"""Characters of a name that are looked at, its last ones."""

_WORDS: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_SECRET: Final = frozenset(
    {
        "pwd", "pw", "pin", "otp", "totp", "jwt", "cvv", "cvc", "csc", "cookie", "secret", "token",
        "password", "passwd", "passphrase", "passcode", "authorization", "credential", "cred", "apikey",
        "sessid", "sessionid", "bearer", "psk", "passwort", "kennwort", "requirepass", "masterauth",
        "motdepasse", "contrasena", "mnemonic", "seedphrase", "ssn", "xsrf", "csrf", "passw", "passkey",
    }
)  # fmt: skip
_INSIDE: Final = ("password", "passwd", "passphrase")
_SPELT: Final = re.compile(r"p[a4][s5]{2}w[o0]?r?d(?![a-z])", re.IGNORECASE)
"""`passw0rd`, `pa55word`: digits for letters."""
_ENDINGS: Final = (
    "secret", "token", "cookie", "jwt", "pwd", "credential", "authorization", "passcode",
    "pw", "apikey", "accesskey", "secretkey", "privatekey", "authkey", "sessionid", "sessid",
    "accountkey", "signingkey", "encryptionkey", "masterkey",
)  # fmt: skip
_LAST: Final = frozenset({"pass", "auth"})
"""Secret only where a name ends with them: `smtp_pass`, `basic_auth`; not `pass_rate`, `auth_url`."""

_OF_PASS: Final = frozenset(
    {
        "db", "user", "my", "root", "admin", "smtp", "mail", "email", "mysql", "pg", "redis", "ftp", "ldap",
        "http", "proxy", "login", "sql", "ssh", "store", "keystore", "key", "cert", "require",
        "import", "srcstore",
        "deststore", "srckey", "destkey",
    }
)  # fmt: skip
"""What `pass` is short for a password of: `dbpass`, but not `compass`."""

_PAIRS: Final = re.compile(
    r"(?:^|_)(?:(?:api|access|private|secret|auth|account|signing|encryption|master|shared|session|license|app"
    r"|client|functions?|application|preshared|pre_shared|wep|wpa|authentication|instrumentation|service|storage|webhook|deploy|ssh|subscription|hmac|server|aes?)_?key|pass_word|auth_header|session_?id|client_?assertion|code_?verifier"
    r"|auth_ident|saml_?response|(?:device|user|auth|access|authorization|verification|login|recovery|backup|security|mfa|sms|confirmation)_?code|(?:otp|pin)_?code"
    r"|connect_sid|private_pem|(?:seed|recovery)_phrase)(?:_|$)"
)
_SIGNING: Final = frozenset({"x", "q", "oauth", "stripe", "signature"})
"""What a signature that opens something begins with, or, in `SignatureProvided`, is."""
_ABOUT: Final = frozenset(
    {
        "count", "type", "length", "len", "size", "limit", "usage", "expiry", "expires", "expired", "at",
        "in", "ttl", "age", "policy", "enabled", "required", "valid", "version", "status", "field", "url",
        "uri", "endpoint", "file", "path", "index", "total", "rate", "memory", "memories", "lifetime",
        "used", "left", "remaining", "error", "exception", "warning", "missing", "found", "failed", "service",
        "manager",
    }
)  # fmt: skip
_ASKED: Final = frozenset({"has", "is", "needs", "requires"})
"""Words before a name that ask whether there is one."""
_COUNTED: Final = frozenset(
    {"max", "min", "num", "n", "total", "prompt", "completion", "input", "output", "used", "remaining", "no"}
)
"""Words before `tokens` that say how many: `max_tokens`, but not `input_token` or `prompt_password`."""
_CODE: Final = re.compile(r"[\w-]{1,128}\.(?:py|java|kt|scala|go|rs|rb|php|cs|js|ts)")
"""A file that is called so in a trace: `Token.java:12`."""

NAMING: Final = (
    "name", "key", "id", "field", "header", "property", "parameterKey", "parameterName", "optionName",
    "label", "attribute", "fieldName", "ParameterKey", "ParameterName", "OptionName", "param", "variable",
)  # fmt: skip
"""Keys that say what the `VALUES` beside them are: of forms, environments of containers, stacks."""
VALUES: Final = (
    "value", "values", "fieldValue", "parameterValue", "ParameterValue", "optionValue", "OptionValue",
)  # fmt: skip
JWK: Final = ("d", "p", "q", "dp", "dq", "qi", "k", "oth")
"""Members of a JSON Web Key that only its owner may know; `kty` says that it is one."""
MANIFEST: Final = ("data", "stringData", "string_data")
"""Members of what is of the `kind` Secret."""

_own: set[str] = set()


def add(names: Iterable[str]) -> None:
    """Names that are secret in this process from now on, whatever their case and their separators are."""
    _own.update(filter(None, map(_plain, names)))
    _judge.cache_clear()


def own() -> frozenset[str]:
    """The application's names, in lower case and without separators."""
    return frozenset(_own)


def is_secret(name: str | bytes) -> bool:
    """Whether what is called `name` is not to be shown: `api_key`, `dbPassword`, `X-Auth-Token`."""
    text = name[-_LONGEST:]
    return _judge(text if isinstance(text, str) else text.decode("latin-1"))


@functools.lru_cache(maxsize=4096)
def _judge(name: str) -> bool:
    if _own and _plain(name) in _own:
        return True
    words = [word.lower() for word in _WORDS.findall(name.replace("\xf1", "n"))]
    if _CODE.fullmatch(name):
        return False
    if not words or words[-1] in _ABOUT or _is_counted(name):
        return False
    words = list(map(_singular, words))
    if (
        _SPELT.search(name)
        or _is_last(words[-1])
        or name.lower() in {"sig", "hmac"}
        or ("signature" in words and (words[0] in _SIGNING or name.lower().endswith("-signature")))
        or ("hmac" in words and words[0] == "x")
    ):
        return True
    return any(map(_is_secret_word, words)) or _PAIRS.search("_".join(words)) is not None


def _is_counted(name: str) -> bool:
    """Whether it asks for something or counts it, in the last part of a path: `usage.max_tokens`."""
    words = [word.lower() for word in _WORDS.findall(name.rpartition(".")[2])]
    return name.startswith("--no-") or (
        len(words) > 1 and (words[0] in _ASKED or (words[0] in _COUNTED and "tokens" in words))
    )


def _is_secret_word(word: str) -> bool:
    return word in _SECRET or word.endswith(_ENDINGS) or any(each in word for each in _INSIDE)


def _is_last(word: str) -> bool:
    return word in _LAST or (word.endswith("pass") and word[:-4] in _OF_PASS)


def _singular(word: str) -> str:
    return word[:-1] if len(word) > 2 and word.endswith("s") and not word.endswith("ss") else word  # noqa: PLR2004


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()
