"""A failure: what a classified exception is, and by what it is recognised as the same one again. Pure."""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, IntEnum
from hashlib import sha1
from typing import Final, TypeVar

T = TypeVar("T")

_FRAMES: Final = 6
_MESSAGE: Final = 300
"""Characters of a message, as normalised, that tell failures apart."""
_SEEN: Final = 4096
"""Characters of a message that are normalised: a long payload shrinks before it is cut."""
_MOST_OF_A_GROUP: Final = 10_000
_CAUSES: Final = 100
"""Exceptions of a chain of causes that are looked at; some lead back to themselves."""
_LINKS: Final = 100_000
"""Steps of a traceback that are walked."""
_SEPARATOR: Final = r"""(?:[ ]?[:=]{1,2}[ ]?["']?|[ ]?[(\[]|[ ])"""
"""Between what a number is called and the number."""
_NO_COUNT: Final = r"(?!\.\d|[ ]?(?:/|%|(?:of|[munµ]?s|[kmgt]?i?b)\b)|[ ](?!status\b)\w{3,30}s\b)"
"""After a number that is no duration, no size and counts nothing."""
_VARIABLE: Final = re.compile(
    rf"""(?P<kept>                            # what says which fault it is:
        \b(?:HTTP(?:/\d(?:\.\d)?|[ ]Error)?|(?:(?:HTTP|exit|response|reply)[ _-]?)?status(?:[ _-]?code)?
            |(?:HTTP|API|pg|SQL|err(?:or)?|exit|return|response|reply|reason|fault|with)[ _-]?code
            |errno|SQLSTATE|rc|signal){_SEPARATOR}-?\w{{1,5}}\b    # codes by name,
        |(?<![\w-])(?<!\w[ ])code(?:[ ]?[:=][ ]?["']?|[ ]?[(\[])-?(?=\w*\d)\w{{1,5}}\b
        |(?<=[(\[])code[ ]-?\w{{1,5}}(?=[)\]])  # where it is not a promo code,
        |["'](?:status(?:_?code)?|code|errno)["']:[ ]?["']?-?(?=\w*\d)\w{{1,5}}\b    # as in JSON,
        |\berr(?:or)?(?:[ ]\d{{1,5}}\b|[ ]?=[ ]?-?\d{{1,5}}\b|[ ]?[(\[]-?\d{{1,5}}(?=[)\]])
            |:[ ]?-?\d{{1,5}}\b(?!\.\d|[ ]\w))|\bORA-\d{{5}}\b
        |\b(?:code|returned|response|reply|error|failure
              |(?:answered|replied|responded|failed|rejected)(?:[ ]with)?){_SEPARATOR}[45]\d\d\b{_NO_COUNT}
        |\A\w{{0,60}}\(?[1-5]\d\d\b(?=[,)]|[ ](?:Client|Server)[ ]Error\b) # also where the message begins,
        |\bStatusCode\.\w{{1,40}}
        |\bconstraint[ ]failed:[ ][\w.]{{1,80}}(?:,[ ][\w.]{{1,80}}){{0,8}}
        |\A\((?:\w{{1,60}}\.){{1,6}}\w{{1,60}}\)       # the class of a wrapped error,
        |\b(?:varying|varchar|char|numeric)\(\d{{1,9}}(?:,\d{{1,9}})?\)|\b(?:u?int|float)\d\d?\b
    )
    |'\[(?:[^\]']|'(?!\[))*+\](?:'|\Z)         # a quoted list
    |\u201e[^\u201c\u201d]*+[\u201c\u201d]?+|\u201c[^\u201d]*+\u201d?+|\u2018[^\u2019]*+\u2019?+
    |`(?:[^`']|(?<=\w)'(?=\w))*+'(?!\w)     # as GNU's programs quote
    |`[^`]*+`?+
    |(?<!\w)'(?:[^']|'(?=\w))*+'?+         # quoted values; an apostrophe inside of a word is none, and one
    |"[^"]*+"?+                             # that the cut has left open ends with the text
    |\b[a-z][a-z0-9+.-]{{0,30}}://\S++         # URLs
    |\[(?=[0-9a-f]*:)[0-9a-f:.]{{2,45}}+(?:%[\w.-]{{1,20}}+)?\](?::\d{{1,5}})?+ # IPv6 addresses
    |(?<![\w:])(?=[0-9a-f:.]{{0,44}}[0-9a-f])(?:[0-9a-f]{{0,4}}:){{2,7}}(?:[\d.]{{7,15}}|[0-9a-f]{{0,4}})(?:%[\w.-]{{1,20}}+)?(?![\w:])
    |(?<![\w/])[\w.@~+-]{{1,64}}+(?:/[\w@~+-]{{1,64}}+){{1,16}}+\.\w{{1,8}}\b # relative paths to files
    |(?:/[\w.@~+-]++)++/?(?:\?[\w.@~+&=%-]*+)? # paths
    |(?<!\w)[\w.+-]{{1,64}}@[\w.-]++           # mail addresses
    |\b\d{{4}}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d)?(?:\.\d++)?)?(?:Z|[+-]\d\d:?\d\d)?  # times
    |\b0x[0-9a-f]++\b                       # addresses
    |(?<![\w.-])[\w-]++(?:\.[\w-]++)++(?::\d++)?  # hosts, versions, dotted names
    |\b[\w-]{{1,63}}:\d{{2,5}}\b               # hosts with a port
    |\b[0-9a-f]{{8}}[0-9a-f-]{{0,120}}+\b       # hashes, UUIDs
    |(?<![\w-])(?=[\w-]*?\d)[\w-]++         # numbers, and names that hold one
    |(?<![\w.-])(?-i:None)(?![\w.-])           # what stands where a value is missing
    |(?:(?<=[=:(,\[{{])|(?<=[=:,][ ])|(?<=\bgot[ ])|(?<=\bfor[ ]))(?:null|nil|nan|undefined)\b
        (?![ ](?:value|pointer|byte|char))
    """,
    re.IGNORECASE | re.VERBOSE,
)
_NAMED: Final = re.compile(
    r"""\b(?:attribute|property|module|named|argument:?|variable|keyword|command|field|column|relation|table
        |constraint|index|sequence|view|schema|function|extension|trigger|type|kind|near|operator
        |import[ ]name|parameter[ ]in[ ]input:|provided[ ]to)[ ]\Z
        |\(\d{3},[ ]\Z""",
    re.IGNORECASE | re.VERBOSE,
)
_SAID_OF_NAMES: Final = (" object", " command", " setting", " is undefined", " is not defined")
_TYPES: Final = frozenset(
    {
        "int",
        "float",
        "complex",
        "str",
        "bytes",
        "bytearray",
        "bool",
        "list",
        "tuple",
        "set",
        "dict",
        "NoneType",
    }
    | {"function", "method", "type", "module", "object", "coroutine", "generator"}
    | {"Decimal", "date", "datetime", "UUID"}
)
_STATUS: Final = re.compile(r"[1-5]\d\d [A-Za-z -]{1,40}")
_LONGEST_NAME: Final = 80
_WRAPPED: Final = re.compile(r"""\A\((\d{1,5}), b?(["'])(.*)\2\)\Z""")
"""`(1062, "Duplicate entry ...")`, as database drivers and mail servers have it: the text is no value."""
_INVALID: Final = re.compile(r"\A\d+ validation errors? for ")
_FIELDS: Final = re.compile(r"^(?:(\S.*)|.*\[type=(\w+).*)$", re.MULTILINE)
_MOST_FIELDS: Final = 10
_FORM: Final = re.compile(r"""\A\{['"][\w.]{1,64}['"]: \[(?:['"]|ErrorDetail\()""")
_ENTRY: Final = re.compile(r"""['"]([\w.]{1,64})['"]: \[(?:ErrorDetail\(string=)?['"]([^'"\n]{0,80})""")
"""Errors by field, as forms and serialisers have them: a dictionary, but none of values."""
_LIST: Final = re.compile(r"\*(?:\s{0,2}[,;:=]\s{0,2}\*|\s\*)++")
_BRACKETS: Final = re.compile(r"[\[({]\*,?(?:[\])}]|\Z)|\[\]")
"""Values beside each other are one, however many there are, and so are rows of them."""
_ROUNDS: Final = 3


