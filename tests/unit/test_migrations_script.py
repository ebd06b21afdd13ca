import contextlib

import pytest

from seawall.database.migrations.script import ScriptError, normalise, parse


def texts(sql: str) -> list[str]:
    return [statement.text for statement in parse(sql).statements]


def test_statements_are_split_at_semicolons_and_know_their_lines() -> None:
    script = parse("-- first\nCREATE TABLE a ();\n\n\nCREATE TABLE b ()\n;")
    assert [(s.text, s.line) for s in script.statements] == [
        ("CREATE TABLE a ()", 2),
        ("CREATE TABLE b ()", 5),
    ]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 'it''s; fine'",
        r"SELECT E'a\';b'",
        r"SELECT 'back\'",
        'SELECT 1 AS "a;b"',
        "DO $$ BEGIN PERFORM 1; COMMIT; END $$",
        "DO $body$ SELECT '$$;' ; $body$",
        "SELECT 1 /* not; /* nested; */ here; */ + 1",
        "SELECT 1 -- not; here\n + 1",
        "CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2)",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
        "CREATE OR REPLACE PROCEDURE p() BEGIN ATOMIC SELECT 1; SELECT 2; END",
        "SELECT a$b, $1, $2 FROM x",
    ],
)
def test_a_semicolon_inside_something_ends_nothing(sql: str) -> None:
    assert texts(f"{sql}; SELECT 3;") == [sql, "SELECT 3"]


@pytest.mark.parametrize("word", ["BEGIN", "commit", "ROLLBACK", "END", "START TRANSACTION", "abort"])
def test_transaction_control_is_refused_with_its_line(word: str) -> None:
    with pytest.raises(ScriptError, match="would split the file's one transaction") as caught:
        parse(f"SELECT 1;\n{word};")
    assert caught.value.line == 2


@pytest.mark.parametrize("sql", ["COPY t FROM STDIN", "copy (select 1) to stdout"])
def test_a_copy_that_needs_a_client_is_refused(sql: str) -> None:
    with pytest.raises(ScriptError, match="INSERT"):
        parse(sql)


def test_a_two_phase_commit_is_refused_and_a_prepared_statement_is_not() -> None:
    with pytest.raises(ScriptError, match="PREPARE would split"):
        parse("PREPARE TRANSACTION 'x';")
    assert texts("PREPARE q AS SELECT 1;") == ["PREPARE q AS SELECT 1"]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 1;\nSELECT 'open", "quote ' is never closed"),
        ("SELECT 1;\nSELECT $a$ open $$", r"quote \$a\$ is never closed"),
        ("SELECT 1;\n/* open /* */", "comment /\\* is never closed"),
    ],
)
def test_what_is_never_closed_is_named_with_its_line(sql: str, message: str) -> None:
    with pytest.raises(ScriptError, match=message) as caught:
        parse(sql)
    assert caught.value.line == 2


@pytest.mark.parametrize("sql", ["", "-- only a comment\n", ";;"])
def test_a_file_without_a_statement_is_refused(sql: str) -> None:
    with pytest.raises(ScriptError, match="no statement"):
        parse(sql)


def test_a_no_transaction_file_names_the_index_it_builds() -> None:
    script = parse('-- why\n-- seawall: no-transaction\nCREATE UNIQUE INDEX CONCURRENTLY "My Ix" ON s.t (a);')
    assert not script.transactional
    assert script.concurrent_index == ('"My Ix"', "s.t")


def test_an_ordinary_file_is_transactional_wherever_it_mentions_the_header() -> None:
    assert parse("SELECT 1;\n-- seawall: no-transaction\n").transactional


def test_a_directive_at_the_end_of_a_file_is_read_whole() -> None:
    with pytest.raises(ScriptError, match="'no-lock' is unknown"):
        parse("-- seawall: no-lock")


def test_a_no_transaction_file_holds_one_statement() -> None:
    with pytest.raises(ScriptError, match="holds one statement") as caught:
        parse("-- seawall: no-transaction\nVACUUM a;\nVACUUM b;")
    assert caught.value.line == 3


