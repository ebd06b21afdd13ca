r"""Text of strangers, on its way to what does not take every text.

Half of a surrogate pair comes from `os.listdir` and from emoji that were cut; UTF-8 cannot carry it. The
rule, wherever text becomes bytes: it is carried escaped, as Python shows it (`caf\udce9`). Nothing is raised
for it and nothing is replaced, so two texts that differ stay two. PostgreSQL has no NUL in text either; there
that is escaped as well (`\x00`). In a line of a page everything is that would break the line.

`cluster.Packer` applies the rule to all commands for Redis, the journal to all rows for PostgreSQL, the
command line and the log to all they print.
"""


def carried(text: str) -> str:
    """`text` as UTF-8 can carry it; two halves that belong together are joined."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        return joined.encode(errors="backslashreplace").decode()
    return text


def to_bytes(text: str) -> bytes:
    """`text` in UTF-8."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return carried(text).encode()


def storable(text: str) -> str:
    """`text` as a text column of PostgreSQL takes it."""
    return carried(text).replace("\0", "\\x00")


def many(count: int, noun: str, several: str | None = None) -> str:
    """`"1 task"`, `"2,000 tasks"`; `several` is said of more than one where an s at the end is not enough."""
    return f"{count:,} {noun if count == 1 else several or f'{noun}s'}"


def one_line(text: str) -> str:
    """`text` as one line of a page: without line feeds, control characters and changes of direction."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escaped(each) for each in carried(text))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
