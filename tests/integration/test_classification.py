"""What real servers and libraries raise, and what it is classified as: none of these is made by hand."""

import asyncio
import contextlib
import json
import pickle
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import aiohttp
import celery.exceptions
import httpx
import kombu
import kombu.serialization
import psycopg
import psycopg_pool
import pydantic
import pytest
import redis
import redis.backoff
import redis.retry
import requests
import trustme
import urllib3

from seawall import Category, Failure, Severity, classify
from seawall.embedded import Servers
from seawall.policies import Retry

D, N, M, T = Category.DATABASE, Category.NETWORK, Category.MEMORY, Category.TIMEOUT
DEP, V, I = Category.DEPENDENCY, Category.VALIDATION, Category.INTERNAL  # noqa: E741
pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::urllib3.exceptions.InsecureRequestWarning"
)


class Answers(BaseHTTPRequestHandler):
    """`/503` answers 503, `/slow` late, `/cut` half, `/loop` with itself, `/words` with text."""

    def do_GET(self) -> None:
        what = self.path.strip("/")
        with contextlib.suppress(ConnectionError):
            if what == "slow":
                self.server.stop.wait(20)  # type: ignore[attr-defined]
            elif what == "cut":
                self.send_response(200)
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b"too little")
            elif what == "loop":
                self.send_response(302)
                self.send_header("Location", "/loop")
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif what == "gone":
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            else:
                body = b"no json"
                self.send_response(int(what) if what.isdigit() else 200)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Retry-After", "7")
                self.end_headers()
                self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing."""


@dataclass
class World:
    """Where the exceptions come from."""

    http: str
    tls: str
    closed: str
    database: str
    redis: str
    closed_port: int

    def query(self, *statements: str, options: str = "") -> None:
        with psycopg.connect(self.database, options=options, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def command(self, *words: Any, **options: Any) -> Any:
        with redis.Redis.from_url(self.redis, **options) as client:
            return client.execute_command(*words)

    def aio(self, path: str, base: str | None = None, **options: Any) -> None:
        async def ask() -> None:
            async with (
                aiohttp.ClientSession(**options) as session,
                session.get((base or self.http) + path) as answer,
            ):
                answer.raise_for_status()
                await answer.json(content_type=None)

        asyncio.run(ask())


@pytest.fixture(scope="module")
def world(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with contextlib.ExitStack() as stack:
        urls = []
        for secure in (False, True):
            server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
            server.stop = threading.Event()
            server.handle_error = lambda *_: None
            if secure:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                trustme.CA().issue_cert("localhost").configure_cert(context)
                server.socket = context.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, name="answers")
            thread.start()
            stack.callback(server.server_close)
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            stack.callback(server.stop.set)
            urls.append(f"{'https' if secure else 'http'}://localhost:{server.server_address[1]}")
        unused = stack.enter_context(socket.socket())  # bound and never listening: a port that refuses
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        yield World(
            http=urls[0].replace("localhost", "127.0.0.1"),
            tls=urls[1],
            closed=f"http://127.0.0.1:{port}",
            database=str(servers.database_url),
            redis=str(servers.redis_url),
            closed_port=port,
        )


def requests_get(url: str, **options: Any) -> Any:
    answer = requests.get(url, timeout=options.get("timeout", 10))
    answer.raise_for_status()
    return answer.json()


def httpx_get(url: str, **options: Any) -> Any:
    answer = httpx.get(url, **{"timeout": 10, "trust_env": False, **options})
    answer.raise_for_status()
    return answer.json()


def urllib3_get(url: str, **options: Any) -> Any:
    with urllib3.PoolManager() as pool:
        return pool.request("GET", url, **{"retries": False, "timeout": 10, **options})


def opened(url: str, **options: Any) -> Any:
    with urllib.request.urlopen(url, **{"timeout": 10, **options}) as answer:  # noqa: S310
        return answer.read()


def with_password(url: str, password: str) -> str:
    head, _, tail = url.rpartition("@")
    return f"{head.rpartition(':')[0]}:{password}@{tail}"


def busy_pool(w: World) -> None:
    with (
        psycopg_pool.ConnectionPool(w.database, min_size=1, max_size=1, open=True) as pool,
        pool.connection(),
        pool.connection(timeout=0.05),
    ):
        pass


def killed(w: World) -> None:
    with psycopg.connect(w.database) as victim, psycopg.connect(w.database, autocommit=True) as other:
        other.execute("select pg_terminate_backend(%s, 5000)", (victim.info.backend_pid,))
        victim.execute("select 1")


def serialization(w: World) -> None:
    w.query("drop table if exists clash", "create table clash (n int)", "insert into clash values (1)")
    with psycopg.connect(w.database) as one, psycopg.connect(w.database) as two:
        for each in (one, two):
            each.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            each.execute("select * from clash")
        one.execute("update clash set n = 2")
        one.commit()
        two.execute("update clash set n = 3")


def not_locked(w: World) -> None:
    w.query("create table if not exists lock_me (n int)")
    with psycopg.connect(w.database) as one, psycopg.connect(w.database) as two:
        one.execute("lock table lock_me")
        two.execute("lock table lock_me nowait")


def closed_connection(w: World) -> None:
    connection = psycopg.connect(w.database)
    connection.close()
    connection.execute("select 1")


def watched(w: World) -> None:
    with redis.Redis.from_url(w.redis) as client, client.pipeline() as pipe:
        pipe.watch("watched")
        client.incr("watched")
        pipe.multi()
        pipe.get("watched")
        pipe.execute()


def no_permission(w: World) -> None:
    w.command("ACL", "SETUSER", "reader", "on", ">word", "+@read", "~*")
    try:
        redis.Redis.from_url(f"redis://reader:word@{w.redis.rpartition('@')[2]}").set("a", "b")
    finally:
        w.command("ACL", "DELUSER", "reader")


def out_of_memory(w: World) -> None:
    w.command("CONFIG", "SET", "maxmemory", "1")
    try:
        w.command("SET", "a", "b")
    finally:
        w.command("CONFIG", "SET", "maxmemory", "0")


def silent_peer(timeout: float) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        client.settimeout(timeout)
        client.recv(1)


def reset_peer() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        accepted, _ = server.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        accepted.close()
        client.recv(1)


def broken_pipe() -> None:
    here, there = socket.socketpair()
    with here:
        there.close()
        here.send(b"x")


def handshake(url: str) -> None:
    host, port = url.partition("://")[2].split(":")
    with socket.create_connection((host, int(port))) as plain:
        ssl.create_default_context().wrap_socket(plain, server_hostname=host)


def wrapped(inner: Callable[[], Any], outer: Exception) -> None:
    try:
        inner()
    except Exception as exc:
        raise outer from exc


def translated(inner: Callable[[], Any]) -> None:
    try:
        inner()
    except Exception:  # noqa: BLE001
        raise RuntimeError("the import failed")  # noqa: B904 - that is what is tested


def handling(inner: Callable[[], Any]) -> Any:
    try:
        return inner()
    except Exception:  # noqa: BLE001
        return EMPTY["missing"]  # a bug while handling


def group(*inner: Callable[[], Any]) -> None:
    async def fail(each: Callable[[], Any]) -> None:
        await asyncio.sleep(0)
        each()

    async def main() -> None:
        async with asyncio.TaskGroup() as tasks:
            for each in inner:
                tasks.create_task(fail(each))

    asyncio.run(main())


class Order(pydantic.BaseModel):
    number: int


def celery_app(url: str) -> celery.Celery:
    app = celery.Celery("c", broker=url, backend=url, set_as_current=False)
    app.conf.update(task_publish_retry=False, broker_transport_options={"socket_connect_timeout": 1})
    return app


def no_answer(w: World) -> None:
    with celery_app(w.redis) as app:
        app.AsyncResult("nobody").get(timeout=0.05)


def no_broker(w: World) -> None:
    with celery_app(f"redis://127.0.0.1:{w.closed_port}") as app:
        app.send_task("t", ignore_result=True)


def kombu_undecodable() -> None:
    kombu.serialization.loads(b"{", "application/json", "utf-8")


def refuse(w: World) -> None:
    socket.create_connection(("127.0.0.1", w.closed_port))


EMPTY: dict[str, str] = {}
NO_RETRY = redis.retry.Retry(redis.backoff.NoBackoff(), 0)

Case = tuple[str, Callable[[World], Any], Category, bool]
CASES: list[Case] = [
    # sockets, names, TLS
    ("refused", refuse, N, True),
    ("reset", lambda _: reset_peer(), N, True),
    ("broken pipe", lambda _: broken_pipe(), N, True),
    ("socket timeout", lambda _: silent_peer(0.05), T, True),
    ("name not found", lambda _: socket.getaddrinfo("nobody.invalid", 80), N, True),
    ("certificate", lambda w: handshake(w.tls), N, False),
    ("no TLS there", lambda w: handshake(w.http), N, False),
    ("unreachable", lambda _: socket.create_connection(("255.255.255.255", 9), timeout=1), N, True),
    ("file missing", lambda _: Path("/nonexistent/file").read_text(), I, False),
    ("asyncio timeout", lambda _: asyncio.run(asyncio.wait_for(asyncio.sleep(9), 0.01)), T, True),
    ("asyncio refused", lambda w: asyncio.run(asyncio.open_connection("127.0.0.1", w.closed_port)), N, True),
    ("asyncio eof", lambda _: asyncio.run(aio_eof()), I, False),
    ("program timeout", lambda _: subprocess.run(["sleep", "9"], timeout=0.05), T, True),  # noqa: PLW1510
    ("program failed", lambda _: subprocess.run(["false"], check=True), I, False),
    # memory
    ("out of memory", lambda _: bytearray(1 << 60), M, False),
    # urllib
    ("urllib 404", lambda w: opened(w.http + "/404"), V, False),
    ("urllib 503", lambda w: opened(w.http + "/503"), DEP, True),
    ("urllib refused", lambda w: opened(w.closed), N, True),
    ("urllib certificate", lambda w: opened(w.tls), N, False),
    ("urllib timeout", lambda w: opened(w.http + "/slow", timeout=0.1), T, True),
    ("urllib name", lambda _: opened("http://nobody.invalid"), N, True),
    ("urllib cut", lambda w: opened(w.http + "/cut"), N, True),
    ("urllib gone", lambda w: opened(w.http + "/gone"), N, True),
    # requests
    *(
        (f"requests {s}", lambda w, s=s: requests_get(f"{w.http}/{s}"), c, r)
        for s, c, r in (
            (400, V, False),
            (401, DEP, False),
            (403, DEP, False),
            (404, V, False),
            (408, T, True),
            (409, V, False),
            (422, V, False),
            (429, DEP, True),
            (500, DEP, True),
            (501, DEP, False),
            (502, DEP, True),
            (503, DEP, True),
            (504, T, True),
        )
    ),
    ("requests refused", lambda w: requests_get(w.closed), N, True),
    ("requests certificate", lambda w: requests_get(w.tls), N, False),
    ("requests read timeout", lambda w: requests_get(w.http + "/slow", timeout=0.1), T, True),
    ("requests name", lambda _: requests_get("http://nobody.invalid"), N, True),
    ("requests cut", lambda w: requests_get(w.http + "/cut"), N, True),
    ("requests gone", lambda w: requests_get(w.http + "/gone"), N, True),
    ("requests loop", lambda w: requests_get(w.http + "/loop"), V, False),
    ("requests no scheme", lambda _: requests_get("nowhere"), V, False),
    ("requests no json", lambda w: requests_get(w.http + "/words"), V, False),
    # httpx
    *(
        (f"httpx {s}", lambda w, s=s: httpx_get(f"{w.http}/{s}"), c, r)
        for s, c, r in (
            (404, V, False),
            (401, DEP, False),
            (429, DEP, True),
            (500, DEP, True),
            (503, DEP, True),
            (504, T, True),
        )
    ),
    ("httpx refused", lambda w: httpx_get(w.closed), N, True),
    ("httpx certificate", lambda w: httpx_get(w.tls), N, False),
    ("httpx read timeout", lambda w: httpx_get(w.http + "/slow", timeout=0.1), T, True),
    ("httpx name", lambda _: httpx_get("http://nobody.invalid"), N, True),
    ("httpx cut", lambda w: httpx_get(w.http + "/cut"), N, True),
    ("httpx gone", lambda w: httpx_get(w.http + "/gone"), N, True),
    ("httpx loop", lambda w: httpx_get(w.http + "/loop", follow_redirects=True), V, False),
    ("httpx no scheme", lambda _: httpx_get("nowhere"), V, False),
    # urllib3
    ("urllib3 refused", lambda w: urllib3_get(w.closed), N, True),
    ("urllib3 certificate", lambda w: urllib3_get(w.tls), N, False),
    ("urllib3 timeout", lambda w: urllib3_get(w.http + "/slow", timeout=0.1), T, True),
    ("urllib3 name", lambda _: urllib3_get("http://nobody.invalid"), N, True),
    (
        "urllib3 tried enough",
        lambda w: urllib3_get(w.closed, retries=urllib3.Retry(1, backoff_factor=0)),
        N,
        True,
    ),
    (
        "urllib3 tried enough, certificate",
        lambda w: urllib3_get(w.tls, retries=urllib3.Retry(1, backoff_factor=0)),
        N,
        False,
    ),
    # aiohttp
    ("aiohttp 404", lambda w: w.aio("/404"), V, False),
    ("aiohttp 503", lambda w: w.aio("/503"), DEP, True),
    ("aiohttp refused", lambda w: w.aio("", w.closed), N, True),
    ("aiohttp certificate", lambda w: w.aio("", w.tls), N, False),
    ("aiohttp timeout", lambda w: w.aio("/slow", timeout=aiohttp.ClientTimeout(total=0.1)), T, True),
    ("aiohttp name", lambda w: w.aio("", "http://nobody.invalid"), N, True),
    ("aiohttp cut", lambda w: w.aio("/cut"), N, True),
    ("aiohttp gone", lambda w: w.aio("/gone"), N, True),
    ("aiohttp no json", lambda w: w.aio("/words"), V, False),
    # PostgreSQL
    ("pg refused", lambda w: psycopg.connect(host="127.0.0.1", port=w.closed_port), D, True),
    ("pg password", lambda w: psycopg.connect(with_password(w.database, "wrong")), D, False),
    ("pg syntax", lambda w: w.query("selec 1"), D, False),
    ("pg no table", lambda w: w.query("select * from missing"), D, False),
    (
        "pg unique",
        lambda w: w.query("create temp table u (n int unique)", "insert into u values (1), (1)"),
        D,
        False,
    ),
    ("pg division", lambda w: w.query("select 1/0"), D, False),
    (
        "pg statement timeout",
        lambda w: w.query("select pg_sleep(9)", options="-c statement_timeout=50"),
        T,
        False,
    ),
    (
        "pg read only",
        lambda w: w.query("create table r (n int)", options="-c default_transaction_read_only=on"),
        D,
        True,
    ),
    ("pg serialization", serialization, D, True),
    ("pg lock", not_locked, D, True),
    ("pg backend killed", killed, D, True),
    ("pg closed", closed_connection, D, True),
    ("pg raised", lambda w: w.query("do $$ begin raise exception 'no'; end $$"), D, False),
    ("pg pool busy", busy_pool, D, True),
    # Redis
    ("redis refused", lambda w: redis.Redis("127.0.0.1", w.closed_port, retry=NO_RETRY).ping(), N, True),
    ("redis password", lambda w: redis.Redis.from_url(with_password(w.redis, "wrong")).ping(), DEP, False),
    ("redis permission", no_permission, DEP, False),
    ("redis timeout", lambda w: w.command("BLPOP", "nothing", "5", socket_timeout=0.05, retry=None), T, True),
    ("redis full", out_of_memory, M, True),
    ("redis type", lambda w: (w.command("LPUSH", "list", "1"), w.command("INCR", "list")), I, False),
    ("redis no command", lambda w: w.command("NOTACOMMAND"), I, False),
    ("redis data", lambda w: w.command("SET", "a", {}), V, False),
    ("redis watched", watched, DEP, True),
    # Celery and kombu
    ("celery no answer", no_answer, T, True),
    ("celery no broker", no_broker, N, True),
    ("kombu decode", lambda _: kombu_undecodable(), V, False),
    ("kombu encode", lambda _: kombu.serialization.dumps(object(), "json"), V, False),
    (
        "kombu disallowed",
        lambda _: kombu.serialization.loads(b"", "application/x-python-serialize", "binary", accept=["json"]),
        V,
        False,
    ),
    # what is no good by itself
    ("pydantic", lambda _: Order(number="many"), V, False),  # type: ignore[arg-type]
    ("json", lambda _: json.loads("{"), V, False),
    ("unicode", lambda _: b"\xff".decode(), V, False),
    ("pickle", lambda _: pickle.loads(b"no"), V, False),  # noqa: S301
    ("retry policy", lambda _: Retry(max_attempts=0), V, False),
    ("number", lambda _: int("many"), I, False),
    ("key", lambda _: EMPTY["missing"], I, False),
    ("attribute", lambda _: object().missing, I, False),  # type: ignore[attr-defined]
    ("type", lambda _: len(1), I, False),  # type: ignore[arg-type]
    ("recursion", lambda _: recurse(), I, False),
    ("exit", lambda _: sys.exit(1), I, False),
    # chains and groups
    ("raised from", lambda w: wrapped(lambda: refuse(w), ValueError("x")), N, True),
    ("raised from the database", lambda w: wrapped(lambda: w.query("select 1/0"), KeyError("x")), D, False),
    ("translated", lambda w: translated(lambda: refuse(w)), N, True),
    ("a bug while handling", lambda w: handling(lambda: refuse(w)), I, False),
    ("group of passing ones", lambda w: group(lambda: refuse(w), lambda: refuse(w)), N, True),
    ("group with a lasting one", lambda w: group(lambda: refuse(w), lambda: int("x")), I, False),
]


def recurse() -> None:
    recurse()


async def aio_eof() -> None:
    reader = asyncio.StreamReader()
    reader.feed_eof()
    await reader.readexactly(1)


def raised(case: Case, world: World) -> BaseException:
    try:
        case[1](world)
    except BaseException as exc:  # noqa: BLE001 - every one of them is expected
        return exc
    raise AssertionError(f"{case[0]} raised nothing")


def test_the_table_is_long_enough() -> None:
    assert len({case[0] for case in CASES}) == len(CASES) >= 80


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_a_real_exception_is_known(case: Case, world: World) -> None:
    exc = raised(case, world)
    failure = classify(exc)
    asked_for = isinstance(exc, SystemExit)
    if asked_for:
        severity = Severity.INFO
    elif failure.retryable or failure.category is V:
        severity = Severity.WARNING
    else:
        severity = Severity.ERROR
    expected = Failure(case[2], severity, case[3], failure.fingerprint)
    assert failure == expected, f"{type(exc).__mro__}: {exc}"