def test_an_index_without_a_name_is_refused_because_it_could_not_be_rebuilt() -> None:
    with pytest.raises(ScriptError, match="name it"):
        parse("-- seawall: no-transaction\nCREATE INDEX CONCURRENTLY ON t (a);")


def test_an_unknown_header_is_refused() -> None:
    with pytest.raises(ScriptError, match="'no_transaction' is unknown"):
        parse("-- seawall: no_transaction\nSELECT 1;")


def test_the_checksum_survives_editors_and_version_control() -> None:
    plain, windows = b"SELECT 1;\nSELECT 2;\n", b"\xef\xbb\xbfSELECT 1;\r\nSELECT 2;\r\n\r\n"
    assert parse(normalise(plain)).checksum == parse(normalise(windows)).checksum
    assert parse(normalise(plain)).checksum != parse(normalise(b"SELECT 1;\nSELECT  2;\n")).checksum


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT E'a'\n'b\\'c; d'",
        "SELECT E'a' -- it goes on\n\n  'b\\'; c'",
        "DO $\N{GRINNING FACE}$ BEGIN ; END $\N{GRINNING FACE}$",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS case; SELECT 2 AS end; END",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 case; SELECT 2 end; END",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT t.end FROM t; END",
        "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC END",
        "SELECT \N{ARABIC-INDIC DIGIT ONE}$$ FROM t",
    ],
)
def test_the_rules_are_the_servers_where_they_differ_from_pythons(sql: str) -> None:
    assert texts(f"{sql}; SELECT 3;") == [sql, "SELECT 3"]


def test_a_commit_behind_a_body_with_case_is_refused() -> None:
    with pytest.raises(ScriptError, match="COMMIT would split") as caught:
        parse("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1 AS case; END;\nCOMMIT;\nSELECT 1 / 0;")
    assert caught.value.line == 2


def test_a_comment_ends_at_a_carriage_return() -> None:
    assert texts("-- one\rCREATE TABLE a ();\nCREATE TABLE b ();\n") == [
        "CREATE TABLE a ()",
        "CREATE TABLE b ()",
    ]


def test_a_nul_is_refused_with_its_line() -> None:
    with pytest.raises(ScriptError, match="there is a NUL") as caught:
        parse("SELECT 1;\nSELECT '\0';")
    assert caught.value.line == 2


def test_a_copy_is_named_before_its_data_are_read() -> None:
    with pytest.raises(ScriptError, match="COPY has no client"):
        parse("COPY t FROM STDIN;\n1\tdon't\n\\.\n")


def test_savepoints_may_be_used() -> None:
    words = ["SAVEPOINT a", "ROLLBACK TO SAVEPOINT a", "ROLLBACK WORK TO a", "RELEASE a"]
    assert texts(";".join(words)) == words


def test_a_comment_may_stand_between_the_words_of_an_index() -> None:
    script = parse("-- seawall: no-transaction\nCREATE INDEX /* without a lock */ CONCURRENTLY ix ON t (a);")
    assert script.concurrent_index == ("ix", "t")


@pytest.mark.parametrize(
    "piece",
    [
        *(
            "insert into t values (1, 'x', now());\n",
            "a$",
            "$a",
            "'",
            "e'",
            "/*",
            "-",
            "\\'",
            "E'a'\n",
            '"',
            "$$",
        ),
        *(
            "(",
            "(1)",
            "a;",
            ";",
            "('",
            "$$ $$;",
            "a b $$ $$;",
            "-- x\n",
            "/* */",
            "begin atomic ",
            "\r",
            "1e",
        ),
    ],
)
@pytest.mark.timeout(150)
def test_no_text_takes_longer_than_its_length(piece: str) -> None:
    """What grows with the square of the length would take minutes, and the test's time is up before."""
    text = piece * (150_000 // len(piece))
    for start in ("", "create function "):
        with contextlib.suppress(ScriptError):
            parse(start + text)
