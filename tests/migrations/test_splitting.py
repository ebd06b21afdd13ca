"""Our splitting of scripts beside PostgreSQL's own: what it runs at once, we run one by one."""

import os
import random
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.pq import ExecStatus

from seawall.database.migrations.script import ScriptError, parse

CHARACTERS = [
    "'",
    '"',
    "\\",
    "$",
    ";",
    "-",
    "/",
    "*",
    "\n",
    "\r",
    "\t",
    "a",
    "E",
    "1",
    "(",
    ")",
    "\N{SNOWMAN}",
]
SPACES = [" ", "\n", "\r", "\t", "\f", " -- it's; a remark\n", " --\r", "/* ; */", "/* /* ' */ ; */", " \n "]
CONTROL = {"BEGIN", "COMMIT", "ROLLBACK"}
SHORT, LONG = 2_000, 20_000


class Scripts:
    """Writes scripts that PostgreSQL mostly takes, from all the ways to write a value and a statement."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)  # noqa: S311 - scripts for a test

    def text(self) -> str:
        return "".join(self._dice.choices(CHARACTERS, k=self._dice.randrange(6)))

    def space(self) -> str:
        return "".join(self._dice.choices(SPACES, k=self._dice.randint(1, 2)))

    def value(self) -> str:
        dice, text = self._dice, self.text()
        plain = "'" + text.replace("'", "''") + "'"
        escaped = text.replace("\\", "\\\\").replace("'", dice.choice(["''", "\\'"]))
        tag = dice.choice(["$$", "$a$", "$\N{SNOWMAN}1$", "$_$"])
        return dice.choice(
            [
                *(plain, f"E'{escaped}'", f"e'{escaped}'\n{plain[:0]}'{escaped}'", "1", "a$$b", "1.5e3"),
                *(f"{plain}{self.space()}\n{plain}", f"E'{escaped}' -- more\n\r'{escaped}'", f"n{plain}"),
                *(f"{tag}{text}{tag}", '"a"', f"({plain})", "case when true then 1 end", "(1)::text", "+1"),
            ]
        )

    def select(self) -> str:
        label = self._dice.choice(["", "", " as end", " as case", ' as "x;y"', " as begin", " as atomic"])
        return f"select{self.space()}{self.value()}{label}"

    def statement(self) -> str:
        body = ";".join(self.select() for _ in range(self._dice.randrange(3)))
        return self._dice.choice(
            [
                *([self.select()] * 6),
                "create or replace function pg_temp.f() returns void begin atomic "
                + (body and f"{body};")
                + " end",
                "do $do$ begin perform 1; end $do$",
                "create temp table if not exists t (a text)",
                "prepare p as select 1; deallocate p",
                "",
            ]
        )

    def script(self) -> str:
        text = ";".join(
            f"{self.space()}{self.statement()}{self.space()}" for _ in range(self._dice.randint(1, 4))
        )
        if self._dice.random() < 0.25:  # a slip of the keyboard
            at = self._dice.randrange(len(text))
            text = (
                text[:at] + self._dice.choice(["", "\0", *CHARACTERS]) + text[at + self._dice.randrange(2) :]
            )
        return text


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(database_url, autocommit=True, prepare_threshold=None) as made:
        made.execute('set client_min_messages = error; create temp table x (a text, "a$$b" text)')
        yield made


def at_once(connection: psycopg.Connection, script: str) -> list[str] | None:
    """The command tags of a whole script; None if PostgreSQL cannot parse it, or it ends before its end."""
    if "\0" in script:
        return None
    connection.pgconn.send_query(script.encode())
    tags: list[str] | None = []
    while (result := connection.pgconn.get_result()) is not None:
        if result.status == ExecStatus.FATAL_ERROR:
            parsed = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) != b"42601"
            tags = [*(tags or []), "refused"] if parsed else None
        elif result.status != ExecStatus.EMPTY_QUERY and tags is not None:
            tags.append((result.command_status or b"").decode())
    return tags


def one_by_one(connection: psycopg.Connection, script: str) -> list[str] | None:
    """The same for its statements."""
    try:
        statements = parse(script).statements
    except ScriptError as exc:
        return [] if "no statement" in str(exc) else None
    tags: list[str] = []
    for statement in statements:
        each = at_once(connection, statement.text)
        if each is None:
            return None
        tags += each
        if "refused" in each:
            break
    return tags


@pytest.mark.parametrize("many", [SHORT, pytest.param(LONG, marks=pytest.mark.slow)])
def test_scripts_are_split_as_the_server_splits_them(connection: psycopg.Connection, many: int) -> None:
    chosen = 19 if many == SHORT else random.SystemRandom().randrange(1 << 32)
    seed = int(os.environ.get("SEED") or chosen)
    scripts = Scripts(seed)
    taken = cut = 0
    for number in range(many):
        script = scripts.script()
        expected = at_once(connection, script)
        if CONTROL.isdisjoint(expected or ()):
            connection.execute("deallocate all")
        else:  # a slip made it, and no migration may hold it
            connection.execute("rollback")
            expected = None
        taken += expected is not None
        cut += "\0" in script
        found = one_by_one(connection, script)
        connection.execute("deallocate all")
        if expected is None:
            same = found is None or "refused" in found
        elif found is None and "refused" in expected:  # what the server never came to may be what we refuse
            same = any(word in script.upper() for word in CONTROL)
        else:
            same = found == expected
        assert same, f"SEED={seed}, script {number}: {script!r}: {found} instead of {expected}"
    assert taken > many / 2
    assert cut > many / 200
