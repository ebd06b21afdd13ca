r"""The SQL of one migration file, taken apart just far enough.

Statements are run one by one, so that a failure has a line and a file's transaction is ours alone. That needs
PostgreSQL's lexical rules and nothing of its grammar: quotes, dollar quotes, nested comments, and the two
places where a semicolon ends nothing: parentheses (rules) and `BEGIN ATOMIC ... END` bodies of routines.
psql's own commands (`\copy`, `\set`) are not SQL and not supported.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(
    r"""
      (?P<space>   \s+ | --[^\n]* )
    | (?P<comment> /\* )
    | (?P<dollar>  \$ (?: [^\W\d]\w* )? \$ )
    | (?P<quoted>  [eE]'(?: [^'\\] | \\. | '' )*' | '(?: [^'] | '' )*' | "(?: [^"] | "" )*" )
    | (?P<word>    [^\W\d][\w$]* )
    | (?P<number>  \d[\w.]* )
    | (?P<mark>    . )
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
_DIRECTIVE: Final = re.compile(r"--\s*seawall:\s*(.*?)\s*", re.IGNORECASE)
_NO_TRANSACTION: Final = "no-transaction"
_TRANSACTION_CONTROL: Final = frozenset({"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"})

_NAME: Final = r'(?: "(?:[^"]|"")+" | [^\W\d][\w$]* )'
_CONCURRENT_INDEX: Final = re.compile(
    rf"""
    CREATE \s+ (?: UNIQUE \s+ )? INDEX \s+ CONCURRENTLY \s+ (?: IF \s+ NOT \s+ EXISTS \s+ )?
    (?P<index> {_NAME} ) \s+ ON \s+ (?: ONLY \s+ )? (?P<table> (?: {_NAME} \s* \. \s* )? {_NAME} )
    """,
    re.VERBOSE | re.IGNORECASE,
)


class ScriptError(Exception):
    """The text cannot be run as a migration; `line` says where."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement without its semicolon; `words` are its unquoted words in capitals."""

    text: str
    line: int
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """A file's normalised text and its statements."""

    text: str = field(repr=False)
    statements: tuple[Statement, ...] = field(repr=False)
    transactional: bool

    @property
    def checksum(self) -> str:
        """SHA-256 of the normalised text, in hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def concurrent_index(self) -> tuple[str, str] | None:
        """The index that a no-transaction script builds and its table, as identifiers in SQL."""
        found = None if self.transactional else _CONCURRENT_INDEX.match(self.statements[0].text)
        return found and (found["index"], found["table"])


def normalise(raw: bytes) -> str:
    """The text, free of what editors and version control change on their own: BOM, CRLF, final newlines."""
    return raw.decode("utf-8-sig").replace("\r\n", "\n").rstrip() + "\n"


def parse(text: str) -> Script:
    """Take a normalised text apart.

    Raises:
        ScriptError: it could not be applied as a whole or not at all.
    """
    script = Script(text, tuple(_statements(text)), transactional=not _directives(text))
    if not script.statements:
        raise ScriptError(1, "there is no statement in it: write one, or delete the file")
    for statement in script.statements:
        _check(statement)
    if not script.transactional:
        _check_alone(script)
    return script


def _check(statement: Statement) -> None:
    first, second = (*statement.words, "", "")[:2]
    if first in _TRANSACTION_CONTROL or (first, second) == ("PREPARE", "TRANSACTION"):
        raise ScriptError(
            statement.line, f"{first} would split the file's one transaction: delete it, or split the file"
        )
    if first == "COPY" and {"STDIN", "STDOUT"} & set(statement.words):
        raise ScriptError(statement.line, "COPY has no client to talk to here: write INSERT ... VALUES")


def _check_alone(script: Script) -> None:
    if len(script.statements) > 1:
        raise ScriptError(
            script.statements[1].line,
            "a no-transaction file holds one statement, a second could fail after the first: split the file",
        )
    words = script.statements[0].words
    if words[0:1] == ("CREATE",) and "CONCURRENTLY" in words[:4] and not script.concurrent_index:
        raise ScriptError(1, "the index has no name to be found by when it must be rebuilt: name it")


def _directives(text: str) -> list[str]:
    """The `-- seawall: ...` lines of the comment that a file begins with."""
    found = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip() and not line.startswith("--"):
            break
        if directive := _DIRECTIVE.fullmatch(line):
            if directive[1] != _NO_TRANSACTION:
                raise ScriptError(
                    number, f"{directive[1]!r} is unknown: write `-- seawall: {_NO_TRANSACTION}`"
                )
            found.append(directive[1])
    return found


def _statements(text: str) -> Iterator[Statement]:
    start, words, nesting = -1, list[str](), _Nesting()
    for kind, value, at in (*_tokens(text), ("mark", ";", len(text))):
        if start < 0:
            if kind == "space" or value == ";":
                continue
            start = at
        if kind == "word":
            words.append(value.upper())
        nesting.enter(kind, value, words)
        if value == ";" and (nesting.outside or at == len(text)):
            yield Statement(text[start:at].rstrip(), text.count("\n", 0, start) + 1, tuple(words))
            start, words, nesting = -1, [], _Nesting()


class _Nesting:
    """Whether a semicolon would end the statement here."""

    def __init__(self) -> None:
        self._parentheses = 0
        self._blocks = 0

    @property
    def outside(self) -> bool:
        return self._parentheses <= 0 and self._blocks <= 0

    def enter(self, kind: str, value: str, words: list[str]) -> None:
        if kind == "mark":
            self._parentheses += {"(": 1, ")": -1}.get(value, 0)
        elif kind == "word" and words[0] == "CREATE" and {"FUNCTION", "PROCEDURE"} & set(words[1:4]):
            if words[-2:] == ["BEGIN", "ATOMIC"] or (self._blocks and words[-1] == "CASE"):
                self._blocks += 1
            elif self._blocks and words[-1] == "END":
                self._blocks -= 1


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    """Kind, text and position of each token; comments are spaces."""
    at = 0
    while found := _TOKEN.match(text, at):
        kind, value, end = str(found.lastgroup), found[0], found.end()
        if kind == "comment":
            kind, end = "space", _end_of_comment(text, at)
        elif kind == "dollar":
            close = text.find(value, end)
            kind, end = "quoted", close + len(value) if close > 0 else at
        if end <= at or value in {"'", '"'}:
            raise ScriptError(text.count("\n", 0, at) + 1, f"the quote {value} is never closed")
        yield kind, value, at
        at = end


def _end_of_comment(text: str, start: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    raise ScriptError(text.count("\n", 0, start) + 1, "the comment /* is never closed")
