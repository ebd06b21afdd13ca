"""What `seawall doctor -A` reads from the lines that start workers, whatever else is on them."""

from collections.abc import Iterator
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from seawall.doctor.adoption import Notice, _whatever_it_meets
from seawall.doctor.adoption.commands import _asked, _said
from seawall.doctor.adoption.notice import fits

WORDS = [
    "worker",
    "beat",
    "-P",
    "-Pgevent",
    "--pool=solo",
    "-B",
    "-O",
    "-Ofair",
    "=",
    "-",
    "--",
    "'",
    '"',
    "\\",
    "]",
]

lines = st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=8).map(" ".join)


@example("worker")
@example("worker -P")
@given(lines)
def test_any_line_can_be_read(line: str) -> None:
    asked = [*_asked(line)]
    assert all([*_said(option, ["a place"])] or option.startswith("-P") for option in asked)


def test_a_line_may_end_anywhere() -> None:
    line = "-A shop worker -B -O fair -P gevent"
    found = [[*_asked(line[:end])] for end in range(len(line) + 1)]
    assert found[-1] == ["-B", "-O", "-P gevent"]
    assert found[line.index("worker") + len("worker")] == []


def test_what_one_audit_cannot_read_keeps_back_neither_what_it_found_nor_the_others() -> None:
    def broken(_: Any) -> Iterator[Notice]:
        yield fits("first", ["here"], "it is well")
        raise ValueError("password=hunter2hunter2 is no number")

    application: Any = None
    first, last = _whatever_it_meets(broken, application)
    assert (first.check, last.check, last.where) == ("first", "doctor", ("broken",))
    assert "ValueError" in last.reason
    assert "hunter2" not in last.reason
