r"""The SQL of one migration file, taken apart just far enough.

Statements are run one by one, so that a failure has a line and a file's transaction is ours alone. That needs
PostgreSQL's lexical rules (`src/backend/parser/scan.l`) and nothing of its grammar but three places where a
semicolon ends nothing: quotes, parentheses (rules) and `BEGIN ATOMIC ... END` bodies of routines. The rules
are the server's own and not Python's: every character beyond ASCII belongs to a name, only six characters
are blanks, a comment ends at a carriage return too, and an E-string goes on after a line break.

A body ends with the END that stands where a statement of it would begin. Any other END or CASE in it belongs
to an expression or is somebody's label, so neither has to be counted.

psql's own commands (`\copy`, `\set`) are not SQL and not supported. Every part of this is linear in the text:
40,000 statements take a quarter of a second (tests/benchmarks/database.py).
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

# As the ASCII that is not in each: a set that names all beyond ASCII takes 4 ms to compile.
_LETTER: Final = r"[^\x00-@\[-^`{-\x7f]"
_INNER: Final = r"[^\x00-/:-@\[-^`{-\x7f]"  # or a digit
_NEXT: Final = r"[^\x00-#%-/:-@\[-^`{-\x7f]"  # or a dollar sign
_BLANK: Final = r"[ \t\n\r\f\v]"
_WORD: Final = rf"{_LETTER}{_NEXT}*+"
_SIGN: Final = r"(?: - (?! - ) | / (?! \* ) | [\x00-\x08\x0e-\x1f!\#%&*+,.:<=>?@\[\\\]^`{|}~\x7f] )"
_QUOTED: Final = """(?: ' (?: [^']++ | '' )*+ ' | " [^"]*+ " )"""
# After a blank that holds a line break, another quote goes on with the same string.
_CONTINUED: Final = (
    r"(?: [ \t\f\v]*+ (?: --[^\n\r]*+ )?+ [\n\r] (?: [ \t\n\r\f\v]++ | --[^\n\r]*+[\n\r] )*+ ' )"
)
_ESCAPED: Final = r"(?: [^'\\]++ | \\. | '' )*+ '"
# Case is ignored in keywords alone: over a range as wide as a letter's it takes 0.2 s to compile.
_TOKEN: Final = re.compile(
    rf"""
      (?P<space>   (?: {_BLANK}++ | --[^\n\r]*+ )++ )
    | (?P<comment> /\* )
    | (?P<dollar>  \$ (?: {_LETTER} {_INNER}*+ )?+ \$ )
    | (?P<quoted>  [eE]' {_ESCAPED} (?: {_CONTINUED} {_ESCAPED} )*+ | {_QUOTED} )
    | (?P<open>    [eE]?+ ' | " )
    | (?P<mark>    [();] )
    | (?P<plain>   (?: (?! [eE]' ) {_WORD} | {_BLANK}++ | [0-9]++ | {_SIGN} )++ )
    | (?P<other>   . )
    """,
    re.VERBOSE | re.DOTALL,
)
_PART: Final = rf"(?: {_QUOTED} | (?! [eE]' ) {_WORD} | {_BLANK}++ | [0-9]++ | {_SIGN} )"
# A statement of the plain kind that most are, found at once; whatever else there is goes token by token.
_PLAIN_STATEMENT: Final = re.compile(
    rf"""
    (?! (?i:CREATE) ) (?= (?P<head> {_WORD} (?: {_BLANK}++ {_WORD} ){{0,3}}+ ) )
    (?: {_PART} | \( (?: {_PART} | \( (?: {_PART} | \( {_PART}*+ \) )*+ \) )*+ \) )*+ ;
    """,
    re.VERBOSE | re.DOTALL,
)
_SPACE: Final = re.compile(rf"(?: {_BLANK}++ | --[^\n\r]*+ )++", re.VERBOSE)
_WORDS: Final = re.compile(rf"(?<! {_NEXT} | \. ) {_WORD} | [^ \t\n\r\f\v]", re.VERBOSE)
_COMMENT_EDGE: Final = re.compile(r"/\*|\*/")
_DIRECTIVE: Final = re.compile(r"--\s*+seawall:(.*+)", re.IGNORECASE)
_NO_TRANSACTION: Final = "no-transaction"
_TRANSACTION_CONTROL: Final = frozenset({"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"})
_HEAD: Final = 4  # words: CREATE OR REPLACE FUNCTION
_CLIENT: Final = frozenset({"STDIN", "STDOUT"})
_ROUTINES: Final = frozenset({"FUNCTION", "PROCEDURE"})
_BLANKS: Final = " \t\n\r\f\v"

