"""The fleet with real processes: every program here is a few lines of Python."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import psutil
import pytest
from click.testing import CliRunner, Result

from seawall import settings
from seawall.cli import group
from seawall.errors import SeawallError
from seawall.fleet import Control, ask
from support.processes import Proc, alive, started
from support.waiting import wait_until

RUN = """
import json, sys
import pathlib
from seawall.fleet import Console, Control, Fleet, Program, RestartPolicy
given = json.loads(sys.argv[1])
if lines := given.pop("describe", None):
    given["describe"] = lambda addresses: [str(dict(addresses)), *lines]
if home := given.pop("home", None):
    given["control"] = Control(pathlib.Path(home))
programs = [Program(**{**one, "argv": (sys.executable, "-c", one["argv"])}) for one in given.pop("programs")]
restarts = RestartPolicy(**given.pop("restarts", {}))
sys.exit(Fleet(programs, console=Console(), restarts=restarts, **given).run())
"""
PRELUDE = """
import os, signal, socket, subprocess, sys, time
def on(signum, action):
    signal.signal(signum, lambda *_: action())
def finish(word="finished"):
    print(word)
    sys.exit(0)
def ready():
    # Closed by name: a handler's SystemExit that meets a finalizer would be swallowed.
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.sendto(b"STATUS=up\\nREADY=1", "\\0" + os.environ["NOTIFY_SOCKET"].removeprefix("@"))
def forever():
    while True:
        time.sleep(0.05)  # not pause: a signal just before it would go unheard
def start(code):
    return subprocess.Popen([sys.executable, "-c", code])
"""
OBEDIENT = "on(signal.SIGTERM, finish); ready(); forever()"
STUBBORN = "on(signal.SIGTERM, lambda: print('not yet')); on(signal.SIGQUIT, finish); ready(); forever()"
DEAF = (
    "on(signal.SIGTERM, lambda: print('no')); on(signal.SIGQUIT, lambda: print('never')); ready(); forever()"
)
FAST = {"base": 0.01, "cap": 0.05}


def program(name: str, code: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "argv": PRELUDE + code, **fields}


def worker(name: str, code: str = OBEDIENT) -> dict[str, Any]:
    return program(name, code, needs_ready=True, stop_signal=signal.SIGQUIT)


def command(*programs: dict[str, Any], **options: Any) -> list[str]:
    return [sys.executable, "-c", RUN, json.dumps({"programs": programs, **options})]


class Start(Protocol):
    def __call__(self, *programs: dict[str, Any], **options: Any) -> Proc: ...


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Start]:
    """Starts a fleet; at the end, whatever it left behind is a failure."""
    with contextlib.ExitStack() as stack:

        def start(*programs: dict[str, Any], **options: Any) -> Proc:
            return stack.enter_context(started(command(*programs, **options), log=tmp_path / "log"))

        yield start


def gone(processes: list[psutil.Process], *, timeout: float = 5.0) -> None:
    wait_until(lambda: not alive(processes), timeout=timeout, what=f"the end of {processes}")


def test_it_is_ready_once_every_program_that_says_so_is_ready(fleet: Start) -> None:
    proc = fleet(program("beat", "forever()"), worker("a"), worker("b"))
    output = proc.wait_for("fleet ready in")
    assert re.search(r"^fleet \| fleet ready in \d+\.\d s: a, b$", output, re.MULTILINE)

    proc.signal(signal.SIGTERM)
    assert proc.wait() == 0
    assert proc.output.count("fleet ready") == 1


def test_a_program_that_is_not_ready_in_time_is_named_and_kept(fleet: Start) -> None:
    proc = fleet(worker("slow", "forever()"), start_timeout=0.1)
    proc.wait_for("slow is not ready after 0.1 s (no status given); it is kept running")

    assert any("forever()" in " ".join(process.cmdline()) for process in proc.tree()[1:])
    assert "fleet ready" not in proc.output


DASHBOARD = """
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.connect("\\0" + os.environ["NOTIFY_SOCKET"].removeprefix("@"))
    notify.send(b"X_SEAWALL_LINK=http://here/login?token=secret")
    notify.send(b"X_SEAWALL_URL=http://here")
