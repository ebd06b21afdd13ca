"""Whether a word may be a part of a sentence, a number or an address, and so rather no secret."""

import re
from typing import Final

_PLAIN: Final = re.compile(
    r"""
    [^\W\d_]{1,64}+(?:['\u2019][^\W\d_]{1,2}+)?+(?:[-_/][^\W\d_]{1,64}+){0,16}+[_?!]?+  # words, joined
    |(?:[a-z]{1,16}+|[A-Z]{1,16}+)[-_]?+\d{1,3}+[a-z]?+                            # sha256, v2
    |[+-]?\d{1,5}+[a-z%°€$]{0,3}+                                                   # 5, 30d
    |(?=\d{0,32}+\D)[\d.,:/+TZ-]{1,64}+[a-z%]{0,3}+                                 # 0.5s, a date, an address
    |v?\d{1,9}+(?:\.\w{1,9}+){1,8}+
    |[\w.+-]{1,128}+@[\w-]{1,64}+(?:\.[\w-]{1,64}+){1,8}+
    |(?:[\w.-]{1,64}?/){0,8}+[\w.-]{1,64}?\.(?:py|js|ts|json|ya?ml|toml|txt|pem|key|crt|env|md|go|rs|java|html|cfg|ini|conf|csv|log|sh|sql
        |org|com|net|io|local|example)
    |[*.…_=\W]{1,64}+ | %\(?\w{1,64}+(?:\)\w)?+ | \$\{?\w{1,64}+\}? | \{\w{0,64}+\}
    """,
    re.VERBOSE,
)
_CODE: Final = frozenset("()[]{}<>|=\\")
_LEADING: Final = ("-", "/", "~", "./", "../", "*", "%", "$", "#", "@", "http", "&")
_LONGEST: Final = 512


def is_ordinary(word: str) -> bool:
    """Whether that may be a word, a number, a path, a placeholder or a piece of code, and so no secret."""
    word = word.rstrip(")]}>,.;:!?'\"`")
    core = word.rstrip("=")
    return (
        len(word) > _LONGEST
        or word.startswith(_LEADING)
        or "://" in word
        or not _CODE.isdisjoint(core)
        or _PLAIN.fullmatch(word) is not None
    )