_NAME: Final = rf'(?: "(?:[^"]|"")+" | {_WORD} )'
_CONCURRENT_INDEX: Final = re.compile(
    rf"""
    (?i: CREATE \s+ (?: UNIQUE \s+ )? INDEX \s+ CONCURRENTLY \s+ (?: IF \s+ NOT \s+ EXISTS \s+ )? )
    (?P<index> {_NAME} ) (?i: \s+ ON \s+ (?: ONLY \s+ )? ) (?P<table> (?: {_NAME} \s* \. \s* )? {_NAME} )
    """,
    re.VERBOSE,
)


class ScriptError(Exception):
    """The text cannot be run as a migration; `line` says where."""

    def __init__(self, line: int, message: str) -> None:
        self.line = line
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement without its semicolon; `head` are its first unquoted words in capitals, four at most."""

    text: str
    line: int
    head: tuple[str, ...]


class Script:
    """A file's normalised text. Its statements are found when somebody asks for them, once."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.checksum = hashlib.sha256(text.encode()).hexdigest()
        self._statements: tuple[Statement, ...] | None = None

    @property
    def statements(self) -> tuple[Statement, ...]:
        """The statements in order, at least one.

        Raises:
            ScriptError: it could not be applied as a whole or not at all.
        """
        if self._statements is None:
            self._statements = _checked(self.text, alone=not self.transactional)
        return self._statements

    @property
    def transactional(self) -> bool:
        """Whether it runs in a transaction.

        Raises:
            ScriptError: a `-- seawall: ...` line says something unknown.
        """
        return not _directives(self.text)

    @property
    def concurrent_index(self) -> tuple[str, str] | None:
        """The index that a no-transaction script builds and its table, as identifiers in SQL."""
        return None if self.transactional else _concurrent_index(self.statements[0])


def normalise(raw: bytes) -> str:
    """The text, free of what editors and version control change on their own: BOM, CRLF, final newlines."""
    return raw.decode("utf-8-sig").replace("\r\n", "\n").rstrip(_BLANKS) + "\n"


def parse(text: str) -> Script:
    """Take a normalised text apart at once.

    Raises:
        ScriptError: it could not be applied as a whole or not at all.
    """
    script = Script(text)
    script.statements  # noqa: B018 - found, and checked, on the way
    return script


def _checked(text: str, *, alone: bool) -> tuple[Statement, ...]:
    if (nul := text.find("\0")) >= 0:
        message = "there is a NUL, and PostgreSQL reads nothing after one: delete it"
        raise ScriptError(text.count("\n", 0, nul) + 1, message)
    found = []
    for statement in _statements(text):
        _check(statement)  # before what follows it is read: the data of a COPY is no SQL
        found.append(statement)
    if not found:
        raise ScriptError(1, "there is no statement in it: write one, or delete the file")
    if alone:
        _check_alone(found)
    return tuple(found)


def _check(statement: Statement) -> None:
    first, second, third = (*statement.head, "", "", "")[:3]
    to_savepoint = first == "ROLLBACK" and "TO" in {second, third}
    if (first in _TRANSACTION_CONTROL and not to_savepoint) or (first, second) == ("PREPARE", "TRANSACTION"):
        raise ScriptError(
            statement.line, f"{first} would split the file's one transaction: delete it, or split the file"
        )
    if first == "COPY" and not _CLIENT.isdisjoint(_unquoted(statement.text)):
        raise ScriptError(statement.line, "COPY has no client to talk to here: write INSERT ... VALUES")


def _check_alone(statements: list[Statement]) -> None:
    if len(statements) > 1:
        raise ScriptError(
            statements[1].line,
            "a no-transaction file holds one statement, a second could fail after the first: split the file",
        )
    head = statements[0].head
    if head[0:1] == ("CREATE",) and "CONCURRENTLY" in head and not _concurrent_index(statements[0]):
        raise ScriptError(1, "the index has no name to be found by when it must be rebuilt: name it")


def _unquoted(statement: str) -> Iterator[str]:
    return (word for kind, value, _ in _tokens(statement) if kind == "plain" for word in _words(value))


def _concurrent_index(statement: Statement) -> tuple[str, str] | None:
    tokens = _tokens(statement.text)
    found = _CONCURRENT_INDEX.match("".join(" " if kind == "space" else value for kind, value, _ in tokens))
    return found and (found["index"], found["table"])


