import itertools
import signal

import pytest

from seawall.errors import ConfigError
from seawall.fleet import Console, Fleet, Program, RestartPolicy
from seawall.fleet.child import Lines
from seawall.fleet.program import PHASES, State, exit_in_words, may_follow
from seawall.fleet.restart import Decision, History

POLICY = RestartPolicy(base=0.2, cap=30.0, healthy_after=60.0, loop_exits=5, loop_window=60.0)


def exits(*instants: float, uptime: float = 0.0) -> list[Decision]:
    """What the policy says at each of `instants`, with the jitter at its top."""
    decisions: list[Decision] = []
    for now in instants:
        history = decisions[-1].history if decisions else History()
        decisions.append(POLICY.after_exit(history, now=now, uptime=uptime, rand=lambda: 1.0))
    return decisions


def test_the_delay_doubles_from_the_base() -> None:
    assert [decision.delay for decision in exits(0, 1, 2, 3)] == pytest.approx([0.2, 0.4, 0.8, 1.6])


def test_the_delay_is_drawn_from_all_below_the_ceiling() -> None:
    assert POLICY.after_exit(History(), now=0, uptime=0, rand=lambda: 0.25).delay == pytest.approx(0.05)


def test_five_exits_within_the_window_are_a_crash_loop_retried_at_the_cap() -> None:
    decisions = exits(0, 1, 2, 3, 4)

    assert [decision.history.looping for decision in decisions] == [False] * 4 + [True]
    assert decisions[-1].delay == 30.0


def test_five_exits_that_are_far_apart_are_no_crash_loop() -> None:
    assert not exits(0, 50, 100, 150, 200)[-1].history.looping


def test_a_crash_loop_outlasts_its_window_and_ends_with_a_healthy_run() -> None:
    looping = exits(0, 1, 2, 3, 4, 100)[-1]
    assert looping.history.looping

    recovered = POLICY.after_exit(looping.history, now=300, uptime=61, rand=lambda: 1.0)
    assert recovered.history == History(exits=1, recent=(300,))
    assert recovered.delay == pytest.approx(0.2)


def test_thousands_of_exits_neither_overflow_nor_pile_up() -> None:
    last = exits(*(float(at) for at in range(0, 200_000, 100)))[-1]

    assert last.delay == 30.0
    assert len(last.history.recent) == 1


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "exited with code 0"),
        (1, "exited with code 1"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (-signal.SIGKILL, "was killed by SIGKILL (by hand, or the kernel was out of memory)"),
        (-(signal.SIGRTMIN + 1), f"was killed by signal {signal.SIGRTMIN + 1}"),
    ],
)
def test_an_exit_is_said_in_words(status: int, words: str) -> None:
    assert exit_in_words(status) == words


def test_the_phases_only_go_forward() -> None:
    for earlier, later in itertools.combinations(PHASES, 2):
        assert may_follow(later, earlier)
        assert not may_follow(earlier, later)


def test_every_state_can_end_stopped_and_only_a_stopped_or_waiting_program_starts() -> None:
    assert [s for s in State if not may_follow(State.STOPPED, s)] == [State.STOPPED]
    assert [s for s in State if may_follow(State.STARTING, s)] == [State.STOPPED, State.BACKING_OFF]


def test_lines_are_whole_however_the_bytes_arrive() -> None:
    text = "one\r\n\nzwei ä\nthree".encode()
    for size in range(1, len(text) + 1):
        lines = Lines()
        seen = [line for at in range(0, len(text), size) for line in lines.feed(text[at : at + size])]
        assert seen == ["one", "", "zwei ä"]
        assert list(lines.feed(b"", final=True)) == ["three"]


def test_a_line_without_an_end_comes_in_pieces_and_is_not_hoarded() -> None:
    lines = Lines()
    pieces = [piece for _ in range(600) for piece in lines.feed(b"x" * 1000)]

    assert max(map(len, pieces)) <= 1 << 18
    assert len("".join([*pieces, *lines.feed(b"", final=True)])) == 600_000


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert list(Lines().feed(b"\xff!\n")) == ["\N{REPLACEMENT CHARACTER}!"]


@pytest.mark.parametrize("names", [[], ["twice", "twice"]])
def test_a_fleet_needs_programs_with_names_of_their_own(names: list[str]) -> None:
    console = Console()
    with pytest.raises(ConfigError, match="at least one, each with a name of its own"):
        Fleet([Program(name=name, argv=("true",)) for name in names], console=console)
    console.close()