class Category(Enum):
    """What failed."""

    DATABASE = "database"
    NETWORK = "network"
    MEMORY = "memory"
    TIMEOUT = "timeout"
    DEPENDENCY = "dependency"
    VALIDATION = "validation"
    INTERNAL = "internal"


class Severity(IntEnum):
    """How bad it is; comparable."""

    TRACE = 5
    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    FATAL = 50


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a kind of exception means, whoever raised it."""

    category: Category
    severity: Severity
    retryable: bool


@dataclass(frozen=True, slots=True)
class Failure:
    """One classified exception. Failures of equal `fingerprint` are the same problem."""

    category: Category
    severity: Severity
    retryable: bool
    fingerprint: str


def fingerprint(exc: BaseException, task: str = "") -> str:
    """16 hex digits: equal for the same kind of exception from the same functions, with a like message.

    Line numbers, ids, hosts, numbers, paths and quoted values do not count; neither does the machine.
    """
    return digest([path_of(type(exc)), task, *_functions(exc), normalised(exc)])


def path_of(kind: type) -> str:
    """Module and name of a class, whatever it keeps there."""
    return f"{name_of(kind, '__module__')}.{name_of(kind, '__qualname__')}"


def name_of(kind: type, name: str) -> str:
    """`__module__` or the like, as `type` itself has it: a class may answer with anything, or raise."""
    try:
        found = type.__getattribute__(kind, name)
        return str(found) if type(found) is str else "?"
    except Exception:  # noqa: BLE001 - a foreign metaclass
        return "?"


def digest(parts: list[str]) -> str:
    """`parts` in 16 hex digits."""
    return sha1("\0".join(parts).encode(errors="replace"), usedforsecurity=False).hexdigest()[:16]


def normalised(exc: BaseException) -> str:
    """What the message says first, without what differs from one occurrence to the next."""
    if isinstance(exc, RecursionError):
        return ""  # it says what the last call happened to be
    return _without_variables(_told(message_of(exc)[:_SEEN]))


def _told(message: str) -> str:
    """The line that says what it is: the first one, and what it announces."""
    if _FORM.match(message):
        return "; ".join(f"field {field}: {said}" for field, said in _ENTRY.findall(message)[:_MOST_FIELDS])
    first, _, rest = message.partition("\n")
    if _INVALID.match(first):
        told = [field or kind for field, kind in _FIELDS.findall(rest)[:_MOST_FIELDS]]
        return " ".join(["validation of", first.rpartition(" for ")[2], *filter(None, told)])
    if first.endswith(":"):
        return f"{first} {rest.partition(chr(10))[0].strip()}"
    if first.endswith(")") and (wrapped := _WRAPPED.match(first)):
        return f"errno {wrapped[1]} {wrapped[3]}"
    return first


LIMITS: Final = {
    "billiard.exceptions.SoftTimeLimitExceeded": "soft",
    "billiard.exceptions.TimeLimitExceeded": "hard",
}
"""Errors that show their argument, the seconds, as Python has it."""


def limit_in_words(kind: str, seconds: object) -> str:
    """That a task outlasted its limit of this kind, soft or hard."""
    return f"{kind} time limit{f' of {seconds:g} s' if isinstance(seconds, int | float) else ''} exceeded"


def limit_of(exc: BaseException) -> str | None:
    """In words, which limit of time a task outlasted; None of any other error."""
    kind = LIMITS.get(path_of(type(exc)))
    return None if kind is None else limit_in_words(kind, next(iter(exc.args), None))


def message_of(exc: BaseException) -> str:
    """`str(exc)`, whatever that does."""
    try:
        said = str(exc)
        return said if type(said) is str else str.__str__(said)
    except Exception as broken:  # noqa: BLE001 - a foreign __str__ may do anything; its failure is the message
        return f"unprintable: {name_of(type(broken), '__name__')}"


@functools.lru_cache(maxsize=1024)
def _without_variables(message: str) -> str:
    """Most of an error's cost; an outage says the same again and again."""
    shown = _VARIABLE.sub(_variable, message)
    for _ in range(_ROUNDS):
        shown = _BRACKETS.sub("*", _LIST.sub("*", shown).rstrip(" ,;:=[({"))
    return shown[:_MESSAGE]


