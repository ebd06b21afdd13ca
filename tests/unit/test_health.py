import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from seawall.cli import group
from seawall.errors import ConfigError, SeawallError, StartupError
from seawall.health import Check, Health, HealthServer, Question, ask, broker_answers
from support.services import bear_start_and_stop, threads_of
from support.waiting import wait_until


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def served() -> Iterator[tuple[Health, HealthServer]]:
    health = Health()
    server = HealthServer(health, "127.0.0.1:0")
    server.start()
    yield health, server
    server.stop()


def test_a_loop_that_stops_turning_is_not_live_and_one_that_turns_is() -> None:
    clock = Clock()
    health = Health(clock=clock)
    assert health.live().ok

    beat = health.beat("consumer", within=5)
    clock.now += 5
    assert health.live().ok
    clock.now += 0.5
    assert not health.live()
    assert health.live().checks[0].detail == "has not turned for 5.5 s"
    beat.touch()
    assert health.live().ok
    clock.now += 60
    health.forget(beat)
    assert health.live().ok


def test_ready_needs_a_start_the_services_and_every_critical_check() -> None:
    state = {"started": False, "ready": False}
    broken = threading.Event()

    def probe() -> None:
        if broken.is_set():
            raise ConnectionError("refused")

    health = Health(
        [Check("redis", probe)],
        started=lambda: state["started"],
        ready=lambda: state["ready"],
        budget=30,
    )
    health.add(Check("mail", lambda: 1 / 0, critical=False))
    assert (health.startup().ok, health.ready().ok) == (False, False)
    state["started"] = True
    assert (health.startup().ok, health.ready().ok) == (True, False)
    state["ready"] = True
    report = health.ready()
    assert report.ok
    assert {each.name: each.ok for each in report.checks}["mail"] is False
    broken.set()
    assert not health.ready().ok
    assert [each.detail for each in health.ready().checks if each.name == "redis"] == ["refused"]
    assert health.startup().ok


def test_a_probe_that_hangs_costs_the_asker_the_budget_and_one_thread() -> None:
    gate = threading.Event()
    check = Check("deaf", lambda: gate.wait(60))
    health = Health([check], budget=0.01)

    reports = [health.ready() for _ in range(5)]

    assert not any(reports)
    assert "no answer for" in reports[0].checks[-1].detail
    assert len(threads_of("seawall-probe-deaf")) == 1
    gate.set()
    wait_until(lambda: health.ready().ok, what="the server to be back")
    wait_until(lambda: not threads_of("seawall-probe-deaf"), what="the probe to end")


def test_a_slow_server_is_trusted_on_its_last_answer_for_a_second() -> None:
    clock = Clock()
    gate = threading.Event()
    gate.set()
    check = Check("slow", lambda: gate.wait(60), clock=clock)
    check.begin()
    assert check.report(30).ok
    gate.clear()

    check.begin()
    clock.now += 0.5
    assert check.report(0).ok
    assert "slow" in check.report(0).detail
    clock.now += 1
    assert not check.report(0).ok
    gate.set()


def test_health_is_asked_over_http_and_says_why(served: tuple[Health, HealthServer]) -> None:
    health, server = served

    assert ask(server.address, Question.LIVE, timeout=30)[0]
    beat = health.beat("loop", within=0)
    ok, answer = ask(server.address, Question.LIVE, timeout=30)
    assert not ok
    assert answer["checks"][0]["name"] == "loop"
    health.forget(beat)

    asked = CliRunner().invoke(group, ["health", "ready", "--address", server.address, "--json"])
    assert asked.exit_code == 0, asked.output
    assert json.loads(asked.output)["ok"] is True


def test_a_unix_socket_is_private_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = Path(os.path.relpath(tmp_path / "h.sock"))  # short enough for a socket, wherever the tests run
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = HealthServer(Health(), f"unix:{path}")
    server.start()

    assert path.stat().st_mode & 0o777 == 0o600
    assert ask(server.address, Question.READY, timeout=30)[0]
    with pytest.raises(StartupError, match="cannot be listened on"):
        HealthServer(Health(), f"unix:{path}").start()
    server.stop()
    assert not path.exists()


def test_what_does_not_answer_is_not_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        asked = CliRunner().invoke(
            group, ["health", "live", "--address", f"127.0.0.1:{port}", "--timeout", "0.05"]
        )
    assert asked.exit_code == 1
    assert "does not answer" in asked.output


@pytest.mark.parametrize("address", ["", "8080", "localhost", "localhost:http", "unix:", "h:70000"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        HealthServer(Health(), address)


def test_without_an_address_the_command_says_what_to_set() -> None:
    asked = CliRunner().invoke(group, ["health", "ready"])
    assert asked.exit_code == 2
    assert "SEAWALL_HEALTH__ADDRESS" in asked.output


@pytest.mark.parametrize("arguments", [[], ["--servers"]])
def test_who_asks_the_servers_starts_none(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEAWALL_HOME", str(tmp_path / "home"))
    asked = CliRunner().invoke(group, ["health", *arguments])
    assert asked.exit_code == 1
    assert asked.output.count("home does not run") == 3, asked.output
    assert not (tmp_path / "home").exists()


def test_the_server_bears_start_and_stop() -> None:
    bear_start_and_stop(lambda: HealthServer(Health(), "127.0.0.1:0"))


def test_a_forked_child_does_not_keep_the_port(served: tuple[Health, HealthServer]) -> None:
    _health, server = served
    address = server.address
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    os.close(read)
    server.stop()

    assert not ask(address, Question.LIVE, timeout=5)[0]
    os.close(write)
    os.waitpid(child, 0)


def test_amqp_brokers_greet_and_others_are_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as broker:
        port = broker.getsockname()[1]
        answers = [b"\x01", b"H"]

        def serve() -> None:
            for answer in answers:
                connection, _ = broker.accept()
                with connection:
                    connection.recv(8)
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        broker_answers(f"amqp://guest@127.0.0.1:{port}//", 30)
        with pytest.raises(SeawallError, match="does not speak AMQP"):
            broker_answers(f"amqp://guest@127.0.0.1:{port}//", 30)
        thread.join()
    with pytest.raises(SeawallError, match=f"127.0.0.1:{port}.*; "):
        broker_answers(f"amqp://127.0.0.1:{port};redis://127.0.0.1:{port}/0", 5)
