"""Every place where a stranger's text becomes bytes, a row, a name or a line, with every kind of odd text.

A new place is one more line in `PLACES`; a new kind of text one more in `TEXTS`.
"""

import io
import json
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner

from seawall import Seawall, boundary, breaker, logs, records
from seawall.breaker.face import _short
from seawall.cli import group
from seawall.cli.tables import table
from seawall.cli.tables import text as column
from seawall.cluster import Packer
from seawall.database.label import _shown
from seawall.delivery.claimed import Claimed
from seawall.delivery.envelope import unwrap
from seawall.delivery.queues import _readable
from seawall.records.journal import line, quoted
from seawall.records.occurrences import occurrence, reason
from seawall.text import carried, many, one_line, storable, to_bytes
from seawall.worker import outcomes
from seawall.worker.accounts import _waits_for
from seawall.worker.cells.events import _encode
from seawall.worker.cells.table import Table
from seawall.worker.names import waits_for
from seawall.worker.results import Stored

TEXTS = {
    "a lone high half": "a\ud83d b",
    "a lone low half": "caf\udce9.csv",
    "a cut emoji": "\U0001f600\ud83d",
    "two halves": "\ud83d\ude00",
    "NUL": "a\0b",
    "a line feed": "a\nb\r\nc\u2028d",
    "a long text": "x\udce9" * (1 << 12),
    "from the right": "abc\u202egpj.exe",
    "a terminal's orders": "\x1b[2J\x1b]0;title\x07",
    "separators of ours": "a:b|c\t{d}[e]\x1e%s %(x)s \\udce9 ' \"",
    "nothing odd": "größe \U0001f600",
}


def of_redis(text: str) -> None:
    assert to_bytes(text) in b"".join(Packer().pack("SET", text, b"x", 1))


def of_postgres(row: str) -> None:
    """What PostgreSQL takes as JSON, and its text."""
    assert row.isascii()
    assert "\n" not in row
    assert "\\u0000" not in row
    row.encode("ascii").decode()
    json.dumps(json.loads(row), ensure_ascii=False).encode()


def in_a_row(text: str) -> None:
    for kind, content in (("r", [text, {"reason": [text]}]), ("d", {"id": text, text: text})):
        of_postgres(line(kind, content)[1:].rstrip("\n"))
    of_postgres(quoted(text))
    if len(text) < 1000:
        assert json.loads(line("r", [text])[1:]) == [storable(text)]


def in_a_failure(text: str) -> None:
    error = ValueError(text)
    failure = boundary.note(error, text)
    of_postgres(line("e", occurrence(error, failure, text, text))[1:].rstrip("\n"))
    why = reason(error, failure)
    assert "\n" not in why
    assert len(why) < 1000
    of_redis(why)


def in_a_limit(text: str) -> None:
    name = _waits_for(text)
    assert name == _waits_for(carried(text)), "what Redis shows of the key is the same key"
    assert name.isprintable()
    assert len(name) < 300
    name.encode()


def in_a_name(text: str) -> None:
    assert waits_for(text).isascii()
    assert waits_for(text).isprintable()


def in_a_breaker(text: str) -> None:
    each = breaker("text")[text]
    name = each.name.removeprefix("text[").removesuffix("]")
    assert name == _short(text)
    assert "\n" not in name
    assert 0 < len(name.encode()) <= 100


def in_the_table_of_cells(text: str) -> None:
    row = Table(1).rows[0]
    row.take_in("tag", text)
    row.begin(text, text, "tag", text, 1.0, 0.0, 0.0)
    row.acknowledged("tag", text)
    task = row.task()
    assert task is not None
    assert task.tag == "tag"
    task.task_id.encode()


def in_an_event(text: str) -> None:
    event = _encode({"type": "task-failed", "exception": text})
    assert json.loads(event)["exception"] == ("\U0001f600" if text == "\ud83d\ude00" else text)


def in_a_result(text: str) -> None:
    app = Seawall("text", set_as_current=False)
    app.conf.update(broker_url="redis://127.0.0.1:1", result_backend="redis://127.0.0.1:1")
    sent: list[Any] = []
    assert isinstance(app.backend, Stored)
    backend: Any = app.backend
    backend.store = sent.extend
    backend.store_result("id", text if len(text) < 1000 else text[:10], "SUCCESS")
    assert isinstance(sent[0].value, bytes)
    for encode in (lambda meta: json.dumps(meta, ensure_ascii=False), json.dumps):
        backend.encode = encode
        backend.store_result("id", text, "SUCCESS")
        sent[-1].value.decode()