def _variable(found: re.Match[str]) -> str:
    """A status or a column's name tells failures apart, and an identifier or a value does not."""
    text = found[0]
    if found["kept"] or (text[0] in "'\"" and _is_name(found, text[1:-1])):
        return text
    return "*"


def _is_name(found: re.Match[str], quoted: str) -> bool:
    """Whether what is quoted is a part of a program or of a schema, or a status."""
    if _STATUS.fullmatch(quoted):
        return True
    if not 0 < len(quoted) <= _LONGEST_NAME or " " in quoted:
        return False
    before = found.string[max(0, found.start() - 20) : found.start()]
    return (
        quoted in _TYPES
        or bool(_NAMED.search(before))
        or found.string.startswith(_SAID_OF_NAMES, found.end())
        or (before.endswith(" for key ") and "Duplicate entry " in found.string)
    )


def _functions(exc: BaseException) -> list[str]:
    """The innermost functions of the traceback, each once: how deep a recursion went makes no difference."""
    found: dict[str, None] = {}
    step = exc.__traceback__
    for _ in range(_LINKS):
        if step is None:
            break
        name = step.tb_frame.f_code.co_qualname
        found.pop(name, None)
        found[name] = None
        step = step.tb_next
    innermost = list(found)[-_FRAMES:]
    return sorted(innermost) if isinstance(exc, RecursionError) else innermost


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Those of a group and of the groups in it: the first, where a stranger's is without end; else itself."""
    waiting = [exc]
    for _ in range(_MOST_OF_A_GROUP):
        if not waiting:
            break
        each = waiting.pop()
        if isinstance(each, BaseExceptionGroup):
            waiting.extend(each.exceptions)
        else:
            yield each


def found_in(exc: BaseException, found: Callable[[BaseException], T | None]) -> list[T]:
    """What `found` says of each exception of a group, or of the nearest that it was raised from.

    Nothing at all, if it says nothing of one of them: that one failed by itself.
    """
    answers: list[T] = []
    asked: dict[int, list[T]] = {}  # many may be raised from the same one
    for leaf in leaves(exc):
        link: BaseException | None = leaf
        for _ in range(_CAUSES):
            if link is None:
                return []
            if id(link) not in asked:
                said = [found(each) for each in leaves(link)]
                asked[id(link)] = [] if None in said else [each for each in said if each is not None]
            if asked[id(link)]:
                answers += asked[id(link)]
                break
            link = link.__cause__
        else:
            return []
    return answers
