"""What compose.yaml promises of limits, passwords, ports and volumes, for every service in it."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from seawall.quantity import parse_bytes
from support.deployed import DEPLOY, compose, programs

SERVICES: Mapping[str, Any] = compose()
OURS = [name for name, service in SERVICES.items() if "build" in service]


@pytest.mark.parametrize("missing", ["REDIS_PASSWORD", "POSTGRES_PASSWORD", "FLOWER_BASIC_AUTH"])
def test_nothing_starts_without_a_password(missing: str) -> None:
    with pytest.raises(ValueError, match=f"{missing}.*set "):
        compose(**{missing: ""})


def test_no_password_has_a_default() -> None:
    example = (DEPLOY / ".env.example").read_text()
    used = re.findall(r"\$\{\w*(?:PASSWORD|AUTH)\w*(\W\W?)", (DEPLOY / "compose.yaml").read_text())

    assert set(used) == {":?"}, "without a value it is refused"
    assert re.findall(r"^(\w*(?:PASSWORD|AUTH)\w*)=(.*)$", example, re.MULTILINE) == [
        ("REDIS_PASSWORD", ""),
        ("POSTGRES_PASSWORD", ""),
        ("FLOWER_BASIC_AUTH", ""),
    ]


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_published_has_a_password_and_is_for_this_machine_alone(name: str) -> None:
    ports = SERVICES[name].get("ports", [])

    assert {port.get("host_ip") for port in ports} <= {"127.0.0.1"}
    if ports:
        assert SERVICES[name]["environment"]["FLOWER_BASIC_AUTH"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_has_a_memory_limit_and_no_larger_budget(name: str) -> None:
    limit = int(SERVICES[name]["mem_limit"])
    budget = SERVICES[name]["environment"].get("SEAWALL_MEMORY__BUDGET")

    assert limit
    assert budget is None or parse_bytes(budget) <= limit


def test_redis_may_rewrite_its_log_within_its_limit() -> None:
    most = SERVICES["redis"]["environment"]["REDIS_MAXMEMORY"]

    assert int(SERVICES["redis"]["mem_limit"]) >= 2 * (int(most.removesuffix("mb")) << 20)


@pytest.mark.parametrize("name", OURS)
def test_our_containers_are_read_only_and_have_no_rights(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"]
    assert service["init"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize(
    "program", [each for each in programs(SERVICES) if not each.is_job], ids=lambda each: each.name
)
def test_every_service_that_stays_has_a_health_check(program: Any) -> None:
    assert program.healthcheck
    if program.argv[:1] == ("celery",):
        assert program.healthcheck[:2] == ("seawall", "health")


def test_the_values_of_the_example_are_the_defaults() -> None:
    example = dict(re.findall(r"^(\w+)=(.+)$", (DEPLOY / ".env.example").read_text(), re.MULTILINE))

    assert compose(**example) == SERVICES
