"""The pure decisions of the database: what an error means, what differs, how much is needed."""

import psycopg
import pytest
from psycopg import errors as pg
from psycopg_pool import PoolTimeout, TooManyRequests

from seawall.database.keeper import Demand
from seawall.database.schema import Found, Table, differences
from seawall.database.sqlstate import Kind, kind_of, kind_of_state, repeatable, waits


@pytest.mark.parametrize(
    ("states", "kind"),
    [
        ("08000 08006 53300 58030 XX000 57P01 57P02 57P03 57P05 25006", Kind.AWAY),
        ("28000 28P01 3D000", Kind.AUTHENTICATION),
        ("22012 23505 42703 P0001 25P03 0A000", Kind.STATEMENT),
        ("57014", Kind.TIMEOUT),
        ("40001 40P01 55P03", Kind.CONFLICT),
        ("08007 40003", Kind.UNKNOWN_FATE),
    ],
)
def test_every_sqlstate_of_the_table_has_its_kind(states: str, kind: Kind) -> None:
    assert {kind_of_state(state) for state in states.split()} == {kind}


def test_only_a_closed_list_of_errors_says_that_a_row_can_be_written_later() -> None:
    """Of all that PostgreSQL knows; a class that is new to this table belongs to the row."""
    waiting = "08 25 26 28 3F 42 53 55 57 58 F0 XX"
    single = "3D000 40001 40003 40P01"
    states = [
        state for each in vars(pg).values() if isinstance(state := getattr(each, "sqlstate", None), str)
    ]
    found = {state for state in states if waits(pg.lookup(state)())}
    assert found == {state for state in states if state[:2] in waiting.split() or state in single.split()}
    assert not any(waits(error) for error in (pg.ProgramLimitExceeded(), psycopg.DataError("NUL")))
    assert waits(psycopg.OperationalError("connection refused"))
    assert waits(PoolTimeout())


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (psycopg.OperationalError("connection refused"), Kind.AWAY),
        (psycopg.InterfaceError("the connection is closed"), Kind.AWAY),
        (psycopg.OperationalError('password authentication failed for user "u"'), Kind.AUTHENTICATION),
        (psycopg.OperationalError('database "d" does not exist'), Kind.AUTHENTICATION),
        (psycopg.ProgrammingError("no such placeholder"), Kind.STATEMENT),
        (PoolTimeout(), Kind.SATURATED),
        (TooManyRequests(), Kind.SATURATED),
        (pg.ProtocolViolation("query_wait_timeout"), Kind.SATURATED),
        (pg.SerializationFailure(), Kind.CONFLICT),
        (pg.UniqueViolation("a job named query_wait_timeout exists"), Kind.STATEMENT),
    ],
)
def test_errors_without_a_sqlstate_are_told_apart_by_class_and_words(
    error: psycopg.Error, kind: Kind
) -> None:
    assert kind_of(error) is kind


@pytest.mark.parametrize(
    ("error", "commit_sent", "expected"),
    [
        (pg.SerializationFailure(), False, True),
        (pg.DeadlockDetected(), True, True),  # the server says itself that it undid it
        (psycopg.OperationalError("lost"), False, True),
        (psycopg.OperationalError("lost"), True, False),
        (pg.TransactionResolutionUnknown(), False, False),
        (pg.StatementCompletionUnknown(), True, False),
        (pg.QueryCanceled(), False, False),
        (pg.UniqueViolation(), False, False),
        (psycopg.OperationalError("password authentication failed"), False, False),
    ],
)
def test_only_what_left_nothing_behind_may_run_again(
    error: psycopg.Error, commit_sent: bool, expected: bool
) -> None:
    assert repeatable(error, commit_sent=commit_sent) is expected


EXPECTED = (
    Table("shop.nodes", {"node_id": "bigint", "name": "text"}, ("nodes_pkey", "nodes_name")),
    Table("shop.orders", {"id": "bigint"}),
)


def test_each_difference_is_named_with_the_name_that_may_be_meant() -> None:
    nodes = Table("shop.nodes", {"id_node": "bigint", "name": "integer"}, ("nodes_pkey", "nodes_names"))
    found = Found({"shop.nodes": nodes}, ("shop.order", "shop.other"))
    assert list(differences(EXPECTED, found)) == [
        "column node_id is missing in shop.nodes, found id_node",
        "column name of shop.nodes is integer, expected text",
        "index nodes_name is missing on shop.nodes, found nodes_names",
        "table shop.orders is missing, found shop.order",
    ]


def test_more_than_is_expected_is_no_difference() -> None:
    more = [Table(t.name, {**t.columns, "extra": "text"}, (*t.indexes, "extra")) for t in EXPECTED]
    assert list(differences(EXPECTED, Found({table.name: table for table in more}, ("shop.else",)))) == []


def test_a_process_wishes_for_what_it_needed_lately() -> None:
    demand = Demand(8)
    assert demand.note(0.0, 0, 0) == 0
    assert demand.note(1.0, 0, 5) == 1  # came and went in between
    assert demand.note(2.0, 12, 9) == 8
    assert demand.note(11.0, 2, 9) == 8
    assert demand.note(12.5, 2, 9) == 2
    assert demand.note(30.0, 0, 9) == 0
