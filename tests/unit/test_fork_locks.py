"""What a process may need right after a fork is not behind a lock that another thread may hold."""

import ast
import functools
import os
import signal
import sys
import threading
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.utils.objects import cached_property as kombu_property

import seawall
from seawall.cluster import Script
from seawall.worker import fork_locks

PACKAGE = Path(seawall.__file__).parent


@pytest.mark.parametrize(
    "path",
    sorted({*PACKAGE.rglob("*.py")} - {Path(fork_locks.__file__)}),  # which renews the locks of others
    ids=lambda path: path.stem,
)
def test_nothing_is_a_cached_property(path: Path) -> None:
    """Before Python 3.12 it takes a lock of its class, which a forked child may find held for ever."""
    names = [
        node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute | ast.Name)
    ]
    assert not [
        node.lineno
        for node in names
        if "cached_property" in {getattr(node, "attr", ""), getattr(node, "id", "")}
    ]


def test_a_script_is_read_while_another_thread_reads_one(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def slowly(package: Any) -> Traversable:
        if threading.current_thread() is not threading.main_thread():
            reading.set()
            go_on.wait(60)
        return files(package)

    monkeypatch.setattr("seawall.cluster.files", slowly)
    script = Script("seawall.limits", "take")
    thread = threading.Thread(target=lambda: script.digest, daemon=True)
    thread.start()
    assert reading.wait(60)
    assert len(script.digest) == 40  # the other one is still inside
    assert len(Script("seawall.limits", "give").digest) == 40
    go_on.set()
    thread.join(60)


class Read:
    """What an application, Celery or kombu may have."""

    @functools.cached_property
    def plain(self) -> str:
        return _in_the_end("plain")

    @kombu_property
    def kombus(self) -> str:
        return _in_the_end("kombus")


_reading, _go_on = threading.Event(), threading.Event()


def _in_the_end(value: str) -> str:
    """Slow outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        _reading.set()
        _go_on.wait(60)
    return value


@pytest.mark.parametrize("name", ["plain", "kombus"])
def test_a_forked_child_reads_what_another_thread_was_reading(name: str) -> None:
    _reading.clear()
    _go_on.clear()
    read, lock = Read(), getattr(vars(Read)[name], "lock", None)
    fork_locks.find()
    thread = threading.Thread(target=getattr, args=(read, name), daemon=True)
    thread.start()
    try:
        assert _reading.wait(60)
        child = os.fork()
        if child == 0:
            own = getattr(vars(Read)[name], "lock", None)
            free = own is None or own.acquire(blocking=False)
            os._exit(0 if free and getattr(read, name) == name else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert getattr(vars(Read)[name], "lock", None) is lock, "the parent's is as it was"
    finally:
        _go_on.set()
        thread.join(60)


def test_every_cached_property_of_what_a_cell_uses_is_known() -> None:
    fork_locks.find()
    known = set(map(id, fork_locks._found))
    owners = [
        owner
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] in {"celery", "kombu", "redis", "psycopg", "psycopg_pool", "billiard"}
        for owner in vars(module).values()
        if isinstance(owner, type)
    ]
    properties = {
        f"{owner.__module__}.{owner.__qualname__}.{name}": each
        for owner in owners
        for name, each in vars(owner).items()
        if isinstance(each, functools.cached_property)
    }
    assert {"celery.app.base.Celery.amqp", "celery.app.amqp.AMQP.router"} <= set(properties)
    assert [name for name, each in properties.items() if id(each) not in known] == []


def test_a_child_can_use_a_connection_pool_that_another_thread_was_using() -> None:
    pool = redis.ConnectionPool()
    taken, go_on = threading.Event(), threading.Event()

    def take() -> None:
        with pool._lock, pool._fork_lock:
            taken.set()
            go_on.wait(60)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    assert taken.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(20)  # ends a child that waits
        try:
            pool.disconnect()
            os._exit(0)
        finally:
            os._exit(1)
    go_on.set()
    thread.join(60)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Lazy:
    """As Django's settings and Werkzeug's proxies: asked what it is, it becomes that, or raises."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("not configured")


def test_lazy_objects_are_not_asked_what_they_are() -> None:
    lazy = [Lazy()]
    fork_locks.find()
    assert type(lazy[0]) is Lazy
