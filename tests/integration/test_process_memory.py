"""Memory in processes that are no workers: scripts, web servers, and what they fork."""

import json
import os
import subprocess
import sys
from pathlib import Path

BASE = """
import gc, os, sys
import seawall
from seawall import Features, memory
from support.waiting import wait_until

held = memory.usage().process
os.environ["SEAWALL_MEMORY__BUDGET"] = str(4 * held)
off = Features(logging=False, redis=False, broker=False, database=False)

def level(wanted, who):
    risen = memory.Pressure[wanted]
    met = lambda: memory.pressure() >= risen if risen else not memory.pressure()
    wait_until(met, timeout=30, what=f"{wanted} in the {who}")
"""


def run(script: str, *, cwd: Path | None = None) -> tuple[list[str], str]:
    """The lines that a script prints, and what it says on stderr."""
    tests = Path(__file__).parents[1]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), "."])}
    done = subprocess.run(
        [sys.executable, "-c", BASE + script],
        env=variables, cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


SCRIPT = """
called = []
memory.on_pressure(lambda: called.append("warning"))
system = seawall.bootstrap(features=off)
memory.on_pressure(lambda: called.append("exhausted"), level=memory.Pressure.EXHAUSTED)
assert memory.usage().budget == 4 * held
block = b"x" * int(1.6 * held)
level("WARNING", "script")
wait_until(lambda: called, what="the callback")
assert called == ["warning"]
numbers = system.metrics()
assert numbers["memory_pressure"] == 1
assert numbers["memory_used_bytes"] > 2 * held
del block
level("NORMAL", "script")
system.shutdown()
import threading
print([each.name for each in threading.enumerate()], memory.usage().budget)
"""


def test_a_bootstrapped_script_is_told_when_it_comes_near_its_budget() -> None:
    assert run(SCRIPT)[0] == ["['MainThread'] 0"]


PREFORKED = """
system = seawall.bootstrap(features=off)
gc.freeze()  # a collection would copy what the three of them share
(turn, go), (said, say) = os.pipe(), os.pipe()
children = []
for number in range(2):
    if (pid := os.fork()) == 0:
        called = []
        os.close(go)  # should the parent fail, this process ends as well
        system.shutdown()  # its parent's: nothing is touched
        own = seawall.bootstrap(features=off)
        memory.on_pressure(lambda: called.append(1))
        os.write(say, b"r")
        if os.read(turn, 1) == b"t":
            block = b"x" * int(1.6 * held)
        level("WARNING", f"child {number}")
        wait_until(lambda: called, what="the callback in each of them")
        os.write(say, b"c")
        os.read(turn, 1)
        own.shutdown()
        os.write(1, b"ended\\n")
        os._exit(0)
    children.append(pid)
os.read(said, 1), os.read(said, 1)
wait_until(lambda: memory.usage().workers < 2.2 * held, what="what the three share to be counted once")
os.write(go, b"tl")  # one of them takes it, the other one looks on
level("WARNING", "parent")
os.read(said, 1), os.read(said, 1)
os.write(go, b"ee")
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0]
level("NORMAL", "parent")
system.shutdown()
"""


def test_processes_forked_after_bootstrap_share_its_budget_and_are_all_told() -> None:
    assert sorted(run(PREFORKED)[0]) == ["ended", "ended"]


CHILD = """
import subprocess
system = seawall.bootstrap(features=off)
takes = f"import sys; block = b'x' * {int(1.6 * held)}; print('has', flush=True); sys.stdin.read()"
child = subprocess.Popen([sys.executable, "-c", takes], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
level("WARNING", "parent")
child.communicate()
level("NORMAL", "parent")
system.shutdown()
"""


def test_a_program_that_a_bootstrapped_process_runs_counts_as_its_own() -> None:
    run(CHILD)


def test_callbacks_where_nobody_watches_are_told_so_once() -> None:
    told = "on_pressure(print) is not called as long as nobody watches the memory of this process"
    _, said = run("memory.on_pressure(print); memory.on_pressure(print)")
    assert said.count(told) == 1
    assert run("seawall.bootstrap(features=off); memory.on_pressure(print)")[1] == ""
    forgotten = """
seawall.bootstrap(features=off)
if (child := os.fork()) == 0:
    memory.on_pressure(print)
    os._exit(0)
os.waitpid(child, 0)
"""
    assert told in run(forgotten)[1]


def test_a_module_that_registers_while_it_is_imported_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "caches.py").write_text("from seawall import memory\nmemory.on_pressure(dict().clear)\n")
    called = "import caches; seawall.bootstrap(features=off).shutdown()"
    assert run(called, cwd=tmp_path) == ([], "")


ERRORS = """
import json, threading
from seawall import error_boundary
system = seawall.bootstrap(features=off)
with error_boundary("import", stop=True):
    raise ConnectionResetError
def fails():
    raise LookupError
thread = threading.Thread(target=fails)
thread.start()
thread.join()
def counted(system):
    return {name: count for name, count in system.metrics().items() if name.startswith("errors.")}
print(json.dumps(counted(system)))
if (child := os.fork()) == 0:
    print(sum(counted(seawall.bootstrap(features=off)).values()), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


def test_errors_are_counted_by_category_and_a_child_begins_anew() -> None:
    counted, of_the_child = run(ERRORS)[0]
    assert json.loads(counted) == {
        "errors.database": 0, "errors.network": 1, "errors.timeout": 0, "errors.dependency": 0,
        "errors.memory": 0, "errors.validation": 0, "errors.internal": 1,
    }  # fmt: skip
    assert float(of_the_child) == 0
