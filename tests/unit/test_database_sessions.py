"""Which statements leave a session as it was."""

import pytest
from psycopg import sql

from seawall.database.sessions import plain

PLAIN = [
    "select 1",
    "SELECT id, count(*) FROM t WHERE name = %s GROUP BY id HAVING max(n) > 3",
    "insert into t (a, b) values (%s, %s) on conflict (a) do update set b = excluded.b returning id",
    'INSERT INTO "app"."t" (a) SELECT a FROM other;',
    "update t set n = n + 1, seen = now() where id = any(%(ids)s)",
    "delete from t where (a, b) in ((1, 2), (3, 4))",
    "with old as (select id from t limit 5 for update) delete from t using old where t.id = old.id",
    "select a::numeric(10, 2), row_number() over (partition by b order by c) from t",
    b"values (1), (2)",
    "select t . a, count(*) from app . t group by 1",
    "insert into app . t (a) values (1)",
    sql.SQL("select {} from t").format(sql.Identifier("a")),
]

NOT_PLAIN = [
    "",
    "set role lowly",
    "SET app.tenant = 'acme'",
    "begin",
    "lock table t",
    "listen news",
    "select set_config('a.b', 'c', false)",
    "select pg_catalog.set_config('a.b', 'c', false)",
    "select my_function()",
    "select app.count()",
    "select app . count()",
    "select app. count()",
    'select "my app" .count()',
    'select "set_config" (%s, %s, false)',
    "select set_config/**/('a.b', 'c', false)",
    "select set_config -- so\n ('a.b', 'c', false)",
    "select 1; set role lowly",
    "select * into temp t from u",
    "with x as (select pg_advisory_lock(1)) select * from x",
    "update t set a = my_function()",
    "insert into t values (pg_advisory_lock(1))",
    "select s\u00e9t_config('a')",
    "select 1 " + " " * 5000,
    "create temp table t (a int)",
    "declare c cursor with hold for select 1",
    "call leave()",
    "do $$ begin perform 1; end $$",
    "explain analyze select my_function()",
]


@pytest.mark.parametrize("query", PLAIN, ids=str)
def test_what_leaves_nothing_is_plain(query: object) -> None:
    assert plain(query)


@pytest.mark.parametrize("query", NOT_PLAIN, ids=lambda query: str(query)[:40])
def test_what_may_leave_something_is_not(query: str) -> None:
    assert not plain(query)
    assert not plain(query.encode())
    assert not plain(sql.SQL(query))


def test_what_is_no_text_at_all_is_not() -> None:
    assert not plain(object())
