"""A kind of secrets in text as one row: what is in all of them, how they look, and what is left of them."""

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from seawall.redaction.names import is_secret
from seawall.redaction.urls import HIDDEN

BEHIND: Final = rf"\1{HIDDEN}"
"""What is left where the first group leads to the secret."""


class Rule(NamedTuple):
    """A text without any of its hints is not searched: a test makes texts from each pattern to hold that."""

    hints: tuple[str, ...]
    """One of these is in every text in which `pattern` finds a secret, once it is in lower case."""
    pattern: re.Pattern[str]
    hide: str | Callable[[re.Match[str]], str] = BEHIND
    """What is put in place of what was found."""
    named: bool = False
    """Only what has a secret name is hidden, for which every text is looked through at first anyway."""
    sign: re.Pattern[str] | None = None
    """What a quick look goes by where the hints are in most texts."""
    beside: re.Pattern[str] | None = None
    """What has to be somewhere in the text as well."""


def applied(rules: Iterable[Rule], text: str, seen: str) -> str:
    """`text` after all `rules`, one after the other; `seen` is what it was at first, in lower case."""
    for rule in rules:
        if any(hint in seen for hint in rule.hints) and (rule.beside is None or rule.beside.search(text)):
            text = rule.pattern.sub(rule.hide, text)
    return text


def first_looks(*tables: Iterable[Rule]) -> tuple[list[str], list[tuple[str, re.Pattern[str]]]]:
    """What of `tables` is looked for before any of their rules, unless there is a secret name.

    Hints of which one is in the text, and others that count only where their sign is in it as well.
    """
    rules = [rule for table in tables for rule in table if not rule.named]
    hints = [hint for rule in rules if rule.sign is None for hint in rule.hints]
    return hints, [(hint, rule.sign) for rule in rules if rule.sign is not None for hint in rule.hints]


def holds_secret_name(path: str) -> bool:
    """Whether one of the names in `path`, such as `user.api_key` or `['user']['api_key']`, is secret."""
    return any(map(is_secret, re.split(r"[^\w-]+", path)))


def if_named(found: re.Match[str]) -> str:
    """Hidden behind the first group if the second holds a secret name, alone or in a path of names."""
    return f"{found[1]}{HIDDEN}" if holds_secret_name(found[2]) else found[0]
