"""Sessions are given out as new: what a user may leave behind in one, and which statements leave nothing.

`RENEWAL` undoes what `DISCARD ALL` undoes, except that prepared statements and their plans stay. It is left
out after uses whose every statement is of a plain form: nothing in it is a call, but of a function of
PostgreSQL's own on a short list, or can change a session otherwise. What triggers, views, rules, defaults,
operators, casts and domains of users do by themselves is not seen, nor is a function of theirs that has a
name of the list or is called as if it were a column.
"""

import re
from typing import Any, Final

import psycopg
from psycopg.sql import Composable

RENEWAL: Final = (
    b"SET SESSION AUTHORIZATION DEFAULT; RESET ROLE; RESET ALL; CLOSE ALL; UNLISTEN *; "
    b"SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)

_LONGEST: Final = 4096  # characters of a statement that is looked at
_VERBS: Final = re.compile(r"\s*(?:select|insert|update|delete|with|values|merge|table)\b", re.IGNORECASE)
_OTHERWISE: Final = re.compile(r";(?!\s*\Z)|--|/\*|\binto\b", re.IGNORECASE)
_TARGET: Final = re.compile(r'\b(?:insert|merge)\s+into\s+[\w."]+', re.IGNORECASE)
_DOT: Final = re.compile(r"(?<!\s)\s*+\.\s*+")
_CALL: Final = re.compile(r'(?<![\w$."])([\w$."]*+)(?<=[\w$"])\s*+\(')
# What may stand before a parenthesis and is no call.
_NO_CALLS: Final = """
    all and any array as between by case conflict distinct else end except exists filter from group
    having in intersect is join lateral like limit materialized not offset on or over returning row rows
    select set some sets then union using values when where bit char character decimal float numeric
    time timestamp timestamptz varchar
"""
# Functions of PostgreSQL that leave nothing.
_HARMLESS: Final = """
    abs array_agg array_append array_length array_remove avg bool_and bool_or btrim cardinality ceil
    ceiling char_length coalesce concat concat_ws count date_part date_trunc decode dense_rank encode
    every exp extract first_value floor format gen_random_uuid generate_series greatest initcap json_agg
    json_array_length json_build_array json_build_object json_object_agg jsonb_agg jsonb_array_elements
    jsonb_array_length jsonb_build_array jsonb_build_object jsonb_object_agg jsonb_set jsonb_typeof lag
    last_value lead least left length ln log lower lpad ltrim make_date make_interval max md5 min mod
    now ntile nullif octet_length overlay percentile_cont percentile_disc pg_backend_pid position power
    random rank regexp_replace repeat replace reverse right round row_number row_to_json rpad rtrim
    sha256 sign split_part sqrt statement_timestamp stddev string_agg string_to_array strpos substr
    substring sum to_char to_date to_json to_jsonb to_number to_timestamp transaction_timestamp
    translate trim trunc unnest upper variance width_bucket
"""
_WORDS: Final = frozenset((_NO_CALLS + _HARMLESS).split())


_MOST_KNOWN: Final = 1024


class _Known(dict[str, bool]):
    def __missing__(self, text: str) -> bool:
        if "\0" in text:
            raise psycopg.DataError("there is a NUL in the statement, and PostgreSQL reads nothing after one")
        if len(text) > _LONGEST:
            return False
        if len(self) >= _MOST_KNOWN:
            self.clear()
        self[text] = found = _plain(text)
        return found


KNOWN: Final = _Known()
"""Whether texts are `plain`: a task has few statements, and each is asked about whenever it runs."""


def plain(query: Any) -> bool:
    """Whether the session is after this statement as before; where that is unclear it is not.

    Raises:
        psycopg.DataError: there is a NUL in it, and PostgreSQL would run what stands before that.
    """
    if query.__class__ is str:
        return KNOWN[query]
    if isinstance(query, str):
        return plain(str.__str__(query))
    if isinstance(query, bytes):
        return plain(query.decode(errors="replace"))
    return isinstance(query, Composable) and plain(query.as_string())


def _plain(text: str) -> bool:
    if not _VERBS.match(text):
        return False
    text = _TARGET.sub("", _DOT.sub(".", text))
    return not _OTHERWISE.search(text) and all(name.lower() in _WORDS for name in _CALL.findall(text))