def in_a_message(text: str) -> None:
    body = json.dumps({"properties": {"x": text}, "headers": {"task": text}, "body": text}).encode()
    assert carried(unwrap(Claimed("q", "t", body, b""))["headers"]["task"]) == carried(text)
    assert isinstance(_readable(body), dict)


def in_a_log(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from seawall.config import settings

    for chosen in ("json", "console"):
        monkeypatch.setenv("SEAWALL_LOG__FORMAT", chosen)
        settings.cache_clear()
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
        handler = logging.StreamHandler(stream)
        handler.setFormatter(logs.formatter_for(handler))
        logger = logging.getLogger("tests.text")
        logger.propagate, logger.handlers = False, [handler]
        logger.warning("said %s", text, extra={"field": text})
        logger.error(text, exc_info=ValueError(text))
        handler.flush()
        said = raw.getvalue().decode()
        assert said.count("said") == 1
        if chosen == "json":
            assert [json.loads(each)["level"] for each in said.strip("\n").split("\n")] == [
                "warning",
                "error",
            ]
    settings.cache_clear()


def in_a_session(text: str) -> None:
    shown = _shown(text)
    assert "\0" not in shown
    assert len(shown.encode()) <= 63


def in_a_page(text: str) -> None:
    columns = [column("name", "name"), column("reason", "reason")]
    head, row = table(columns, [{"name": text, "reason": text}])
    assert row.isprintable()
    assert len(row) < 20_000

    @click.command()
    def show() -> None:
        click.echo(text)
        click.echo(row)
        click.echo(json.dumps({"reason": text}))

    group.add_command(show, "show-odd-text")
    group.commands["show-odd-text"] = show
    result = CliRunner(charset="utf-8").invoke(group, ["show-odd-text"])
    assert head.startswith("\x1b[1mname")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception


PLACES: dict[str, Callable[..., None]] = {
    each.__name__: each
    for each in (
        of_redis, in_a_row, in_a_failure, in_a_limit, in_a_name, in_a_breaker, in_the_table_of_cells,
        in_an_event, in_a_result, in_a_message, in_a_session, in_a_page,
    )
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        *(pytest.param(text, id=name) for name, text in TEXTS.items()),
        pytest.param("x\udce9" * (1 << 19), id="a megabyte", marks=pytest.mark.slow),
    ],
)
def test_every_place_takes_every_text(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    for place in PLACES.values():
        place(text)
    in_a_log(text, monkeypatch)


def test_numbers_that_json_lacks_are_kept_as_text() -> None:
    row = line("d", {"args": [float("nan"), float("-inf"), 1.5]})[1:-1]
    of_postgres(row)
    assert json.loads(row) == {"args": ["nan", "-inf", 1.5]}


def test_a_failed_task_with_odd_arguments_and_headers_is_written_down() -> None:
    deep: Any = "end"
    for _ in range(900):
        deep = [deep]
    rows: list[str] = []
    records.begin(SimpleNamespace(write=rows.append))  # type: ignore[arg-type]
    try:
        for headers in (
            {"deep": deep},
            {"nan": float("nan")},
            {"large": "x" * 100_000},
            {"\udce9\0": "\udce9\0"},
        ):
            message = SimpleNamespace(
                headers={"id": "i", "task": "t", **headers}, properties={}, body=b"", delivery_tag="t"
            )
            outcomes.stray(message, "q", ValueError("odd"), "")
    finally:
        records.end()
    assert len(rows) == 4
    for row in "".join(rows).splitlines():
        of_postgres(row[1:])


def test_texts_that_differ_stay_two() -> None:
    assert carried("a\udce9") == r"a\udce9"
    assert carried("a\udce8") != carried("a\udce9")
    assert carried("\ud83d\ude00") == "\U0001f600"
    assert storable("a\0b") == r"a\x00b"
    assert one_line("a\nb\tc") == r"a\nb\tc"
    assert one_line("plain größe") == "plain größe"


def test_what_is_counted_is_said_in_the_plural_unless_it_is_one() -> None:
    said = [many(count, "task") for count in (0, 1, 2, 2000)]
    assert said == ["0 tasks", "1 task", "2 tasks", "2,000 tasks"]
    assert [many(count, "task waits", "tasks wait") for count in (1, 2)] == ["1 task waits", "2 tasks wait"]