def _directives(text: str) -> list[str]:
    """The `-- seawall: ...` lines of the comment that a file begins with."""
    found = []
    at, number = 0, 1
    while at < len(text):
        end = text.find("\n", at) % (len(text) + 1)  # one without an end of its own ends with the text
        line, at = text[at:end], end + 1
        if line.strip() and not line.startswith("--"):
            break
        if found_here := _DIRECTIVE.fullmatch(line):
            directive = found_here[1].strip()
            if directive != _NO_TRANSACTION:
                raise ScriptError(number, f"{directive!r} is unknown: write `-- seawall: {_NO_TRANSACTION}`")
            found.append(directive)
        number += 1
    return found


def _statements(text: str) -> Iterator[Statement]:
    line, counted, at = 1, 0, 0
    while at < len(text):
        blank = _SPACE.match(text, at)
        start = blank.end() if blank else at
        line += text.count("\n", counted, start)
        counted = start
        if plain := _PLAIN_STATEMENT.match(text, start):
            yield Statement(plain[0][:-1].rstrip(_BLANKS), line, tuple(map(_capitals, plain["head"].split())))
            at = plain.end()
            continue
        at, nesting = _end_of_statement(text, start)
        if nesting.begun >= 0:
            line += text.count("\n", counted, nesting.begun)
            counted = nesting.begun
            yield Statement(text[nesting.begun : at].rstrip(_BLANKS), line, tuple(nesting.head))
        at += 1


def _end_of_statement(text: str, start: int) -> tuple[int, "_Nesting"]:
    """Where the semicolon is that ends the statement at `start`, or the end of the text."""
    nesting = _Nesting()
    for kind, value, at in _tokens(text, start):
        if value == ";" and nesting.outside:
            return at, nesting
        nesting.enter(kind, value, at)
    return len(text), nesting


class _Nesting:
    """What a statement is inside of, where it begins after comments, and its first words."""

    def __init__(self) -> None:
        self.head: list[str] = []
        self.begun = -1
        self._parentheses = 0
        self._bodies = 0
        self._routine = False
        self._before = ""

    @property
    def outside(self) -> bool:
        """Whether a semicolon would end the statement here."""
        return not self._parentheses and not self._bodies

    def enter(self, kind: str, value: str, at: int) -> None:
        """The next token."""
        if kind == "space":
            return
        if self.begun < 0:
            self.begun = at
        if kind == "mark":
            self._parentheses = max(self._parentheses + {"(": 1, ")": -1}.get(value, 0), 0)
            self._before = value
        elif kind == "plain":
            self._enter_words(value)
        else:
            self._before = kind

    def _enter_words(self, plain: str) -> None:
        if len(self.head) < _HEAD:
            self.head += _words(plain)[: _HEAD - len(self.head)]
            self._routine = self.head[0:1] == ["CREATE"] and not _ROUTINES.isdisjoint(self.head)
        if not self._routine or self._parentheses:
            return
        for found in _WORDS.finditer(plain):
            word = _capitals(found[0])
            if word == "ATOMIC" and self._before == "BEGIN":
                self._bodies += 1
            elif word == "END" and self._bodies and self._before in {";", "ATOMIC"}:
                self._bodies -= 1
            self._before = word


def _words(plain: str) -> list[str]:
    """The words of a text without quotes, in capitals."""
    return [_capitals(each) for each in _WORDS.findall(plain) if each[0].isalpha() or each[0] == "_"]


def _capitals(word: str) -> str:
    """As PostgreSQL compares keywords: by ASCII alone."""
    return word.upper() if word.isascii() else word


def _tokens(text: str, at: int = 0) -> Iterator[tuple[str, str, int]]:
    """Kind, text and position of each token; comments are spaces.

    Raises:
        ScriptError: a quote or a comment is never closed.
    """
    while found := _TOKEN.match(text, at):
        kind, value, end = str(found.lastgroup), found[0], found.end()
        if kind == "comment":
            kind, end = "space", _end_of_comment(text, at)
        elif kind == "dollar":
            close = text.find(value, end)
            kind, end = ("quoted", close + len(value)) if close >= 0 else ("open", end)
        if kind == "open":
            quote = value.lstrip("eE")
            raise ScriptError(text.count("\n", 0, at) + 1, f"the quote {quote} is never closed")
        yield kind, text[at:end], at
        at = end


def _end_of_comment(text: str, start: int) -> int:
    depth = 0
    for edge in _COMMENT_EDGE.finditer(text, start):
        depth += 1 if edge[0] == "/*" else -1
        if not depth:
            return edge.end()
    raise ScriptError(text.count("\n", 0, start) + 1, "the comment /* is never closed")