"""


def test_the_last_of_the_start_is_what_runs_where_without_a_link_in_a_pipe(
    fleet: Start, tmp_path: Path
) -> None:
    dashboard = program(
        "flower", "time.sleep(0.3)\n" + DASHBOARD + "forever()", announces_url=True, outlives_others=True
    )
    talks = "ready(); time.sleep(0.1); print('late words'); on(signal.SIGTERM, finish); forever()"
    proc = fleet(worker("a", talks), dashboard, home=str(tmp_path), describe=["stop with Ctrl-C"])
    output = proc.wait_for("stop with Ctrl-C")

    assert re.search(r"fleet ready in \d+\.\d s: a\n.*\| {'flower': 'http://here'}\n.*stop with", output)
    assert output.index("late words") < output.index("fleet ready")
    assert list(ask(tmp_path, {"do": "link"}, print)) == ["http://here/login?token=secret"]
    assert "secret" not in proc.output


def test_a_dashboard_that_comes_back_says_where_it_is(fleet: Start) -> None:
    once = program("flower", DASHBOARD + "print('pid', os.getpid()); forever()", announces_url=True)
    proc = fleet(worker("a"), once, restarts=FAST)
    proc.wait_for("fleet ready")
    found = re.search(r"pid (\d+)", proc.output)
    assert found
    os.kill(int(found[1]), signal.SIGTERM)
    proc.wait_for("| flower is at http://here\n")
    assert "secret" not in proc.output


def test_a_dashboard_that_does_not_come_holds_nobody_up(fleet: Start, tmp_path: Path) -> None:
    crashes = program("flower", "sys.exit(1)", announces_url=True)
    proc = fleet(worker("a"), crashes, home=str(tmp_path), restarts={"base": 900, "cap": 900}, describe=["x"])
    proc.wait_for("fleet ready")
    with pytest.raises(SeawallError, match="no program of this fleet takes a link"):
        ask(tmp_path, {"do": "link"}, print)


def test_output_is_whole_lines_behind_the_programs_name(fleet: Start) -> None:
    code = "sys.stdout.write('par'); sys.stdout.flush(); ready(); print('tial');"
    code += "print('e' * 20000, file=sys.stderr); sys.stdout.write('no end'); forever()"
    proc = fleet(worker("talker", code))
    proc.wait_for("fleet ready")
    wait_until(lambda: proc.output.count("e") >= 20000, what="the long line")
    proc.signal(signal.SIGTERM)
    proc.wait()

    said = [
        line.removeprefix("talker | ") for line in proc.output.splitlines() if line.startswith("talker | ")
    ]
    assert said[0] == "partial"
    assert "".join(said[1:-1]) == "e" * 20000
    assert said[-1] == "no end"


def test_the_last_words_of_a_crash_are_kept_and_quoted(fleet: Start) -> None:
    words = "the \x1b[31mdisk\x1b[0m is full"
    code = f"print('x' * 60000); sys.stderr.write({words!r}); os.kill(os.getpid(), signal.SIGSEGV)"
    proc = fleet(program("crasher", code), restarts={"base": 60, "cap": 60})
    proc.wait_for("crasher was killed by SIGSEGV after")

    assert f"crasher | {words}\n" in proc.output
    assert proc.output.count("x") >= 60000
    assert "(its last line: 'the disk is full'); restart in " in proc.output


def test_a_program_that_cannot_be_executed_is_said_and_tried_again(tmp_path: Path) -> None:
    run = RUN.replace("sys.executable, '-c', ", "").replace(
        '(sys.executable, "-c", one["argv"])', '("/no/program",)'
    )
    with started(
        [sys.executable, "-c", run, command(program("x", ""), restarts=FAST)[-1]], log=tmp_path / "log"
    ) as proc:
        proc.wait_for("x is crash-looping, exit 6: it cannot be started: [Errno 2] No such file")


def test_an_exited_program_is_started_again(fleet: Start, tmp_path: Path) -> None:
    code = f"mark = {str(tmp_path / 'mark')!r}\nif not os.path.exists(mark): open(mark, 'w'); sys.exit(3)\n"
    proc = fleet(worker("once", code + OBEDIENT), restarts=FAST)
    output = proc.wait_for("fleet ready")
    assert "once exited with code 3 after" in output

    proc.signal(signal.SIGTERM)
    assert proc.wait() == 0


def test_a_crash_loop_is_said_loudly_each_time_and_fails_the_fleet(fleet: Start) -> None:
    proc = fleet(worker("good"), program("bad", "sys.exit('no settings')"), restarts={**FAST, "cap": 0.3})
    for number in (5, 6, 7):
        proc.wait_for(f"!! bad is crash-looping, exit {number}: it exited with code 1")
    proc.wait_for("fleet ready")
    proc.signal(signal.SIGTERM)

    assert proc.wait() == 1
    assert "good exited with code 0" in proc.output
    assert re.search(r"!! bad was crash-looping: \d+ exits", proc.output)


def test_the_first_signal_drains_and_the_observers_go_last(fleet: Start) -> None:
    linger = (
        "on(signal.SIGTERM, lambda: (print('finishing'), start('pass').wait(), finish())); ready(); forever()"
    )
    observer = program("flower", "on(signal.SIGTERM, finish); forever()", outlives_others=True)
    proc = fleet(observer, program("beat", "forever()"), worker("a", linger))
    proc.wait_for("fleet ready")
    proc.signal(signal.SIGINT)

    assert proc.wait() == 0
    assert "SIGINT: draining, at most 30 s (the next signal stops at once): flower, beat, a" in proc.output
    assert proc.output.index("a exited with code 0") < proc.output.index("flower | finished")


def test_the_second_signal_drops_the_work(fleet: Start) -> None:
    proc = fleet(worker("a", STUBBORN), worker("b"))
    proc.wait_for("fleet ready")
    proc.signal(signal.SIGINT)
    proc.wait_for("not yet")
    proc.wait_for("b exited")
    proc.signal(signal.SIGINT)

    assert proc.wait() == 130
    assert (
        "SIGINT: stopping, running work is dropped, at most 10 s (the next signal kills): a\n" in proc.output
    )
    assert proc.output.count("finished") == 2


def test_the_third_signal_kills(fleet: Start) -> None:
    proc = fleet(worker("a", DEAF))
    proc.wait_for("fleet ready")
    for word in ("no", "never"):
        proc.signal(signal.SIGTERM)
        proc.wait_for(f"a     | {word}\n")
    proc.signal(signal.SIGTERM)

    assert proc.wait() == 1
    assert "SIGTERM: killing: a" in proc.output
    assert "a was killed by SIGKILL (by this fleet)" in proc.output
    assert "by hand" not in proc.output


def test_who_was_killed_by_others_is_said_to_be(fleet: Start) -> None:
    proc = fleet(worker("a", "print('pid', os.getpid());" + OBEDIENT), restarts=FAST)
    proc.wait_for("fleet ready")
    found = re.search(r"pid (\d+)", proc.output)
    assert found
    os.kill(int(found[1]), signal.SIGKILL)
    proc.wait_for("a was killed by SIGKILL (by hand, or the kernel was out of memory)")


def test_deadlines_escalate_by_themselves(fleet: Start) -> None:
    proc = fleet(worker("a", DEAF), worker("b"), drain_timeout=0.2, stop_timeout=0.2)
    proc.wait_for("fleet ready")
    proc.signal(signal.SIGTERM)

    assert proc.wait() == 1
    phases = re.findall(
        r"fleet \|(?: !!)? (.*?: (?:draining|stopping|killing)).*: (.*)$", proc.output, re.MULTILINE
    )
    assert phases == [
        ("SIGTERM: draining", "a, b"),
        ("out of time: stopping", "a"),
        ("out of time: killing", "a"),
    ]


def test_a_worker_that_crashes_while_it_drains_fails_the_fleet(fleet: Start) -> None:
    proc = fleet(worker("a", "on(signal.SIGTERM, lambda: sys.exit(7)); ready(); forever()"))
    proc.wait_for("fleet ready")
    proc.signal(signal.SIGTERM)

    assert proc.wait() == 1
    assert "a exited with code 7" in proc.output


def test_a_signal_while_a_program_backs_off_ends_it_at_once(fleet: Start) -> None:
    proc = fleet(worker("a"), program("bad", "sys.exit(1)"), restarts={"base": 900, "cap": 900})
    proc.wait_for("fleet ready")
    proc.wait_for("bad exited with code 1")
    proc.signal(signal.SIGTERM)

    assert proc.wait(5) == 0


def test_ctrl_c_reaches_the_programs_only_through_the_fleet(fleet: Start) -> None:
    proc = fleet(worker("a", "on(signal.SIGINT, lambda: print('interrupted'));" + OBEDIENT))
    proc.wait_for("fleet ready")
    os.killpg(proc.pid, signal.SIGINT)

    assert proc.wait() == 0
    assert "finished" in proc.output
    assert "interrupted" not in proc.output


def test_sighup_replaces_the_workers_one_after_another(fleet: Start) -> None:
    proc = fleet(worker("a", "print('up');" + OBEDIENT), worker("b", "print('up');" + OBEDIENT))
    proc.wait_for("fleet ready")
    proc.signal(signal.SIGHUP)
    wait_until(lambda: proc.output.count("b     | up") == 2, what="the new b")
    proc.signal(signal.SIGTERM)

    assert proc.wait() == 0
    rolled = proc.output.partition("SIGHUP: restarting one after another: a, b\n")[2]
    steps = ("a exited with code 0", "a     | up", "b exited with code 0", "b     | up")
    places = [rolled.index(step) for step in steps]
    assert places == sorted(places)


def restart(home: Path, *names: str) -> Result:
    """`seawall restart`, as an operator calls it."""
    settings.cache_clear()
    return CliRunner().invoke(group, ["restart", *names], env={"SEAWALL_HOME": str(home)})


def test_restart_replaces_one_after_another_and_tells_how_it_goes(fleet: Start, tmp_path: Path) -> None:
    said = [worker(name, "print('up');" + OBEDIENT) for name in ("a", "b")]
    proc = fleet(*said, program("beat", "forever()"), home=str(tmp_path))
    proc.wait_for("fleet ready")
    done = restart(tmp_path)

    assert done.exit_code == 0, done.stderr
    steps = (
        "asked: restarting one after another: a, b",
        "a exited with code 0",
        "b exited with code 0",
        "restarted: a, b",
    )
    places = [done.stdout.index(step) for step in steps]
    assert places == sorted(places)
    assert done.stdout.count("restarted: a, b") == 1
    assert proc.output.count("| up") == 4
    one = restart(tmp_path, "b")
    assert one.exit_code == 0
    assert "a exited" not in one.stdout
    wrong = restart(tmp_path, "beat")
    assert (wrong.exit_code, "no worker beat: there are a, b" in wrong.stderr) == (1, True)
    proc.signal(signal.SIGTERM)
    assert proc.wait() == 0
    assert not (tmp_path / "fleet.sock").exists()
    assert "no `seawall up` runs" in restart(tmp_path).stderr


def test_a_version_that_does_not_start_stops_the_restart_there(fleet: Start, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    code = f"print('up')\nif os.path.exists({str(broken)!r}): sys.exit('no such module')\n" + OBEDIENT
    proc = fleet(worker("a", code), worker("b", code), home=str(tmp_path), restarts=FAST)
    proc.wait_for("fleet ready")
    broken.touch()
    done = restart(tmp_path)

    assert done.exit_code == 1
    assert "a exited with code 1" in done.stderr
    assert "the others were left as they are" in done.stderr
    assert proc.output.count("b     | up") == 1
    broken.unlink()
    proc.wait_for("restarted: a, b")


def test_a_restart_ends_with_the_fleet_and_nonsense_is_not_heard(fleet: Start, tmp_path: Path) -> None:
    proc = fleet(worker("a", STUBBORN), home=str(tmp_path), drain_timeout=60)
    proc.wait_for("fleet ready")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(os.path.relpath(tmp_path / "fleet.sock"))
        client.send(b"nonsense")
        client.settimeout(30)
        assert client.recv(100) == b""
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(restart, tmp_path)
        proc.wait_for("not yet")
        proc.signal(signal.SIGTERM)
        proc.wait_for("SIGTERM: draining")
        proc.signal(signal.SIGTERM)
        done = waiting.result(60)
    assert done.exit_code == 1
    assert "the fleet ended meanwhile" in done.stderr
    proc.wait()


def test_a_second_fleet_leaves_the_first_ones_socket_and_a_dead_ones_is_replaced(tmp_path: Path) -> None:
    first = Control(tmp_path)
    with pytest.raises(
        SeawallError, match=rf"another fleet runs with home='.*', as process {os.getpid()}: end it"
    ):
        Control(tmp_path)
    first.close()
    first.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(os.path.relpath(tmp_path / "fleet.sock"))
    second = Control(tmp_path)
    assert (tmp_path / "fleet.sock").stat().st_mode & 0o777 == 0o600
    second.close()


LEAVES_A_DEAF_CHILD = (
    "start('import signal; signal.signal(15, signal.SIG_IGN); print(\"deaf\"); signal.pause()');"
)


@pytest.mark.parametrize("ending", ["drain", "crash", "fleet killed"])
def test_no_end_leaves_what_a_program_started(fleet: Start, ending: str) -> None:
    proc = fleet(worker("a", LEAVES_A_DEAF_CHILD + OBEDIENT), restarts={"base": 900, "cap": 900})
    proc.wait_for("fleet ready")
    proc.wait_for("deaf")
    tree = proc.tree()
    _fleet, _keeper, *programs = tree
    assert len(programs) == 2

    if ending == "drain":
        proc.signal(signal.SIGTERM)
        assert proc.wait() == 0
        assert not alive(tree)
    elif ending == "crash":
        programs[0].kill()
        proc.wait_for("a was killed by SIGKILL")
        assert not alive(programs)
    else:
        proc.signal(signal.SIGKILL)
        gone(tree)


def test_programs_die_with_the_fleet_even_without_its_keeper(fleet: Start) -> None:
    proc = fleet(worker("a"), program("beat", "forever()"))
    proc.wait_for("fleet ready")
    _fleet, keeper, *programs = proc.tree()
    keeper.kill()
    gone([keeper])
    proc.signal(signal.SIGKILL)

    assert len(programs) == 2
    gone(programs)


def test_a_fleet_that_lost_its_keeper_goes_on(fleet: Start) -> None:
    proc = fleet(worker("a"), program("bad", "sys.exit(1)"), restarts=FAST)
    proc.wait_for("fleet ready")
    proc.tree()[1].kill()
    proc.wait_for("bad is crash-looping, exit 9")
    proc.signal(signal.SIGTERM)

    assert proc.wait() == 1
    assert "a exited with code 0" in proc.output


def test_a_reader_that_leaves_ends_the_fleet(tmp_path: Path) -> None:
    argv = ["sh", "-c", '"$@" | head -1', "sh", *command(worker("a"))]
    with started(argv, log=tmp_path / "log") as proc:
        wait_until(lambda: proc.output, what="the first line")
        left = proc.tree()
        proc.wait()
        gone(left)
    assert "fleet ready in" in proc.output


def test_a_reader_that_does_not_read_holds_no_program_up(tmp_path: Path) -> None:
    done = tmp_path / "done"
    code = f"for _ in range(8000): print('x' * 1000)\nopen({str(done)!r}, 'w'); ready(); " + OBEDIENT
    with subprocess.Popen(command(worker("loud", code)), stdout=subprocess.PIPE) as process:
        try:
            wait_until(done.exists, timeout=30, what="8 MB of output that nobody reads")
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()
