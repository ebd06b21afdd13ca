"""Forked children and the pool they inherit, in processes of their own."""

import os
import sys
from pathlib import Path

import pytest

from support.processes import started

PREAMBLE = """
import os, sys, threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork in a threaded process, which is the point
import psycopg
from seawall.sections import DatabaseSettings
from seawall.database.pool import Database
database = Database(os.environ["URL"], DatabaseSettings(slow_query=1000))  # a busy machine is no news here

def child(work):
    if (pid := os.fork()) == 0:
        code = 1
        try:
            code = work() or 0
        except BaseException as exc:
            print(f"{type(exc).__name__}: {exc}", flush=True)
        finally:
            os._exit(code)
    return pid

def join(*pids):
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

def ask(number):
    return database.fetch_value("SELECT %s + pg_backend_pid() * 0", (number,))
"""

BUSY = """
stop = threading.Event()
wrong = []

def work():
    number = 0
    while not stop.is_set():
        number += 1
        if ask(number) != number:
            wrong.append(number)

def ask_much():
    return sum(ask(number) != number for number in range(100))

threads = [threading.Thread(target=work) for _ in range(3)]
for thread in threads:
    thread.start()
codes = []
for _ in range(int(os.environ.get("ROUNDS", "10"))):
    codes += join(*[child(ask_much) for _ in range(3)])
stop.set()
for thread in threads:
    thread.join()
print("children", set(codes), "wrong", wrong, "parent lost", database.stats()["returns_bad"])
database.close()
"""

CONNECTING = """
def asks():
    return ask(1) != 1

def parent():  # its first connections, whose locks are held the longest
    threads = [threading.Thread(target=asks) for _ in range(3)]
    for thread in threads:
        thread.start()
    codes = join(*[child(asks) for _ in range(3)])
    for thread in threads:
        thread.join()
    return any(codes)

print("parents", {code for _ in range(5) for code in join(*[child(parent) for _ in range(2)])})
"""

MAKING = """
import socket, psutil
server = socket.create_server(("127.0.0.1", 0))
port = server.getsockname()[1]
silent = Database(f"postgresql://u:p@127.0.0.1:{port}/d", DatabaseSettings(connect_timeout=60))

def connects():
    try:
        silent.fetch_value("SELECT 1")
    except Exception:
        pass

thread = threading.Thread(target=connects, daemon=True)
thread.start()
peer, _ = server.accept()
peer.recv(8)  # it has begun, and waits for an answer

def mine():
    found = [each.raddr.port for each in psutil.Process().net_connections("tcp") if each.raddr]
    print("child has", found.count(port), flush=True)

join(child(mine))
os._exit(0)
"""

STEP = """
from seawall.database.forks import steps
inside, ended = threading.Event(), threading.Event()

def step():
    with steps:
        inside.set()
        ended.wait()

thread = threading.Thread(target=step)
thread.start()
inside.wait()
threading.Timer(0.2, ended.set).start()
pid = child(lambda: print("ended before the fork:", ended.is_set(), flush=True))
join(pid)
thread.join()
with steps:
    print("and others begin")
"""

INHERITED = """
def parent_only():
    return database.fetch_value("SELECT pg_backend_pid()")

before = parent_only()
with database.transaction() as connection:
    connection.execute("CREATE TABLE t (id int)")

    def inherits():
        try:
            connection.execute("INSERT INTO t VALUES (1)")
        except psycopg.OperationalError:
            print("child: refused", flush=True)
        print("child: own backend", database.fetch_value("SELECT pg_backend_pid()") != before, flush=True)

    codes = join(child(inherits))
    connection.execute("INSERT INTO t VALUES (2)")
print("codes", codes, "same backend", parent_only() == before, database.fetch("SELECT id FROM t"))
database.close()
"""

LEAVES_BLOCK = """
import logging
logging.disable()  # psycopg warns that it could not roll back
import gc
try:
    with database.transaction() as connection:
        connection.execute("CREATE TABLE t (id int)")
        pid = os.fork()
        if pid == 0:
            log = open(os.environ["FILE"], "wb")  # a number that a closed socket would have left free
            connection.execute("SELECT 1")
        codes = join(pid)
except psycopg.OperationalError:
    database.fetch_value("SELECT 1")
    log.close()
    gc.collect()
    sys.exit(7)  # an ordinary end: destructors and all
written = os.path.getsize(os.environ["FILE"])
print("codes", codes, "written", written, database.fetch("SELECT count(*) FROM t"))
database.close()
"""

SOCKETS = """
import psutil
database.fetch_value("SELECT 1")
port = psycopg.conninfo.conninfo_to_dict(os.environ["URL"])["port"]

def mine():
    return sum(c.raddr and c.raddr.port == int(port) for c in psutil.Process().net_connections("tcp"))

def inherits():
    print("child has", mine(), flush=True)

join(child(inherits))
print("parent has", mine())
database.close()
"""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        pytest.param(BUSY, ["children {0} wrong [] parent lost 0"], id="busy parent"),
        pytest.param(CONNECTING, ["parents {0}"], id="connecting parent"),
        pytest.param(STEP, ["ended before the fork: True", "and others begin"], id="a step of connecting"),
        pytest.param(
            INHERITED,
            ["child: refused", "child: own backend True", "codes [0] same backend True [{'id': 2}]"],
            id="inside a transaction",
        ),
        pytest.param(LEAVES_BLOCK, ["codes [7] written 0 [{'count': 0}]"], id="leaves the block and exits"),
        pytest.param(SOCKETS, ["child has 0", "parent has 1"], id="sockets"),
        pytest.param(MAKING, ["child has 0"], id="the socket of one that is being made"),
    ],
)
def test_a_child_never_touches_its_parents_connections(
    database_url: str, tmp_path: Path, script: str, expected: list[str]
) -> None:
    argv = [sys.executable, "-W", "error", "-c", PREAMBLE + script]
    environment = {"URL": database_url, "FILE": os.fspath(tmp_path / "innocent")}
    with started(argv, log=tmp_path / "log", env=environment) as proc:
        code = proc.wait(90)
        assert (code, proc.output.splitlines()) == (0, expected)


@pytest.mark.slow
def test_ten_thousand_queries_beside_a_forking_busy_parent_are_answered_right(
    database_url: str, tmp_path: Path
) -> None:
    argv = [
        sys.executable,
        "-W",
        "error",
        "-c",
        PREAMBLE + BUSY,
    ]  # a round is three children, 100 queries each
    with started(argv, log=tmp_path / "log", env={"URL": database_url, "ROUNDS": "34"}) as proc:
        assert (proc.wait(170), proc.output) == (0, "children {0} wrong [] parent lost 0\n")


def test_a_process_that_forgets_to_close_ends_quietly(database_url: str, tmp_path: Path) -> None:
    argv = [sys.executable, "-W", "error", "-X", "dev", "-c", PREAMBLE + "print(ask(1))"]
    with started(argv, log=tmp_path / "log", env={"URL": database_url}) as proc:
        assert (proc.wait(30), proc.output) == (0, "1\n")
